"""support/answers/pictures_part1.py: the figures show what was measured, also of hundreds of styles."""

from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
import torch

import wikiart
from support.answers import heatmaps, pictures_part1

S = 32
TEST = {"Baroque": 4, "Cubism": 5, "Fauvism": 3, "Rococo": 2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, paint):
    folder = tmp_path_factory.mktemp("pictures")
    return wikiart.WikiArtDataset(paint(folder / "test", TEST, seed=1), S, list(TEST), folder / "cache")


@pytest.fixture(scope="module")
def model(dataset):
    """A classifier whose head tells paintings apart, as a trained one's does."""
    torch.manual_seed(0)
    model = wikiart.make_classifier("residual", len(TEST), S)
    model.normalize.fit(dataset.images, torch.arange(len(dataset)))
    with torch.no_grad():
        model.head.linear.weight.normal_(std=0.1)
        model.train()(dataset.images / 255)  # running means
    return model.eval()


def test_the_figures_show_what_was_measured(dataset):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), len(dataset))
    actual, predicted, names = dataset.labels.numpy(), probabilities.argmax(1), list(TEST)
    matrix = sklearn.metrics.confusion_matrix(actual, predicted, labels=range(4))

    axes = pictures_part1.draw_confusion(matrix, names, "a title").axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == names
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"{name} ({TEST[name]})" for name in names]
    assert np.allclose(axes.images[0].get_array(), matrix / matrix.sum(1, keepdims=True))
    cells = {text.get_position()[::-1]: int(text.get_text()) for text in axes.texts}
    assert cells == {(i, j): matrix[i, j] for i, j in zip(*matrix.nonzero(), strict=True)}
    assert "predicted" in axes.get_xlabel() and "true" in axes.get_ylabel() and axes.get_title() == "a title"

    sheet, chart = pictures_part1.draw_mistakes(dataset, matrix, probabilities).subfigs
    wrong = sorted(np.flatnonzero(predicted != actual), key=lambda i: -probabilities[i].max())
    shown = [axes for axes in sheet.axes if axes.images]
    assert 5 < len(shown) == len(wrong) <= 15
    for axes, i in zip(shown, wrong, strict=True):
        assert axes.get_title() == f"is {names[actual[i]]}\nsaid {names[predicted[i]]} {probabilities[i].max():.0%}"
        assert np.array_equal(axes.images[0].get_array(), dataset.images[i].permute(1, 2, 0))
    pairs = [(i, j) for i in range(4) for j in range(i) if matrix[i, j] + matrix[j, i]]
    pairs.sort(key=lambda pair: -matrix[pair] - matrix[pair[::-1]])
    texts = [text.get_text() for text in chart.axes[0].get_yticklabels()]
    assert texts == [f"{names[i]},\n{names[j]}" for i, j in pairs]
    widths = [bar.get_width() for bar in chart.axes[0].patches]
    assert widths == [matrix[i, j] for i, j in pairs] + [matrix[j, i] for i, j in pairs]


def test_hundreds_of_styles_fit_into_figures_of_bounded_size():
    count = 300
    names = [f"Artist_{i}" for i in range(count)]
    random = np.random.default_rng(0)
    labels, probabilities = np.arange(count), random.dirichlet(np.ones(count), count).astype(np.float32)
    matrix = sklearn.metrics.confusion_matrix(labels, probabilities.argmax(1), labels=labels)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)
    dataset = SimpleNamespace(labels=torch.from_numpy(labels), images=images, classes=names)
    model = wikiart.make_classifier("three_conv", count, 16).eval()
    confusion = pictures_part1.draw_confusion(matrix, names, "")
    maps = pictures_part1.draw_heatmaps(model, dataset, probabilities, torch.device("cpu"))
    for figure in [confusion, maps, pictures_part1.draw_mistakes(dataset, matrix, probabilities)]:
        assert (figure.get_size_inches() * figure.dpi).max() <= 4000
    axes = confusion.axes[0]
    assert not axes.texts and max(len(axes.get_xticks()), len(axes.get_yticks())) <= pictures_part1.NAMED
    assert len([axes for axes in maps.axes if axes.images]) == 2 * pictures_part1.HEATMAPS


def test_heatmaps_show_the_most_confident_right_and_wrong_painting_of_each_style(dataset, model):
    random = np.random.default_rng(1)
    labels, probabilities = random.integers(0, 40, 200), random.dirichlet(0.2 * np.ones(41), 200)
    chosen = pictures_part1.most_confident(labels, probabilities)
    largest = sorted(np.bincount(labels), reverse=True)[:27]
    assert len(chosen) == 27 and sum((labels == label).sum() for label in chosen) == sum(largest)
    for label, pair in chosen.items():
        members = np.flatnonzero(labels == label)
        for is_right, i in zip((True, False), pair, strict=True):
            group = [j for j in members if (probabilities[j].argmax() == label) == is_right]
            assert i == max(group, key=lambda j: probabilities[j].max(), default=None)

    labels, probabilities = dataset.labels.numpy(), random.dirichlet(np.ones(4), len(dataset)).astype(np.float32)
    probabilities[labels == 3] = [0.1, 0.2, 0.3, 0.4]
    figure = pictures_part1.draw_heatmaps(model, dataset, probabilities, torch.device("cpu"))
    chosen = pictures_part1.most_confident(labels, probabilities)
    for label, pair in chosen.items():
        for side, i in enumerate(pair):
            axes = figure.axes[2 * label + side]
            style, *_ = title = axes.get_title().split("\n")
            if i is None:
                assert title == [list(TEST)[label], "none wrong" if side else "none right"]
                continue
            said = list(TEST)[probabilities[i].argmax()]
            assert style == list(TEST)[label] + side * " taken for"
            assert title[1].startswith(f"{said if side else 'right'} {probabilities[i].max():.0%}")
            picture = np.asarray(axes.images[0].get_array())
            assert np.allclose(picture[:, :S], dataset.images[i].permute(1, 2, 0) / 255)
            predicted = torch.tensor([int(probabilities[i].argmax())])
            heat = heatmaps.activation_maps(model, dataset.images[i : i + 1] / 255, predicted)[0]
            glow = (picture[:, -S:] - 0.4 * picture[:, :S].mean(2, keepdims=True)).sum(2)  # grows with the map
            assert (np.diff(glow.ravel()[heat.flatten().argsort().numpy()]) > -0.02).all()  # a level of the colours
    assert chosen[3][1] is None
