"""Device, precision and random seeds."""

import os
import sys

import numpy as np
import torch
import torch.distributed

from support.system import console, processes, settings
from support.system.console import UserError

SMALLEST_SHARE = 16  # paintings per step and process
NVIDIA_DRIVER = "/dev/nvidiactl"


def random_seed(*parts: int) -> int:
    """A 64-bit seed that depends on every part: the same parts give the same seed, on any machine."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def start(options: settings.Settings, training: bool = True) -> torch.device:
    """Join the processes that share the training, choose the device and set the random seed; prints what is used.

    A GPU multiplies float32 numbers as such, not as TF32: training steps are fast under `autocast`, and all else is as
    exact as on a CPU. Raises UserError for a device that cannot be used or shared, a batch that cannot be divided,
    an incomplete torchrun environment, and several processes where `training` is false.
    """
    if problem := processes.problem():
        raise UserError(f"the environment is not torchrun's: {problem}; start with torchrun, or unset these variables")
    world_size, size = processes.world_size(), options.batch_size
    if world_size > 1 and not training:
        raise UserError("this script works in one process; start it without torchrun")
    if world_size > 1 and options.device.startswith("cuda:"):
        shared = f"got {console.quoted(options.device)} for {world_size} processes"
        raise options.error("device", f'{shared}; expected "cuda", of which each process takes its own')
    device = _choose(options)
    if size % world_size:
        raise options.error("batch_size", f"{size} cannot be shared evenly by {world_size} processes")
    if size == world_size and training:
        raise options.error("batch_size", "batch normalization needs at least 2 paintings per step and process")
    if world_size > 1:
        if size < SMALLEST_SHARE * world_size:
            share = f"{size // world_size} paintings per step and process"
            console.warn(f"{share}: batch normalization is noisy below {SMALLEST_SHARE}")
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    hardware = console.count(torch.get_num_threads(), "thread")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        hardware = torch.cuda.get_device_name(device)
    processes.total(torch.zeros(1, device=device))  # all are connected before one of them ends with an error
    torch.manual_seed(options.seed)
    numbers = precision(device) if training else torch.float32
    kind = str(numbers).removeprefix("torch.") + " autocast" * (numbers != torch.float32)
    each = " each" * (world_size > 1)
    console.say(f"{console.count(world_size, 'process', 'processes')} on {device.type} ({hardware}{each}, {kind})")
    return device


def _choose(options: settings.Settings) -> torch.device:
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and os.path.exists(NVIDIA_DRIVER) and "CUDA_VISIBLE_DEVICES" not in os.environ:
            why = "the driver may be too old for it" if torch.version.cuda else "it is a build for the CPU"
            console.warn(f"this machine has an NVIDIA GPU, but torch {torch.__version__} cannot use it: {why}")
    try:
        device = torch.device("cuda", processes.local_rank()) if name == "cuda" else torch.device(name)
        probe = torch.zeros(1, device=device)
        probe.item()
        return probe.device  # "cpu:0" is "cpu", "mps" is "mps:0"
    except Exception as error:  # each backend raises errors of its own
        raise options.error("device", f"{console.quoted(name)} cannot be used here: {console.reason(error)}") from None


def precision(device: torch.device) -> torch.dtype:
    """What training steps compute convolutions and matrix products in: bfloat16 where the device is fast at it, float16
    on GPUs that are fast at that alone (V100, T4, RTX 20), else float32.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        fast = torch.cuda.get_device_capability(device) >= (7, 0) and "GTX 16" not in torch.cuda.get_device_name(device)
        return torch.float16 if fast else torch.float32
    capabilities = getattr(torch.cpu, "get_capabilities", dict)  # torch before 2.12 has no such function
    fast = device.type == "cpu" and capabilities().get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Autocast to the device's `precision`, for the steps of a training alone: all else is float32 on every device."""
    kind = precision(device)
    return torch.autocast(device.type, None if kind == torch.float32 else kind, enabled=kind != torch.float32)


def peak_memory(device: torch.device) -> int:
    """The most memory held at once, in bytes: of a GPU as torch allocated it, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
