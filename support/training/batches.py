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
    """Images (uint8 [N, 3, S, S]) and labels (int64 [N]), then the synthetic ones of a SMOTE plan, as batches.

    The images are in the device's memory when they fit into `RESIDENT_SHARE` of what is free.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, device: torch.device, plan: balance.SmotePlan | None = None
    ) -> None:
        self.device, self.images = device, images
        room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
        if images.nbytes <= RESIDENT_SHARE * room:
            self.images = images.to(device)  # on the CPU the memory-mapped array itself
        self.labels = (labels if plan is None else torch.cat([labels, plan.label])).to(device)
        self.weight = None
        if plan is not None:
            own, place = torch.arange(len(labels)), self.images.device
            self.base, self.neighbour = (torch.cat([own, ones]).to(place) for ones in (plan.base, plan.neighbour))
            self.weight = torch.cat([torch.zeros(len(labels)), plan.weight.float()]).view(-1, 1, 1, 1).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of every batch: (float32 [B, 3, S, S] in [0, 1], int64 [B]) on the device.

        `order` is the same in all processes. Batch i is order[i * batch_size : (i + 1) * batch_size], of which process
        r of n takes every n-th from the r-th on.
        """
        shares = [part[processes.rank() :: processes.world_size()] for part in order.split(batch_size)]
        shares = [share for share in shares if len(share)]
        on_device = torch.cat(shares).to(self.device).split([len(share) for share in shares]) if shares else []
        for share, chosen in zip(shares, on_device, strict=True):
            index = chosen if self.images.device == self.device else share
            if self.weight is None:
                images = self._take(index)
            else:
                own, neighbour = self._take(self.base[index]), self._take(self.neighbour[index])
                images = torch.lerp(own, neighbour, self.weight[chosen])
            yield images, self.labels[chosen]

    def _take(self, index: Tensor) -> Tensor:
        out = None
        if self.images.device != self.device:  # pinned: the next images are gathered while the GPU works
            out = torch.empty(len(index), *self.images.shape[1:], dtype=torch.uint8, pin_memory=True)
        images = torch.index_select(self.images, 0, index, out=out)
        return images.to(self.device, non_blocking=True).to(torch.float32).div_(255)

    def all_images(self, batch_size: int) -> Iterator[Tensor]:
        """All images in their own order, batch by batch, with a progress bar; for a single process."""
        with tqdm(total=len(self), unit="painting", disable=None, leave=False) as bar:
            for images, _ in self.batches(torch.arange(len(self)), batch_size):
                yield images
                bar.update(len(images))


def given_images(paths: list[str]) -> tuple[list[str], int]:
    """The image files that a flag gives, those in its folders too, and their number with folders that hold none.

    Such a folder is named in a warning.
    """
    images, empty = [], 0
    for path in paths:
        inside = folders.find_in_folder(path) if os.path.isdir(path) else [path]
        if not inside:
            console.warn(f"{console.quoted(path)} holds no images")
            empty += 1
        images += inside
    return images, len(images) + empty


def from_files(paths: list[str], image_size: int, batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """The images that can be decoded, batch by batch: their paths, and uint8 [B, 3, S, S]; warns of the others.

    Shows a progress bar. Close it when not all are taken: its workers would go on.
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
