"""Ward's clustering against SciPy's, against its own definition where distances tie, and where rounding bites."""

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import is_monotonic, is_valid_linkage, linkage
from sklearn.metrics import adjusted_rand_score

import wikiart
from support.answers import ward
from support.answers.ward import cut_tree, ward_linkage
from support.networks import description, pca

N = 2000


def random_points(random):
    return random.normal(size=(N, 8))


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


KINDS = [random_points, clustered, with_duplicates, box, latents]


def assert_is_scipys(points):
    """The same heights, and the same clusters wherever the height above the cut differs from that below it."""
    ours, theirs = ward_linkage(points), linkage(points, "ward")
    assert ours.dtype == np.float64 and ours.shape == theirs.shape and is_valid_linkage(ours) and is_monotonic(ours)
    np.testing.assert_allclose(ours[:, 2], theirs[:, 2], rtol=1e-6, atol=1e-9 * theirs[-1, 2])
    compared = 0
    for clusters in (2, 3, 8, 27, 64, 200, 512, 1024):
        above, below = theirs[-clusters + 1, 2], theirs[-clusters, 2]
        if above > below * (1 + 1e-9):
            assert adjusted_rand_score(cut_tree(theirs, clusters), cut_tree(ours, clusters)) == 1.0
            compared += 1
    return ours, theirs, compared


@pytest.mark.parametrize("kind", KINDS)
def test_merges_and_heights_are_scipys(kind):
    ours, theirs, compared = assert_is_scipys(kind(np.random.default_rng(0)))
    assert compared >= 4
    if kind not in (with_duplicates, box):  # no two distances are equal: the very same tree
        assert np.array_equal(ours[:, [0, 1, 3]], theirs[:, [0, 1, 3]])


@pytest.mark.slow  # decoding takes most of it
def test_merges_and_heights_of_real_paintings_latents_are_scipys(real_paintings, tmp_path):
    images = wikiart.WikiArtDataset(real_paintings / "train", 32, cachedir=tmp_path).images[::3][:N]
    members, model = torch.arange(len(images)), wikiart.Autoencoder(32, 40).eval()
    style = description.fit_discriminant(images, members[:500], model.style_dim, 0, torch.device("cpu"))
    model.start_from(pca.fit_pca(images, members, 40, 0), style)
    with torch.no_grad():
        found = torch.cat([model.encode(part / 255) for part in images.split(200)]).double().numpy()
    assert found.shape == (N, 40)
    for points in (found, found[:, :6]):
        ours, theirs, compared = assert_is_scipys(points)
        assert compared == 8 and np.array_equal(ours[:, [0, 1, 3]], theirs[:, [0, 1, 3]])


def assert_is_ward(points):
    """Replay the merges: each one joins two clusters that are as near as any, at the height of their distance."""
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


@pytest.mark.parametrize("shape", [(150,), (12, 12), (5, 5, 5), (2, 2, 2, 2, 2, 2, 2)])
def test_on_a_grid_every_merge_is_of_two_nearest_clusters(shape):
    """Ward's trees of ties differ in height with the order of the ties (SciPy's is another one): all are right."""
    assert_is_ward(np.indices(shape).reshape(len(shape), -1).T.astype(float))


def test_more_equal_distances_than_a_list_holds_do_not_stop_it():
    assert_is_ward(np.eye(40))
    assert_is_ward(np.concatenate([np.zeros((1, 30)), np.eye(30)]))


def test_few_points():
    assert ward_linkage(np.ones((1, 3))).shape == (0, 4)
    assert ward_linkage([[0.0, 0.0], [3.0, 4.0]]).tolist() == [[0, 1, 5, 2]]
    points = np.array([[0.0], [10.0], [1.0]])
    np.testing.assert_allclose(ward_linkage(points), linkage(points, "ward"))
    for count in range(2, 20):
        points = np.random.default_rng(count).normal(size=(count, 2))
        np.testing.assert_allclose(ward_linkage(points), linkage(points, "ward"))


def test_equal_points_merge_at_nothing():
    tree = ward_linkage(np.full((N, 3), 7.1))
    assert is_valid_linkage(tree) and not tree[:, 2].any() and tree[-1, 3] == N


@pytest.mark.parametrize(("offset", "spread"), [(1e4, 1.0), (1e4, 1e-3), (-1e6, 1e-3)])
def test_a_large_offset_costs_no_digits(offset, spread):
    points = offset + spread * np.random.default_rng(1).normal(size=(600, 16))
    np.testing.assert_allclose(ward_linkage(points), linkage(points, "ward"), rtol=1e-6)


@pytest.mark.parametrize("spread", [1e-3, 1e-5, 1e-8])
def test_tight_groups_far_apart_need_float64_and_differences(spread):
    random = np.random.default_rng(2)
    points = 10 * random.normal(size=(9, 6))[random.integers(9, size=600)] + spread * random.normal(size=(600, 6))
    ours, theirs = ward_linkage(points), linkage(points, "ward")
    np.testing.assert_allclose(ours[:, 2], theirs[:, 2], rtol=1e-6)
    assert adjusted_rand_score(cut_tree(ours, 9), cut_tree(theirs, 9)) == 1.0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_points_scales_the_heights(scale):
    points = np.random.default_rng(3).normal(size=(300, 5))
    expected = linkage(points, "ward") * [1, 1, scale, 1]
    np.testing.assert_allclose(ward_linkage(scale * points), expected)


@pytest.mark.parametrize("kind", [random_points, with_duplicates])
def test_neither_blocks_nor_lists_change_the_result(kind, monkeypatch):
    points = kind(np.random.default_rng(4))[:300]
    expected = ward_linkage(points)
    for block, listed in [(1, 8), (3000, 8), (1 << 24, 3), (1 << 24, 50)]:
        monkeypatch.setattr(ward, "BLOCK", block)
        monkeypatch.setattr(ward, "LISTED", listed)
        assert np.array_equal(ward_linkage(points), expected)


def test_no_tensor_is_larger_than_a_block(monkeypatch):
    points = np.random.default_rng(5).normal(size=(N, 4))
    monkeypatch.setattr(ward, "BLOCK", 100_000)
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            largest = max(largest, result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    with Watch():
        ward_linkage(points)
    assert 50_000 < largest <= 100_000


def test_tensors_of_any_kind_will_do_and_settings_are_put_back():
    points = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = linkage(points.detach().numpy(), "ward")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            np.testing.assert_allclose(ward_linkage(points, torch.device("cpu")), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_interrupt_passes_through(monkeypatch):
    def interrupted(self, rows):
        raise KeyboardInterrupt

    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(ward.Clusters, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ward_linkage(np.random.default_rng(6).normal(size=(50, 2)))
    assert torch.get_float32_matmul_precision() == before


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_tree_is_scipys():
    points = latents(np.random.default_rng(7))
    torch.set_float32_matmul_precision("high")
    try:
        np.testing.assert_allclose(ward_linkage(points, "cuda"), linkage(points, "ward"), rtol=1e-6)
    finally:
        torch.set_float32_matmul_precision("highest")
