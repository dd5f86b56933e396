"""Statistics of colours, textures and edges, against what loops over the pixels find."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.covariance import empirical_covariance
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from support.networks import description


def test_textures_and_gradients_are_those_found_pixel_by_pixel():
    greys, around = torch.randn(2, 9, 9), [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    greys[0, :4] = 0.5  # flat
    textures, gradients = torch.zeros(2, 256), torch.zeros(2, 8, 8)
    for image, y, x in itertools.product(range(2), range(1, 8), range(1, 8)):
        lighter = [bool(greys[image, y + v, x + u] > greys[image, y, x] + 0.04) for v, u in around]
        textures[image, sum(bit << i for i, bit in enumerate(lighter))] += 1 / 49
        across = float(greys[image, y, x + 1] - greys[image, y, x - 1])
        down = float(greys[image, y + 1, x] - greys[image, y - 1, x])
        direction = 4 * (across > 0) + 2 * (down > 0) + (abs(down) > abs(across))
        gradients[image, direction, sum(math.hypot(across, down) > 0.02 * 2**k for k in range(7))] += 1 / 49
    assert torch.allclose(description.texture_histogram(greys).square(), textures, atol=1e-6)
    assert torch.allclose(description.gradient_histogram(greys).square(), gradients.flatten(1), atol=1e-6)


def test_the_colour_steps_are_those_between_neighbours():
    images = torch.tensor([[0.0, 0.0, 0.4, 0.4, 2.0, -2.0]]).repeat(6, 1).expand(3, 6, 6).clone()
    images[2] = 0.3  # blue stays
    expected = torch.zeros(5, 5, 5)
    expected[[2, 3, 4, 0], [2, 3, 4, 0], 2] = torch.tensor([0.4, 0.2, 0.2, 0.2])
    assert torch.allclose(description.colour_step_histogram(images[None]).square().view(5, 5, 5), expected, atol=1e-6)


def pictures(count, size=40):
    """uint8 [count, 3, size, size]: noise of several colours and sizes."""
    random = torch.Generator().manual_seed(0)
    coarse, fine = (torch.rand(count, 3, size // n, size // n, generator=random) for n in (4, 1))
    coarse = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    palette, share = (torch.rand(count, n, 1, 1, generator=random) for n in (3, 1))
    return (255 * (palette + share * coarse + (1 - share) * fine) / 2).to(torch.uint8)


def fit(images, members, count=4, seed=7):
    return description.fit_discriminant(images, members, count, seed, torch.device("cpu"))


@pytest.fixture
def seen(monkeypatch):
    """What a fit looks at, batch by batch: the crops and their statistics."""
    record, statistics = [], description.all_statistics

    def recorded(crops):
        record.append((crops, statistics(crops)))
        return record[-1][1]

    monkeypatch.setattr(description, "all_statistics", recorded)
    return record


@pytest.mark.parametrize("directions", [12, 256])
def test_the_discriminant_is_scikit_learns_with_every_painting_a_class(seen, monkeypatch, directions):
    monkeypatch.setattr(description, "RIDGE", 3)
    monkeypatch.setattr(description, "DIRECTIONS", directions)
    mean, axes = fit(pictures(90), torch.arange(5, 85))
    crops = [rows for _, rows in seen]
    pairs = torch.stack([torch.cat(crops[::2]), torch.cat(crops[1::2])], 1).numpy()
    rows = pairs.reshape(160, -1)
    assert np.allclose(mean.numpy(), rows.mean(0), atol=1e-5)
    dimensions = min(directions, 160)
    codes = PCA(dimensions, random_state=7).fit_transform(rows).astype(np.float64)  # of some, it is a random method
    painting = np.repeat(np.arange(80), 2)
    ridge = SimpleNamespace()
    ridge.fit = lambda x: vars(ridge).update(
        covariance_=empirical_covariance(x) + np.eye(dimensions) * 3 * np.var(pairs, axis=1).mean()
    )
    theirs = LinearDiscriminantAnalysis("eigen", covariance_estimator=ridge).fit(codes, painting)
    ours = (rows - rows.mean(0)) @ axes.double().numpy().T
    for number in range(4):
        assert abs(np.corrcoef(ours[:, number], codes @ theirs.scalings_[:, number])[0, 1]) > 0.9999
    assert np.square(ours).mean(0)[0] == pytest.approx(1, rel=1e-3)


def test_a_discriminant_sees_two_crops_of_each_member_and_depends_on_the_seed(seen, monkeypatch):
    images, members, state = pictures(30), torch.arange(4, 24), torch.random.get_rng_state()
    first = fit(images, members)
    assert torch.equal(torch.random.get_rng_state(), state)  # torch's own is not touched
    crops, others = (batch for batch, _ in seen)
    assert crops.shape == others.shape == (20, 3, 25, 25) and not torch.equal(crops, others)
    images[:4], images[24:] = 0, 0
    assert all(map(torch.equal, first, fit(images, members)))
    assert not torch.equal(first[1], fit(images, members, seed=8)[1])
    monkeypatch.setattr(description, "FITTED", 12)
    seen.clear()
    fit(images, members)
    assert [len(batch) for batch, _ in seen] == [12, 12]


@pytest.mark.parametrize("count, value, most", [(1, None, 1), (5, None, 6), (5, 7, 0)])
def test_axes_that_few_or_equal_paintings_do_not_have_are_zero(count, value, most):
    images = pictures(1) if value is None else torch.full((1, 3, 40, 40), value, dtype=torch.uint8)
    mean, axes = fit(images.expand(count, -1, -1, -1), torch.arange(count), 6)
    assert axes.shape == (6, description.ALL_STATISTICS) and axes.isfinite().all() and mean.isfinite().all()
    assert (axes.abs().sum(1) > 0).sum() <= most and axes.norm(dim=1).max() < 100
