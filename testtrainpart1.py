"""Part 1: evaluate the style classifier on the test paintings, or predict the style of new ones.

Prints the figures and a table of the styles; writes metrics_part1.json, confusion_matrix.png and mistakes.png into
outputdir.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import classification_report, confusion_matrix
from tqdm import tqdm

import wikiart
from support import batches, checkpoints, console, devices, duplicates, figures, files, settings
from support.console import DataError, UserError
from support.images import decode_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 60  # styles that a figure names at most
SWITCHES = {
    "--predict": {"metavar": "IMAGE", "nargs": "+", "help": "print the three most probable styles of these images"}
}


@console.script
def main(argv: list[str] | None = None) -> None:
    """Load the checkpoint, then evaluate it on the test folder, or name the images of --predict."""
    options = settings.read("classifier", __doc__, argv, SWITCHES)
    modelfile = options.output(options.modelfile)
    checkpoint = checkpoints.read(modelfile, 1)
    checkpoints.check_flags(options, checkpoint)
    device = devices.start(options, training=False)
    model = wikiart.load_network(checkpoint, console.printable(modelfile)).to(device)
    if options.predict:
        name_styles(options, checkpoint, model, device)
        return

    classes = checkpoint["classes"]
    with options.blame("testingdir", DataError):
        dataset = wikiart.WikiArtDataset(options.testingdir, checkpoint["image_size"], classes, options.cachedir)
    loader = batches.Batches(dataset.images, dataset.labels, device)
    logits = []
    with tqdm(total=len(dataset), unit="painting", disable=None, leave=False) as bar:
        for images, _ in loader.batches(torch.arange(len(dataset)), options.batch_size):
            logits.append(wikiart.classify(model, images, many_views=True).cpu())
            bar.update(len(images))
    probabilities = torch.cat(logits).softmax(1).numpy()
    labels = dataset.labels.numpy()

    metrics = measure(labels, probabilities, checkpoint["counts"])
    print_metrics(metrics)
    known = duplicates.known_paintings(dataset, checkpoint)
    if known.any():
        rest = None if known.all() else measure(labels[~known], probabilities[~known], checkpoint["counts"])
        paths = [path for path, is_known in zip(dataset.paths, known, strict=True) if is_known]
        metrics["also_in_training"] = {"images": len(paths), "paths": paths, "metrics_without": rest}
        if rest:
            console.say(f"without them: accuracy {rest['accuracy']:.1%}, macro F1 {rest['macro_f1']:.1%}")
    title = f"{checkpoint['architecture']}, epoch {checkpoint['epoch']}: {len(labels):,} test paintings, "
    title += f"accuracy {metrics['accuracy']:.1%}, macro F1 {metrics['macro_f1']:.1%}"
    matrix = confusion_matrix(labels, probabilities.argmax(1), labels=range(len(classes)))
    files.write_json(options.output("metrics_part1.json"), metrics)
    with figures.drawing("confusion_matrix.png"):
        figures.write(options.output("confusion_matrix.png"), draw_confusion(matrix, classes, title))
    with figures.drawing("mistakes.png"):
        figures.write(options.output("mistakes.png"), draw_mistakes(dataset, matrix, probabilities))
    console.say(f"wrote metrics_part1.json, confusion_matrix.png and mistakes.png into {options.outputdir}")


def name_styles(
    options: settings.Settings, checkpoint: dict[str, object], model: wikiart.Classifier, device: torch.device
) -> None:
    """Print the three most probable styles of each image of --predict.

    Raises UserError at the end when an image cannot be decoded; each is named in a warning.
    """
    unreadable = 0
    for path in options.predict:
        try:
            pixels, _ = decode_image(path, checkpoint["image_size"])
        except DataError as error:
            console.warn(f"{console.quoted(path)} cannot be read: {error}")
            unreadable += 1
            continue
        image = torch.from_numpy(pixels)[None].to(device) / 255
        probabilities = wikiart.classify(model, image, many_views=True)[0].softmax(0).cpu()
        best = probabilities.topk(min(3, len(probabilities)))
        texts = [f"{checkpoint['classes'][i]} {p:.1%}" for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)]
        console.say(f"{console.printable(path)}: {', '.join(texts)}")
    if unreadable:
        raise UserError(f"--predict: {unreadable} of {len(options.predict)} images cannot be read")


def measure(labels: np.ndarray, probabilities: np.ndarray, counts: dict[str, int]) -> dict[str, object]:
    """The figures of `metrics_part1.json`.

    labels: int [N]; probabilities: float [N, classes]; counts: training paintings per style, in the order of labels.
    Macro figures average over the styles that have test images; precision is 0 for a style that is never predicted.
    """
    classes, predicted = list(counts), probabilities.argmax(1)
    report = classification_report(
        labels, predicted, labels=range(len(classes)), target_names=classes, output_dict=True, zero_division=0
    )
    per_class = {
        style: {
            "precision": row["precision"],
            "recall": row["recall"],
            "f1": row["f1-score"],
            "support": int(row["support"]),
        }
        for style, row in ((style, report[style]) for style in classes)
    }
    tested = [row for row in per_class.values() if row["support"]]
    precision, recall, f1 = (float(np.mean([row[name] for row in tested])) for name in ("precision", "recall", "f1"))
    top3 = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    majority = max(range(len(classes)), key=lambda label: counts[classes[label]])
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "balanced_accuracy": recall,
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "weighted_f1": float(report["weighted avg"]["f1-score"]),
        "top3_accuracy": float((top3 == labels[:, None]).any(1).mean()),
        "majority_accuracy": float((labels == majority).mean()),
        "images": len(labels),
        "per_class": per_class,
    }


def print_metrics(metrics: dict[str, object]) -> None:
    """Print the figures, with the majority guess for scale, and a table of the styles."""
    width = max(len("style"), *map(len, metrics["per_class"]))
    console.say(f"{metrics['images']:,} test paintings; always guessing the most frequent training style "
                f"would be right for {metrics['majority_accuracy']:.1%}")  # fmt: skip
    for name in (
        "accuracy",
        "balanced_accuracy",
        "macro_precision",
        "macro_recall",
        "macro_f1",
        "weighted_f1",
        "top3_accuracy",
    ):
        console.say(f"  {name.replace('_', ' '):<18}{metrics[name]:>7.1%}")
    console.say(f"{'style':<{width}}  precision  recall      F1  paintings")
    for style, row in metrics["per_class"].items():
        figures = f"{row['precision']:>9.1%}  {row['recall']:>6.1%}  {row['f1']:>6.1%}" if row["support"] else " " * 25
        console.say(f"{style:<{width}}  {figures}  {row['support']:>9,}")


def draw_confusion(matrix: np.ndarray, classes: list[str], title: str) -> "Figure":
    """The confusion matrix: true styles in rows, predicted ones in columns, colour by a row's share, counts in cells.

    matrix: int [classes, classes]. With more than `NAMED` styles there are no counts, and only some styles are named.
    """
    share = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    side, step = 3.2 + 0.42 * min(len(classes), NAMED), -(-len(classes) // NAMED)
    figure = figures.new(side + 1, side, dpi=110)
    axes = figure.subplots()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [figures.caption(name) for name in classes]
    support = [f"{name} ({number})" for name, number in zip(names, matrix.sum(1), strict=True)]
    axes.set_xticks(range(0, len(classes), step), names[::step], rotation=90, parse_math=False)
    axes.set_yticks(range(0, len(classes), step), support[::step], parse_math=False)
    if step == 1:
        for row, column in zip(*matrix.nonzero(), strict=True):
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="0.85", linewidth=0.5)
        axes.tick_params(which="minor", length=0)
    axes.set(xlabel="predicted style", ylabel="true style (number of test paintings)")
    axes.set_title(title, fontsize=11, wrap=True)
    figure.colorbar(picture, ax=axes, label="share of the true style's paintings", shrink=0.6)
    return figure


def draw_mistakes(dataset: wikiart.WikiArtDataset, matrix: np.ndarray, probabilities: np.ndarray) -> "Figure":
    """The 15 most confident wrong answers, painting by painting, and the ten pairs of styles most often confused.

    matrix: int [classes, classes], true by predicted; probabilities: float [N, classes].
    """
    labels, predicted = dataset.labels.numpy(), probabilities.argmax(1)
    confidence = np.where(predicted == labels, -1.0, probabilities.max(1))
    worst = [i for i in np.argsort(-confidence, kind="stable")[:15] if confidence[i] >= 0]
    figure = figures.new(16, 9, dpi=100)
    sheet, chart = figure.subfigures(1, 2, width_ratios=(5, 3))
    sheet.suptitle(f"The most confident of {int((confidence >= 0).sum()):,} wrong answers")
    names = [figures.caption(name) for name in dataset.classes]
    for place, axes in enumerate(sheet.subplots(3, 5).flat):
        axes.axis("off")
        if place < len(worst):
            i = worst[place]
            axes.imshow(dataset.images[i].permute(1, 2, 0).numpy())
            caption = f"is {names[labels[i]]}\nsaid {names[predicted[i]]} {confidence[i]:.0%}"
            axes.set_title(caption, fontsize=8, parse_math=False)
    confused = matrix + matrix.T
    pairs = [(confused[i, j], i, j) for i in range(len(names)) for j in range(i) if confused[i, j]]
    pairs = sorted(pairs, reverse=True)[:10]
    axes = chart.subplots()
    axes.set_title("The pairs of styles most often confused")
    axes.barh(range(len(pairs)), [matrix[i, j] for _, i, j in pairs], color="tab:blue", label="first taken for second")
    axes.barh(
        range(len(pairs)),
        [matrix[j, i] for _, i, j in pairs],
        left=[matrix[i, j] for _, i, j in pairs],
        color="tab:orange",
        label="second taken for first",
    )
    axes.set_yticks(range(len(pairs)), [f"{names[i]},\n{names[j]}" for _, i, j in pairs], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("test paintings")
    if pairs:
        axes.legend()
    return figure


if __name__ == "__main__":
    main()
