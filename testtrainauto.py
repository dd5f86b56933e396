"""Part 2: reconstruct the test paintings, cluster their latents without using style labels, find similar paintings.

Prints the figures beside four baselines; writes metrics_auto.json, reconstruction.png, clusters.png,
cluster_gallery.png, dendrogram.png and clusters.csv into outputdir. With --similar it writes similar.png only.
"""

if __name__ == "__main__":
    from support.system import signals

    signals.quiet_ctrl_c()

import os

import numpy as np
import torch

import wikiart
from support.answers import clustering, pictures_part2, similar
from support.networks import description
from support.paintings import duplicates, folders
from support.system import console, devices, files, plotting, settings
from support.system.console import DataError
from support.training import batches, checkpoints

SWITCHES = {
    "--similar": {
        "metavar": "PATH",
        "nargs": "+",
        "help": "find the paintings most similar to these images, and to all images in these folders",
    }
}


@console.script
def main(argv: list[str] | None = None) -> None:
    """Load the checkpoint; reconstruct and cluster the test folder, or find what is similar to the given images."""
    options = settings.read("autoencoder", __doc__, argv, SWITCHES)
    folders.check_outputs(options)
    with options.checking("outputdir"):
        files.check_folder(options.outputdir)
    modelfile = options.output(options.modelfile)
    checkpoint = checkpoints.read(modelfile, 2)
    checkpoints.check_flags(options, checkpoint)
    device = devices.start(options, training=False)
    model = wikiart.load_network(checkpoint, console.printable(modelfile)).to(device)
    if options.similar:
        similar.find_similar(options, model, open_folders(options, checkpoint), wikiart.embed, device)
        return

    classes = checkpoint["classes"]
    with options.checking("testingdir", DataError):
        dataset = wikiart.WikiArtDataset(options.testingdir, checkpoint["image_size"], classes, options.cachedir)
    clusters = len(classes) if options.clusters == "auto" else options.clusters
    if len(dataset) < max(clusters, 2):
        count = f"{console.count(len(dataset), 'painting')} in {console.quoted(options.testingdir)}"
        raise options.error(
            "clusters",
            f"{count} for {clusters} clusters; expected at least 2 paintings, and at least one per cluster",
        )

    loader = batches.Batches(dataset.images, dataset.labels, device)
    spaces, errors, pca_errors = encode_paintings(model, loader, options.batch_size)
    spaces["plane"], shares = clustering.project(spaces["latents"], options.seed)
    labels = dataset.labels.numpy()
    results = {
        name: clustering.cluster(spaces[name], labels, clusters, options.seed, device) for name in clustering.SPACES
    }
    points, (_, tree, found) = spaces["latents"], results["latents"]
    metrics = clustering.summarize(model, errors, pca_errors, results)
    clustering.print_metrics(metrics)
    known, copies = duplicates.known_paintings(dataset, checkpoint)
    if known.any():
        rest = None
        if not known.all():
            agreement = clustering.score_clusters(labels[~known], found[~known], points[~known], options.seed)
            rest = {"mse": float(errors[~known].mean()), **agreement}
            console.say(f"without them: MSE {rest['mse']:.5f}, AMI {rest['ami']:.3f}")
        metrics |= duplicates.report(copies, rest)

    files.write_json(options.output("metrics_auto.json"), metrics)
    styles = [classes[label] for label in labels]
    rows = zip(dataset.paths, styles, found, *spaces["plane"].T.tolist(), strict=True)
    files.write_rows(options.output("clusters.csv"), [["path", "style", "cluster", "pc1", "pc2"], *rows])
    pictures = {
        "reconstruction.png": lambda: pictures_part2.draw_reconstructions(
            model, dataset, errors, metrics, device, options.seed
        ),
        "clusters.png": lambda: pictures_part2.draw_clusters(spaces["plane"], shares, found, labels, classes),
        "cluster_gallery.png": lambda: pictures_part2.draw_gallery(dataset, points, found),
        "dendrogram.png": lambda: pictures_part2.draw_dendrogram(dataset, points, tree, clusters),
    }
    plotting.write_all(options, pictures)
    console.say(f"wrote {', '.join(['metrics_auto.json', *pictures])} and clusters.csv into {options.outputdir}")


@torch.no_grad()
def encode_paintings(
    model: wikiart.Autoencoder, loader: batches.Batches, batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What every painting is clustered by, its squared error, and that of the checkpoint's PCA (mean of pixels, [N]).

    By name, float [N, D]: latents (their style numbers), content (the others), pixels (the PCA's codes), colour
    (histogram), statistics (of the painting itself).
    """
    columns = {name: [] for name in ("latents", "content", "pixels", "colour", "statistics", "errors", "pca_errors")}
    for images in loader.all_images(batch_size):
        latents = model.encode(images)
        pictures = model.decode(latents)
        codes = (images.flatten(1) - model.mean) @ model.components.T
        linear = (codes @ model.components + model.mean).clamp(0, 1)  # clipped as the network's are
        columns["latents"].append(latents[:, : model.style_dim])
        columns["content"].append(latents[:, model.style_dim :])
        columns["pixels"].append(codes)
        columns["colour"].append(description.colour_histogram(4 * images - 2))
        columns["statistics"].append(description.colour_and_texture(4 * images - 2))
        columns["errors"].append((pictures - images).square().mean((1, 2, 3)))
        columns["pca_errors"].append((linear - images.flatten(1)).square().mean(1))
    arrays = {name: torch.cat(parts).cpu().double().numpy() for name, parts in columns.items()}
    return arrays, arrays.pop("errors"), arrays.pop("pca_errors")


def open_folders(options: settings.Settings, checkpoint: dict[str, object]) -> list[wikiart.WikiArtDataset]:
    """The folders that --similar searches, and says so: training and test, or the one of them that exists.

    Raises UserError where the network was trained on hardly any painting of the training folder, or does not know a
    style of the test folder: that is another collection.
    """
    names, datasets = ["trainingdir", "testingdir"], []
    if os.path.realpath(options.trainingdir) == os.path.realpath(options.testingdir):
        names.pop()
    present = [name for name in names if os.path.isdir(getattr(options, name))]
    for name in present or names:
        classes = checkpoint["classes"] if name == "testingdir" else None
        with options.checking(name, DataError):
            folder = getattr(options, name)
            datasets.append(wikiart.WikiArtDataset(folder, checkpoint["image_size"], classes, options.cachedir))
            if name == "trainingdir":
                similar.check_trained_on(datasets[-1], checkpoint, folder)
        console.say(f"searching {console.count(len(datasets[-1]), 'painting')} in {console.quoted(folder)}")
    for name in set(names) - set(present):
        console.say(f"no folder {console.quoted(getattr(options, name))}: it is not searched")
    return datasets


if __name__ == "__main__":
    main()
