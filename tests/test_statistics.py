"""Statistics of colours, textures and strokes, against what loops over the pixels find."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from support import statistics


def test_the_texture_histogram_is_that_of_patterns_found_pixel_by_pixel():
    greys = torch.randn(2, 7, 7)
    around = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    expected = torch.zeros(2, 256)
    for image in range(2):
        for y in range(1, 6):
            for x in range(1, 6):
                lighter = [bool(greys[image, y + v, x + u] > greys[image, y, x] + 0.04) for v, u in around]
                expected[image, sum(bit << i for i, bit in enumerate(lighter))] += 1 / 25
    assert torch.allclose(statistics.texture_histogram(greys).square(), expected, atol=1e-6)


def test_the_gradient_histogram_is_that_of_gradients_found_pixel_by_pixel():
    greys = torch.randn(2, 9, 9)
    greys[0, :4] = 0.5  # flat
    expected = torch.zeros(2, 8, 8)
    for image in range(2):
        for y in range(1, 8):
            for x in range(1, 8):
                across = float(greys[image, y, x + 1] - greys[image, y, x - 1])
                down = float(greys[image, y + 1, x] - greys[image, y - 1, x])
                direction = 4 * (across > 0) + 2 * (down > 0) + (abs(down) > abs(across))
                magnitude = sum(math.hypot(across, down) > 0.02 * 2**k for k in range(7))
                expected[image, direction, magnitude] += 1 / 49
    found = statistics.gradient_histogram(greys)
    assert torch.allclose(found.square(), expected.flatten(1), atol=1e-6)
    ramp = torch.arange(9.0).expand(1, 9, 9)  # lighter to the right, then upwards
    right, up = (statistics.gradient_histogram(g / 10).view(8, 8) for g in (ramp, ramp.mT.flip(1)))
    assert right[4, 4] == 1 and up[1, 4] == 1  # 0.2 between pixels that are two apart


def test_the_colour_steps_are_those_between_neighbours():
    images = torch.tensor([[0.0, 0.0, 0.4, 0.4, 2.0, -2.0]]).repeat(6, 1).expand(3, 6, 6).clone()
    images[2] = 0.3  # blue stays
    found = statistics.colour_step_histogram(images[None]).square().view(5, 5, 5)
    expected = {(2, 2): 2 / 5, (3, 3): 1 / 5, (4, 4): 1 / 5, (0, 0): 1 / 5}
    for (red, green), share in expected.items():
        assert abs(found[red, green, 2] - share) < 1e-6
    assert abs(found.sum() - 1) < 1e-6


def test_strokes_are_the_gradients_at_three_sizes_and_the_steps():
    images = torch.randn(2, 3, 32, 32)
    greys, found = images.mean(1), statistics.strokes(images)
    assert found.shape == (2, statistics.STROKES)
    smaller = [greys.unfold(1, n, n).unfold(2, n, n).mean((3, 4)) for n in (1, 2, 4)]
    for number, grey in enumerate(smaller):
        part = found[:, 64 * number : 64 * number + 64]
        assert torch.allclose(part, statistics.gradient_histogram(grey), atol=0.1)  # rounding moves single pixels
    assert torch.equal(found[:, 192:], statistics.colour_step_histogram(images))


@pytest.fixture
def seen(monkeypatch):
    """The statistics that are measured, batch by batch."""
    parts, honest = [], statistics.combined
    monkeypatch.setattr(statistics, "combined", lambda images: parts.append(honest(images)) or parts[-1])
    return parts


def pictures(count, size=40):
    """uint8 [count, 3, size, size]: noise of several colours and sizes."""
    random = torch.Generator().manual_seed(0)
    coarse = (
        torch.rand(count, 3, size // 4, size // 4, generator=random).repeat_interleave(4, 2).repeat_interleave(4, 3)
    )
    fine, palette = torch.rand(count, 3, size, size, generator=random), torch.rand(count, 3, 1, 1, generator=random)
    share = torch.rand(count, 1, 1, 1, generator=random)
    return (255 * (palette + share * coarse + (1 - share) * fine) / 2).to(torch.uint8)


def test_the_discriminant_is_scikit_learns_with_every_painting_a_class(seen):
    images, members = pictures(90), torch.arange(5, 85)
    mean, axes = statistics.fit_discriminant(images, members, 4, 7, torch.device("cpu"))
    pairs = torch.stack(seen).unflatten(0, (-1, 2)).transpose(1, 2).flatten(0, 1) if len(seen) == 2 else torch.cat(
        [torch.stack(seen[i : i + 2], 1) for i in range(0, len(seen), 2)])  # fmt: skip
    rows = pairs.flatten(0, 1).double().numpy()
    assert len(rows) == 160 and np.allclose(mean.numpy(), rows.mean(0), atol=1e-5)
    codes, painting = PCA(160).fit_transform(rows), np.repeat(np.arange(80), 2)
    within = np.mean([np.square(part - part.mean(0)).sum() for part in rows.reshape(80, 2, -1)]) / 2
    ridge = statistics.RIDGE * 2 * within / rows.shape[1]
    shrinkage = ridge / (ridge + within / 160)
    theirs = LinearDiscriminantAnalysis("eigen", shrinkage=shrinkage).fit(codes, painting)
    ours = (rows - rows.mean(0)) @ axes.double().numpy().T
    for number in range(4):
        expected = codes @ theirs.scalings_[:, number]
        assert abs(np.corrcoef(ours[:, number], expected)[0, 1]) > 0.999
    assert np.square(ours).mean(0)[0] == pytest.approx(1, rel=1e-3)
