"""What the benchmarks share: the machine in words, a fair clock, one training step of each network, and the results.

A figure here is a ratio of two things measured in turns in one run: a machine that slows down slows both.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import wikiart  # noqa: E402
from support.system import devices, settings  # noqa: E402
from support.training import augmentation, batches, epochs  # noqa: E402

COURSE_COUNTS = [
    449, 18, 15, 688, 721, 268, 91, 390, 246, 1127, 163, 198, 2269, 246, 212, 373, 41, 413, 80, 244, 946, 1712, 369,
    1157, 679, 38, 197,
]  # fmt: skip  # training paintings of the 27 styles in the course's split


def parser(description: str, **options: object) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: --json, and each of `options` as a flag with its default."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", metavar="FILE", help="write the figures there too")
    for name, default in options.items():
        made.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    return made


def begin(section: str = "classifier", **values: object) -> tuple[settings.Settings, torch.device]:
    """The project's settings as shipped but for `values`, and the device, set up as the training scripts do it."""
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    options = settings.read(section, "", ["-c", str(ROOT / "config.json"), *flags])
    return options, devices.start(options)


def machine(device: torch.device | None = None) -> dict[str, object]:
    """Where, with what and when the figures were measured."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    gpu = torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else None
    return {
        "processor": processor,
        "cores": cores(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "precision": str(devices.precision(device)).removeprefix("torch.") if device is not None else "float32",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "date": date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def seconds(work: Callable[[], object], device: torch.device | None = None) -> float:
    """How long `work` takes, with everything that it leaves waiting on a GPU."""
    synchronise(device)
    begun = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begun


def synchronise(device: torch.device | None) -> None:
    """Wait for the GPU, where there is one."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(
    works: dict[str, Callable[[], object]], count: int, device: torch.device | None = None
) -> dict[str, list[float]]:
    """Seconds of every work in each of `count` rounds; every other round runs backwards, and a first one only warms."""
    times = {name: [] for name in works}
    for number in range(count + 1):
        for name in list(works)[:: -1 if number % 2 else 1]:
            taken = seconds(works[name], device)
            if number:
                times[name].append(taken)
    return times


def ratio(above: list[float], below: list[float]) -> float:
    """The median over rounds of `above` / `below`."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def peak_mib() -> float:
    """The most memory that this process has held, in MiB, mapped files that it has touched counted in."""
    if os.path.exists("/proc/self/status"):
        # ru_maxrss starts at what the parent held when it started this process; this starts at nothing.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


class Made(NamedTuple):
    """Stands in for a dataset: made images (uint8 [N, 3, S, S]) and labels (int64 [N])."""

    images: Tensor
    labels: Tensor


def write_noise(file: Path, count: int, image_size: int, seed: int) -> None:
    """`count` pictures of noise, one after the other."""
    random = np.random.default_rng(seed)
    with open(file, "wb") as output:
        for _ in range(count):
            output.write(random.bytes(3 * image_size**2))


def open_noise(file: str | Path, labels: Tensor, image_size: int) -> Made:
    """The first pictures of the file, one for each label, memory-mapped as WikiArtDataset does it."""
    pixels = np.memmap(file, np.uint8, mode="c", shape=(len(labels), 3, image_size, image_size))
    return Made(torch.from_numpy(pixels), labels)


class Trainee:
    """A new network with the loss of its training script and the pieces of the training loop.

    network: the architecture of a classifier, or "autoencoder".
    """

    def __init__(
        self, network: str, classes: int, options: settings.Settings, device: torch.device, seed: int = 0
    ) -> None:
        torch.manual_seed(seed)
        self.is_classifier = network != "autoencoder"
        if self.is_classifier:
            model = wikiart.make_classifier(network, classes, options.image_size)
        else:
            model = wikiart.Autoencoder(options.image_size, 128)
            torch.nn.init.normal_(model.components, std=0.01)  # zeros would stop all gradients
        self.model, self.options, self.device = model.to(device, memory_format=torch.channels_last), options, device
        self.optimizer = epochs.Optimizer(self.model, device)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of the training scripts, augmentation included."""
        with devices.autocast(images.device):
            if self.is_classifier:
                return wikiart.classifier_loss(
                    self.model, augmentation.crop_and_flip(images, self.model.crop_side), labels
                )
            return wikiart.autoencoder_loss(self.model, augmentation.crop_and_flip(images, images.shape[2]))

    def steps(self, images: Tensor, labels: Tensor, count: int) -> None:
        """`count` steps on one batch that never changes."""
        self.model.train()
        epoch = self.new_epoch()
        for _ in range(count):
            epoch.step(self.loss(images, labels))

    def epoch(self, loader: batches.Batches, order: Tensor, whole: bool = False) -> None:
        """The loop of the training scripts over `order`: the second of ten epochs, or the `whole` schedule."""
        epoch = self.new_epoch(1, 1) if whole else self.new_epoch()
        for images, labels in epoch.batches(loader, order, self.options.batch_size):
            epoch.step(self.loss(images, labels))

    def new_epoch(self, number: int = 2, count: int = 10) -> epochs.Epoch:
        """An epoch of a training with one schedule."""
        peak = self.options.learning_rate
        return epochs.Epoch(number, count, self.model, self.optimizer, self.device, peak, [count])


def steps_that_take(seconds_wanted: float, trainee: Trainee, images: Tensor, labels: Tensor, most: int) -> int:
    """How many steps take about so long, at least 3 and at most `most`; warms the network up on the way."""
    trainee.steps(images, labels, 3)
    taken = seconds(lambda: trainee.steps(images, labels, 3), images.device) / 3
    return max(3, min(most, round(seconds_wanted / taken)))


def one_batch(loader: batches.Batches, batch_size: int) -> tuple[Tensor, Tensor]:
    """A batch drawn at random, as the loop gets it."""
    order = torch.randperm(len(loader))[:batch_size].repeat(batch_size)[:batch_size]
    return next(iter(loader.batches(order, batch_size)))


def flatten(figures: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested figures as dotted names and values."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def report(figures: dict[str, object], file: str | None, limits: dict[str, str] | None = None) -> None:
    """Print every figure, with its limit beside it where it has one, and write them as JSON where asked to."""
    for name, value in flatten(figures):
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"{name:<48} {text}" + (f"   (needs {limits[name]})" if limits and name in limits else ""), flush=True)
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(figures | ({"limits": limits} if limits else {}), indent=2) + "\n")
