"""Which treatment of rare styles helps on a folder as uneven as the real one.

Every treatment gets equally many optimizer steps, the same seeds and the same network, and its head is fitted as by
`trainpart1.py`; the weights after the last step are evaluated on the whole test part, so nothing is selected. With
--pretrained the head alone is fitted, as with `--epochs 0`. "none, logits adjusted" is the network of "none" with the
log frequencies of the training folder subtracted from its logits (Menon et al., 2021, arXiv:2007.07314). Figures are
means over the seeds with their standard deviation.
"""

import argparse
import itertools
import statistics

import measure
import torch
from torch import Tensor

import trainpart1
import wikiart
from support.system import settings
from support.training import balance, batches

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
        trainingdir="data/sample/train",
        testingdir="data/sample/test",
        cachedir=".cache",
        device="auto",
        image_size=64,
        architecture="residual",
        pretrained="",
        steps=1500,
        seeds=3,
    )
    arguments = parser.parse_args(argv)
    options, device = measure.begin(device=arguments.device, image_size=arguments.image_size)
    training = wikiart.WikiArtDataset(arguments.trainingdir, options.image_size, cachedir=arguments.cachedir)
    test = wikiart.WikiArtDataset(arguments.testingdir, options.image_size, training.classes, arguments.cachedir)
    counts = torch.tensor(list(training.counts.values()))
    results = {}
    for seed, (name, treatment) in itertools.product(range(arguments.seeds), TREATMENTS.items()):
        logits = train_and_test(arguments, options, device, training, test, treatment, seed)
        found = {name: logits} | ({"none, logits adjusted": logits - counts.log()} if name == "none" else {})
        for row, values in found.items():
            results.setdefault(row, []).append(evaluate(values.argmax(1), test.labels, counts))
            shown = "  ".join(f"{key} {value:.1%}" for key, value in results[row][-1].items())
            print(f"seed {seed}  {row:<22}  {shown}", flush=True)
    table = {name: summarise(rows, results["none"]) for name, rows in results.items()}
    print_table(table)
    chosen = {name: getattr(arguments, name) for name in ("image_size", "architecture", "steps", "seeds")}
    figures = {"machine": measure.machine(device), **chosen, "counts": str(training.counts), "table": table}
    measure.report(figures | {"runs": {name: str(rows) for name, rows in results.items()}}, arguments.json)


def train_and_test(
    arguments: argparse.Namespace,
    options: settings.Settings,
    device: torch.device,
    training: wikiart.WikiArtDataset,
    test: wikiart.WikiArtDataset,
    treatment: tuple[str, int | str | None],
    seed: int,
) -> Tensor:
    """Train for `steps` steps as one long epoch, so that the schedule fits, or from pretrained weights not at all, and
    fit the head; the test part's logits [N, classes].
    """
    (imbalance, target), members, plan = treatment, torch.arange(len(training)), None
    if imbalance == "smote":
        plan = balance.plan_smote(training.images, training.labels, members, target, seed)
    trainee = measure.Trainee(arguments.architecture, len(training.classes), options, device, seed)
    loader = batches.Batches(training.images, training.labels, device, plan)
    if arguments.pretrained:
        trainee.model.load_pretrained(arguments.pretrained)
    else:
        trainee.model.normalize.fit(training.images, members)
        order, wanted = torch.zeros(0, dtype=torch.int64), arguments.steps * options.batch_size
        for epoch in itertools.count(1):
            if len(order) >= wanted:
                break
            order = torch.cat([order, balance.index_order(imbalance, training.labels, members, plan, seed, epoch)])
        trainee.epoch(loader, order[:wanted], whole=True)
    pixel_file = training.pixel_file if arguments.pretrained else None
    if trainee.model.has_statistics:
        data = trainpart1.fitting_data(trainee.model, loader, members, pixel_file)
        trainee.model.fitted = trainpart1.fit_head(trainee.model, *data, imbalance)
    loader, everything = batches.Batches(test.images, test.labels, device), torch.arange(len(test))
    logits = [
        wikiart.classify(trainee.model, images, flips=True)
        for images, _ in loader.batches(everything, options.batch_size)
    ]
    return torch.cat(logits).cpu()


def evaluate(predicted: Tensor, labels: Tensor, counts: Tensor) -> dict[str, float]:
    """Accuracy, macro F1 and the mean recall of the three rarest styles."""
    styles = len(counts)
    confusion = torch.bincount(labels * styles + predicted, minlength=styles**2).view(styles, styles)
    correct, actual, guessed = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    return {
        "accuracy": (correct.sum() / actual.sum()).item(),
        "macro_f1": (2 * correct / (actual + guessed).clamp(min=1))[actual > 0].mean().item(),
        "rare_recall": (correct / actual.clamp(min=1))[counts.argsort()[:3]].mean().item(),
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
    """The table as Markdown, in per cent."""
    print("\n| treatment | " + " | ".join([*FIGURES.values(), "macro F1 above none"]) + " |")
    print("| --- |" + " ---: |" * (len(FIGURES) + 1))
    for name, columns in table.items():
        cells = [f"{100 * mean:.1f} ± {100 * spread:.1f}" for mean, spread in columns.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    main()
