"""Part 1: evaluate the style classifier on the test paintings, or predict the style of new ones.

Prints the figures and a table of the styles; writes metrics_part1.json, predictions.csv, confusion_matrix.png,
mistakes.png and heatmaps.png into outputdir. With --predict it names the styles of images and folders instead.
"""

if __name__ == "__main__":
    from support.system import signals

    signals.quiet_ctrl_c()

import contextlib
import math
import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor
from tqdm import tqdm

import wikiart
from support.answers import heatmaps
from support.paintings import artists, duplicates, folders
from support.system import console, devices, figures, files, settings
from support.system.console import DataError, UserError
from support.training import batches, checkpoints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 60  # styles that a figure names at most
HEATMAPS = 27  # styles in heatmaps.png at most
SHARES = (
    "accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "weighted_f1", "top3_accuracy"
)  # fmt: skip
PRIORS = {"uniform": "all styles equally likely", "training": "styles as frequent as in the training folder"}
SWITCHES = {
    "--predict": {
        "metavar": "PATH",
        "nargs": "+",
        "help": "print the three most probable styles of these images, and of all images in these folders",
    },
    "--csv": {
        "metavar": "FILE",
        "help": "with --predict: write the probabilities of all styles to this path (not in outputdir)",
    },
    "--prior": {
        "choices": list(PRIORS),
        "help": "with --predict: how frequent styles are assumed to be (default: as the network was trained)",
    },
}


@console.script
def main(argv: list[str] | None = None) -> None:
    """Load the checkpoint, then evaluate it on the test folder, or name the images of --predict."""
    options = settings.read("classifier", __doc__, argv, SWITCHES)
    if not options.predict and (options.csv is not None or options.prior):
        raise UserError("--csv and --prior need --predict; the evaluation writes predictions.csv and shows both priors")
    check_outputs(options)
    modelfile = options.output(options.modelfile)
    checkpoint = checkpoints.read(modelfile, 1)
    checkpoints.check_flags(options, checkpoint)
    device = devices.start(options, training=False)
    model = wikiart.load_network(checkpoint, console.printable(modelfile)).to(device)
    if options.predict:
        predict(options, checkpoint, model, device)
        return

    classes, counts = checkpoint["classes"], checkpoint["counts"]
    with options.blame("testingdir", DataError):
        dataset = wikiart.WikiArtDataset(options.testingdir, checkpoint["image_size"], classes, options.cachedir)
    loader = batches.Batches(dataset.images, dataset.labels, device)
    parts = [wikiart.classify(model, images, flips=True).cpu() for images in loader.all_images(options.batch_size)]
    labels, logits = dataset.labels.numpy(), torch.cat(parts)

    metrics = measure(labels, logits.numpy(), counts)
    metrics["prior"] = measure_priors(labels, logits, checkpoint)
    print_metrics(metrics)
    known, copies = duplicates.known_paintings(dataset, checkpoint)
    if known.any():
        rest = None if known.all() else measure(labels[~known], logits.numpy()[~known], counts)
        if rest:
            console.say(f"without them: accuracy {rest['accuracy']:.1%}, macro F1 {rest['macro_f1']:.1%}")
        metrics |= duplicates.report(copies, rest)
    if by_artist := artists.by_artist(dataset.paths, logits.argmax(1).numpy() == labels, checkpoint["artists"]):
        metrics["by_artist"] = by_artist
        print_artists(by_artist)
    probabilities = logits.softmax(1).numpy()
    files.write_json(options.output("metrics_part1.json"), metrics)
    styles = [classes[label] for label in labels]
    write_table(options.output("predictions.csv"), classes, dataset.paths, probabilities, styles)
    title = f"{checkpoint['architecture']}, epoch {checkpoint['epoch']}: {len(labels):,} test paintings\n"
    title += f"accuracy {metrics['accuracy']:.1%}, macro F1 {metrics['macro_f1']:.1%}"
    matrix = confusion_matrix(labels, probabilities.argmax(1), labels=range(len(classes)))
    pictures = {
        "confusion_matrix.png": lambda: draw_confusion(matrix, classes, title),
        "mistakes.png": lambda: draw_mistakes(dataset, matrix, probabilities),
        "heatmaps.png": lambda: draw_heatmaps(model, dataset, probabilities, device),
    }
    if not heatmaps.has_convolutions(model):
        del pictures["heatmaps.png"]
        console.say(f"no heatmaps.png: {model.architecture} has no convolutions")
    figures.write_all(options, pictures)
    console.say(f"wrote {', '.join(['metrics_part1.json', 'predictions.csv', *pictures])} into {options.outputdir}")


def check_outputs(options: settings.Settings) -> None:
    """Raise UserError where --csv, or without --predict a file in outputdir, cannot be written; nothing is created."""
    if not options.predict:
        folders.check_outputs(options)
        with options.blame("outputdir"):
            files.check_folder(options.outputdir)
    elif options.csv is not None:
        if not os.path.basename(options.csv) or os.path.isdir(options.csv):
            raise UserError(f"--csv: got {console.quoted(options.csv)}, expected the path of a file")
        path = os.path.realpath(options.csv)
        try:
            if os.path.isfile(path) or not os.path.exists(path):  # else a device or a pipe
                files.check_folder(os.path.dirname(path))
        except UserError as error:
            raise UserError(f"--csv: {error}") from None


# ---------------------------------------------------------------------------------------------------------------------
# Metrics
# ---------------------------------------------------------------------------------------------------------------------


def measure(labels: np.ndarray, logits: np.ndarray, counts: dict[str, int]) -> dict[str, object]:
    """The figures of `metrics_part1.json`.

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
    """Print the figures, with the majority guess for scale, and a table of the styles."""
    width = max(len("style"), *map(len, metrics["per_class"]))
    majority = f"{metrics['majority_style']}, the most frequent training style,"
    console.say(f"{metrics['images']:,} test paintings; always guessing {majority} "
                f"would be right for {metrics['majority_accuracy']:.1%}")  # fmt: skip
    if missing := [style for style, row in metrics["per_class"].items() if not row["support"]]:
        console.say(f"no test paintings of {len(missing)} of {len(metrics['per_class'])} styles: "
                    "macro figures are means over the others")  # fmt: skip
    for name in SHARES:
        console.say(f"  {name.replace('_', ' '):<18}{metrics[name]:>7.1%}")
    for prior, meaning in PRIORS.items():
        row = metrics["prior"][prior]
        trained = ", as trained" if prior == metrics["prior"]["trained"] else ""
        console.say(f"{meaning}{trained}: accuracy {row['accuracy']:.1%}, macro F1 {row['macro_f1']:.1%}")
    console.say(f"{'style':<{width}}  precision  recall      F1  paintings")
    for style, row in metrics["per_class"].items():
        shares = f"{row['precision']:>9.1%}  {row['recall']:>6.1%}  {row['f1']:>6.1%}" if row["support"] else " " * 25
        console.say(f"{style:<{width}}  {shares}  {row['support']:>9,}")


def print_artists(groups: dict[str, dict[str, float | int | None]]) -> None:
    """Print the accuracy on paintings of artists that training has seen and has not."""
    for name, text in (("seen", "artists in training"), ("new", "artists new to the network")):
        row = groups[name]
        accuracy = f"accuracy {row['accuracy']:.1%} of " if row["images"] else ""
        paintings, painters = console.count(row["images"], "painting"), console.count(row["artists"], "artist")
        console.say(f"{text}: {accuracy}{paintings} by {painters}")


# ---------------------------------------------------------------------------------------------------------------------
# Priors: how frequent the styles are
# ---------------------------------------------------------------------------------------------------------------------


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


def measure_priors(labels: np.ndarray, logits: Tensor, checkpoint: dict[str, object]) -> dict[str, object]:
    """Accuracy and macro F1 under each of `PRIORS`, and the name of the one that the network was trained with."""
    found = {"trained": log_priors(checkpoint)[0]}
    for prior in PRIORS:
        measured = measure(labels, with_prior(logits, checkpoint, prior).numpy(), checkpoint["counts"])
        found[prior] = {name: measured[name] for name in ("accuracy", "macro_f1")}
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Predictions
# ---------------------------------------------------------------------------------------------------------------------


def predict(
    options: settings.Settings, checkpoint: dict[str, object], model: wikiart.Classifier, device: torch.device
) -> None:
    """Print the three most probable styles of each image of --predict, and write the table of --csv.

    Raises UserError at the end when an image cannot be decoded or a folder holds none; each is named in a warning.
    """
    classes, trained = checkpoint["classes"], log_priors(checkpoint)[0]
    prior = options.prior or trained
    meaning = PRIORS.get(prior, f"rare styles raised to {checkpoint['settings']['smote_target']}")
    console.say(f"prior: {prior} ({meaning}{', as trained' if prior == trained else ''})")
    paths, given = batches.given_images(options.predict)
    names, rows = [], []
    with contextlib.closing(batches.from_files(paths, checkpoint["image_size"], options.batch_size)) as loader:
        for part, images in loader:
            logits = wikiart.classify(model, images.to(device) / 255, flips=True).cpu()
            probabilities = with_prior(logits, checkpoint, prior).softmax(1)
            with tqdm.external_write_mode():
                for path, row in zip(part, probabilities, strict=True):
                    best = row.topk(min(3, len(classes)))
                    texts = [f"{classes[i]} {row[i]:.1%}" for i in best.indices.tolist()]
                    console.say(f"{console.printable(path)}: {', '.join(texts)}")
            names += part
            rows.append(probabilities)
    if options.csv is not None:
        table = torch.cat([torch.zeros(0, len(classes)), *rows]).numpy()
        write_table(options.csv, classes, names, table)
        console.say(f"wrote {console.printable(options.csv)}")
    if len(names) < given:
        raise UserError(f"--predict: {given - len(names)} of {given} could not be read; see the warnings")


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


# ---------------------------------------------------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------------------------------------------------


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
    wrong = int((confidence >= 0).sum())
    sheet.suptitle(f"The most confident of {console.count(wrong, 'wrong answer')}" if wrong else "No wrong answers")
    names = [figures.caption(name) for name in dataset.classes]
    for place, axes in enumerate(sheet.subplots(3, 5).flat):
        axes.axis("off")
        if place < len(worst):
            i = worst[place]
            axes.imshow(dataset.images[i].permute(1, 2, 0).numpy())
            caption = f"is {names[labels[i]]}\nsaid {names[predicted[i]]} {confidence[i]:.0%}"
            axes.set_title(caption, fontsize=8, parse_math=False)
    confused = np.tril(matrix + matrix.T, -1)
    places = np.arange(min(10, np.count_nonzero(confused)))
    i, j = np.unravel_index(np.argsort(-confused, axis=None, kind="stable")[: len(places)], confused.shape)
    axes = chart.subplots()
    axes.set_title("The pairs of styles most often confused")
    axes.barh(places, matrix[i, j], color="tab:blue", label="first taken for second")
    axes.barh(places, matrix[j, i], left=matrix[i, j], color="tab:orange", label="second taken for first")
    pairs = [f"{names[first]},\n{names[second]}" for first, second in zip(i, j, strict=True)]
    axes.set_yticks(places, pairs, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("test paintings")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if pairs:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, frameon=False)  # below the bars
    return figure


def most_confident(labels: np.ndarray, probabilities: np.ndarray) -> dict[int, tuple[int | None, int | None]]:
    """Label -> the most confident correct and the most confident wrong painting of that style (None: there is none).

    labels: int [N]; probabilities: float [N, classes]. At most `HEATMAPS` styles, those with the most paintings.
    """
    numbers = np.bincount(labels)
    largest = np.argsort(-numbers, kind="stable")[:HEATMAPS]
    right, confidence = probabilities.argmax(1) == labels, probabilities.max(1)
    found = {}
    for label in sorted(largest[numbers[largest] > 0].tolist()):
        groups = [np.flatnonzero((labels == label) & (right == is_right)) for is_right in (True, False)]
        found[label] = tuple(int(group[confidence[group].argmax()]) if len(group) else None for group in groups)
    return found


@torch.no_grad()
def statistics_share(model: wikiart.Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """The statistics' share of the logits of `labels` in a network that has them: float [B].

    Both are taken above their mean over the styles, since only differences between logits count: the head's weights
    times the statistics, and the whole logit. The rest is the trunk's, and the head's bias. Below 0 or above 1
    trunk and statistics disagree; NaN where the logit is not above the mean.
    """
    features = model.scale(model.features(images))
    logits, statistics = model.head(features), features[:, model.width :]
    weights = (model.head.weight - model.head.weight.mean(0))[:, model.width :]
    above_mean = logits.gather(1, labels[:, None])[:, 0] - logits.mean(1)
    part = (weights[labels] * statistics).sum(1)
    return torch.where(above_mean > 0, part / above_mean, torch.nan)


def draw_heatmaps(
    model: wikiart.Classifier, dataset: wikiart.WikiArtDataset, probabilities: np.ndarray, device: torch.device
) -> "Figure":
    """For each style the most confident correct and wrong painting, each beside its class activation map.

    probabilities: float [N, classes]. The maps are those of the predicted style in the whole painting.
    """
    chosen = most_confident(dataset.labels.numpy(), probabilities)
    shown = [i for pair in chosen.values() for i in pair if i is not None]
    pictures, captions = {}, {}
    has_statistics = model.has_statistics
    for part in torch.tensor(shown).split(8):  # a large network's activations take much memory
        images = dataset.images[part].to(device) / 255
        predicted = torch.from_numpy(probabilities.argmax(1))[part].to(device)
        maps = heatmaps.activation_maps(model, images, predicted).cpu()
        shares = statistics_share(model, images, predicted).tolist() if has_statistics else []
        for place, i in enumerate(part.tolist()):
            pictures[i] = _beside(dataset.images[i], maps[place])
            captions[i] = f"{probabilities[i].max():.0%}"
            if has_statistics and math.isfinite(shares[place]):
                captions[i] += f", statistics {shares[place]:.0%}"
    groups = -(-len(chosen) // 9)
    rows = -(-len(chosen) // groups)
    figure = figures.new(5.4 * groups, 1.65 * rows + 1, dpi=110)
    text = f"Grad-CAM of {model.architecture}: yellow speaks for the predicted style, dark does not."
    if has_statistics:
        text += "\nStatistics: share of the logit that comes from colours, textures and channels of the"
        text += "\nwhole painting, not from the map; above 100% the rest speaks against the style."
    figure.suptitle(text, fontsize=9)
    nothing = np.ones_like(next(iter(pictures.values())))
    names = [figures.caption(name) for name in dataset.classes]
    grid = figure.subplots(rows, 2 * groups, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for place, (label, pair) in enumerate(chosen.items()):
        for side, i in enumerate(pair):
            axes = grid[place % rows, 2 * (place // rows) + side]
            axes.imshow(nothing if i is None else pictures[i])
            if i is None:
                title = f"{names[label]}\nnone {'wrong' if side else 'right'}"
            elif side:
                title = f"{names[label]} taken for\n{names[probabilities[i].argmax()]} {captions[i]}"
            else:
                title = f"{names[label]}\nright {captions[i]}"
            axes.set_title(title, fontsize=7, parse_math=False)
    return figure


def _beside(image: Tensor, heat: Tensor) -> np.ndarray:
    """A painting, uint8 [3, S, S], beside its grey copy under a map, float [S, S] in [0, 1]: float [S, W, 3]."""
    from matplotlib import colormaps

    painting = image.permute(1, 2, 0).numpy() / 255
    glow = colormaps["inferno"](heat.numpy())[..., :3]
    gap = np.ones((len(painting), max(1, len(painting) // 24), 3))
    return np.concatenate([painting, gap, 0.4 * painting.mean(2, keepdims=True) + 0.6 * glow], 1)


if __name__ == "__main__":
    main()
