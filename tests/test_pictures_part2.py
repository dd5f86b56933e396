"""The pictures of part 2: what they show is what is there, and hundreds of styles or clusters keep them bounded."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import linkage
from sklearn.cluster import AgglomerativeClustering

from support.answers import pictures_part2

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.normal(size=(14, 3))
DATASET = SimpleNamespace(
    images=torch.from_numpy(RANDOM.integers(0, 256, (14, 3, 8, 8), np.uint8)),
    labels=torch.tensor([0] * 6 + [1] * 5 + [2] * 3),
    classes=["Baroque", "Cubism", "Pay_$5_or_$6"],
)


@pytest.mark.parametrize("clusters", [1, 4, 14])
def test_the_dendrogram_is_the_top_of_scipys_tree(clusters):
    tree = linkage(POINTS, "ward")
    figure = pictures_part2.draw_dendrogram(DATASET, POINTS, tree, clusters)
    axes, *pictures = figure.axes
    heights = sorted(max(line.get_xdata()) for line in axes.lines)
    assert np.allclose(heights, tree[14 - clusters :, 2])
    labels, names = DATASET.labels.numpy(), [style.replace("_", " ") for style in DATASET.classes]
    groups = AgglomerativeClustering(clusters).fit_predict(POINTS)
    leaves = [text.get_text() for text in axes.get_yticklabels()]
    expected = []
    for number in range(clusters):
        counts = np.bincount(labels[groups == number], minlength=3)
        expected.append(f"{counts.sum()} painting{'s' * int(counts.sum() > 1)}\n"
                        f"{names[counts.argmax()]} {counts.max() / counts.sum():.0%}")  # fmt: skip
    assert sorted(leaf.split(": ")[1] for leaf in leaves) == sorted(expected)
    assert sorted(leaf.split(": ")[0] for leaf in leaves) == sorted(f"cluster {i}" for i in range(clusters))
    figure.draw_without_rendering()  # each leaf's paintings stand where its line ends
    for place, picture in enumerate(pictures):
        box = picture.get_window_extent()
        assert box.y0 < axes.transData.transform((0, place))[1] < box.y1


def test_a_row_of_the_gallery_has_the_paintings_nearest_the_middle_of_its_cluster():
    clusters = np.array([0] * 9 + [1] * 3 + [2] * 2)
    figure = pictures_part2.draw_gallery(DATASET, POINTS, clusters)
    assert len(figure.axes) == 3
    for number, axes in enumerate(figure.axes):
        members = np.flatnonzero(clusters == number)
        distances = np.linalg.norm(POINTS[members] - POINTS[members].mean(0), axis=1)
        expected = DATASET.images[members[np.argsort(distances)][:8]].permute(0, 2, 3, 1)
        row = np.reshape(axes.images[0].get_array(), (8, 8, 9, 3)).swapaxes(0, 1)  # eight places, a white gap in each
        assert np.array_equal(row[: len(expected), :, :8], expected)
        assert (row[len(expected) :] == 255).all() and (row[:, :, 8] == 255).all()
        assert axes.get_title(loc="left").startswith(f"Cluster {number}: {len(members)} paintings\n")


def test_the_plane_is_shown_by_cluster_and_by_style_with_a_table_of_both():
    clusters, labels, classes = np.array([0] * 7 + [1] * 4 + [2] * 3), DATASET.labels.numpy(), DATASET.classes
    figure = pictures_part2.draw_clusters(POINTS[:, :2], [0.5, 0.25], clusters, labels + 1, ["Absent", *classes])
    assert "50% and 25%" in figure.get_suptitle()
    (plane, table), panels = (part.axes for part in figure.subfigs)
    for number, (text, points) in enumerate(zip(plane.texts, plane.collections[1:], strict=True)):
        assert text.get_text() == str(number) and np.allclose(points.get_offsets(), POINTS[clusters == number, :2])
        assert np.allclose(text.get_position(), np.median(POINTS[clusters == number, :2], axis=0))
    for label, axes in enumerate(panels):
        name = classes[label].replace("_", " ")
        assert axes.get_title() == f"{name} ({(labels == label).sum()})"
        everything, own = (points.get_offsets() for points in axes.collections)
        assert np.allclose(everything, POINTS[:, :2]) and np.allclose(own, POINTS[labels == label, :2])
        assert axes.get_xlim() == plane.get_xlim() and axes.get_ylim() == plane.get_ylim()
    names = [text.get_text().replace(" ", "_") for text in table.get_yticklabels()]
    columns = [int(text.get_text()) for text in table.get_xticklabels()]
    expected = [[np.mean(clusters[labels == classes.index(n)] == c) for c in columns] for n in names]
    assert np.allclose(table.images[0].get_array(), expected) and len(panels) == 3


def test_the_diagonal_is_as_full_as_it_can_be():
    table = np.array([[0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0], [0.2, 0.2, 0.6]])
    rows, columns = pictures_part2.diagonal_order(table)
    assert rows.tolist() == [2, 1, 0, 3] and columns.tolist() == [2, 0, 1]
    rows, columns = pictures_part2.diagonal_order(table.T)
    assert rows.tolist() == [2, 0, 1] and columns.tolist() == [2, 1, 0, 3]


def test_figures_of_many_styles_and_clusters_stay_bounded(monkeypatch):
    labels, clusters = np.arange(300), np.arange(300) % 200
    names = [f"A_style_with_a_rather_long_name_{i}" for i in range(300)]
    figure = pictures_part2.draw_clusters(POINTS[np.arange(300) % 14, :2], [0.5, 0.1], clusters, labels, names)
    assert max(figure.get_size_inches()) * figure.dpi <= 4000
    (plane, table), panels = (part.axes for part in figure.subfigs)
    assert "27 largest of 200" in plane.get_title() and "27 largest of 300" in figure.subfigs[1].get_suptitle()
    assert len(panels) == len(plane.texts) == 27 and table.images[0].get_array().shape == (27, 27)
    monkeypatch.setattr(pictures_part2, "GALLERY_MOST", 2)
    figure = pictures_part2.draw_gallery(DATASET, POINTS, np.arange(14) % 5)
    assert len(figure.axes) == 2 and "2 largest of 5" in figure.get_suptitle()
    figure = pictures_part2.draw_dendrogram(DATASET, POINTS, linkage(POINTS, "ward"), 5)
    assert len(figure.axes[0].lines) == 1 and "2 groups" in figure.get_suptitle()
    marks = {(n % len(pictures_part2.COLOURS), n % len(pictures_part2.MARKERS)) for n in range(27)}
    assert len(marks) == 27
