"""The pictures of part 2's evaluation: reconstructions, the plane of the clusters, their paintings, how they merge.

A dataset is a wikiart.WikiArtDataset.
"""

import colorsys
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.cluster.hierarchy import dendrogram
from torch import Tensor, nn
from torch.utils.data import Dataset

from support.answers import clustering, ward
from support.system import console, plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 60  # clusters that a figure numbers at most
GALLERY_ROWS = 40  # clusters that a figure shows at most, a row each


def draw_reconstructions(
    model: nn.Module,
    dataset: Dataset,
    errors: np.ndarray,
    metrics: dict[str, object],
    device: torch.device,
    seed: int,
) -> "Figure":
    """Up to ten paintings of different styles drawn by the seed, each above its reconstruction."""
    random = np.random.default_rng(seed)
    labels = dataset.labels.numpy()
    styles = random.permutation(np.unique(labels))[:10]
    chosen = [int(random.choice(np.flatnonzero(labels == style))) for style in np.sort(styles)]
    images = dataset.images[chosen].to(device).float() / 255
    with torch.no_grad():
        pictures = model.decode(model.encode(images)).cpu()
    figure = plotting.new(max(9, 1.7 * len(chosen)), 4.6, dpi=110)
    figure.suptitle(
        f"Test paintings above their reconstructions from {metrics['content_numbers']} numbers "
        f"(PSNR of all {metrics['images']:,}: {metrics['psnr']:.1f} dB)"
    )
    for column, number in zip(figure.subplots(2, len(chosen), squeeze=False).T, range(len(chosen)), strict=True):
        name = plotting.caption(dataset.classes[labels[chosen[number]]])
        show(column[0], images[number].cpu())
        column[0].set_title(textwrap.fill(name, 18), fontsize=8, parse_math=False)
        show(column[1], pictures[number])
        column[1].set_title(f"{clustering.psnr(errors[chosen[number]]):.1f} dB", fontsize=8)
    return figure


def show(axes: object, image: Tensor) -> None:
    """Draw an image [3, S, S] without axes, pixel by pixel."""
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.axis("off")


def distinct_colours(count: int) -> list[tuple[float, float, float]]:
    """As many colours that can be told apart: hues around the circle, beyond ten of them pale and dark ones too."""
    hues = max(-(-count // 3), min(count, 10))
    tones = [(0.9, 0.85), (0.45, 0.95), (1.0, 0.45)]
    return [colorsys.hsv_to_rgb(number % hues / hues, *tones[number // hues]) for number in range(count)]


def draw_clusters(
    plane: np.ndarray, shares: list[float], found: np.ndarray, labels: np.ndarray, classes: list[str]
) -> "Figure":
    """The latents' 2-D plane [N, 2] twice: by cluster, with the number at its middle, and by true style."""
    figure = plotting.new(17, 7.5, dpi=110)
    figure.suptitle(
        f"{len(plane):,} test paintings: the first two principal components of their latents' style numbers "
        "(colours of the two sides are unrelated)"
    )
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    size = float(np.clip(12_000 / len(plane), 2, 30))
    colours = distinct_colours(found.max() + 1)
    left.scatter(*plane.T, s=size, c=[colours[number] for number in found], linewidths=0, alpha=0.8)
    for number, colour in enumerate(colours[:NAMED]):
        middle = np.median(plane[found == number], axis=0)
        box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
        left.text(*middle, str(number), ha="center", va="center", fontsize=8, bbox=box)
    marked = f"; the {NAMED} largest are marked" if len(colours) > NAMED else ""
    left.set_title(f"by cluster ({len(colours)}, numbered by size{marked})")
    present = np.unique(labels)
    marks = [
        right.scatter(*plane[labels == label].T, s=size, color=colour, linewidths=0, alpha=0.8)
        for label, colour in zip(present, distinct_colours(len(present)), strict=True)
    ]
    names = [plotting.caption(classes[label]) for label in present]
    if len(names) <= 2 * NAMED:
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "ncols": -(-len(names) // 40)}
        legend = right.legend(marks, names, fontsize=8, title="true style", markerscale=(30 / size) ** 0.5, **place)
        for text in legend.get_texts():
            text.set_parse_math(False)
    right.set_title(f"by true style ({len(present)}{'' if right.get_legend() else ', too many to name'})")
    for axes in (left, right):
        axes.set_xlabel(f"first component ({shares[0]:.1%} of the variance)")
        axes.set_ylabel(f"second component ({shares[1]:.1%} of the variance)")
        axes.label_outer(remove_inner_ticks=False)
    return figure


def describe(members: np.ndarray, labels: np.ndarray, names: list[str], most: int) -> str:
    """How many paintings (indices `members`) a cluster has, and its most frequent styles with their shares."""
    numbers = np.bincount(labels[members], minlength=len(names))
    styles = [label for label in np.argsort(-numbers, kind="stable")[:most] if numbers[label]]
    lines = [console.count(len(members), "painting")]
    return "\n".join([*lines, *(f"{names[label]} {numbers[label] / len(members):.0%}" for label in styles)])


def central(points: np.ndarray, members: np.ndarray, most: int) -> np.ndarray:
    """Those of the members (indices into points [N, D]) nearest to their mean, the nearest first."""
    distance = np.square(points[members] - points[members].mean(0)).sum(1)
    return members[np.argsort(distance, kind="stable")[:most]]


def draw_gallery(dataset: Dataset, points: np.ndarray, found: np.ndarray) -> "Figure":
    """A row per cluster: its size, its most frequent styles, and the eight paintings nearest its middle.

    Of more clusters than `GALLERY_ROWS` it shows the largest.
    """
    count, clusters = min(found.max() + 1, GALLERY_ROWS), found.max() + 1
    figure = plotting.new(11.5, 1.05 * count + 0.8, dpi=100)
    shown = "Each cluster's" if count == clusters else f"The {count} largest of {clusters:,} clusters, each one's"
    figure.suptitle(f"{shown} eight paintings nearest its middle")
    labels, names = dataset.labels.numpy(), [plotting.caption(name) for name in dataset.classes]
    for number, row in enumerate(figure.subplots(count, 9, squeeze=False, width_ratios=[3.2] + [1] * 8)):
        members = np.flatnonzero(found == number)
        text = f"cluster {number}: {describe(members, labels, names, 3)}"
        row[0].text(1, 0.5, text, ha="right", va="center", fontsize=8, parse_math=False)
        for axes in row:
            axes.axis("off")
        for axes, i in zip(row[1:], central(points, members, 8), strict=False):
            show(axes, dataset.images[i])
    return figure


def draw_dendrogram(dataset: Dataset, points: np.ndarray, tree: np.ndarray, clusters: int) -> "Figure":
    """The last merges of a tree (float64 [N - 1, 4]), and beside each group that they join three of its paintings.

    A group is a cluster, or holds several where there are more than `GALLERY_ROWS`.
    """
    count = min(clusters, GALLERY_ROWS)
    found, word = ward.cut_tree(tree, count), "cluster" if count == clusters else "group"
    shape = dendrogram(tree, count, "lastp", no_plot=True)
    row, side = 0.62, 0.57  # inches
    width, height, below = 10.5, count * row + 1.3, 0.65
    figure = plotting.new(width, height, dpi=100)
    figure.set_layout_engine("none")  # rows of known places
    figure.suptitle(f"How the {count} {word}s merge, with three paintings of each", y=1 - 0.25 / height)
    axes = figure.add_axes((0.03, below / height, 0.46, count * row / height))
    for places, heights in zip(shape["icoord"], shape["dcoord"], strict=True):
        axes.plot(heights, np.array(places) / 10 - 0.5, color="tab:blue")
    low, top = tree[-count + 1 :, 2].min(initial=tree[-1, 2]), tree[-1, 2] or 1.0
    axes.set(xlim=(1.03 * top, 0.9 * low), ylim=(count - 0.5, -0.5), yticks=[])
    axes.set_xlabel("Ward's distance of the two that merge")
    axes.spines[["left", "top", "right"]].set_visible(False)
    labels, names = dataset.labels.numpy(), [plotting.caption(name) for name in dataset.classes]
    for place, node in enumerate(shape["leaves"]):
        while node > len(tree):
            node = int(tree[node - len(tree) - 1, 0])  # to any of its paintings
        members = np.flatnonzero(found == found[node])
        text = f"{word} {found[node]}: {describe(members, labels, names, 1)}"
        middle = height - 0.65 - (place + 0.5) * row
        figure.text(0.5, middle / height, text, va="center", fontsize=8, parse_math=False)
        for column, i in enumerate(central(points, members, 3)):
            left = 0.75 + column * row / width
            show(figure.add_axes((left, (middle - side / 2) / height, side / width, side / height)), dataset.images[i])
    return figure
