"""Near-duplicates: which copies are found, which paintings are not taken for copies, and what evaluation is told."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from support import duplicates, images

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
    files = []
    for picture in pictures:
        files.append(io.BytesIO())
        picture.save(files[-1], "JPEG", quality=quality)
    return torch.from_numpy(np.stack([images.decode_image(file, 64)[0] for file in files]))


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
}


@pytest.fixture(scope="module")
def prints():
    return duplicates.grey_fingerprints(decoded(SCENES))


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_nothing_else(prints, kind):
    copies = duplicates.grey_fingerprints(decoded([COPIES[kind](picture) for picture in SCENES], 60))
    found = duplicates.near_duplicates(copies, prints)
    assert found.tolist() == [[i, i] for i in range(len(SCENES))]


def test_other_pictures_are_not_copies(prints):
    assert len(duplicates.near_duplicates(prints)) == 0
    negative = duplicates.grey_fingerprints(255 - decoded(SCENES))
    assert len(duplicates.near_duplicates(prints, negative)) == 0


def test_a_frame_does_not_make_paintings_alike():
    framed = decoded(SCENES[:20])
    framed[:, :, :6], framed[:, :, -6:], framed[:, :, :, :6], framed[:, :, :, -6:] = 0, 0, 0, 0
    found = duplicates.grey_fingerprints(framed)
    assert (found @ found.T).fill_diagonal_(0).max() > 0.9  # a plain threshold would take them for copies
    assert len(duplicates.near_duplicates(found)) == 0
    assert len(duplicates.near_duplicates(found, found)) == 20


def test_a_flat_image_resembles_nothing():
    flat = torch.full((3, 3, 20, 20), 200, dtype=torch.uint8) + torch.randint(0, 2, (3, 3, 20, 20), dtype=torch.uint8)
    prints = duplicates.grey_fingerprints(flat)
    assert prints.eq(0).all() and len(duplicates.near_duplicates(prints)) == 0
    assert duplicates.unpack(duplicates.pack(prints)).eq(0).all()


def test_a_fingerprint_is_made_of_block_means():
    made = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    prints = duplicates.grey_fingerprints(made)
    assert prints.shape == (5, 256) and prints.dtype == torch.float32
    grey = np.stack([np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"), float) for image in made])
    blocks = grey.reshape(5, 16, 4, 16, 4).mean((2, 4)).reshape(5, 256)
    np.testing.assert_allclose(prints @ prints.T, np.corrcoef(blocks), atol=0.01)
    assert duplicates.grey_fingerprints(made[:, :, :19, :17]).shape == (5, 256)


def test_blocks_give_the_same_pairs_as_one_product(prints, monkeypatch):
    copies = duplicates.grey_fingerprints(decoded([COPIES["crop 1%"](picture) for picture in SCENES[:25]]))
    everything = torch.cat([prints, copies, prints[:3]])
    whole = duplicates.near_duplicates(everything)
    assert {(i, 60 + i) for i in range(25)} | {(i, 85 + i) for i in range(3)} <= set(map(tuple, whole.tolist()))
    assert (whole[:, 0] < whole[:, 1]).all()
    both = duplicates.near_duplicates(everything, everything).tolist()
    assert sorted(whole.tolist()) == sorted([i, j] for i, j in both if i < j)
    monkeypatch.setattr(duplicates, "BLOCK", 300)
    assert duplicates.near_duplicates(everything).tolist() == whole.tolist()
    assert duplicates.near_duplicates(everything[:0]).shape == duplicates.near_duplicates(prints, prints[:0]).shape


def test_packing_keeps_correlations(prints):
    again = duplicates.unpack(packed := duplicates.pack(prints))
    assert packed.dtype == torch.int8 and packed.shape == (60, 256)
    torch.testing.assert_close(again @ again.T, prints @ prints.T, atol=3e-3, rtol=0)


def test_evaluation_learns_which_test_paintings_are_known(prints, capsys):
    training = decoded(SCENES[:20])
    keys = [images.fingerprint(image.numpy()) for image in training]
    checkpoint = {"fingerprints": torch.tensor(keys), "thumbnails": duplicates.pack(prints[:20])}
    test = torch.cat([decoded(SCENES[30:34]), training[5:6], decoded([cropped(SCENES[7], 0.02, 0.02, 0.02, 0.02)])])
    dataset = SimpleNamespace(
        paths=[f"test/{i}.jpg" for i in range(6)],
        images=test,
        fingerprints=torch.tensor([images.fingerprint(image.numpy()) for image in test]),
    )
    assert duplicates.known_paintings(dataset, checkpoint).tolist() == [False] * 4 + [True] * 2
    said = capsys.readouterr().err
    assert 'warning: test paintings that look like training paintings: 2 (1 identical): "test/4.jpg"' in said


def test_identical_images_in_two_styles_are_named(capsys):
    duplicates.warn_of_contradictions(["a/1", "a/2", "b/3"], torch.tensor([0, 0, 1]), torch.tensor([5, 5, 5]))
    assert (
        '1 pair of identical images in two styles, trained with both labels: "a/1" and "b/3"' in capsys.readouterr().err
    )
