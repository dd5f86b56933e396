"""Part 1: measure the style classifier on the test paintings, or name the style of new ones.

Prints the figures and a table a style; writes metrics_part1.json, confusion_matrix.png and mistakes.png into outputdir.
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support
from tqdm import tqdm

import wikiart
from support import batches, checkpoints, console, devices, figures, files, images, settings

SWITCHES = {"--predict": {"metavar": "IMAGE", "nargs": "+", "help": "name the three likeliest styles of these images"}}


@console.script
def main(argv: list[str] | None = None) -> None:
    """Load the checkpoint, then measure it on the test folder, or name the images of --predict."""
    options = settings.read("classifier", __doc__, argv, SWITCHES)
    modelfile = options.output(options.modelfile)
    checkpoint = checkpoints.read(modelfile, 1)
    checkpoints.check_flags(options, checkpoint)
    device = devices.start(options, training=False)
    model = wikiart.load_model(checkpoint, modelfile, device)
    if options.predict:
        name_styles(options, checkpoint, model, device)
        return

    classes = checkpoint["classes"]
    dataset = wikiart.open_dataset(options, "testingdir", checkpoint["image_size"], classes)
    paintings = batches.Paintings(dataset, device)
    logits = []
    with tqdm(total=len(dataset), unit="painting", disable=None, leave=False) as bar:
        for images, _ in paintings.batches(torch.arange(len(dataset)), options.batch_size):
            logits.append(wikiart.classify(model, images, checkpoint["mean"], checkpoint["std"], many_views=True).cpu())
            bar.update(len(images))
    probabilities = torch.cat(logits).softmax(1).numpy()
    labels = dataset.labels.numpy()

    def measure_some(kept: np.ndarray) -> dict[str, object]:
        return measure(labels[kept], probabilities[kept], checkpoint["counts"])

    metrics = measure_some(labels >= 0)
    print_metrics(metrics)
    if known := wikiart.report_known(dataset, checkpoint, measure_some):
        metrics["also_in_training"] = known
        if rest := known["metrics_without"]:
            console.say(f"without them: accuracy {rest['accuracy']:.1%}, macro F1 {rest['macro_f1']:.1%}")
    title = f"{checkpoint['architecture']}, epoch {checkpoint['epoch']}: {len(labels):,} test paintings, "
    title += f"accuracy {metrics['accuracy']:.1%}, macro F1 {metrics['macro_f1']:.1%}"
    predicted = probabilities.argmax(1)
    matrix = confusion_matrix(labels, predicted, labels=range(len(classes)))
    files.write_json(options.output("metrics_part1.json"), metrics)
    figures.write_figure(options.output("confusion_matrix.png"), draw_confusion(matrix, classes, title))
    figures.write_figure(options.output("mistakes.png"), draw_mistakes(dataset, matrix, probabilities))
    console.say(f"wrote metrics_part1.json, confusion_matrix.png and mistakes.png into {options.outputdir}")


def name_styles(
    options: settings.Settings, checkpoint: dict[str, object], model: torch.nn.Module, device: torch.device
) -> None:
    """Print the three likeliest styles of each image of --predict, with probabilities.

    Raises UserError that names an image that cannot be decoded.
    """
    for path in options.predict:
        try:
            pixels = torch.from_numpy(images.decode_image(path, checkpoint["image_size"]))
        except images.DataError as error:
            raise console.UserError(f"--predict: {console.quoted(path)} cannot be read: {error}") from None
        image = pixels[None].to(device) / 255
        logits = wikiart.classify(model, image, checkpoint["mean"], checkpoint["std"], many_views=True)
        likeliest = logits[0].softmax(0).cpu().topk(min(3, len(checkpoint["classes"])))
        named = [
            f"{checkpoint['classes'][i]} {p:.1%}" for p, i in zip(*map(torch.Tensor.tolist, likeliest), strict=True)
        ]
        console.say(f"{console.quoted(path)[1:-1]}: " + ", ".join(named))


def measure(labels: np.ndarray, probabilities: np.ndarray, counts: dict[str, int]) -> dict[str, object]:
    """The figures of `metrics_part1.json`.

    labels: int [N]; probabilities: float [N, classes]; counts: training paintings a style, in the order of the labels.
    Macro figures average over the styles that have test images; precision is 0 for a style never predicted.
    """
    classes, predicted = list(counts), probabilities.argmax(1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    present = support > 0
    top3 = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    majority = max(range(len(classes)), key=lambda label: counts[classes[label]])
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": float(recall[present].mean()),
        "macro_precision": float(precision[present].mean()),
        "macro_recall": float(recall[present].mean()),
        "macro_f1": float(f1[present].mean()),
        "weighted_f1": float(np.average(f1, weights=support)),
        "top3_accuracy": float((top3 == labels[:, None]).any(1).mean()),
        "majority_accuracy": float((labels == majority).mean()),
        "images": len(labels),
        "per_class": {
            style: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for style, p, r, f, n in zip(classes, precision, recall, f1, support, strict=True)
        },
    }


def print_metrics(metrics: dict[str, object]) -> None:
    """Print the figures, the majority guess beside them, and a table a style."""
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


def draw_confusion(matrix: np.ndarray, classes: list[str], title: str) -> Figure:
    """The confusion matrix: true styles down, predicted ones across, colour by a row's share, the count in each cell.

    matrix: int [classes, classes].
    """
    share = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    side = 3.2 + 0.42 * len(classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained", dpi=110)
    axes = figure.subplots()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*matrix.nonzero(), strict=True):
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, matrix[row, column], ha="center", va="center", fontsize=8, color=color)
    names = [figures.caption(name) for name in classes]
    support = [f"{name} ({number})" for name, number in zip(names, matrix.sum(1), strict=True)]
    axes.set_xticks(range(len(classes)), names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(classes)), support, parse_math=False)
    axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set(xlabel="predicted style", ylabel="true style (test paintings)")
    axes.set_title(title, fontsize=11, wrap=True)
    figure.colorbar(picture, ax=axes, label="share of the true style's paintings", shrink=0.6)
    return figure


def draw_mistakes(dataset: wikiart.WikiArtDataset, matrix: np.ndarray, probabilities: np.ndarray) -> Figure:
    """The 15 most confident wrong answers, painting by painting, and the ten pairs of styles most often confused.

    matrix: int [classes, classes], true by predicted; probabilities: float [N, classes].
    """
    labels, predicted = dataset.labels.numpy(), probabilities.argmax(1)
    confidence = np.where(predicted == labels, -1.0, probabilities.max(1))
    worst = [i for i in np.argsort(-confidence, kind="stable")[:15] if confidence[i] >= 0]
    figure = Figure(figsize=(16, 9), layout="constrained", dpi=100)
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
