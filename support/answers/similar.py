"""The paintings of the training and test folders that are most similar to given images.

A dataset is a wikiart.WikiArtDataset, and `embed` is wikiart.embed, given here so that imports run one way.
"""

import contextlib
import os
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset

from support.answers import pictures_part2
from support.networks import features
from support.paintings import duplicates
from support.system import console, plotting, settings
from support.system.console import DataError, UserError
from support.training import batches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIMILAR = 8  # paintings that --similar finds for an image
SIMILAR_ROWS = 18  # images that similar.png shows at most
LOOKED_AT = 1000  # paintings of a folder by which it is known as that of the training
LEAST_KNOWN = 0.05  # the share of them that must be training paintings; a folder may have changed since


def check_trained_on(dataset: Dataset, checkpoint: dict[str, object], folder: str) -> None:
    """Raise DataError where hardly any painting of a folder is, or looks like, one that the network was trained on."""
    step = -(-len(dataset) // LOOKED_AT)
    known = torch.isin(dataset.fingerprints[::step], checkpoint["fingerprints"])
    thumbnails = duplicates.grey_fingerprints(dataset.images[::step])  # other machines decode to other pixels
    pairs, _ = duplicates.near_duplicates(thumbnails, duplicates.unpack(checkpoint["thumbnails"]))
    known[pairs[:, 0]] = True
    most = min(1.0, len(checkpoint["fingerprints"]) / len(dataset))  # the share if all of the training were there
    if known.sum() < LEAST_KNOWN * most * len(known):
        looked_at = console.count(len(known), "painting") + " looked at" * (step > 1)
        raise DataError(
            f"the network was trained on {known.sum()} of {looked_at} in {console.quoted(folder)}; expected the folder "
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
    paths, pixels, own = [], [], []
    image_size = datasets[0].images.shape[-1]
    with contextlib.closing(batches.from_files(given, image_size, options.batch_size)) as loader:
        for part, images in loader:
            paths += part
            pixels += images[: SIMILAR_ROWS - len(pixels)]
            own.append(embed(model, images.to(device) / 255).cpu())
    if paths:
        latents = torch.cat([stored_latents(model, dataset, embed, options.batch_size, device) for dataset in datasets])
        neighbours = min(SIMILAR + len(datasets), len(latents))  # an image may be in both folders
        search = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(latents.double())
        distances, nearest = search.kneighbors(torch.cat(own).double())
        everything = ConcatDataset(datasets)
        files_of = [
            (path, dataset.classes[label])
            for dataset in datasets
            for path, label in zip(dataset.paths, dataset.labels, strict=True)
        ]
        found = []
        for path, row, apart in zip(paths, nearest, distances, strict=True):
            others = [(i, far) for i, far in zip(row, apart, strict=True) if not os.path.samefile(path, files_of[i][0])]
            found.append([(i, *files_of[i], far) for i, far in others[:SIMILAR]])
            console.say(f"{console.printable(path)} is most similar to")
            for _, file, style, distance in found[-1]:
                console.say(f"  {distance:8.3f}  {file}  ({style})")
        plotting.write_all(options, {"similar.png": lambda: draw_similar(paths, pixels, found, everything)})
        console.say(f"wrote similar.png into {options.outputdir}")
    if len(paths) < number:
        raise UserError(f"--similar: {number - len(paths)} of {number} could not be read; see the warnings")


def stored_latents(
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


def draw_similar(
    paths: list[str], images: list[Tensor], found: list[list[tuple[int, str, str, float]]], everything: ConcatDataset
) -> "Figure":
    """A row per image (uint8 [3, S, S]), at most `SIMILAR_ROWS`: itself, then what was found, the nearest first.

    found: index in `everything`, path, style and distance of each.
    """
    count = min(len(paths), SIMILAR_ROWS)
    figure = plotting.new(15, 2.3 * count + 0.5, dpi=100)
    shown = "Left the image" if count == len(paths) else f"Left the first {count} of {len(paths):,} images"
    figure.suptitle(
        f"{shown}, right of it the paintings whose latents have the nearest content, with style and distance"
    )
    for number, row in enumerate(figure.subplots(count, SIMILAR + 1, squeeze=False)):
        for axes in row:
            axes.axis("off")
        pictures_part2.show(row[0], images[number])
        row[0].set_title(f"{file_name(paths[number])}", fontsize=7, fontweight="bold", parse_math=False)
        for axes, (i, path, style, distance) in zip(row[1:], found[number], strict=False):
            pictures_part2.show(axes, everything[i][0])
            text = f"{plotting.caption(style)}, {distance:.3f}\n{file_name(path)}"
            axes.set_title(text, fontsize=7, parse_math=False)
    return figure


def file_name(path: str) -> str:
    """A file's name without its folder, on at most two short lines."""
    name = console.printable(os.path.basename(path))
    return textwrap.fill(name, 26, max_lines=2, placeholder="\N{HORIZONTAL ELLIPSIS}")
