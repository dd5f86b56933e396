"""What paintings are clustered by, and how well clusters agree with the styles."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from support.answers import clustering


def half_whitened(points):
    """Principal components, each divided by the root of its standard deviation."""
    components = PCA().fit_transform(points)
    components = components[:, components.std(0) > 1e-9]
    return components / components.std(0) ** 0.5


def test_half_whitening_keeps_axes_and_takes_the_root_of_each_spread():
    points = np.random.default_rng(1).normal(size=(30, 5)) * [9, 4, 1, 0.25, 0] + 7
    ours = clustering.half_whiten(points)
    assert np.allclose(*[np.linalg.norm(x[:, None] - x[None], axis=2) for x in (half_whitened(points), ours)])
    assert ours.std(0) == pytest.approx(PCA().fit_transform(points).std(0) ** 0.5, abs=1e-6)
    assert not clustering.half_whiten(np.ones((4, 3))).any()


def test_a_silhouette_is_none_where_its_sample_holds_one_cluster(monkeypatch):
    points, found = np.random.default_rng(0).normal(size=(200, 2)), np.zeros(200, int)
    found[7] = 1
    assert clustering.measure_clusters(found, found, points, 0)["silhouette"] is not None
    monkeypatch.setattr(clustering, "SILHOUETTE_POINTS", 20)
    scores = [clustering.measure_clusters(found, found, points, seed)["silhouette"] for seed in range(30)]
    assert None in scores and any(score is not None for score in scores)
