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
    heights = sorted(max(line.get_xdata()) for line in figure.axes[0].lines)
    assert np.allclose(heights, tree[14 - clusters :, 2])
    labels, names = DATASET.labels.numpy(), [style.replace("_", " ") for style in DATASET.classes]
    found = AgglomerativeClustering(clusters).fit_predict(POINTS)
    leaves = [text.get_text() for text in figure.texts if text is not figure._suptitle]
    expected = []
    for number in range(clusters):
        counts = np.bincount(labels[found == number], minlength=3)
        expected.append(f"{counts.sum()} painting{'s' * int(counts.sum() > 1)}\n"
                        f"{names[counts.argmax()]} {counts.max() / counts.sum():.0%}")  # fmt: skip
    assert sorted(leaf.split(": ")[1] for leaf in leaves) == sorted(expected)
    assert sorted(leaf.split(": ")[0] for leaf in leaves) == sorted(f"cluster {i}" for i in range(clusters))
    assert len(figure.axes) == 1 + sum(min(3, np.sum(found == i)) for i in range(clusters))
    inside = figure.axes[0].get_position()  # each leaf's text stands where its line ends
    for place, text in enumerate(figure.texts[1:] if figure.texts[0] is figure._suptitle else figure.texts[:-1]):
        share = (inside.y1 - text.get_position()[1]) / inside.height
        assert share * clusters == pytest.approx(place + 0.5, abs=0.01)


def test_figures_of_many_styles_and_clusters_stay_bounded(monkeypatch):
    random = np.random.default_rng(0)
    for styles, clusters in ((300, 200), (100, 60)):
        labels, found = np.arange(300) % styles, np.arange(300) % clusters
        names = [f"A_style_with_a_rather_long_name_{i}" for i in range(styles)]
        figure = pictures_part2.draw_clusters(random.normal(size=(300, 2)), [0.5, 0.1], found, labels, names)
        figure.draw_without_rendering()
        assert max(figure.get_size_inches()) * figure.dpi <= 4000
        left, right = figure.axes
        assert len(left.texts) == 60 and left.get_position().width > 0.2
        legend = right.get_legend()
        assert (legend is None) == (styles == 300)
        if legend:
            box = legend.get_window_extent().transformed(figure.transFigure.inverted())
            assert box.y0 >= 0 and box.y1 <= 1 and box.x1 <= 1 and len(legend.get_texts()) == styles
    found = np.arange(14) % 5
    monkeypatch.setattr(pictures_part2, "GALLERY_ROWS", 2)
    figure = pictures_part2.draw_gallery(DATASET, POINTS, found)
    assert len(figure.axes) == 2 * 9 and "2 largest of 5" in figure.get_suptitle()
    figure = pictures_part2.draw_dendrogram(DATASET, POINTS, linkage(POINTS, "ward"), 5)
    assert len(figure.axes[0].lines) == 1 and "2 groups" in figure.get_suptitle()


def test_colours_are_all_different():
    for count in (1, 2, 27, 40):
        colours = np.array(pictures_part2.distinct_colours(count))
        apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 9 * np.eye(count)
        assert len(colours) == count and apart.min() > 0.05
