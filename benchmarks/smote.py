"""What SMOTE costs as a plan, against imbalanced-learn, which makes every synthetic picture beforehand.

The styles have the course split's counts, scaled; every style is lifted to the largest. The pictures are noise in a
memory-mapped file, as WikiArtDataset keeps them. Each measurement is a process of its own: plan_seconds, and extra_mib,
the peak memory above that of a process that prepares the same training without SMOTE. imbalanced-learn gets float32
pixels and runs only where `--budget_mib` should hold it. loop_ratio: paintings per second of the training loop with
SMOTE over those without.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import torch
from torch import Tensor

from support.networks import description
from support.system import settings
from support.training import balance, batches

SHARES = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
LEAST = 6  # paintings per style: imbalanced-learn refuses fewer than its five neighbours and the painting itself


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = measure.parser(
        __doc__, image_size=128, budget_mib=6656, seed=2326, device="auto", rounds=7, seconds=3.0, share=1.0
    )
    parser.add_argument("--loop_only", action="store_true", help="only loop_ratio, which needs no scikit-learn")
    parser.add_argument("--probe", nargs=2, metavar=("WAY", "FILE"), help="measure one way in this process")
    arguments = parser.parse_args(argv)
    if arguments.probe:
        print(json.dumps(probe(*arguments.probe, arguments)))
        return
    options, device = measure.begin(device=arguments.device, image_size=arguments.image_size)
    figures = {"machine": measure.machine(device), "image_size": arguments.image_size}
    limits = {"loop_ratio": "at least 0.9"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.uint8"
        measure.write_noise(file, sum(counts_at(arguments.share)), arguments.image_size, arguments.seed)
        if not arguments.loop_only:
            rows = [measure_size(share * arguments.share, file, arguments) for share in SHARES]
            fitting = [row for row in rows if row["imblearn_seconds"] is not None]
            figures |= {name: rows[-1][name] for name in ("plan_seconds", "extra_mib")}  # at the full size
            for name in ("imblearn_seconds", "imblearn_extra_mib"):  # at the largest size that fits
                figures[name] = fitting[-1][name] if fitting else None
            figures["sizes"] = {str(row["paintings"]): row for row in rows}
            limits |= {"plan_seconds": "at most 60", "extra_mib": "at most 1024"}
        figures["cases"] = {
            network: measure_loop(network, file, arguments, options, device) for network in ("residual", "three_conv")
        }
    figures["loop_ratio"] = min(case["loop_ratio"] for case in figures["cases"].values())
    measure.report(figures, arguments.json, limits)


def counts_at(share: float) -> list[int]:
    """Paintings per style: the course split's, scaled."""
    return [max(LEAST, round(share * count)) for count in measure.COURSE_COUNTS]


def labels_at(share: float) -> Tensor:
    """The label of every painting."""
    counts = torch.tensor(counts_at(share))
    return torch.repeat_interleave(torch.arange(len(counts)), counts)


def probe(way: str, file: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak memory of this process with "none", "plan" or "imblearn", training prepared in each."""
    dataset = measure.open_noise(file, labels_at(arguments.share), arguments.image_size)
    members, plan = torch.arange(len(dataset.labels)), None
    begun = time.perf_counter()
    if way == "imblearn":
        from imblearn.over_sampling import SMOTE

        sampler = SMOTE(random_state=arguments.seed)
        _, labels = sampler.fit_resample(dataset.images.flatten(1).float().numpy(), dataset.labels.numpy())
        return {"seconds": time.perf_counter() - begun, "peak_mib": measure.peak_mib(), "after": len(labels)}
    if way == "plan":
        plan = balance.plan_smote(dataset.images, dataset.labels, members, "auto", arguments.seed)
    taken = time.perf_counter() - begun
    paintings = batches.Batches(dataset.images, dataset.labels, torch.device("cpu"), plan)
    description.Normalize().fit(dataset.images, members)  # touches every painting, as the start of a training does
    order = balance.index_order("smote" if plan else "none", dataset.labels, members, plan, arguments.seed, 1)
    next(iter(paintings.batches(order, 64)))
    return {"seconds": taken, "peak_mib": measure.peak_mib(), "after": len(order)}


def measure_size(share: float, file: Path, arguments: argparse.Namespace) -> dict[str, float | None]:
    """All ways at one size, each in a process of its own."""

    def run(way: str) -> dict[str, float]:
        command = [sys.executable, __file__, "--probe", way, str(file), "--share", repr(share)]
        command += ["--image_size", str(arguments.image_size), "--seed", str(arguments.seed)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])

    counts = counts_at(share)
    after = max(counts) * len(counts)
    none, plan = run("none"), run("plan")
    # The pixels themselves, and all pictures twice: imbalanced-learn stacks what it made into one array at the end.
    needed = (sum(counts) + 2 * after) * 3 * arguments.image_size**2 * 4 / 2**20
    imblearn = run("imblearn") if needed <= arguments.budget_mib else None
    row = {
        "paintings": sum(counts),
        "after": after,
        "plan_seconds": plan["seconds"],
        "extra_mib": plan["peak_mib"] - none["peak_mib"],
        "imblearn_seconds": imblearn and imblearn["seconds"],
        "imblearn_extra_mib": imblearn and imblearn["peak_mib"] - none["peak_mib"],
        "imblearn_needs_mib_about": needed,
    }
    print(json.dumps({name: round(value, 2) if value is not None else None for name, value in row.items()}), flush=True)
    return row


def measure_loop(
    network: str, file: Path, arguments: argparse.Namespace, options: settings.Settings, device: torch.device
) -> dict[str, float]:
    """The training loop with a plan and without, in turns. A plan drawn at random takes as long to blend as any."""
    dataset = measure.open_noise(file, labels_at(arguments.share), arguments.image_size)
    count = len(dataset.labels)
    members, lacking = torch.arange(count), sum(max(counts_at(arguments.share)) - n for n in counts_at(arguments.share))
    base, neighbour = torch.randint(count, (2, lacking))
    plan = balance.SmotePlan(base, neighbour, torch.rand(lacking, dtype=torch.float64), dataset.labels[base])
    plain = batches.Batches(dataset.images, dataset.labels, device)
    blended = batches.Batches(dataset.images, dataset.labels, device, plan)
    trainee = measure.Trainee(network, len(measure.COURSE_COUNTS), options, device)
    images, labels = measure.one_batch(plain, options.batch_size)
    steps = measure.steps_that_take(arguments.seconds, trainee, images, labels, count // options.batch_size)
    turn = 0

    def epoch(paintings: batches.Batches, imbalance: str, plan: balance.SmotePlan | None) -> None:
        nonlocal turn
        turn += 1
        order = balance.index_order(imbalance, dataset.labels, members, plan, arguments.seed, turn)
        trainee.epoch(paintings, order[: steps * options.batch_size])

    works = {"none": lambda: epoch(plain, "none", None), "smote": lambda: epoch(blended, "smote", plan)}
    times = measure.in_turns(works, arguments.rounds, device)
    return {
        "loop_ratio": measure.ratio(times["none"], times["smote"]),
        "step_ms": 1000 * min(times["none"]) / steps,
        "smote_step_ms": 1000 * min(times["smote"]) / steps,
    }


if __name__ == "__main__":
    main()
