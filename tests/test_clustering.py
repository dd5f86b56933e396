"""What paintings are clustered by, and how well clusters agree with the styles."""

import numpy as np
import pytest

from support.answers import clustering


def test_a_silhouette_is_none_where_its_sample_holds_one_cluster(monkeypatch):
    points, clusters = np.random.default_rng(0).normal(size=(200, 2)), np.zeros(200, int)
    clusters[7] = 1
    assert clustering.score_clusters(clusters, clusters, points, 0)["silhouette"] is not None
    monkeypatch.setattr(clustering, "SILHOUETTE_POINTS", 20)
    scores = [clustering.score_clusters(clusters, clusters, points, seed)["silhouette"] for seed in range(30)]
    assert None in scores and any(score is not None for score in scores)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("points", [np.ones((5, 3)), np.arange(5.0)[:, None], np.arange(10.0).reshape(5, 2)])
def test_points_that_fill_no_plane_are_projected_all_the_same(points):
    plane, shares = clustering.project(points, 0)
    line = np.zeros((5, 2))
    line[:, 0] = np.linalg.norm(points - points.mean(0), axis=1)
    assert np.allclose(np.abs(plane), line)
    assert shares == pytest.approx([float(np.ptp(points) > 0), 0.0])
