"""support/similar.py: nearest points, kept on disk."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from support import similar


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
def test_nearest_points_are_scikit_learns(block, monkeypatch):
    monkeypatch.setattr(similar, "BLOCK", block)
    random = torch.Generator().manual_seed(0)
    points, queries = torch.randn(50, 6, generator=random), torch.randn(9, 6, generator=random)
    distances, nearest = NearestNeighbors(n_neighbors=8).fit(points.numpy()).kneighbors(queries.numpy())
    ours = similar.nearest(queries, points, 8)
    assert similar.nearest(queries, points[:3], 8)[0].shape == (9, 3)  # all there are
    assert np.array_equal(ours[0], nearest) and np.allclose(ours[1], distances, atol=1e-6)


def test_a_point_far_from_the_origin_is_at_distance_0_from_itself():
    points = 1e4 + torch.rand(20, 30, generator=torch.Generator().manual_seed(1))
    nearest, distances = similar.nearest(points, points, 3)
    assert nearest[:, 0].tolist() == list(range(20)) and (distances[:, 0] == 0).all() and (distances[:, 1] > 0.5).all()


def test_points_are_computed_once_and_again_where_the_file_does_not_hold_them(tmp_path):
    path, computed = tmp_path / "new" / "points.npy", []

    def get(count=4):
        return similar.stored(path, count, lambda: computed.append(count) or torch.full((count, 3), float(count)))

    for _ in range(2):
        assert torch.equal(get(), torch.full((4, 3), 4.0))
    assert computed == [4]
    assert torch.equal(get(5), torch.full((5, 3), 5.0))  # another number of paintings
    whole = path.read_bytes()
    for damage in (b"", whole[:-1], whole[:40], b"PK\3\4" + whole, b"{}"):
        path.write_bytes(damage)
        assert torch.equal(get(5), torch.full((5, 3), 5.0)) and path.read_bytes() == whole
    np.save(path, np.zeros((5, 3)))  # another type
    assert get(5).dtype == torch.float32 and path.read_bytes() == whole
    assert [file.name for file in path.parent.iterdir()] == ["points.npy"]


def test_the_digest_tells_weights_apart():
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)}
    others = [
        weights | {"b": torch.tensor(2)},
        weights | {"a": weights["a"].view(3, 2)},
        weights | {"a": weights["a"].nextafter(torch.tensor(9.0))},
        {"a": weights["a"], "c": weights["b"]},
    ]
    digests = [similar.digest(each) for each in (weights, *others)]
    assert len(set(digests)) == 5 and digests[0] == similar.digest({k: v.clone() for k, v in weights.items()})
