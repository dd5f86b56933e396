"""Part 1's metrics and table: how good the predictions are, also under other priors, on screen and as a CSV file.

To add a metric, add it to `evaluate`: it is then printed, and written to metrics_part1.json.
"""

import os

import numpy as np
import torch
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor

from support.system import console, files

PRIORS = {"uniform": "all styles equally likely", "training": "styles as frequent as in the training folder"}


def evaluate(labels: np.ndarray, logits: np.ndarray, counts: dict[str, int]) -> dict[str, object]:
    """The metrics of `metrics_part1.json`; those that are floats are shares, and printed.

    labels: int [N]; logits: float [N, classes]; counts: training paintings per style, in the order of labels.
    Macro figures average over the styles that have test images; precision is 0 for a style that is never predicted.
    """
    classes, predicted = list(counts), logits.argmax(1)
    scores = precision_recall_fscore_support(labels, predicted, labels=range(len(classes)), zero_division=0)
    *scores, support = map(np.asarray, scores)
    per_class = {
        style: dict(zip(("precision", "recall", "f1"), row, strict=True)) | {"support": int(number)}
        for style, row, number in zip(classes, np.transpose(scores).tolist(), support, strict=True)
    }
    precision, recall, f1 = np.mean(scores, 1, where=support > 0).tolist()
    top3 = np.argsort(-logits, axis=1, kind="stable")[:, :3]
    majority = max(range(len(classes)), key=lambda label: counts[classes[label]])
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "balanced_accuracy": recall,
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "weighted_f1": float(np.average(scores[2], weights=support)),
        "top3_accuracy": float((top3 == labels[:, None]).any(1).mean()),
        "majority_accuracy": float((labels == majority).mean()),
        "majority_style": classes[majority],
        "images": len(labels),
        "per_class": per_class,
    }


def print_metrics(metrics: dict[str, object]) -> None:
    """Print the metrics, with the majority guess for scale, and a table of the styles."""
    console.say(f"{metrics['images']:,} test paintings; always guessing {metrics['majority_style']}, the most frequent "
                f"training style, would be right for {metrics['majority_accuracy']:.1%}")  # fmt: skip
    if missing := [style for style, row in metrics["per_class"].items() if not row["support"]]:
        console.say(f"no test paintings of {len(missing)} of {len(metrics['per_class'])} styles: "
                    "macro metrics are means over the others")  # fmt: skip
    for name, value in metrics.items():
        if isinstance(value, float) and name != "majority_accuracy":
            console.say(f"  {name.replace('_', ' ').replace('f1', 'F1'):<18}{value:>7.1%}")
    for prior, meaning in PRIORS.items():
        trained = " (as in training)" if prior == metrics["prior"]["trained"] else ""
        console.say(f"predicting with {meaning}{trained}: {summary(metrics['prior'][prior])}")
    width = max(len("style"), *map(len, metrics["per_class"]))
    console.say(f"{'style':<{width}}  precision  recall      F1  paintings")
    for style, row in metrics["per_class"].items():
        shares = f"{row['precision']:>9.1%}  {row['recall']:>6.1%}  {row['f1']:>6.1%}" if row["support"] else " " * 25
        console.say(f"{style:<{width}}  {shares}  {row['support']:>9,}")
    if rest := metrics["also_in_training"]["metrics_without"]:
        number = metrics["also_in_training"]["images"]
        known = console.count(number, "test painting that looks", "test paintings that look")
        console.say(f"without the {known} like training paintings: {summary(rest)}")
    for name, artists in (("seen", "who are"), ("new", "who are not")):
        if metrics["by_artist"]:
            row = metrics["by_artist"][name]
            accuracy = f": accuracy {row['accuracy']:.1%}" if row["images"] else ""
            paintings, painters = console.count(row["images"], "test painting"), console.count(row["artists"], "artist")
            console.say(f"{paintings} by {painters} {artists} in the training folder{accuracy}")


def summary(metrics: dict[str, float]) -> str:
    """Accuracy and macro F1 in words."""
    return f"accuracy {metrics['accuracy']:.1%}, macro F1 {metrics['macro_f1']:.1%}"


def log_priors(checkpoint: dict[str, object]) -> tuple[str, dict[str, Tensor]]:
    """The name of the prior that the network was trained with, and the logarithms of every prior, float [classes].

    Training without treatment of rare styles shows them as frequent as the folder holds them, a weighted sampler shows
    all equally often, SMOTE raises the rare ones to its target (name "smote", unless all styles end up equal).
    """
    options, counts = checkpoint["settings"], torch.tensor([float(max(n, 1)) for n in checkpoint["counts"].values()])
    members = counts * (1 - options["validation"])  # about: SMOTE sees no held-out paintings
    target = options["smote_target"]
    raised = members.clamp(min=float(members.max() if target == "auto" else target))
    name = {"none": "training", "weighted_sampler": "uniform", "smote": "smote"}[options["imbalance"]]
    if name == "smote" and raised.min() == raised.max():
        name = "uniform"
    priors = {"uniform": torch.ones_like(counts), "training": counts, "smote": raised}
    return name, {prior: (numbers / numbers.sum()).log() for prior, numbers in priors.items()}


def with_prior(logits: Tensor, checkpoint: dict[str, object], prior: str) -> Tensor:
    """Logits [B, classes] as of a network that had been trained with that prior (Menon et al., 2021, arXiv:2007.07314).

    Bayes' rule: a network's logits contain the log frequencies of its training, which can be exchanged afterwards.
    """
    name, logs = log_priors(checkpoint)
    return logits + (logs[prior] - logs[name])


def evaluate_priors(labels: np.ndarray, logits: Tensor, checkpoint: dict[str, object]) -> dict[str, object]:
    """Accuracy and macro F1 under each of `PRIORS`, and the name of the one that the network was trained with."""
    results = {"trained": log_priors(checkpoint)[0]}
    for prior in PRIORS:
        metrics = evaluate(labels, with_prior(logits, checkpoint, prior).numpy(), checkpoint["counts"])
        results[prior] = {name: metrics[name] for name in ("accuracy", "macro_f1")}
    return results


def write_table(
    path: str | os.PathLike, classes: list[str], paths: list[str], probabilities: np.ndarray,
    styles: list[str] | None = None,
) -> None:  # fmt: skip
    """Write a CSV file: path, style (where the true ones are given), predicted, probability, and a column per class.

    probabilities: float [N, classes]; paths and styles: N texts. A style with the name of one of the first columns has
    a column whose name ends with an underscore.
    """
    columns = []
    for style in classes:
        name = style
        while name in ("path", "style", "predicted", "probability") or (name != style and name in classes):
            name += "_"
        columns.append(name)
    rows = [["path", *(["style"] if styles else []), "predicted", "probability", *columns]]
    for i, (name, row) in enumerate(zip(paths, probabilities, strict=True)):
        best = int(row.argmax())
        true = [styles[i]] if styles else []
        rows.append([name, *true, classes[best], f"{row[best]:.6g}", *(f"{value:.6g}" for value in row)])
    files.write_rows(path, rows)
