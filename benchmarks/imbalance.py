"""What treatment of rare styles helps where the imbalance is as hard as WikiArt's.

Seven styles are thinned to 15, 41, 91, 163, 246, 413 and 679 paintings; which style gets which number, which paintings
stay and how the network starts is drawn by the seed, the same for every treatment. Every treatment gets equally many
optimizer steps, and the weights after the last step are measured on the whole test part: nothing is selected. Figures
are means over the seeds with their standard deviation; since the seeds draw different rare styles, the difference from
"none" within a seed says more than the spread.
"""

import argparse
import itertools
import statistics
from collections.abc import Iterator

import measure
import torch
from torch import Tensor

import wikiart
from support import balance, batches, devices, settings

NUMBERS = [15, 41, 91, 163, 246, 413, 679]
TREATMENTS = {
    "none": ("none", None),
    "weighted_sampler": ("weighted_sampler", None),
    "smote 200": ("smote", 200),
    "smote 400": ("smote", 400),
    "smote auto": ("smote", "auto"),
}
FIGURES = {"accuracy": "accuracy", "macro_f1": "macro F1", "rare_recall": "recall of the 3 rarest"}


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = measure.parser(
        __doc__,
        trainingdir="../shared/wikiart7/train",
        testingdir="../shared/wikiart7/test",
        cachedir=".cache",
        device="auto",
        image_size=48,
        architecture="residual",
        steps=600,
        seeds=3,
    )
    arguments = parser.parse_args(argv)
    options, device = measure.begin(device=arguments.device, image_size=arguments.image_size, epochs=1)
    training = wikiart.WikiArtDataset(arguments.trainingdir, options.image_size, cachedir=arguments.cachedir)
    test = wikiart.WikiArtDataset(arguments.testingdir, options.image_size, training.classes, arguments.cachedir)
    if len(training.classes) != len(NUMBERS):
        raise SystemExit(f"{arguments.trainingdir} has {len(training.classes)} styles; meant {len(NUMBERS)}")
    results = {name: [] for name in TREATMENTS}
    for seed in range(arguments.seeds):
        members, rarest = thin(training.labels, seed)
        for name, (imbalance, target) in TREATMENTS.items():
            plan = None
            if imbalance == "smote":
                plan = balance.plan_smote(training.images, training.labels, members, target, seed)
            orders = orders_of(imbalance, training.labels, members, plan, seed)
            confusion = train_and_test(arguments, options, device, training, test, members, plan, orders, seed)
            results[name].append(measure_confusion(confusion, rarest))
            shown = "  ".join(f"{key} {value:.1%}" for key, value in results[name][-1].items())
            print(f"seed {seed}  {name:<16}  {shown}", flush=True)
    table = {name: summarise(rows, results["none"]) for name, rows in results.items()}
    print_table(table)
    chosen = {name: getattr(arguments, name) for name in ("image_size", "architecture", "steps", "seeds")}
    figures = {"machine": measure.machine(device), **chosen, "paintings_a_style": str(NUMBERS), "table": table}
    measure.report(figures | {"runs": {name: str(rows) for name, rows in results.items()}}, arguments.json)


def thin(labels: Tensor, seed: int) -> tuple[Tensor, list[int]]:
    """The paintings that stay, and the three rarest styles."""
    generator = torch.Generator().manual_seed(devices.random_seed(seed, 1))
    styles, kept = torch.randperm(len(NUMBERS), generator=generator).tolist(), []
    for style, number in zip(styles, NUMBERS, strict=True):
        members = (labels == style).nonzero().flatten()
        if len(members) < number:
            raise SystemExit(f"a style has {len(members)} paintings; {number} are needed")
        kept.append(members[torch.randperm(len(members), generator=generator)[:number]])
    return torch.cat(kept).sort().values, styles[:3]


def orders_of(
    imbalance: str, labels: Tensor, members: Tensor, plan: balance.SmotePlan | None, seed: int
) -> Iterator[Tensor]:
    """Epoch after epoch, without end."""
    return (balance.index_order(imbalance, labels, members, plan, seed, epoch) for epoch in itertools.count(1))


def train_and_test(
    arguments: argparse.Namespace,
    options: settings.Settings,
    device: torch.device,
    training: wikiart.WikiArtDataset,
    test: wikiart.WikiArtDataset,
    members: Tensor,
    plan: balance.SmotePlan | None,
    orders: Iterator[Tensor],
    seed: int,
) -> Tensor:
    """Train for `steps` steps as one long epoch, so that the schedule fits; the test part's confusion matrix."""
    wanted, order = arguments.steps * options.batch_size, torch.zeros(0, dtype=torch.int64)
    while len(order) < wanted:
        order = torch.cat([order, next(orders)])
    styles = len(training.classes)
    mean, std = batches.measure_pixels(training.images, members)
    trainee = measure.make_trainee(arguments.architecture, styles, options.image_size, device, seed, mean, std)
    paintings = batches.Paintings(training, device, plan)
    trainee.epoch(options, paintings, order[:wanted], number=1)
    trainee.model.eval()
    confusion = torch.zeros(styles**2)
    for images, labels in batches.Paintings(test, device).batches(torch.arange(len(test)), options.batch_size):
        logits = wikiart.classify(trainee.model, images, mean, std)
        confusion += torch.bincount((labels * styles + logits.argmax(1)).cpu(), minlength=styles**2)
    return confusion.view(styles, styles)


def measure_confusion(confusion: Tensor, rarest: list[int]) -> dict[str, float]:
    """Accuracy, macro F1 and the mean recall of the rarest styles; rows are true styles, columns predicted ones."""
    right, actual, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    tested = actual > 0
    return {
        "accuracy": (right.sum() / actual.sum()).item(),
        "macro_f1": (2 * right / (actual + predicted).clamp(min=1))[tested].mean().item(),
        "rare_recall": (right / actual.clamp(min=1))[rarest].mean().item(),
    }


def summarise(rows: list[dict[str, float]], none: list[dict[str, float]]) -> dict[str, list[float]]:
    """Mean and standard deviation over seeds of each figure, and of macro F1's difference from "none"."""
    columns = {name: [row[name] for row in rows] for name in FIGURES}
    columns["macro_f1_above_none"] = [row["macro_f1"] - base["macro_f1"] for row, base in zip(rows, none, strict=True)]
    return {
        name: [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0]
        for name, values in columns.items()
    }


def print_table(table: dict[str, dict[str, list[float]]]) -> None:
    """The table as Markdown, in percent."""
    print("\n| treatment | " + " | ".join([*FIGURES.values(), "macro F1 above none"]) + " |")
    print("| --- |" + " ---: |" * (len(FIGURES) + 1))
    for name, columns in table.items():
        cells = [f"{100 * mean:.1f} ± {100 * spread:.1f}" for mean, spread in columns.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    main()
