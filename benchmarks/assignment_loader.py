"""Our epoch against the assignment's way: same paintings, same network (three_conv), same image size.

The assignment's way: torchvision's read_image into a cache of float pictures as large as their files, filled during the
first epoch; Resize and Normalize for each picture each time; a DataLoader without workers; batches of 32; Adam at
0.001; float32. Ours: decoded once into the uint8 file (in the first epoch's time), then the project's own loop with
weighted sampling, augmentation and schedule, in batches of 32 too, and of 64 as shipped. Each run is a
process of its own, in turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, read_image
from torchvision.transforms import Compose, Normalize, Resize

import wikiart
from support import balance, batches
from support.images import find_images

WAYS = ["assignment", "ours", "ours_as_shipped"]


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = measure.parser(__doc__, trainingdir="data/sample/train", image_size=128, epochs=3, rounds=2)
    parser.add_argument("--probe", choices=WAYS, help="measure one way in this process")
    arguments = parser.parse_args(argv)
    if arguments.probe:
        print(json.dumps(probe(arguments)))
        return
    runs = {way: [] for way in WAYS}
    for number in range(arguments.rounds):
        for way in WAYS[:: -1 if number % 2 else 1]:
            command = [sys.executable, __file__, "--probe", way, "--trainingdir", arguments.trainingdir]
            command += ["--image_size", str(arguments.image_size), "--epochs", str(arguments.epochs)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs[way].append(json.loads(output.splitlines()[-1]))
            print(way, output.splitlines()[-1], flush=True)
    ways = {way: {name: statistics.median(run[name] for run in runs[way]) for name in runs[way][0]} for way in WAYS}

    def compared(name: str, above: str, below: str) -> float:
        return measure.ratio([run[name] for run in runs[above]], [run[name] for run in runs[below]])

    figures = {
        "machine": measure.machine(torch.device("cpu")),
        "image_size": arguments.image_size,
        **ways,
        "first_epoch_ratio": compared("first_epoch_seconds", "assignment", "ours"),
        "later_epoch_ratio": compared("later_epoch_seconds", "assignment", "ours"),
        "memory_ratio": compared("peak_mib", "ours", "assignment"),
        "later_epoch_ratio_as_shipped": compared("later_epoch_seconds", "assignment", "ours_as_shipped"),
        "memory_ratio_as_shipped": compared("peak_mib", "ours_as_shipped", "assignment"),
    }
    measure.report(figures, arguments.json, {"later_epoch_ratio": "at least 3", "memory_ratio": "at most 0.25"})


class FloatCache(Dataset):
    """Paintings as the assignment keeps them: floats at their files' size, made ready again each time."""

    def __init__(self, paths: list[str], labels: list[int], image_size: int) -> None:
        self.paths, self.labels, self.cache = paths, labels, {}
        self.ready = Compose([Resize((image_size, image_size)), Normalize(measure.MEAN, measure.STD)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index not in self.cache:
            self.cache[index] = read_image(self.paths[index], ImageReadMode.RGB).float() / 255
        return self.ready(self.cache[index]), self.labels[index]


def assignment(arguments: argparse.Namespace) -> Callable[[int], None]:
    """An epoch of the assignment's training, as a function of its number."""
    styles = find_images(arguments.trainingdir)
    paths = [str(Path(arguments.trainingdir, file.path)) for files in styles.values() for file in files]
    labels = [label for label, files in enumerate(styles.values()) for _ in files]
    loader = DataLoader(FloatCache(paths, labels, arguments.image_size), batch_size=32, shuffle=True)
    model = wikiart.make_classifier("three_conv", len(styles), arguments.image_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

    def epoch(number: int) -> None:
        model.train()
        for images, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), targets).backward()
            optimizer.step()

    return epoch


def ours(arguments: argparse.Namespace, cachedir: str, batch_size: int) -> Callable[[int], None]:
    """An epoch of our training, as a function of its number."""
    options, device = measure.begin(device="cpu", image_size=arguments.image_size, batch_size=batch_size)
    dataset = wikiart.WikiArtDataset(arguments.trainingdir, options.image_size, cachedir=cachedir)
    members = torch.arange(len(dataset))
    mean, std = batches.measure_pixels(dataset.images, members)
    paintings = batches.Paintings(dataset, device)
    trainee = measure.make_trainee("three_conv", len(dataset.classes), options.image_size, device, 0, mean, std)

    def epoch(number: int) -> None:
        order = balance.index_order("weighted_sampler", dataset.labels, members, None, options.seed, number)
        trainee.epoch(options, paintings, order)

    return epoch


def probe(arguments: argparse.Namespace) -> dict[str, float]:
    """One way in this process: the first epoch, with all that it takes to get there, the median later one, and peak."""
    with tempfile.TemporaryDirectory() as cachedir:
        begun = time.perf_counter()
        if arguments.probe == "assignment":
            epoch = assignment(arguments)
        else:
            epoch = ours(arguments, cachedir, 32 if arguments.probe == "ours" else 64)
        epoch(1)
        first = time.perf_counter() - begun
        later = [measure.seconds(lambda number=number: epoch(number)) for number in range(2, arguments.epochs + 1)]
    return {
        "first_epoch_seconds": first,
        "later_epoch_seconds": statistics.median(later),
        "peak_mib": measure.peak_mib(),
    }


if __name__ == "__main__":
    main()
