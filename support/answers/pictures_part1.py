"""Part 1's pictures: the confusion matrix, the most confident mistakes, heatmaps of each style."""

import os
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from support.answers import heatmaps
from support.system import console, plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 60  # styles that a figure names at most
HEATMAPS = 27  # styles in heatmaps.png at most
PALER = 2  # added to a style's number of paintings: one painting alone is not dark


def draw_confusion(matrix: np.ndarray, classes: list[str], title: str) -> "Figure":
    """The confusion matrix: true styles in rows, predicted ones in columns, counts in cells, darker by a row's share.

    matrix: int [classes, classes]. With more than `NAMED` styles there are no counts, and only some styles are named.
    """
    share = matrix / (matrix.sum(1, keepdims=True) + PALER)
    side, step = 3.4 + 0.36 * min(len(classes), NAMED), -(-len(classes) // NAMED)
    figure = plotting.new(side + 1, side, dpi=120)
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
    label = f"share of the true style's paintings,\nrare styles paler: count / (number + {PALER})"
    figure.colorbar(picture, ax=axes, label=label, shrink=0.6)
    return figure


def draw_mistakes(dataset: object, matrix: np.ndarray, probabilities: np.ndarray) -> "Figure":
    """The 15 most confident wrong answers, painting by painting, and the 15 most frequent confusions.

    dataset: has `images`, uint8 [N, 3, S, S], `labels`, int64 [N], `classes` and `paths`; matrix: int [classes,
    classes], true by predicted; probabilities: float [N, classes].
    """
    labels, predicted = dataset.labels.numpy(), probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-probabilities.max(1)[wrong], kind="stable")[:15]]
    figure = plotting.new(16, 9, dpi=120)
    sheet, chart = figure.subfigures(1, 2, width_ratios=(5, 3))
    answers = console.count(len(wrong), "wrong answer")
    sheet.suptitle(f"The most confident of {answers}" if len(wrong) else "No wrong answers")
    names = [plotting.caption(name) for name in dataset.classes]
    columns = round((1.5 * len(worst)) ** 0.5)
    for place, i in enumerate(worst):
        axes = sheet.add_subplot(-(-len(worst) // columns), columns, place + 1)
        axes.imshow(dataset.images[i].permute(1, 2, 0).numpy())
        axes.set(xticks=[], yticks=[])
        caption = f"{names[labels[i]]} taken for {names[predicted[i]]} {probabilities[i].max():.0%}"
        axes.set_title(textwrap.fill(caption, 32), fontsize=8, parse_math=False)
        name = console.printable(os.path.basename(dataset.paths[i]))
        lines = textwrap.wrap(name, 34, max_lines=2, placeholder="\N{HORIZONTAL ELLIPSIS}")
        axes.set_xlabel("\n".join(lines), fontsize=6, parse_math=False)
    confused = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    places = np.arange(min(15, np.count_nonzero(confused)))
    i, j = np.unravel_index(np.argsort(-confused, axis=None, kind="stable")[: len(places)], confused.shape)
    axes = chart.subplots()
    axes.set_title("The most frequent confusions")
    bars = axes.barh(places, confused[i, j])
    axes.bar_label(bars, [f" {confused[a, b]} of {matrix[a].sum()}" for a, b in zip(i, j, strict=True)], fontsize=8)
    texts = [f"{names[a]}\ntaken for {names[b]}" for a, b in zip(i, j, strict=True)]
    axes.set_yticks(places, texts, fontsize=8, parse_math=False)
    axes.margins(x=0.2)
    axes.set(xlabel="test paintings", ylim=(max(len(places), 8) - 0.5, -0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def most_confident(labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, bool, int | None]]:
    """For each style its most confident correct and its most confident wrong painting: label, correct, which (or None).

    labels: int [N]; probabilities: float [N, classes]. At most `HEATMAPS` styles, those with the most paintings.
    """
    numbers = np.bincount(labels)
    largest = np.argsort(-numbers, kind="stable")[:HEATMAPS]
    by_confidence = np.argsort(-probabilities.max(1), kind="stable").tolist()
    right = probabilities.argmax(1) == labels
    return [
        (label, correct, next((i for i in by_confidence if labels[i] == label and right[i] == correct), None))
        for label in sorted(largest[numbers[largest] > 0].tolist())
        for correct in (True, False)
    ]


def draw_heatmaps(model: nn.Module, dataset: object, probabilities: np.ndarray, device: torch.device) -> "Figure":
    """For each style the most confident correct and wrong painting, each beside its heatmap of the predicted style.

    model: a classifier on `device`, in eval mode; dataset: as for `draw_mistakes`; probabilities: float [N, classes].
    """
    from matplotlib.cm import ScalarMappable

    chosen = most_confident(dataset.labels.numpy(), probabilities)
    names = [plotting.caption(name) for name in dataset.classes]
    groups = -(-len(chosen) // 14)
    rows = -(-len(chosen) // 2 // groups)
    figure = plotting.new(max(4.4 * groups, 7), 1.45 * rows + 1.3, dpi=120)
    caption = f"Bright: cover this part and {model.architecture} is less sure of its answer; grey: no difference"
    if (total := len(dataset.labels.unique())) > HEATMAPS:
        caption += f". The {HEATMAPS} largest of {total} styles"
    figure.suptitle(caption, fontsize=10)
    bar = tqdm(chosen, desc="heatmaps", unit="painting", disable=None, leave=False)
    for place, (label, correct, i) in enumerate(bar):
        column, row = divmod(place // 2, rows)
        axes = figure.add_subplot(rows, 2 * groups, 2 * (groups * row + column) + place % 2 + 1)
        axes.axis("off")
        if i is None:
            text = f"{names[label]}:\nno painting is\n{'recognized' if correct else 'taken for another style'}"
            axes.text(0.5, 0.5, text, color="0.4", fontsize=7, ha="center", va="center", parse_math=False)
            continue
        image, predicted = dataset.images[i], torch.from_numpy(probabilities[i : i + 1]).argmax(1)
        falls = heatmaps.occlusion_maps(model, image[None].to(device) / 255, predicted.to(device))[0].cpu()
        most, right = max(falls.max().item(), 1e-6), (1.04, 2.04, 0, 1)
        axes.imshow(image.permute(1, 2, 0).numpy(), extent=(0, 1, 0, 1))
        axes.imshow(image.float().mean(0).numpy(), "gray", vmin=0, vmax=255, extent=right)
        axes.imshow(falls.numpy(), "inferno", vmin=0, vmax=most, interpolation="bilinear", alpha=0.6, extent=right)
        axes.set_xlim(0, 2.04)
        title = "\nright" if correct else f"taken for\n{names[predicted]}"
        title += f" {probabilities[i].max():.0%}, {-round(100 * most)} points"
        axes.set_title(f"{names[label]} {title}", fontsize=7, parse_math=False)
    scale = figure.colorbar(ScalarMappable(cmap="inferno"), ax=figure.axes, location="bottom", aspect=80, shrink=0.7)
    scale.set_ticks([0, 1], labels=["0", "most (its points)"], fontsize=8)
    scale.set_label("how far the answer's probability falls when a part is covered", fontsize=8)
    return figure
