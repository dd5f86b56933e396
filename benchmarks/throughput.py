"""How close decoding and training come to what the hardware gives, each against a yardstick measured in the same run.

decode_ratio: paintings per second of WikiArtDataset over those of bare Pillow calls in as many processes.
loop_ratio: paintings per second of the real training loop over those of the same step on one batch that never changes;
each case under `cases`, the lowest at the top. augment_share: augmentation and normalisation in that step (residual).
utilisation: arithmetic of the networks per second over that of a large matrix product in the same precision.
gpu_busy: share of the training loop's time in which a GPU computes or copies, with a profile of its kernels.
"""

import functools
import json
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

import measure
import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import wikiart
from support.networks import description
from support.paintings import folders, images
from support.system import devices, settings
from support.training import augmentation, balance, batches

CASES = [
    ("residual", "none"),
    ("residual", "weighted_sampler"),
    ("three_conv", "none"),
    ("three_conv", "weighted_sampler"),
    ("autoencoder", "none"),
]


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = measure.parser(
        __doc__,
        trainingdir="data/sample/train",
        image_size=128,
        device="auto",
        batch_size=64,
        rounds=7,
        decode=4000,
        seconds=3.0,
    )
    parser.add_argument(
        "--host_memory", action="store_true", help="keep the images off the GPU, as if they did not fit"
    )
    parser.add_argument("--probe", metavar="CACHEDIR", help="only decode, train some steps and print the peak memory")
    arguments = parser.parse_args(argv)
    if arguments.host_memory:
        batches.RESIDENT_SHARE = 0.0
    options, device = measure.begin(
        device=arguments.device, image_size=arguments.image_size, batch_size=arguments.batch_size
    )
    if arguments.probe:
        print(json.dumps(probe(arguments.trainingdir, options, device, arguments.probe)))
        return

    decode = measure_decode(arguments.trainingdir, options.image_size, arguments.decode, max(2, arguments.rounds // 2))
    with tempfile.TemporaryDirectory() as cachedir:
        memory = measure_memory(arguments, cachedir)  # leaves its cache behind

        def start_warm() -> wikiart.WikiArtDataset:
            return wikiart.WikiArtDataset(arguments.trainingdir, options.image_size, cachedir=cachedir)

        warm_start = statistics.median(measure.in_turns({"warm": start_warm}, 5)["warm"])
        dataset = start_warm()
        ceiling = matmul_ceiling(device)
        cases = {}
        for network, imbalance in CASES:
            name = network if network == "autoencoder" else f"classifier {network} {imbalance}"
            cases[name] = measure_case(network, imbalance, dataset, options, device, arguments, ceiling)
            print(f"{name}: loop_ratio {cases[name]['loop_ratio']:.3f}", flush=True)
    figures = {
        "machine": measure.machine(device),
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "images_on_device": not arguments.host_memory,
        **decode,
        "warm_start_seconds": warm_start,
        **memory,
        "matmul_ceiling_tflops": ceiling / 1e12,
        "cases": cases,
        "loop_ratio": min(case["loop_ratio"] for case in cases.values()),
        "augment_share": cases["classifier residual none"]["augment_share"],
    }
    limits = {
        "decode_ratio": "at least 0.8",
        "peak_rss_mib": f"at most {memory['uint8_mib'] + 1536:.0f}",
        "loop_ratio": "at least 0.95",
        "augment_share": "at most 0.1 with 128 pixels",
        "cases.classifier residual none.gpu_busy": "at least 0.8",
    }
    measure.report(figures, arguments.json, limits)


def bare_decode(path: str, image_size: int) -> bytes:
    """What decoding has to do at least, in plain Pillow calls."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * image_size, 2 * image_size))
        return image.convert("RGB").resize((image_size, image_size), Image.Resampling.BILINEAR).tobytes()


def decode_and_drop(path: str, image_size: int) -> None:
    """`bare_decode`, its pixels dropped, so that nothing has to travel between processes."""
    bare_decode(path, image_size)


def is_same_work(path: str, image_size: int) -> bool:
    """Whether the yardstick makes the same pixels as the dataset, up to one grey level."""
    ours = images.decode_image(path, image_size)[0].transpose(1, 2, 0).astype(int)
    bare = np.frombuffer(bare_decode(path, image_size), np.uint8).reshape(ours.shape)
    return np.abs(ours - bare).max() <= 1


def measure_decode(trainingdir: str, image_size: int, count: int, rounds: int) -> dict[str, object]:
    """Decode about `count` paintings with the dataset, into a cache that is new each time, and with bare Pillow."""
    found = folders.find_images(trainingdir)
    files = [file.path for style in found.values() for file in style]
    files = files[:: max(1, len(files) // count)]
    with tempfile.TemporaryDirectory() as folder:
        links = [os.path.join(folder, "images", file) for file in files]
        for file, link in zip(files, links, strict=True):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(os.path.abspath(os.path.join(trainingdir, file)), link)
        if sum(is_same_work(link, image_size) for link in links[:100]) < len(links[:100]) / 2:
            raise SystemExit("the yardstick no longer does what images.decode_image does: bring bare_decode up to date")
        processes = measure.cores()
        work = [(link, image_size) for link in links]
        caches = []

        def by_dataset() -> None:
            caches.append(os.path.join(folder, f"cache{len(caches)}"))
            wikiart.WikiArtDataset(os.path.join(folder, "images"), image_size, cachedir=caches[-1])

        def clear() -> None:  # in a turn of its own: no part of decoding
            for cachedir in caches:
                shutil.rmtree(cachedir, ignore_errors=True)

        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            pillow = functools.partial(pool.starmap, decode_and_drop, work, chunksize=16)
            works = {"dataset": by_dataset, "clearing": clear, "pillow": pillow}
            times = measure.in_turns(works, rounds)  # the round that is not counted starts the processes
    return {
        "decode_ratio": measure.ratio(times["pillow"], times["dataset"]),
        "decode": {
            "paintings": len(files),
            "processes": processes,
            "dataset_per_second": len(files) / statistics.median(times["dataset"]),
            "pillow_per_second": len(files) / statistics.median(times["pillow"]),
        },
    }


def measure_memory(arguments: object, cachedir: str) -> dict[str, float]:
    """Peak memory of a process of its own that decodes, measures the pixels and trains some steps."""
    command = [sys.executable, __file__, "--probe", cachedir, "--trainingdir", arguments.trainingdir]
    command += ["--image_size", str(arguments.image_size), "--device", arguments.device]
    command += ["--batch_size", str(arguments.batch_size)]
    command += ["--host_memory"] if arguments.host_memory else []
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def probe(trainingdir: str, options: settings.Settings, device: torch.device, cachedir: str) -> dict[str, float]:
    """What `measure_memory` runs in a process of its own."""
    dataset = wikiart.WikiArtDataset(trainingdir, options.image_size, cachedir=cachedir)
    members = torch.arange(len(dataset))
    description.Normalize().fit(dataset.images, members)  # touches every painting
    paintings = batches.Batches(dataset.images, dataset.labels, device)
    trainee = measure.Trainee("residual", len(dataset.classes), options, device)
    order = balance.index_order("weighted_sampler", dataset.labels, members, None, options.seed, 1)
    trainee.epoch(paintings, order[: 5 * options.batch_size])
    return {"peak_rss_mib": measure.peak_mib(), "uint8_mib": dataset.images.nbytes / 2**20}


def matmul_ceiling(device: torch.device) -> float:
    """Floating-point operations per second of the best of some large matrix products, as precise as the loop's."""
    size = 8192 if device.type == "cuda" else 2048
    kind = devices.precision(device)
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = min(measure.in_turns({"product": lambda: left @ right}, 10, device)["product"])
    return 2 * size**3 / best


def measure_case(
    network: str,
    imbalance: str,
    dataset: wikiart.WikiArtDataset,
    options: settings.Settings,
    device: torch.device,
    arguments: object,
    ceiling: float,
) -> dict[str, float]:
    """The real loop and the step on one batch, in turns."""
    paintings = batches.Batches(dataset.images, dataset.labels, device)
    trainee = measure.Trainee(network, len(dataset.classes), options, device)
    images, labels = measure.one_batch(paintings, options.batch_size)
    with FlopCounterMode(display=False) as counter:
        trainee.steps(images, labels, 1)
    flops = counter.get_total_flops()
    epoch_steps = -(-len(dataset) // options.batch_size)
    count = measure.steps_that_take(arguments.seconds, trainee, images, labels, epoch_steps)
    turn = 0

    def real() -> None:
        nonlocal turn
        turn += 1
        members = torch.randperm(len(dataset))[: count * options.batch_size]
        order = balance.index_order(imbalance, dataset.labels, members, None, options.seed, turn)
        trainee.epoch(paintings, order)

    def augment() -> None:
        with torch.no_grad(), devices.autocast(device):
            for _ in range(count):
                trainee.model.normalize(augmentation.crop_and_flip(images, trainee.model.crop_side))

    works = {"real": real, "one batch": lambda: trainee.steps(images, labels, count)}
    if network == "residual":
        works["augmentation"] = augment
    times = measure.in_turns(works, arguments.rounds, device)
    step = statistics.median(times["one batch"]) / count
    figures = {
        "loop_ratio": measure.ratio(times["one batch"], times["real"]),
        "paintings_per_second": options.batch_size * count / statistics.median(times["real"]),
        "one_batch_per_second": options.batch_size / step,
        "step_ms": 1000 * step,
        "step_gflop": flops / 1e9,
        "utilisation": flops / step / ceiling,
        "steps_a_round": count,
    }
    if network == "residual":
        figures["augment_share"] = measure.ratio(times["augmentation"], times["one batch"])
    if device.type == "cuda":
        figures["gpu_busy"] = busy_share(real, device)
    return figures


def busy_share(work: Callable[[], object], device: torch.device) -> float:
    """Share of the time of `work` in which the GPU computes or copies; prints the ten kernels that take most of it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        taken = measure.seconds(work, device)
    print(profiler.key_averages().table("self_cuda_time_total", row_limit=10), flush=True)
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return union([(event.time_range.start, event.time_range.end) for event in events]) / 1e6 / taken


def union(spans: list[tuple[float, float]]) -> float:
    """How much the spans, pairs of start and end, cover together."""
    covered, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


if __name__ == "__main__":
    main()
