"""Part 1's pictures: the confusion matrix, the most confident mistakes, heatmaps of each style."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from support.answers import heatmaps
from support.system import console, plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 60  # styles that a figure names at most
HEATMAPS = 27  # styles in heatmaps.png at most


def draw_confusion(matrix: np.ndarray, classes: list[str], title: str) -> "Figure":
    """The confusion matrix: true styles in rows, predicted ones in columns, colour by a row's share, counts in cells.

    matrix: int [classes, classes]. With more than `NAMED` styles there are no counts, and only some styles are named.
    """
    share = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    side, step = 3.2 + 0.42 * min(len(classes), NAMED), -(-len(classes) // NAMED)
    figure = plotting.new(side + 1, side, dpi=110)
    axes = figure.subplots()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [plotting.caption(name) for name in classes]
    rows = [f"{name} ({number})" for name, number in zip(names, matrix.sum(1), strict=True)]
    axes.set_xticks(range(0, len(classes), step), names[::step], rotation=90, parse_math=False)
    axes.set_yticks(range(0, len(classes), step), rows[::step], parse_math=False)
    if step == 1:
        for row, column in zip(*matrix.nonzero(), strict=True):
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="0.85", linewidth=0.5)
        axes.tick_params(which="minor", length=0)
    axes.set(xlabel="predicted style", ylabel="true style (number of test paintings)")
    axes.set_title(title, fontsize=11, wrap=True)
    figure.colorbar(picture, ax=axes, label="share of the true style's paintings", shrink=0.6)
    return figure


def draw_mistakes(dataset: object, matrix: np.ndarray, probabilities: np.ndarray) -> "Figure":
    """The 15 most confident wrong answers, painting by painting, and the ten pairs of styles most often confused.

    dataset: has `images`, uint8 [N, 3, S, S], `labels`, int64 [N], and `classes`; matrix: int [classes, classes], true
    by predicted; probabilities: float [N, classes].
    """
    labels, predicted = dataset.labels.numpy(), probabilities.argmax(1)
    confidence = np.where(predicted == labels, -1.0, probabilities.max(1))
    worst = [i for i in np.argsort(-confidence, kind="stable")[:15] if confidence[i] >= 0]
    figure = plotting.new(16, 9, dpi=100)
    sheet, chart = figure.subfigures(1, 2, width_ratios=(5, 3))
    wrong = int((confidence >= 0).sum())
    sheet.suptitle(f"The most confident of {console.count(wrong, 'wrong answer')}" if wrong else "No wrong answers")
    names = [plotting.caption(name) for name in dataset.classes]
    for place, axes in enumerate(sheet.subplots(3, 5).flat):
        axes.axis("off")
        if place < len(worst):
            i = worst[place]
            axes.imshow(dataset.images[i].permute(1, 2, 0).numpy())
            caption = f"is {names[labels[i]]}\nsaid {names[predicted[i]]} {confidence[i]:.0%}"
            axes.set_title(caption, fontsize=8, parse_math=False)
    confused = np.tril(matrix + matrix.T, -1)
    places = np.arange(min(10, np.count_nonzero(confused)))
    i, j = np.unravel_index(np.argsort(-confused, axis=None, kind="stable")[: len(places)], confused.shape)
    axes = chart.subplots()
    axes.set_title("The pairs of styles most often confused")
    axes.barh(places, matrix[i, j], color="tab:blue", label="first taken for second")
    axes.barh(places, matrix[j, i], left=matrix[i, j], color="tab:orange", label="second taken for first")
    pairs = [f"{names[first]},\n{names[second]}" for first, second in zip(i, j, strict=True)]
    axes.set_yticks(places, pairs, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("test paintings")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if pairs:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, frameon=False)  # below the bars
    return figure


def most_confident(labels: np.ndarray, probabilities: np.ndarray) -> dict[int, tuple[int | None, int | None]]:
    """Label -> the most confident correct and the most confident wrong painting of that style (None: there is none).

    labels: int [N]; probabilities: float [N, classes]. At most `HEATMAPS` styles, those with the most paintings.
    """
    numbers = np.bincount(labels)
    largest = np.argsort(-numbers, kind="stable")[:HEATMAPS]
    right, confidence = probabilities.argmax(1) == labels, probabilities.max(1)
    chosen = {}
    for label in sorted(largest[numbers[largest] > 0].tolist()):
        groups = [np.flatnonzero((labels == label) & (right == is_right)) for is_right in (True, False)]
        chosen[label] = tuple(int(group[confidence[group].argmax()]) if len(group) else None for group in groups)
    return chosen


def draw_heatmaps(model: nn.Module, dataset: object, probabilities: np.ndarray, device: torch.device) -> "Figure":
    """For each style the most confident correct and wrong painting, each beside its class activation map.

    model: a classifier on `device`, in eval mode; dataset: as for `draw_mistakes`; probabilities: float [N, classes].
    The maps are those of the predicted style in the whole painting.
    """
    chosen = most_confident(dataset.labels.numpy(), probabilities)
    shown = [i for pair in chosen.values() for i in pair if i is not None]
    pictures, captions = {}, {}
    for part in torch.tensor(shown).split(8):  # a large network's activations take much memory
        images = dataset.images[part].to(device) / 255
        predicted = torch.from_numpy(probabilities.argmax(1))[part].to(device)
        maps = heatmaps.activation_maps(model, images, predicted).cpu()
        for place, i in enumerate(part.tolist()):
            pictures[i] = _beside(dataset.images[i], maps[place])
            captions[i] = f"{probabilities[i].max():.0%}"
    groups = -(-len(chosen) // 9)
    rows = -(-len(chosen) // groups)
    figure = plotting.new(5.4 * groups, 1.65 * rows + 1, dpi=110)
    text = f"Grad-CAM of {model.architecture}: yellow speaks for the predicted style, dark does not."
    figure.suptitle(text, fontsize=9)
    blank = np.ones_like(next(iter(pictures.values())))
    names = [plotting.caption(name) for name in dataset.classes]
    grid = figure.subplots(rows, 2 * groups, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for place, (label, pair) in enumerate(chosen.items()):
        for side, i in enumerate(pair):
            axes = grid[place % rows, 2 * (place // rows) + side]
            axes.imshow(blank if i is None else pictures[i])
            if i is None:
                title = f"{names[label]}\nnone {'wrong' if side else 'right'}"
            elif side:
                title = f"{names[label]} taken for\n{names[probabilities[i].argmax()]} {captions[i]}"
            else:
                title = f"{names[label]}\nright {captions[i]}"
            axes.set_title(title, fontsize=7, parse_math=False)
    return figure


def _beside(image: Tensor, heat: Tensor) -> np.ndarray:
    """A painting, uint8 [3, S, S], beside its grey copy under a map, float [S, S] in [0, 1]: float [S, W, 3]."""
    from matplotlib import colormaps

    painting = image.permute(1, 2, 0).numpy() / 255
    glow = colormaps["inferno"](heat.numpy())[..., :3]
    gap = np.ones((len(painting), max(1, len(painting) // 24), 3))
    return np.concatenate([painting, gap, 0.4 * painting.mean(2, keepdims=True) + 0.6 * glow], 1)
