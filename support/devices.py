"""Device, precision and random seeds."""

import contextlib
import ctypes
import os

import numpy as np
import torch

from support import console, processes, settings


def random_seed(*parts: int) -> int:
    """A 64-bit seed that depends on every part: the same parts give the same seed, on any machine."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def start(options: settings.Settings, training: bool = True) -> torch.device:
    """Join the processes that share the work, choose the device and seed everything; prints who works on what.

    Raises UserError for a device that cannot be used, a batch that cannot be shared, and several processes where only
    `training` is for several.
    """
    if processes.world_size() > 1 and not training:
        raise console.UserError("this script works in one process; start it without torchrun")
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        probe = torch.zeros(1, device=device)
        probe.item()
        device = probe.device  # "cpu:0" is "cpu", "mps" is "mps:0"
    except Exception as error:  # each backend has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise options.error("device", f"{console.quoted(name)} cannot be used here: {reason}") from None
    if options.batch_size % processes.world_size():
        problem = f"{options.batch_size} paintings cannot be shared evenly by {processes.world_size()} processes"
        raise options.error("batch_size", problem)
    if options.batch_size == processes.world_size() and training:
        raise options.error("batch_size", "batch normalisation needs at least 2 paintings a step and process")
    if processes.world_size() > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32 where autocast leaves float32
    if device.type == "cpu":
        _keep_freed_memory()
    torch.manual_seed(options.seed)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    sharing = (
        "1 process does the work"
        if processes.world_size() == 1
        else f"{processes.world_size()} processes share the work"
    )
    precision = "bfloat16 where safe" if uses_bfloat16(device) else "float32"
    console.say(f"{sharing}, on {device.type} ({hardware} each, {precision})")
    return device


def _keep_freed_memory() -> None:
    """Let the C library keep the blocks that a step frees: fetching them anew costs a CPU a third of a small step."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        library = ctypes.CDLL(None)
        library.mallopt(-4, 0)  # M_MMAP_MAX: no block straight from the kernel
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give none back


def uses_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)  # torch before 2.12 does not tell
    return device.type == "cpu" and bool(capabilities().get("avx512_bf16"))


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 arithmetic where the device is fast at it and the operation is safe in it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device))
