"""The paintings of the training and test folders that are most similar to given images.

A dataset is a wikiart.WikiArtDataset, and `embed` is wikiart.embed, given here so that imports run one way.
"""

import contextlib
import os
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from support.answers import pictures_part2
from support.networks import features
from support.paintings import duplicates
from support.system import console, plotting, settings
from support.system.console import DataError, UserError
from support.training import batches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Neighbour = tuple[float, Dataset, int]  # distance, and the painting's dataset and its index there
KINDS = ("style", "content")  # what paintings are compared by, in the order of the latents
SIMILAR = 8  # paintings of a kind that --similar finds for an image
SIMILAR_IMAGES = 9  # images that similar.png shows at most
LOOKED_AT = 1000  # paintings of a folder by which it is known as that of the training
LEAST_KNOWN = 0.05  # the share of them that must be training paintings; a folder may have changed since


def check_trained_on(dataset: Dataset, checkpoint: dict[str, object], folder: str) -> None:
    """Raise DataError where hardly any painting of a folder looks like one that the network was trained on."""
    step = -(-len(dataset) // LOOKED_AT)
    thumbnails = duplicates.grey_fingerprints(dataset.images[::step])
    pairs, _ = duplicates.near_duplicates(thumbnails, duplicates.unpack(checkpoint["thumbnails"]))
    known = len(pairs[:, 0].unique())
    most = min(1.0, len(checkpoint["paths"]) / len(dataset))  # the share if all of the training were there
    if known < LEAST_KNOWN * most * len(thumbnails):
        looked_at = console.count(len(thumbnails), "painting") + " looked at" * (step > 1)
        raise DataError(
            f"the network was trained on {known} of {looked_at} in {console.quoted(folder)}; expected the folder "
            "that it was trained on, give it with --trainingdir"
        )


def find_similar(
    options: settings.Settings,
    model: nn.Module,
    datasets: list[Dataset],
    embed: Callable[[nn.Module, Tensor], Tensor],
    device: torch.device,
) -> None:
    """Print and draw the paintings of the datasets nearest to each image of --similar, without itself.

    Raises UserError at the end when an image cannot be decoded or a folder holds none; each is named in a warning.
    """
    given, number = batches.given_images(options.similar)
    paths, pixels, queries, rows = [], [], [], []
    with contextlib.closing(batches.from_files(given, datasets[0].image_size, options.batch_size)) as loader:
        for names, images in loader:
            paths += names
            pixels += images[: SIMILAR_IMAGES - len(pixels)]
            queries.append(embed(model, images.to(device) / 255).cpu())
    if paths:
        points = [embed_folder(model, dataset, embed, options.batch_size, device) for dataset in datasets]
        points, places = torch.cat(points).double(), [(dataset, i) for dataset in datasets for i in range(len(dataset))]
        count = min(SIMILAR + len(datasets), len(points))  # an image may be in both folders
        columns = slice(model.style_dim), slice(model.style_dim, None)
        for path, query in zip(paths, torch.cat(queries).double(), strict=True):
            rows.append([])
            for kind, part in zip(KINDS, columns, strict=True):
                nearest = torch.cdist(query[None, part], points[:, part])[0].topk(count, largest=False)
                row = [(distance.item(), *places[place]) for distance, place in zip(*nearest, strict=True)]
                row = [near for near in row if not os.path.samefile(path, near[1].paths[near[2]])][:SIMILAR]
                rows[-1].append(row)
                console.say(f"{console.printable(path)} is most similar in {kind} to")
                for distance, dataset, i in row:
                    console.say(f"  distance {distance:.3f}: {dataset.paths[i]} ({dataset.classes[dataset.labels[i]]})")
        plotting.write_all(options, {"similar.png": lambda: draw_similar(paths, pixels, rows)})
        console.say(f"wrote similar.png into {options.outputdir}")
    if len(paths) < number:
        raise UserError(f"--similar: {number - len(paths)} of {number} could not be read; see the warnings")


def embed_folder(
    model: nn.Module,
    dataset: Dataset,
    embed: Callable[[nn.Module, Tensor], Tensor],
    batch_size: int,
    device: torch.device,
) -> Tensor:
    """A folder's paintings as `embed` has them, float32 [N, D]; kept in a file beside its pixels."""

    def compute() -> Tensor:
        loader = batches.Batches(dataset.images, dataset.labels, device)
        return torch.cat([embed(model, images).cpu() for images in loader.all_images(batch_size)])

    return features.cached(features.cache_path(dataset.pixel_file, model, len(dataset)), compute)


def draw_similar(paths: list[str], images: list[Tensor], rows: list[list[list[Neighbour]]]) -> "Figure":
    """Two rows for each of at most `SIMILAR_IMAGES` images (uint8 [3, S, S]): its nearest in style, then in content."""
    figure = plotting.new(15, 2.3 * len(KINDS) * len(images) + 0.5, dpi=100)
    shown = "the image" if len(images) == len(paths) else f"the first {len(images)} of {len(paths):,} images"
    figure.suptitle(
        f"Left {shown}, right of it the paintings nearest in style and in content, with their styles and distances"
    )
    grid = iter(figure.subplots(len(KINDS) * len(images), SIMILAR + 1, squeeze=False))
    for path, image, lines in zip(paths, images, rows, strict=False):
        for kind, neighbours, line in zip(KINDS, lines, grid, strict=False):
            for axes in line:
                axes.axis("off")
            pictures_part2.show(line[0], image)
            line[0].set_title(f"by {kind}\n{file_name(path)}", fontsize=7, fontweight="bold", parse_math=False)
            for axes, (distance, dataset, i) in zip(line[1:], neighbours, strict=False):
                pictures_part2.show(axes, dataset.images[i])
                style = plotting.caption(dataset.classes[dataset.labels[i]])
                title = f"{style}, {distance:.3f}\n{file_name(dataset.paths[i])}"
                axes.set_title(title, fontsize=7, parse_math=False)
    return figure


def file_name(path: str) -> str:
    """A file's name without its folder, on at most two short lines."""
    name = console.printable(os.path.basename(path))
    return textwrap.fill(name, 26, max_lines=2, placeholder="\N{HORIZONTAL ELLIPSIS}")
