"""Ward's clustering against SciPy's, against its own definition where distances tie, and where rounding bites."""

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import is_monotonic, is_valid_linkage, linkage
from sklearn.metrics import adjusted_rand_score

from support.answers import ward
from support.answers.ward import cut_tree, ward_linkage

N = 2000


def clustered(random):
    return random.normal(size=(27, 32))[random.integers(27, size=N)] + 0.3 * random.normal(size=(N, 32))


def with_duplicates(random):
    return random.normal(size=(N // 3, 8))[random.integers(N // 3, size=N)]


def box(random):
    """Corners of a box with sides of 1, 2, 4...: distances tie by the hundred, the order of the ties makes no odds."""
    corners = np.indices([2] * 11).reshape(11, -1).T[: 2**11] * 2.0 ** np.arange(11)
    return random.permutation(corners)


def latents(random):
    """Low rank with falling spreads, noise, and a large offset."""
    codes = random.normal(size=(N, 20)) / np.sqrt(np.arange(1, 21))
    return codes @ random.normal(size=(20, 128)) + 0.1 * random.normal(size=(N, 128)) + 100


@pytest.mark.parametrize("kind", [clustered, with_duplicates, box, latents])
def test_merges_and_heights_are_scipys(kind):
    """The same heights, and the same clusters wherever the height above the cut differs from that below it."""
    points, compared = kind(np.random.default_rng(0)), 0
    ours, theirs = ward_linkage(points), linkage(points, "ward")
    assert ours.dtype == np.float64 and ours.shape == theirs.shape and is_valid_linkage(ours) and is_monotonic(ours)
    np.testing.assert_allclose(ours[:, 2], theirs[:, 2], rtol=1e-6, atol=1e-9 * theirs[-1, 2])
    for clusters in (2, 3, 8, 27, 64, 200, 512, 1024):
        above, below = theirs[-clusters + 1, 2], theirs[-clusters, 2]
        if above > below * (1 + 1e-9):
            assert adjusted_rand_score(cut_tree(theirs, clusters), cut_tree(ours, clusters)) == 1.0
            compared += 1
    assert compared >= 4
    if kind not in (with_duplicates, box):  # no two distances are equal: the very same tree
        assert np.array_equal(ours[:, [0, 1, 3]], theirs[:, [0, 1, 3]])


GRIDS = [np.indices(shape).reshape(len(shape), -1).T.astype(float) for shape in ((150,), (12, 12), (5, 5, 5))]
EQUAL = np.concatenate([np.zeros((1, 30)), np.eye(30)])  # more equal distances than a list holds


@pytest.mark.parametrize("points", [*GRIDS, EQUAL])
def test_where_distances_tie_every_merge_is_of_two_nearest_clusters(points):
    """Ward's trees of ties differ in height with the order of the ties (SciPy's is another one): all are right."""
    tree = ward_linkage(points)
    assert is_valid_linkage(tree) and is_monotonic(tree)
    members = {number: [number] for number in range(len(points))}
    for number, (left, right, height, size) in enumerate(tree):
        means = np.stack([points[part].mean(0) for part in members.values()])
        sizes = np.array([len(part) for part in members.values()])
        weights = 2 * np.outer(sizes, sizes) / np.add.outer(sizes, sizes)
        apart = np.sqrt(weights * np.square(means[:, None] - means).sum(2))
        np.fill_diagonal(apart, np.inf)
        a, b = (list(members).index(int(part)) for part in (left, right))
        assert left < right and height == pytest.approx(apart[a, b]) == pytest.approx(apart.min())
        members[len(points) + number] = members.pop(int(left)) + members.pop(int(right))
        assert size == len(members[len(points) + number])


def test_few_or_equal_points():
    assert ward_linkage(np.ones((1, 3))).shape == (0, 4)
    for count in range(2, 20):
        points = np.random.default_rng(count).normal(size=(count, 2))
        np.testing.assert_allclose(ward_linkage(points), linkage(points, "ward"))
    tree = ward_linkage(np.full((N, 3), 7.1))
    assert is_valid_linkage(tree) and not tree[:, 2].any() and tree[-1, 3] == N


@pytest.mark.parametrize(("offset", "spread"), [(-1e6, 1e-3), (0, 1e-30), (0, 1e30)])
def test_neither_an_offset_nor_a_scale_costs_digits(offset, spread):
    points = offset + spread * np.random.default_rng(1).normal(size=(600, 16))
    np.testing.assert_allclose(ward_linkage(points), linkage(points, "ward"), rtol=1e-6)


@pytest.mark.parametrize("spread", [1e-3, 1e-8])
def test_tight_groups_far_apart_need_float64_and_differences(spread):
    random = np.random.default_rng(2)
    points = 10 * random.normal(size=(9, 6))[random.integers(9, size=600)] + spread * random.normal(size=(600, 6))
    ours, theirs = ward_linkage(points), linkage(points, "ward")
    np.testing.assert_allclose(ours[:, 2], theirs[:, 2], rtol=1e-6)
    assert adjusted_rand_score(cut_tree(ours, 9), cut_tree(theirs, 9)) == 1.0


def test_smaller_blocks_change_no_result_and_no_tensor_is_larger_than_one(monkeypatch):
    points, largest = np.random.default_rng(5).normal(size=(N, 4)), 0
    expected = ward_linkage(points)
    monkeypatch.setattr(ward, "BLOCK", 100_000)

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            largest = max(largest, result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    with Watch():
        assert np.array_equal(ward_linkage(points), expected)
    assert 50_000 < largest <= 100_000


CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_precision_is_full_whatever_is_set_and_put_back(device):
    points = torch.from_numpy(latents(np.random.default_rng(7))[:500]).requires_grad_()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device, torch.bfloat16):
            tree = ward_linkage(points, device)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_allclose(tree, linkage(points.detach().numpy(), "ward"), rtol=1e-6)


@pytest.mark.parametrize("points", [np.zeros(3), np.zeros((0, 2)), np.zeros((3, 0)), [[np.nan]], [[1.0], [np.inf]]])
def test_what_is_no_matrix_of_numbers_is_refused(points):
    with pytest.raises(ValueError, match="points: needs finite numbers"):
        ward_linkage(points)


def test_a_cut_has_as_many_clusters_as_asked_for_largest_first():
    tree = ward_linkage(np.repeat(np.eye(5), [1, 5, 2, 9, 3], axis=0))
    for clusters in range(1, 21):
        sizes = np.bincount(cut_tree(tree, clusters))
        assert len(sizes) == clusters and sizes.sum() == 20 and (np.diff(sizes) <= 0).all()
    assert cut_tree(tree, 5).dtype == np.int64
    assert np.array_equal(cut_tree(tree, 5), np.repeat([4, 1, 3, 0, 2], [1, 5, 2, 9, 3]))
    assert cut_tree(ward_linkage(np.zeros((1, 1))), 1).tolist() == [0]
    for clusters in (0, 21):
        with pytest.raises(ValueError, match="20 points"):
            cut_tree(tree, clusters)
