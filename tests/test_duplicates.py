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
    saved = [io.BytesIO() for _ in pictures]
    for picture, file in zip(pictures, saved, strict=True):
        picture.save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.stack([images.decode_image(file, 64)[0] for file in saved]))


SCENES = [scene(seed) for seed in range(60)]
COPIES = {
    "quality 60": lambda p: p,
    "crop 1%": lambda p: ImageOps.crop(p, 1),
    "crop 3%": lambda p: ImageOps.crop(p, 3),
    "crop at two sides": lambda p: p.crop((3, 3, SIDE, SIDE)),
    "resize": lambda p: p.resize((50, 70)),
    "brighter": lambda p: p.point(lambda value: value * 0.8 + 40),
    "mirrored": ImageOps.mirror,
    "mirrored crop": lambda p: ImageOps.crop(ImageOps.mirror(p), 2),
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


def test_symmetric_paintings_are_no_mirrored_copies():
    halves = decoded(SCENES[:20])
    prints = duplicates.grey_fingerprints(torch.cat([halves[..., :32], halves[..., :32].flip(3)], 3))
    assert len(duplicates.near_duplicates(prints)[0]) == 0  # also not with themselves
    pairs, mirrored = duplicates.near_duplicates(prints, prints)
    assert pairs.tolist() == [[i, i] for i in range(20)] and not mirrored.any()


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


def test_blocks_give_the_same_pairs_as_one_product(prints, monkeypatch):
    copies = [COPIES["crop 1%"](picture) for picture in SCENES[:26]]
    everything = torch.cat([prints, duplicates.grey_fingerprints(decoded(copies)), prints[:3]])
    whole, mirrored = duplicates.near_duplicates(everything)
    assert {(i, 60 + i) for i in range(26)} | {(i, 86 + i) for i in range(3)} <= set(map(tuple, whole.tolist()))
    monkeypatch.setattr(duplicates, "BLOCK", 300)
    again = duplicates.near_duplicates(everything)
    assert (again[0].tolist(), again[1].tolist()) == (whole.tolist(), mirrored.tolist())
    for nothing in duplicates.near_duplicates(everything[:0]), duplicates.near_duplicates(prints, prints[:0]):
        assert [len(part) for part in nothing] == [0, 0]


def test_groups_join_copies_of_copies_and_equal_keys(prints):
    turned = prints.view(-1, 16, 16).flip(2).flatten(1)
    everything = torch.cat([prints[:3], turned[:2], prints[:1], prints[20:24]])
    groups = duplicates.groups(everything, [7, 1, 2, 3, 4, 5, 6, 8, 7, 9], "abcdefghia").tolist()
    assert groups == [0, 1, 2, 0, 1, 0, 3, 4, 0, 0]


def test_a_datasets_groups_are_computed_once(copied, tmp_path, monkeypatch):
    dataset = wikiart.WikiArtDataset(copied, 64, cachedir=tmp_path / "cache")
    thumbnails, compute = duplicates.grey_fingerprints(dataset.images), Mock(side_effect=duplicates.groups)
    monkeypatch.setattr(duplicates, "groups", compute)
    groups = duplicates.groups_of(dataset, thumbnails)
    assert len(groups.unique()) == 40 and groups.dtype == torch.int64
    assert torch.equal(duplicates.groups_of(dataset, thumbnails), groups) and compute.call_count == 1
    (file,) = (tmp_path / "cache").glob("*.*.json")
    file.write_text(file.read_text()[:9])  # damaged
    monkeypatch.setattr(files, "write_json", Mock(side_effect=console.UserError))  # and cannot be replaced
    assert torch.equal(duplicates.groups_of(dataset, thumbnails), groups) and compute.call_count == 2
    dataset.fingerprints = dataset.fingerprints.roll(1)  # other paintings, whose file is another
    assert len(duplicates.groups_of(dataset, thumbnails)) == len(dataset) and compute.call_count == 3


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


@pytest.mark.parametrize("script", ["trainpart1", "trainauto"])
def test_no_copy_is_on_both_sides_of_the_validation_split(script, copied, tmp_path, monkeypatch):
    real, sides = balance.split, []

    def stop(*given):
        sides.extend(real(*given))
        raise console.UserError("this is enough")

    monkeypatch.setattr(balance, "split", stop)
    paths = wikiart.WikiArtDataset(copied, 16, cachedir=copied.parent / "cache").paths
    for seed in range(3):
        done = jobs.call(script, *jobs.flags(copied, tmp_path, "--validation", 0.4, "--seed", seed))
        assert done.err.endswith("this is enough\n") and 0.2 < len(sides[-1]) / len(paths) < 0.5
        trained, held_out = ({paths[i].split("/")[-1].split("_")[0] for i in side} for side in sides[-2:])
        assert len(trained | held_out) == 40 and not trained & held_out


def test_evaluation_learns_which_test_paintings_are_known(prints, capsys):
    def fingerprints(pictures):
        return torch.tensor([images.fingerprint(picture.numpy()) for picture in pictures])

    training = decoded(SCENES[:20])
    copies = decoded([COPIES["crop 3%"](SCENES[7]), ImageOps.mirror(SCENES[9])])
    test = torch.cat([decoded(SCENES[30:34]), training[5:6], copies])
    checkpoint = {"fingerprints": fingerprints(training), "thumbnails": duplicates.pack(prints[:20])}
    checkpoint["paths"] = [f"A/{i}.jpg" for i in range(20)]
    dataset = SimpleNamespace(paths=[f"test/{i}.jpg" for i in range(7)], images=test, fingerprints=fingerprints(test))
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
    said = '1 pair of identical images in two styles, trained with both labels: "a/1" and "b/3"'
    assert said in capsys.readouterr().err
