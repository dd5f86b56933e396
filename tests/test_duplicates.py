"""Copies: which are found and grouped, which paintings are not taken for copies, and what evaluation is told."""

import io
from types import SimpleNamespace
from unittest.mock import Mock

import jobs
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import wikiart
from support.paintings import duplicates, images
from support.system import console, files
from support.training import balance

SIDE = 96


def scene(seed: int) -> Image.Image:
    """A smooth random picture whose amplitudes fall as 1/f, as those of paintings do."""
    random = np.random.default_rng(seed)
    rough = np.fft.fftfreq(SIDE) ** 2
    spectrum = np.fft.fft2(random.normal(size=(3, SIDE, SIDE)), axes=(1, 2)) / (rough + rough[:, None] + 2e-4)
    pixels = np.fft.ifft2(spectrum, axes=(1, 2)).real
    pixels = 128 + 50 * (pixels - pixels.mean()) / pixels.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def decoded(pictures: list[Image.Image], quality: int = 90) -> torch.Tensor:
    saved = []
    for picture in pictures:
        saved.append(io.BytesIO())
        picture.save(saved[-1], "JPEG", quality=quality)
    return torch.from_numpy(np.stack([images.decode_image(file, 64)[0] for file in saved]))


def cropped(picture: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = picture.size
    return picture.crop((left * width, top * height, width * (1 - right), height * (1 - bottom)))


SCENES = [scene(seed) for seed in range(60)]
COPIES = {
    "quality 60": lambda p: p,
    "crop 1%": lambda p: cropped(p, 0.01, 0.01, 0.01, 0.01),
    "crop 3%": lambda p: cropped(p, 0.03, 0.03, 0.03, 0.03),
    "crop at two sides": lambda p: cropped(p, 0.03, 0.03, 0, 0),
    "resize": lambda p: p.resize((50, 70)),
    "narrower": lambda p: p.crop((0, 0, SIDE - 1, SIDE)),
    "brighter": lambda p: p.point(lambda value: value * 0.8 + 40),
    "mirrored": ImageOps.mirror,
    "mirrored crop": lambda p: cropped(ImageOps.mirror(p), 0.02, 0.02, 0.02, 0.02),
}


@pytest.fixture(scope="module")
def prints():
    return duplicates.grey_fingerprints(decoded(SCENES))


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_nothing_else(prints, kind):
    copies = duplicates.grey_fingerprints(decoded([COPIES[kind](picture) for picture in SCENES], 60))
    pairs, mirrored = duplicates.near_duplicates(copies, prints)
    assert pairs.tolist() == [[i, i] for i in range(len(SCENES))]
    assert mirrored.tolist() == [kind.startswith("mirrored")] * len(SCENES)


def test_other_pictures_are_not_copies(prints):
    assert len(duplicates.near_duplicates(prints)[0]) == 0
    negative = duplicates.grey_fingerprints(255 - decoded(SCENES))
    assert len(duplicates.near_duplicates(prints, negative)[0]) == 0


def test_symmetric_paintings_are_no_mirrored_copies():
    halves = decoded(SCENES[:20])
    prints = duplicates.grey_fingerprints(torch.cat([halves[..., :32], halves[..., :32].flip(3)], 3))
    assert len(duplicates.near_duplicates(prints)[0]) == 0  # also not with themselves
    pairs, mirrored = duplicates.near_duplicates(prints, prints)
    assert pairs.tolist() == [[i, i] for i in range(20)] and not mirrored.any()
    bars = decoded(SCENES)
    bars[..., :22], bars[..., -22:] = 0, 0  # all columns look alike, and like mirror images; only the latter is noticed
    assert not duplicates.near_duplicates(duplicates.grey_fingerprints(bars))[1].any()


def test_a_frame_does_not_make_paintings_alike():
    framed = decoded(SCENES[:20])
    framed[:, :, :6], framed[:, :, -6:], framed[:, :, :, :6], framed[:, :, :, -6:] = 0, 0, 0, 0
    prints = duplicates.grey_fingerprints(framed)
    assert (prints @ prints.T).fill_diagonal_(0).max() > 0.9  # a plain threshold would take them for copies
    assert len(duplicates.near_duplicates(prints)[0]) == 0
    assert len(duplicates.near_duplicates(prints, prints)[0]) == 20


def test_a_flat_image_resembles_nothing():
    flat = torch.full((3, 3, 20, 20), 200, dtype=torch.uint8) + torch.randint(0, 2, (3, 3, 20, 20), dtype=torch.uint8)
    prints = duplicates.grey_fingerprints(flat)
    assert prints.eq(0).all() and len(duplicates.near_duplicates(prints)[0]) == 0
    assert duplicates.unpack(duplicates.pack(prints)).eq(0).all()


def test_blocks_give_the_same_pairs_as_one_product(prints, monkeypatch):
    copies = [COPIES[kind](picture) for kind, picture in zip(["crop 1%", "mirrored"] * 13, SCENES[:26], strict=True)]
    everything = torch.cat([prints, duplicates.grey_fingerprints(decoded(copies)), prints[:3]])
    whole, mirrored = duplicates.near_duplicates(everything)
    assert {(i, 60 + i) for i in range(26)} | {(i, 86 + i) for i in range(3)} <= set(map(tuple, whole.tolist()))
    both = duplicates.near_duplicates(everything, everything)[0].tolist()
    assert sorted(whole.tolist()) == sorted([i, j] for i, j in both if i < j)
    monkeypatch.setattr(duplicates, "BLOCK", 300)
    again = duplicates.near_duplicates(everything)
    assert (again[0].tolist(), again[1].tolist()) == (whole.tolist(), mirrored.tolist())
    for nothing in duplicates.near_duplicates(everything[:0]), duplicates.near_duplicates(prints, prints[:0]):
        assert [len(part) for part in nothing] == [0, 0]


def test_packing_keeps_correlations(prints):
    again = duplicates.unpack(packed := duplicates.pack(prints))
    assert packed.dtype == torch.int8 and packed.abs().amax(1).eq(127).all()
    torch.testing.assert_close(again @ again.T, prints @ prints.T, atol=3e-3, rtol=0)


def test_groups_join_copies_of_copies_and_equal_keys(prints):
    turned = prints.view(-1, 16, 16).flip(2).flatten(1)
    everything = torch.cat([prints[:3], turned[:2], prints[:1], prints[20:24]])
    groups = duplicates.groups(everything, [7, 1, 2, 3, 4, 5, 6, 8, 7, 9], "abcdefghia").tolist()
    assert groups == [0, 1, 2, 0, 1, 0, 3, 4, 0, 0]


def test_a_datasets_groups_are_computed_once(copied, tmp_path, monkeypatch):
    dataset = wikiart.WikiArtDataset(copied, 64, cachedir=tmp_path / "cache")
    thumbnails, compared, real = duplicates.grey_fingerprints(dataset.images), [], duplicates.groups
    monkeypatch.setattr(duplicates, "groups", lambda *given: compared.append(1) or real(*given))
    groups = duplicates.groups_of(dataset, thumbnails)
    assert len(groups.unique()) == 40 and groups.dtype == torch.int64
    assert torch.equal(duplicates.groups_of(dataset, thumbnails), groups) and len(compared) == 1
    (file,) = (tmp_path / "cache").glob("*.*.json")
    file.write_text(file.read_text()[:9])  # damaged
    monkeypatch.setattr(files, "write_json", Mock(side_effect=console.UserError))  # and cannot be replaced
    dataset.fingerprints = dataset.fingerprints.roll(1)  # other paintings, whose file is another
    duplicates.groups_of(dataset, thumbnails)
    dataset.fingerprints = dataset.fingerprints.roll(-1)
    assert torch.equal(duplicates.groups_of(dataset, thumbnails), groups) and len(compared) == 3


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A folder of paintings with a resized, a cropped and a mirrored copy each, some of them in the other style."""
    folder = tmp_path_factory.mktemp("copied") / "train"
    for i, picture in enumerate(SCENES[:40]):
        for kind in "quality 60", "resize", "crop 1%", "mirrored crop":
            style = "ab"[(i + (kind == "resize" and i > 30)) % 2]
            (folder / style).mkdir(parents=True, exist_ok=True)
            COPIES[kind](picture).save(folder / style / f"{i}_{kind}.jpg", quality=85)
    return folder


@pytest.fixture
def split(monkeypatch):
    """split(script, folder, *flags): the training script's dataset and which paintings are held out, bool [N]."""
    real, seen = balance.split, {}

    def stop(*given):
        seen["held_out"] = real(*given)[1]
        raise console.UserError("this is enough")

    def split(script, folder, *flags):
        assert jobs.call(script, *jobs.flags(folder, folder.parent / "out", *flags)).err.endswith("this is enough\n")
        dataset = wikiart.WikiArtDataset(folder, 16, cachedir=folder.parent / "cache")
        return dataset, torch.isin(torch.arange(len(dataset)), seen["held_out"])

    monkeypatch.setattr(balance, "split", stop)
    return split


@pytest.mark.parametrize("script", ["trainpart1", "trainauto"])
def test_no_copy_is_on_both_sides_of_the_validation_split(script, copied, split):
    for seed in range(5):
        dataset, held_out = split(script, copied, "--validation", 0.4, "--seed", seed)
        sides = {}
        for path, side in zip(dataset.paths, held_out.tolist(), strict=True):
            sides.setdefault(path.split("/")[-1].split("_")[0], set()).add(side)
        assert len(sides) == 40 and all(len(side) == 1 for side in sides.values())
        assert 0.2 < held_out.float().mean() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wikiart7", "wikiart16"])
def test_no_near_duplicate_of_a_real_painting_is_on_the_other_side(name, real_paintings, tmp_path, split):
    folder = real_paintings.parent / name / "train"
    if not folder.is_dir():
        pytest.skip(f"needs the real paintings in ../shared/{name}")
    _, held_out = split("trainpart1", folder, "--validation", 0.1, "--seed", 2326, "--image_size", 128)
    dataset = wikiart.WikiArtDataset(folder, 128, cachedir=folder.parent / "cache")
    pairs, mirrored = duplicates.near_duplicates(duplicates.grey_fingerprints(dataset.images))
    assert mirrored.any() and not mirrored.all()
    assert torch.equal(held_out[pairs[:, 0]], held_out[pairs[:, 1]])


def test_evaluation_learns_which_test_paintings_are_known(prints, capsys):
    def fingerprints(images_):
        return torch.tensor([images.fingerprint(image.numpy()) for image in images_])

    training = decoded(SCENES[:20])
    paths = [f"A/{i}.jpg" for i in range(20)]
    checkpoint = {
        "fingerprints": fingerprints(training), "thumbnails": duplicates.pack(prints[:20]), "paths": paths
    }  # fmt: skip
    copies = decoded([COPIES["crop 3%"](SCENES[7]), ImageOps.mirror(SCENES[9])])
    test = torch.cat([decoded(SCENES[30:34]), training[5:6], copies])
    paths = [f"test/{i}.jpg" for i in range(7)]
    dataset = SimpleNamespace(paths=paths, images=test, fingerprints=fingerprints(test))
    known, copies = duplicates.known_paintings(dataset, checkpoint)
    assert known.tolist() == [False] * 4 + [True] * 3
    expected = [("test/4.jpg", "A/5.jpg", "identical"), ("test/5.jpg", "A/7.jpg", "near"),
                ("test/6.jpg", "A/9.jpg", "mirrored")]  # fmt: skip
    assert [tuple(copy[key] for key in ("path", "training", "likeness")) for copy in copies] == expected
    said = capsys.readouterr().err
    assert said.startswith("warning: test paintings that look like training paintings: 3 (1 identical): ")
    assert all(f'"{path}" looks like "{known}" ({likeness})' in said for path, known, likeness in expected)


def test_identical_images_in_two_styles_are_named(capsys):
    duplicates.warn_of_contradictions(["a/1", "a/2", "b/3"], torch.tensor([0, 0, 1]), torch.tensor([5, 5, 5]))
    assert (
        '1 pair of identical images in two styles, trained with both labels: "a/1" and "b/3"' in capsys.readouterr().err
    )
