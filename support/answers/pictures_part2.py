"""The pictures of part 2's evaluation: reconstructions, the plane of the clusters, their paintings, how they merge.

A dataset is a wikiart.WikiArtDataset; clusters are numbers, int [N], 0 the largest.
"""

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.cluster.hierarchy import dendrogram
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor, nn
from torch.utils.data import Dataset

from support.answers import clustering, ward
from support.system import console, plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 27  # clusters and styles that clusters.png shows
GALLERY_MOST = 40  # clusters that cluster_gallery.png and dendrogram.png show
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito, 2008
MARKERS = "os^D"  # with 7 colours 28 different marks


def draw_reconstructions(
    model: nn.Module, dataset: Dataset, errors: np.ndarray, metrics: dict, device: torch.device, seed: int
) -> "Figure":
    """Up to ten paintings of different styles drawn by the seed, each above its reconstruction."""
    random = np.random.default_rng(seed)
    labels = dataset.labels.numpy()
    styles = np.sort(random.permutation(np.unique(labels))[:10])
    chosen = [int(random.choice(np.flatnonzero(labels == style))) for style in styles]
    images = dataset.images[chosen].to(device).float() / 255
    with torch.no_grad():
        pictures = model.decode(model.encode(images)).cpu()
    figure = plotting.new(max(9, 1.6 * len(chosen)), 4.6, dpi=110)
    figure.suptitle(
        f"Test paintings above their reconstructions from {metrics['content_numbers']} numbers "
        f"(PSNR of all {metrics['images']:,}: {metrics['psnr']:.1f} dB)"
    )
    columns = figure.subplots(2, len(chosen), squeeze=False).T
    for (above, below), i, image, picture in zip(columns, chosen, images.cpu(), pictures, strict=True):
        show(above, image)
        name = plotting.caption(dataset.classes[labels[i]])
        above.set_title(textwrap.fill(name, 18), fontsize=8, parse_math=False)
        show(below, picture)
        below.set_title(f"{clustering.psnr(errors[i]):.1f} dB", fontsize=8)
    return figure


def show(axes: "Axes", image: Tensor) -> None:
    """Draw an image [3, S, S] without axes, pixel by pixel."""
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.axis("off")


def draw_clusters(
    plane: np.ndarray, shares: list[float], clusters: np.ndarray, labels: np.ndarray, classes: list[str]
) -> "Figure":
    """A plane [N, 2] by cluster and, in a small panel for each, by style; and the styles' shares in the clusters.

    shares: the two components' shares of the variance. Of more than `MOST` clusters or styles it shows the largest.
    """
    figure = plotting.new(16, 9, dpi=120)
    figure.suptitle(
        f"{len(plane):,} test paintings on the first two principal components of their style numbers "
        f"({shares[0]:.0%} and {shares[1]:.0%} of the variance)"
    )
    table = contingency_matrix(labels, clusters)
    present, numbers, total = np.unique(labels), table.sum(1), len(table)
    styles = np.sort(np.argsort(-numbers, kind="stable")[:MOST])
    names = [plotting.caption(classes[label]) for label in present[styles]]
    left, right = figure.subfigures(1, 2, width_ratios=(6, 9))
    above, below = left.subplots(2, 1)
    size = float(np.clip(9_000 / len(plane), 4, 25))
    _draw_plane(above, plane, clusters, size)
    _draw_table(below, table[styles, :MOST] / numbers[styles, None], names)
    shown = "Each style" if total <= MOST else f"The {MOST} largest of {total} styles, each"
    right.suptitle(f"{shown} (blue) among all test paintings (grey), same axes", fontsize=11)
    columns = math.ceil(len(styles) ** 0.5)
    for place, (style, name) in enumerate(zip(styles, names, strict=True)):
        axes = right.add_subplot(-(-len(styles) // columns), columns, place + 1)
        axes.scatter(*plane.T, s=size / 4, color="0.8", linewidths=0)
        axes.scatter(*plane[labels == present[style]].T, s=size / 2, color=COLOURS[0], linewidths=0)
        axes.set_title(f"{textwrap.fill(name, 22)} ({numbers[style]})", fontsize=8, parse_math=False)
        axes.set(xticks=[], yticks=[], xlim=above.get_xlim(), ylim=above.get_ylim())
    return figure


def _draw_plane(axes: "Axes", plane: np.ndarray, clusters: np.ndarray, size: float) -> None:
    """The plane [N, 2] with a mark for each cluster, and its number in the middle; grey beyond the largest."""
    count = clusters.max() + 1
    axes.scatter(*plane[clusters >= MOST].T, s=size, color="0.8", linewidths=0)
    for number in range(min(count, MOST)):
        points, colour = plane[clusters == number], COLOURS[number % len(COLOURS)]
        axes.scatter(*points.T, s=size, color=colour, marker=MARKERS[number % len(MARKERS)], linewidths=0, alpha=0.7)
        box = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
        axes.text(*np.median(points, 0), str(number), ha="center", va="center", fontsize=8, bbox=box, zorder=3)
    title = f"{count} clusters, each with its number, colour and mark"
    axes.set_title(title if count <= MOST else f"The {MOST} largest of {count} clusters; others grey", fontsize=11)
    axes.set(xlabel="first component", ylabel="second component")


def _draw_table(axes: "Axes", table: np.ndarray, names: list[str]) -> None:
    """Shares [styles, clusters] as a picture, in per cent from ten on, ordered so that the diagonal is full."""
    rows, columns = diagonal_order(table)
    table = table[rows][:, columns]
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(rows)), [names[row] for row in rows], fontsize=7, parse_math=False)
    axes.set_xticks(range(len(columns)), columns, fontsize=7)
    axes.set_xlabel("cluster")
    axes.set_title("Per cent of each style's paintings in each cluster", fontsize=11)
    for y, x in zip(*np.nonzero(table >= 0.1), strict=True):
        color = "white" if table[y, x] > 0.5 else "black"
        axes.text(x, y, f"{100 * table[y, x]:.0f}", ha="center", va="center", fontsize=6, color=color)


def diagonal_order(table: np.ndarray) -> list[np.ndarray]:
    """Orders of a table's rows and columns that give the diagonal the greatest sum, its largest cell first."""
    square = np.pad(table, [(0, max(table.shape) - count) for count in table.shape])
    orders = linear_sum_assignment(square, maximize=True)
    best = np.argsort(-square[orders], kind="stable")
    return [order[best][order[best] < count] for order, count in zip(orders, table.shape, strict=True)]


def summary(
    dataset: Dataset, points: np.ndarray, members: np.ndarray, paintings: int, styles: int
) -> tuple[str, np.ndarray]:
    """A cluster's size and most frequent styles with their shares, and the paintings nearest its middle in a row.

    members: the cluster, int [M], indices into points [N, D]. The row, uint8 [S, W, 3], is white where too few fill it.
    """
    distance = np.square(points[members] - points[members].mean(0)).sum(1)
    side = dataset.images.shape[3]
    step = side + max(1, side // 24)
    row = np.full((side, paintings * step, 3), 255, np.uint8)
    for place, i in enumerate(members[np.argsort(distance, kind="stable")[:paintings]]):
        row[:, place * step : place * step + side] = dataset.images[i].permute(1, 2, 0)
    numbers = np.bincount(dataset.labels.numpy()[members])
    frequent = [label for label in np.argsort(-numbers, kind="stable")[:styles] if numbers[label]]
    names = [f"{plotting.caption(dataset.classes[label])} {numbers[label] / len(members):.0%}" for label in frequent]
    return f"{console.count(len(members), 'painting')}\n{', '.join(names)}", row


def draw_gallery(dataset: Dataset, points: np.ndarray, clusters: np.ndarray) -> "Figure":
    """For each cluster its size, its most frequent styles, and the eight paintings nearest its middle.

    Of more clusters than `GALLERY_MOST` it shows the largest.
    """
    total = clusters.max() + 1
    count = min(total, GALLERY_MOST)
    figure = plotting.new(12.4, 1.18 * (rows := -(-count // 2)) + 0.6, dpi=110)
    shown = "Each cluster's" if count == total else f"The {count} largest of {total:,} clusters, each one's"
    figure.suptitle(f"{shown} eight paintings nearest its middle")
    for number in range(count):
        axes = figure.add_subplot(rows, 2, 2 * (number % rows) + number // rows + 1)
        text, picture = summary(dataset, points, np.flatnonzero(clusters == number), 8, 2)
        axes.imshow(picture)
        axes.axis("off")
        axes.set_title(f"Cluster {number}: {text}", loc="left", fontsize=8, parse_math=False)
    return figure


def draw_dendrogram(dataset: Dataset, points: np.ndarray, tree: np.ndarray, clusters: int) -> "Figure":
    """The last merges of a tree (float64 [N - 1, 4]), and beside each group that they join three of its paintings.

    A group is a cluster, or holds several where there are more than `GALLERY_MOST`.
    """
    count = min(clusters, GALLERY_MOST)
    groups, word = ward.cut_tree(tree, count), "cluster" if count == clusters else "group"
    shape = dendrogram(tree, count, "lastp", no_plot=True)
    figure = plotting.new(10.5, 0.5 * count + 1.3, dpi=130)
    figure.suptitle(f"How the {count} {word}s merge, with three paintings of each")
    panels = figure.add_gridspec(count, 2, width_ratios=(0.8, 0.2))
    axes = figure.add_subplot(panels[:, 0])
    for places, heights in zip(shape["icoord"], shape["dcoord"], strict=True):
        axes.plot(heights, np.array(places) / 10 - 0.5, color=COLOURS[0])
    low, top = tree[-count + 1 :, 2].min(initial=tree[-1, 2]), tree[-1, 2] or 1.0
    axes.set(xlim=(1.03 * top, 0.9 * low), ylim=(count - 0.5, -0.5), yticks=[])
    axes.set_xlabel("Ward's distance of the two that merge")
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.yaxis.tick_right()
    texts = []
    for place, node in enumerate(shape["leaves"]):
        while node > len(tree):
            node = int(tree[node - len(tree) - 1, 0])  # to any of its paintings
        text, picture = summary(dataset, points, np.flatnonzero(groups == groups[node]), 3, 1)
        texts.append(f"{word} {groups[node]}: {text}")
        beside = figure.add_subplot(panels[place, 1])
        beside.imshow(picture)
        beside.axis("off")
    axes.set_yticks(range(count), texts, fontsize=8, parse_math=False)
    axes.tick_params(axis="y", length=0)
    return figure
