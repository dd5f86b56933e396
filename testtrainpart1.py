"""Part 1: evaluate the style classifier on the test paintings, or predict the style of new ones.

Prints the figures and a table of the styles; writes metrics_part1.json, predictions.csv, confusion_matrix.png,
mistakes.png and heatmaps.png into outputdir. With --predict it names the styles of images and folders instead, with
--suspects it looks for wrong labels in the training folder.
"""

if __name__ == "__main__":
    from support.system import signals

    signals.quiet_ctrl_c()

import contextlib
import os
import time

import torch
from sklearn.metrics import confusion_matrix
from tqdm import tqdm

import wikiart
from support.answers import pictures_part1, provenance, report, suspects
from support.networks import features
from support.paintings import artists, duplicates, folders
from support.system import console, devices, files, plotting, settings
from support.system.console import DataError, UserError
from support.training import batches, checkpoints

SWITCHES = {
    "--predict": {
        "metavar": "PATH",
        "nargs": "+",
        "help": "print the three most probable styles of these images, and of all images in these folders",
    },
    "--suspects": {
        "action": "store_true",
        "help": "write only suspects.csv and suspects.png: training paintings whose style may be wrong",
    },
    "--csv": {
        "metavar": "FILE",
        "help": "with --predict: write the probabilities of all styles to this path (not in outputdir)",
    },
    "--prior": {
        "choices": list(report.PRIORS),
        "help": "with --predict: how frequent styles are assumed to be (default: as the network was trained)",
    },
}


@console.script
def main(argv: list[str] | None = None) -> None:
    """Load the checkpoint, then evaluate it on the test folder, or name the images of --predict."""
    started = time.perf_counter()
    options = settings.read("classifier", __doc__, argv, SWITCHES, training=False)
    if not options.predict and (options.csv is not None or options.prior):
        raise UserError("--csv and --prior need --predict; the evaluation writes predictions.csv and shows both priors")
    if options.predict and options.suspects:
        raise UserError("--suspects cannot be given with --predict")
    check_outputs(options)
    modelfile = options.output(options.modelfile)
    checkpoint = checkpoints.read(modelfile, 1)
    checkpoints.check_flags(options, checkpoint)
    device = devices.start(options, training=False)
    model = wikiart.load_network(checkpoint, console.printable(modelfile)).to(device)
    if options.predict:
        return predict(options, checkpoint, model, device)
    if options.suspects:
        return find_suspects(options, checkpoint, model, device)

    classes, counts = checkpoint["classes"], checkpoint["counts"]
    with options.checking("testingdir", DataError):
        dataset = wikiart.WikiArtDataset(options.testingdir, checkpoint["image_size"], classes, options.cachedir)
    loader = batches.Batches(dataset.images, dataset.labels, device)
    parts = [wikiart.classify(model, images, flips=True).cpu() for images in loader.all_images(options.batch_size)]
    labels, logits = dataset.labels.numpy(), torch.cat(parts)

    metrics = report.evaluate(labels, logits.numpy(), counts)
    metrics["prior"] = report.evaluate_priors(labels, logits, checkpoint)
    known, copies = duplicates.known_paintings(dataset, checkpoint)
    rest = report.evaluate(labels[~known], logits.numpy()[~known], counts) if 0 < known.sum() < len(labels) else None
    metrics |= duplicates.report(copies, rest)
    right = logits.argmax(1).numpy() == labels
    metrics["by_artist"] = artists.by_artist(dataset.paths, right, checkpoint["artists"])
    metrics["run"] = provenance.run_block(options, checkpoint, device, started)
    report.print_metrics(metrics)

    probabilities = logits.softmax(1).numpy()
    files.write_json(options.output("metrics_part1.json"), metrics)
    styles = [classes[label] for label in labels]
    report.write_table(options.output("predictions.csv"), classes, dataset.paths, probabilities, styles)

    title = f"{checkpoint['architecture']}, epoch {checkpoint['epoch']}: {len(labels):,} test paintings\n"
    title += report.summary(metrics)
    matrix = confusion_matrix(labels, probabilities.argmax(1), labels=range(len(classes)))
    pictures = {
        "confusion_matrix.png": lambda: pictures_part1.draw_confusion(matrix, classes, title),
        "mistakes.png": lambda: pictures_part1.draw_mistakes(dataset, matrix, probabilities),
        "heatmaps.png": lambda: pictures_part1.draw_heatmaps(model, dataset, probabilities, device),
    }
    plotting.write_all(options, pictures)
    console.say(f"wrote {', '.join(['metrics_part1.json', 'predictions.csv', *pictures])} into {options.outputdir}")


def check_outputs(options: settings.Settings) -> None:
    """Raise UserError where --csv, or without --predict a file in outputdir, cannot be written; nothing is created."""
    if not options.predict:
        folders.check_outputs(options)
        with options.checking("outputdir"):
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


def find_suspects(
    options: settings.Settings, checkpoint: dict[str, object], model: wikiart.Classifier, device: torch.device
) -> None:
    """Write the training paintings in the order in which their labels look wrong, and draw the first."""
    with options.checking("trainingdir", DataError):
        dataset = wikiart.WikiArtDataset(
            options.trainingdir, checkpoint["image_size"], checkpoint["classes"], options.cachedir
        )
    if checkpoint["epoch"]:
        console.warn("the network was trained on these labels: they look more probable than they are")
    loader = batches.Batches(dataset.images, dataset.labels, device)
    described = features.compute(model, loader, torch.arange(len(dataset)), dataset.pixel_file)
    copies = duplicates.groups_of(dataset, duplicates.grey_fingerprints(dataset.images))
    with options.checking("trainingdir", DataError):
        found = suspects.predict_out_of_fold(described, dataset.labels, copies, model.has_statistics, options.seed)
    probabilities = found.numpy()
    order = suspects.rank(probabilities, dataset.labels.numpy())
    if left_out := len(dataset) - len(order):
        console.say(f"left out: {console.count(left_out, 'painting')}, of styles with fewer than {suspects.FOLDS}")
    rows = suspects.table(dataset, probabilities, order)
    for path, style, probability, best, other in rows[1:11]:
        console.say(f"{console.printable(path)}: {style} {float(probability):.1%}, {best} {float(other):.1%}")
    files.write_rows(options.output("suspects.csv"), rows)
    plotting.write_all(options, {"suspects.png": lambda: suspects.draw(dataset, probabilities, order)})
    console.say(f"wrote suspects.csv ({len(order):,} paintings), suspects.png into {options.outputdir}")


def predict(
    options: settings.Settings, checkpoint: dict[str, object], model: wikiart.Classifier, device: torch.device
) -> None:
    """Print the three most probable styles of each image of --predict, and write the table of --csv.

    Raises UserError at the end when an image cannot be decoded or a folder holds none; each is named in a warning.
    """
    classes, trained = checkpoint["classes"], report.log_priors(checkpoint)[0]
    prior = options.prior or trained
    meaning = report.PRIORS.get(prior, f"rare styles raised to {checkpoint['settings']['smote_target']} paintings")
    console.say(f"predicting with {meaning}{' (as in training)' if prior == trained else ''}")
    paths, given = batches.given_images(options.predict)
    names, rows = [], []
    with contextlib.closing(batches.from_files(paths, checkpoint["image_size"], options.batch_size)) as loader:
        for batch, images in loader:
            logits = wikiart.classify(model, images.to(device) / 255, flips=True).cpu()
            probabilities = report.with_prior(logits, checkpoint, prior).softmax(1)
            with tqdm.external_write_mode():
                for path, row in zip(batch, probabilities, strict=True):
                    best = row.topk(min(3, len(classes)))
                    texts = [f"{classes[i]} {row[i]:.1%}" for i in best.indices.tolist()]
                    console.say(f"{console.printable(path)}: {', '.join(texts)}")
            names += batch
            rows.append(probabilities)
    if options.csv is not None:
        table = torch.cat([torch.zeros(0, len(classes)), *rows]).numpy()
        report.write_table(options.csv, classes, names, table)
        console.say(f"wrote {console.printable(options.csv)}")
    if len(names) < given:
        raise UserError(f"--predict: {given - len(names)} of {given} could not be read; see the warnings")


if __name__ == "__main__":
    main()
