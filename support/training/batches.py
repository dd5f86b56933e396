"""uint8 images -> float batches on the device: gathered, scaled to [0, 1], blended (SMOTE)."""

import contextlib
import math
import os
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from support.paintings import folders
from support.paintings.images import decode_all
from support.system import console, processes
from support.training import balance

RESIDENT_SHARE = 0.5  # of the GPU's free memory may be taken by images; larger collections stay in host memory


class Batches:
    """Images and labels, followed by the synthetic ones of a SMOTE plan, and the batches made of them.

    images: uint8 [N, 3, S, S]; labels: int64 [N]. On the CPU the memory-mapped array itself is used. On a GPU, its
    memory when the images fit into `RESIDENT_SHARE` of what is free, else host memory.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, device: torch.device, plan: balance.SmotePlan | None = None
    ) -> None:
        self.device, self.images = device, images
        if self.device.type != "cpu":
            room = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else math.inf
            if images.nbytes <= RESIDENT_SHARE * room:
                self.images = images.to(self.device)
        self.labels = (labels if plan is None else torch.cat([labels, plan.label])).to(self.device)
        self.blend = None
        if plan is not None:
            own, place = torch.arange(len(labels)), self.images.device
            self.blend = (
                torch.cat([own, plan.base]).to(place),
                torch.cat([own, plan.neighbour]).to(place),
                torch.cat([torch.zeros(len(labels)), plan.weight.float()]).to(self.device),
            )

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of every batch: (float32 [B, 3, S, S] in [0, 1], int64 [B]) on the device.

        `order` is the same in all processes. Batch i is order[i * batch_size : (i + 1) * batch_size], of which process
        r of n takes every n-th from the r-th on.
        """
        shares = [part[processes.rank() :: processes.world_size()] for part in order.split(batch_size)]
        for parts, chosen in self._fetch([share for share in shares if len(share)]):
            images = [part.to(torch.float32).div_(255) for part in parts]
            if self.blend is not None:
                images = [torch.lerp(images[0], images[1], self.blend[2][chosen].view(-1, 1, 1, 1))]
            yield images[0], self.labels[chosen]

    def all_images(self, batch_size: int) -> Iterator[Tensor]:
        """All images in their own order, batch by batch, with a progress bar; for a single process."""
        with tqdm(total=len(self), unit="painting", disable=None, leave=False) as bar:
            for images, _ in self.batches(torch.arange(len(self)), batch_size):
                yield images
                bar.update(len(images))

    def _gather(self, chosen: Tensor, pin: bool = False) -> list[Tensor]:
        indices = [chosen] if self.blend is None else [self.blend[0][chosen], self.blend[1][chosen]]
        parts = []
        for index in indices:
            out = torch.empty(len(index), *self.images.shape[1:], dtype=torch.uint8, pin_memory=True) if pin else None
            parts.append(torch.index_select(self.images, 0, index, out=out))
        return parts

    def _fetch(self, order: list[Tensor]) -> Iterator[tuple[list[Tensor], Tensor]]:
        there = torch.cat(order).to(self.device).split([len(part) for part in order]) if order else []
        for here, chosen in zip(order, there, strict=True):
            if self.images.device == self.device:
                yield self._gather(chosen), chosen
            else:  # pinned: the copy does not hold up this process, which gathers the next batch while the GPU works
                yield [part.to(self.device, non_blocking=True) for part in self._gather(here, pin=True)], chosen


def given_images(paths: list[str]) -> tuple[list[str], int]:
    """The image files that a flag gives, those in its folders included; and how many there should be.

    A folder without images is named in a warning, and counts as one that is missing.
    """
    found, empty = [], 0
    for path in paths:
        inside = folders.find_in_folder(path) if os.path.isdir(path) else [path]
        if not inside:
            console.warn(f"{console.quoted(path)} holds no images")
            empty += 1
        found += inside
    return found, len(found) + empty


def from_files(paths: list[str], image_size: int, batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """The images that can be decoded, batch by batch: their paths, and uint8 [B, 3, S, S]; others are warned of.

    With a progress bar. Whoever does not take them all closes it, else its workers would go on.
    """
    names, pixels = [], []
    with contextlib.closing(decode_all(paths, image_size)) as decoded:
        bar = tqdm(decoded, total=len(paths), unit="painting", disable=None, leave=False)
        for path, (content, _, note) in zip(paths, bar, strict=True):
            if content is None or note:
                with tqdm.external_write_mode():
                    console.warn(f"{console.quoted(path)} {'cannot be read: ' if content is None else 'is '}{note}")
            if content is not None:
                names.append(path)
                pixels.append(torch.frombuffer(bytearray(content), dtype=torch.uint8).view(3, image_size, image_size))
            if len(names) == batch_size:
                yield names, torch.stack(pixels)
                names, pixels = [], []
    if names:
        yield names, torch.stack(pixels)


def full_batches(order: Tensor, batch_size: int) -> Tensor:
    """`order`, filled up from its own start so that every batch is full: no painting is missed."""
    return order.repeat(-(-batch_size // len(order)) + 1)[: -(-len(order) // batch_size) * batch_size]
