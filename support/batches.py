"""Batches: gathered, blended, augmented and normalised on the device."""

import functools
import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from support import balance, processes

RESIDENT_SHARE = 0.5  # of the GPU's free memory may be taken by images; more stay in host memory


class Paintings:
    """A dataset's images and labels where batches are made of them, with the synthetic ones of a SMOTE plan behind.

    On the CPU that is the memory-mapped array itself; on a GPU its memory when the images fit into `RESIDENT_SHARE` of
    what is free, else host memory, from which a thread gathers and pins the next batch while the GPU works.
    """

    def __init__(self, dataset: Dataset, device: torch.device, plan: balance.SmotePlan | None = None) -> None:
        self.device = device
        self.images, labels = dataset.images, dataset.labels
        if device.type != "cpu":
            room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
            if self.images.nbytes <= RESIDENT_SHARE * room:
                self.images = self.images.to(device)
        self.labels = (labels if plan is None else torch.cat([labels, plan.label])).to(device)
        self.blend = None
        if plan is not None:
            own, place = torch.arange(len(labels)), self.images.device
            self.blend = (
                torch.cat([own, plan.base]).to(place),
                torch.cat([own, plan.neighbour]).to(place),
                torch.cat([torch.zeros(len(labels)), plan.weight.float()]).to(device),
            )

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of every batch: (float32 [B, 3, S, S] in [0, 1], int64 [B]) on the device.

        `order` is the same in all processes; batch i holds its paintings i * batch_size up to the next batch, of
        which process r of n takes every n-th from the r-th on.
        """
        for images, chosen in self._fetch(
            [part[processes.rank() :: processes.world_size()] for part in order.split(batch_size)]
        ):
            images = [part.to(torch.float32).div_(255) for part in images]
            if self.blend is not None:
                weight = self.blend[2][chosen].view(-1, 1, 1, 1)
                images = [torch.lerp(images[0], images[1], weight)]
            yield images[0], self.labels[chosen]

    def _gather(self, chosen: Tensor, pin: bool = False) -> list[Tensor]:
        indices = [chosen] if self.blend is None else [self.blend[0][chosen], self.blend[1][chosen]]
        parts = []
        for index in indices:
            out = torch.empty(len(index), *self.images.shape[1:], dtype=torch.uint8, pin_memory=True) if pin else None
            parts.append(torch.index_select(self.images, 0, index, out=out))
        return parts

    def _fetch(self, order: list[Tensor]) -> Iterator[tuple[list[Tensor], Tensor]]:
        order = [part for part in order if len(part)]
        if self.images.device == self.device:
            on_device = torch.cat(order).to(self.device).split([len(part) for part in order]) if order else []
            for chosen in on_device:
                yield self._gather(chosen), chosen
            return
        side, main = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)

        def load(chosen: Tensor) -> tuple[list[Tensor], Tensor]:
            with torch.cuda.stream(side):
                parts = [part.to(self.device, non_blocking=True) for part in self._gather(chosen, pin=True)]
                return parts, chosen.pin_memory().to(self.device, non_blocking=True)

        with ThreadPoolExecutor(1) as pool:
            waiting = deque(pool.submit(load, part) for part in order[:2])
            for following in [*order[2:], None, None]:
                if not waiting:
                    return
                parts, chosen = waiting.popleft().result()
                main.wait_stream(side)
                for tensor in [*parts, chosen]:
                    tensor.record_stream(main)
                if following is not None:
                    waiting.append(pool.submit(load, following))
                yield parts, chosen


def augment(images: Tensor, smallest: float = 0.5) -> Tensor:
    """A random crop of each image, stretched back, and a mirror image of every other: float [B, 3, S, S] in and out.

    The crop takes from `smallest` to all of the area at aspect ratios from 3:4 to 4:3, so that brushwork stays visible
    (Szegedy et al., 2015, arXiv:1409.4842, with a gentler lower end). One batched resampling on the images' device.
    """
    count, device = len(images), images.device
    area = torch.empty(count, device=device).uniform_(smallest, 1)
    ratio = torch.empty(count, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    shift = torch.rand(2, count, device=device) * 2 - 1
    mirror = torch.randint(0, 2, (count,), device=device) * 2 - 1
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 2] = width * mirror, shift[0] * (1 - width)
    theta[:, 1, 1], theta[:, 1, 2] = height, shift[1] * (1 - height)
    with torch.autocast(device.type, enabled=False):  # bfloat16 is too coarse for places in an image
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def measure_pixels(images: Tensor, members: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the `members` of uint8 images [N, 3, S, S], in [0, 1]."""
    total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for part in members.split(32):  # few at a time: what they take is never given back
        pixels = images[part].float() / 255
        total += pixels.sum((0, 2, 3), dtype=torch.float64)
        squares += pixels.square().sum((0, 2, 3), dtype=torch.float64)
    count = len(members) * images[0, 0].numel()
    mean = total / count
    return mean.tolist(), (squares / count - mean.square()).clamp(min=1e-6).sqrt().tolist()


def normalise(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """(images - mean) / std by channel, in channels-last memory, which convolutions take fastest."""
    mean, std = (_channels(tuple(values), images.device) for values in (mean, std))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


@functools.cache  # to copy them at each step would make the CPU wait for the GPU
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
