"""Several processes that share the work: rank, world size, sums over processes."""

import os

import torch
import torch.distributed
from torch import Tensor


def rank() -> int:
    """This process's number among those that share the work: 0 when it works alone."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes share the work (torchrun sets it)."""
    return int(os.environ.get("WORLD_SIZE", 1))


def total(values: Tensor) -> Tensor:
    """The sum of `values` over all processes."""
    if world_size() > 1:
        torch.distributed.all_reduce(values)
    return values
