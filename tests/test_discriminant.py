"""The discriminant of a description, against scikit-learn's, and what of the paintings it is fitted to."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.covariance import empirical_covariance
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import wikiart
from support.networks import discriminant, heads
from support.networks.description import Description


def pictures(count, size=40):
    """uint8 [count, 3, size, size]: noise of several colours and sizes."""
    random = torch.Generator().manual_seed(0)
    coarse, fine = (torch.rand(count, 3, size // n, size // n, generator=random) for n in (4, 1))
    coarse = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    palette, share = (torch.rand(count, n, 1, 1, generator=random) for n in (3, 1))
    return (255 * (palette + share * coarse + (1 - share) * fine) / 2).to(torch.uint8)


def fit(images, members, count=4, seed=7, describe=None):
    """A discriminant of paintings, and the features that it was fitted to."""
    describe = describe or Description("none", None, images.shape[2]).eval()
    whole = describe.all_features(images[members] / 255)
    return discriminant.fit(describe, whole, images, members, count, seed), whole


@pytest.fixture
def seen(monkeypatch):
    """What is described, call by call: the images and their features."""
    record, describe = [], Description.all_features

    def recorded(self, images):
        record.append((images, describe(self, images)))
        return record[-1][1]

    monkeypatch.setattr(Description, "all_features", recorded)
    return record


def crops_in(seen):
    """The first and the second crops, and the features of each, of a fit of a new description."""
    crops = [rows for rows in seen if rows[0].shape[2] == 25]
    first, second = (list(zip(*crops[start::2], strict=True)) for start in (0, 1))
    return [torch.cat(part) for part in (*first, *second)]


@pytest.mark.parametrize("directions", [12, 256])
def test_the_discriminant_is_scikit_learns_with_every_painting_a_class(seen, monkeypatch, directions):
    monkeypatch.setattr(discriminant, "RIDGE", 3)
    monkeypatch.setattr(discriminant, "DIRECTIONS", directions)
    (mean, axes), whole = fit(pictures(90), torch.arange(5, 85))
    _, first, _, second = crops_in(seen)
    assert np.allclose(mean.numpy(), whole.mean(0), atol=1e-5)
    scale = (whole.var(0, correction=0) + heads.EPS).sqrt()  # as a fitted head standardizes
    standardized = ((whole - mean) / scale).numpy()
    pca = PCA(min(directions, 80), random_state=7, svd_solver="randomized").fit(standardized)
    differences = ((first - second) / scale).numpy()
    apart = np.concatenate([differences, -differences]) / 2 @ pca.components_.T  # from the middle of the two crops
    within = 2 * empirical_covariance(apart, assume_centered=True)
    within += np.eye(len(within)) * 3 * np.square(differences).mean() / 2
    estimator = SimpleNamespace()  # of the variance in all, and of that within a painting
    estimator.fit = lambda x: vars(estimator).update(covariance_=empirical_covariance(x) if len(x) > 2 else within)
    codes = pca.transform(standardized).astype(np.float64)
    theirs = LinearDiscriminantAnalysis("eigen", covariance_estimator=estimator)
    painting = np.arange(80).repeat(2)  # every painting twice, so that the classes differ as the paintings do
    theirs.fit(codes.repeat(2, 0), painting)
    ours = (whole - mean).double().numpy() @ axes.double().numpy().T
    for number in range(4):
        assert abs(np.corrcoef(ours[:, number], codes @ theirs.scalings_[:, number])[0, 1]) > 0.999
    assert ours[:, 0].var(ddof=1) == pytest.approx(1, rel=0.01)


def test_a_discriminant_sees_two_crops_of_each_member_and_depends_on_the_seed(seen, monkeypatch):
    images, members, state = pictures(30), torch.arange(4, 24), torch.random.get_rng_state()
    result, _ = fit(images, members)
    assert torch.equal(torch.random.get_rng_state(), state)  # torch's own is not touched
    crops, _, others, _ = crops_in(seen)
    assert crops.shape == others.shape == (20, 3, 25, 25) and not torch.equal(crops, others)
    images[:4], images[24:] = 0, 0
    assert all(map(torch.equal, result, fit(images, members)[0]))
    assert not torch.equal(result[1], fit(images, members, seed=8)[0][1])
    monkeypatch.setattr(discriminant, "PAIRS", 12)
    seen.clear()
    fit(images, members)
    assert [len(part) for part in crops_in(seen)] == [12] * 4


@pytest.mark.parametrize("count, value, most", [(1, None, 1), (5, None, 6), (5, 7, 0)])
def test_axes_that_few_or_equal_paintings_do_not_have_are_zero(count, value, most):
    images = pictures(1) if value is None else torch.full((1, 3, 40, 40), value, dtype=torch.uint8)
    (mean, axes), whole = fit(images.expand(count, -1, -1, -1), torch.arange(count), 6)
    assert axes.shape == (6, whole.shape[1]) and axes.isfinite().all() and mean.isfinite().all()
    assert (axes.abs().sum(1) > 0).sum() <= most


@pytest.mark.parametrize("architecture, side", [("shufflenet_v2_x0_5", 25), ("three_conv", 25), ("vit_b_32", 64)])
def test_any_trunk_is_described_by_crops_enlarged_where_it_takes_one_size_alone(architecture, side, seen):
    size = 64 if side == 64 else 40
    describe = wikiart.Autoencoder(size, 8, architecture).description.eval()
    seen.clear()
    (_, axes), whole = fit(pictures(6, size), torch.arange(6), describe=describe)
    assert axes.shape == (4, describe.full_width) == (4, whole.shape[1]) and axes.isfinite().all()
    assert {images.shape[2] for images, _ in seen} == {side, size}
