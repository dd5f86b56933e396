"""How the time a painting takes changes with the number of paintings, their size and the number of processes.

paintings: three_conv, the cheapest network, trained for a fixed number of batches drawn from ever more pictures of
noise; the cost a painting has to stay the same. image_size: residual at three sizes. processes: trainpart1.py itself on
--trainingdir, with one process of two threads against two processes (gloo) of one thread, in turns.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import torch

from support.networks import description
from support.system import settings
from support.training import balance, batches

COUNTS = [1_000, 5_000, 20_000, 80_000]
SIZES = [64, 128, 224]
EPOCH = re.compile(r"^epoch \d+/.*?([\d,]+) paintings/s")
FIGURES = {
    name: re.compile(rf"{name.replace('_', ' ')} ([\d.]+)") for name in ("validation_loss", "accuracy", "macro_f1")
}


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = measure.parser(
        __doc__, trainingdir="data/sample/train", device="auto", image_size=64, rounds=7, seconds=3.0, runs=3, epochs=4
    )
    parser.add_argument("--largest", type=int, default=COUNTS[-1], help="leave out larger numbers of paintings")
    parser.add_argument("--only", choices=["paintings", "image_size", "processes"], help="measure only this")
    arguments = parser.parse_args(argv)
    options, device = measure.begin(device=arguments.device, image_size=arguments.image_size)
    parts = {"paintings": by_paintings, "image_size": by_image_size, "processes": by_processes}
    figures = {"machine": measure.machine(device)}
    for name, part in parts.items():
        if arguments.only in (None, name):
            figures[name] = part(arguments, options, device)
    limits = {
        "paintings.cost_ratio": "0.9 to 1.1 for each",
        "paintings.furthest_cost_ratio": "0.9 to 1.1",
        "processes.speed_ratio": "at least 0.8 on 2 cores",
    }
    measure.report(figures, arguments.json, limits)


def by_paintings(arguments: object, options: settings.Settings, device: torch.device) -> dict[str, object]:
    """Microseconds a painting with a fixed number of batches, drawn from more and more paintings."""
    counts = [count for count in COUNTS if count <= arguments.largest] or [arguments.largest]
    labels = torch.randint(27, (counts[-1],))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.uint8"
        measure.write_noise(file, counts[-1], options.image_size, options.seed)
        datasets = {count: measure.open_noise(file, labels[:count], options.image_size) for count in counts}
        trainee = measure.Trainee("three_conv", 27, options, device)
        paintings = {}
        for count, dataset in datasets.items():
            description.Normalize().fit(dataset.images, torch.arange(count))  # touches every one, as training does
            paintings[count] = batches.Batches(dataset.images, dataset.labels, device)
        batch = measure.one_batch(paintings[counts[0]], options.batch_size)
        steps = measure.steps_that_take(arguments.seconds, trainee, *batch, counts[0] // options.batch_size)
        turn = 0

        def some_batches(count: int) -> None:
            nonlocal turn
            turn += 1
            members = torch.randperm(count)[: steps * options.batch_size]
            order = balance.index_order("weighted_sampler", labels, members, None, options.seed, turn)
            trainee.epoch(paintings[count], order)

        works = {count: lambda count=count: some_batches(count) for count in counts}
        times = measure.in_turns(works, arguments.rounds, device)
    ratios = {count: measure.ratio(times[count], times[counts[0]]) for count in counts}
    return {
        "image_size": options.image_size,
        "batches": steps,
        "microseconds_a_painting": {
            str(count): 1e6 * statistics.median(times[count]) / (steps * options.batch_size) for count in counts
        },
        "cost_ratio": {str(count): value for count, value in ratios.items()},
        "furthest_cost_ratio": max(ratios.values(), key=lambda value: abs(value - 1)),
    }


def by_image_size(arguments: object, options: settings.Settings, device: torch.device) -> dict[str, object]:
    """Microseconds a painting in the residual network's training loop at several sizes."""
    works, steps = {}, {}
    for size in SIZES:
        images = torch.randint(256, (16 * options.batch_size, 3, size, size), dtype=torch.uint8)
        dataset = measure.Made(images, torch.randint(27, (len(images),)))
        paintings = batches.Batches(dataset.images, dataset.labels, device)
        sized = settings.Settings(**vars(options) | {"image_size": size})
        trainee = measure.Trainee("residual", 27, sized, device)
        batch = measure.one_batch(paintings, options.batch_size)
        steps[size] = measure.steps_that_take(arguments.seconds, trainee, *batch, 16)
        order = torch.randperm(len(images))[: steps[size] * options.batch_size]
        works[size] = lambda trainee=trainee, paintings=paintings, order=order: trainee.epoch(paintings, order)
    times = measure.in_turns(works, max(2, arguments.rounds // 2), device)
    cost = {size: statistics.median(times[size]) / (steps[size] * options.batch_size) for size in SIZES}
    return {
        "microseconds_a_painting": {str(size): 1e6 * cost[size] for size in SIZES},
        "nanoseconds_a_pixel": {str(size): 1e9 * cost[size] / size**2 for size in SIZES},
    }


def by_processes(arguments: object, options: settings.Settings, device: torch.device) -> dict[str, object]:
    """The real script, alone and shared by two processes: paintings per second after epoch 1, and the last figures."""
    ways = {"one_process": (1, 2), "two_processes": (2, 1)}
    speeds, last = {name: [] for name in ways}, {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.runs):
            for name in list(ways)[:: -1 if number % 2 else 1]:
                lines = train(*ways[name], arguments, options, folder)
                speeds[name].append(statistics.median(speed for speed, _ in lines[1:] or lines))
                last[name] = lines[-1][1]
    return {
        "speed_ratio": measure.ratio(speeds["two_processes"], speeds["one_process"]),
        "paintings_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "after_the_last_epoch": last,
    }


def train(
    processes: int, threads: int, arguments: object, options: settings.Settings, folder: str
) -> list[tuple[float, dict[str, float]]]:
    """Run trainpart1.py; returns the paintings per second and the validation figures that it prints, epoch by epoch."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(measure.ROOT / "trainpart1.py"), "--trainingdir", arguments.trainingdir]
    values = {"outputdir": folder, "cachedir": folder, "device": "cpu", "image_size": options.image_size}
    values |= {"epochs": arguments.epochs, "config": measure.ROOT / "config.json"}
    command += [text for name, value in values.items() for text in (f"--{name}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    output = subprocess.run(
        [*command, "--fresh"], check=True, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout
    lines = []
    for line in output.splitlines():
        if found := EPOCH.search(line):
            figures = {
                name: float(pattern.search(line)[1]) for name, pattern in FIGURES.items() if pattern.search(line)
            }
            lines.append((float(found[1].replace(",", "")), figures))
    return lines


if __name__ == "__main__":
    main()
