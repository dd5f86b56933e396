"""support/answers/pictures_part1.py: the figures show what was measured, also of hundreds of styles."""

from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
import torch

import wikiart
from support.answers import heatmaps, pictures_part1

S = 32
NAMES = ["Baroque", "Cubism", "Fauvism", "Rococo"]
RANDOM = np.random.default_rng(0)
DATASET = SimpleNamespace(
    images=torch.from_numpy(RANDOM.integers(0, 256, (14, 3, S, S), np.uint8)),
    labels=torch.arange(4).repeat_interleave(torch.tensor([4, 5, 3, 2])),
    classes=NAMES,
    paths=[f"test/a-painter_{i}_" + "a-long-name-" * 9 * (i % 2) + ".jpg" for i in range(14)],
)
LABELS = DATASET.labels.numpy()


def test_the_confusion_matrix_has_the_counts_and_rare_styles_are_paler():
    matrix = np.array([[1, 0, 0, 0], [0, 40, 0, 3], [0, 2, 9, 0], [0, 0, 0, 0]])
    axes = pictures_part1.draw_confusion(matrix, NAMES, "a title").axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == NAMES
    numbers = matrix.sum(1)
    rows = [f"{name} ({number})" for name, number in zip(NAMES, numbers, strict=True)]
    assert [text.get_text() for text in axes.get_yticklabels()] == rows
    shade = axes.images[0].get_array()
    assert shade[0, 0] < 0.5 < shade[2, 2] < shade[1, 1] < 1 and not shade[matrix == 0].any()
    cells = {text.get_position()[::-1]: int(text.get_text()) for text in axes.texts}
    assert cells == {(i, j): matrix[i, j] for i, j in zip(*matrix.nonzero(), strict=True)}
    assert "predicted" in axes.get_xlabel() and "true" in axes.get_ylabel() and axes.get_title() == "a title"


@pytest.mark.parametrize("all_right", [False, True])
def test_mistakes_are_named_and_no_place_is_empty(all_right):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 14)
    predicted = LABELS if all_right else probabilities.argmax(1)
    probabilities = np.eye(4)[LABELS] if all_right else probabilities
    matrix = sklearn.metrics.confusion_matrix(LABELS, predicted, labels=range(4))
    sheet, chart = pictures_part1.draw_mistakes(DATASET, matrix, probabilities).subfigs
    wrong = sorted(np.flatnonzero(predicted != LABELS), key=lambda i: -probabilities[i].max())
    assert len(sheet.axes) == len(wrong) and (all_right or len(wrong) > 5)
    for axes, i in zip(sheet.axes, wrong, strict=True):
        expected = f"{NAMES[LABELS[i]]} taken for {NAMES[predicted[i]]} {probabilities[i].max():.0%}"
        assert axes.get_title().replace("\n", " ") == expected
        assert axes.get_xlabel().startswith(f"a-painter_{i}_") and len(axes.get_xlabel()) < 80
        assert np.array_equal(axes.images[0].get_array(), DATASET.images[i].permute(1, 2, 0))
    expected = {(NAMES[i], NAMES[j]): matrix[i, j] for i in range(4) for j in range(4) if i != j and matrix[i, j]}
    texts = [tuple(text.get_text().split("\ntaken for ")) for text in chart.axes[0].get_yticklabels()]
    widths = [bar.get_width() for bar in chart.axes[0].patches]
    assert dict(zip(texts, widths, strict=True)) == expected and widths == sorted(widths, reverse=True)


def test_figures_of_hundreds_of_styles_stay_bounded(monkeypatch):
    count = 300
    names, labels = [f"Artist_{i}" for i in range(count)], np.arange(count)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(count), count).astype(np.float32)
    matrix = sklearn.metrics.confusion_matrix(labels, probabilities.argmax(1), labels=labels)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)
    dataset = SimpleNamespace(labels=torch.from_numpy(labels), images=images, classes=names, paths=names)
    model = SimpleNamespace(architecture="residual")
    monkeypatch.setattr(heatmaps, "occlusion_maps", lambda model, images, labels: torch.rand(1, 12, 12))
    confusion = pictures_part1.draw_confusion(matrix, names, "")
    maps = pictures_part1.draw_heatmaps(model, dataset, probabilities, torch.device("cpu"))
    for figure in [confusion, maps, pictures_part1.draw_mistakes(dataset, matrix, probabilities)]:
        assert (figure.get_size_inches() * figure.dpi).max() <= 4000
    axes = confusion.axes[0]
    assert not axes.texts and max(len(axes.get_xticks()), len(axes.get_yticks())) <= pictures_part1.NAMED
    assert len(maps.axes) == 2 * pictures_part1.HEATMAPS + 1 and "27 largest of 300" in maps.get_suptitle()


def test_heatmaps_show_the_most_confident_right_and_wrong_painting_of_the_largest_styles():
    random = np.random.default_rng(1)
    labels, probabilities = random.integers(0, 40, 200), random.dirichlet(0.2 * np.ones(41), 200)
    chosen = pictures_part1.most_confident(labels, probabilities)
    shown = sorted({label for label, _, _ in chosen})
    assert len(chosen) == 54 and sum(np.isin(labels, shown)) == sum(sorted(np.bincount(labels))[-27:])
    for label, correct, i in chosen:
        group = [j for j in np.flatnonzero(labels == label) if (probabilities[j].argmax() == label) == correct]
        assert i == max(group, key=lambda j: probabilities[j].max(), default=None)


def test_a_heatmap_is_that_of_the_predicted_style_and_a_missing_painting_is_said():
    torch.manual_seed(0)
    model = wikiart.make_classifier("three_conv", 4, S).eval()
    probabilities = np.random.default_rng(1).dirichlet(np.ones(4), 14).astype(np.float32)
    probabilities[LABELS == 3] = [0.1, 0.2, 0.3, 0.4]
    figure = pictures_part1.draw_heatmaps(model, DATASET, probabilities, torch.device("cpu"))
    *panels, bar = figure.axes
    assert bar.get_xlabel() and "three_conv" in figure.get_suptitle()
    for axes, (label, correct, i) in zip(panels, pictures_part1.most_confident(LABELS, probabilities), strict=True):
        if i is None:
            assert not axes.images and axes.texts[0].get_text().startswith(f"{NAMES[label]}:\nno painting is")
            continue
        predicted, title = int(probabilities[i].argmax()), axes.get_title().replace("\n", "")
        heat = heatmaps.occlusion_maps(model, DATASET.images[i : i + 1] / 255, torch.tensor([predicted]))[0]
        answer = "right" if correct else f"taken for{NAMES[predicted]}"
        assert title.startswith(f"{NAMES[label]} {answer} {probabilities[i].max():.0%}, ") and "points" in title
        assert np.array_equal(axes.images[0].get_array(), DATASET.images[i].permute(1, 2, 0))
        assert np.allclose(axes.images[2].get_array(), heat, atol=1e-6)
    assert sum(not axes.images for axes in panels) >= 1
