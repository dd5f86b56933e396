"""Processes that share a training: rank, world size, sums and means over processes. torchrun starts them."""

import os
import warnings

import torch
import torch.distributed
from torch import Tensor, nn

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR")


def problem() -> str | None:
    """What is wrong with the variables that torchrun sets; None if they are consistent, or no rank or size is set."""
    values = {name: os.environ[name] for name in TORCHRUN if name in os.environ}
    if not values.keys() & set(TORCHRUN[:3]):
        return None
    if values.get("MASTER_ADDR") and all(values.get(name, "").isdecimal() for name in TORCHRUN[:4]):
        rank, world_size, local_rank, port = (int(values[name]) for name in TORCHRUN[:4])
        if rank < world_size > local_rank and port < 65536:
            return None
    return "got " + ", ".join(f'{name}="{values[name]}"' if name in values else f"no {name}" for name in TORCHRUN)


def _variable(name: str, default: int) -> int:
    return int(os.environ[name]) if name in os.environ and problem() is None else default


def rank() -> int:
    """This process's number among those that share the training: 0 when it works alone."""
    return _variable("RANK", 0)


def local_rank() -> int:
    """This process's number among those on this machine, which is the number of its GPU."""
    return _variable("LOCAL_RANK", 0)


def world_size() -> int:
    """The number of processes that share the training."""
    return _variable("WORLD_SIZE", 1)


def total(values: Tensor) -> Tensor:
    """The sum of `values` over all processes, in place (all-reduce)."""
    if world_size() > 1:
        torch.distributed.all_reduce(values)
    return values


def from_first(value: object) -> object:
    """The first process's `value`, in all processes."""
    received = [value]
    if world_size() > 1:
        torch.distributed.broadcast_object_list(received)
    return received[0]


def copy_from_first(module: nn.Module) -> None:
    """Give a module of all processes the first one's parameters and buffers."""
    if world_size() > 1:
        for value in module.state_dict().values():
            torch.distributed.broadcast(value, 0)


def share_model(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as training calls it: wrapped to all-reduce gradients when several processes share the work.

    All processes begin with the first one's parameters and buffers.
    """
    if world_size() == 1:
        return model
    copy_from_first(model)  # DistributedDataParallel broadcasts parameters alone
    ids = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():  # newer versions of torch have another name for it
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return nn.parallel.DistributedDataParallel(
            model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )


def average_statistics(model: nn.Module) -> None:
    """Give all processes the mean of their batch-norm statistics, so that all of them validate the same network."""
    for name, buffer in model.named_buffers():
        if world_size() > 1 and name.endswith(("running_mean", "running_var")):
            total(buffer).div_(world_size())
