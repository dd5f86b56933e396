"""Part 2: reconstruct the test paintings, cluster their latents without using style labels, find similar paintings.

Prints the figures beside four baselines; writes metrics_auto.json, reconstruction.png, clusters.png,
cluster_gallery.png, dendrogram.png and clusters.csv into outputdir. With --similar it writes similar.png only.
"""

if __name__ == "__main__":
    from support.system import signals

    signals.quiet_ctrl_c()

import os
import time

import numpy as np
import torch

import wikiart
from support.answers import clustering, pictures_part2, provenance, similar
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
    started = time.perf_counter()
    options = settings.read("autoencoder", __doc__, argv, SWITCHES, training=False)
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
    n_clusters = number_of_clusters(options, dataset)
    loader = batches.Batches(dataset.images, dataset.labels, device)
    spaces, errors, pca_errors = encode_paintings(model, loader, options.batch_size)
    plane, shares = clustering.project(spaces["style"], options.seed)
    spaces["style_plane"], labels = plane, dataset.labels.numpy()
    results = {
        name: clustering.cluster(spaces[name], labels, n_clusters, options.seed, device) for name in clustering.SPACES
    }
    points, (_, tree, clusters) = spaces["style"], results["style"]
    metrics = {
        "mse": float(errors.mean()),
        "psnr": clustering.psnr(errors.mean()),
        "pca_mse": float(pca_errors.mean()),
        "images": len(dataset),
        "content_numbers": checkpoint["latent_dim"] - model.style_dim,
        "clusters": n_clusters,
        "spaces": {name: result.scores for name, result in results.items()},
    }
    known, copies = duplicates.known_paintings(dataset, checkpoint)
    rest, new = None, ~known
    if 0 < new.sum() < len(new):
        scores = clustering.score_clusters(labels[new], clusters[new], points[new], options.seed)
        rest = {"mse": float(errors[new].mean()), **scores}
    metrics |= duplicates.report(copies, rest)
    metrics["run"] = provenance.run_block(options, checkpoint, device, started)
    clustering.print_metrics(metrics)

    files.write_json(options.output("metrics_auto.json"), metrics)
    styles = [classes[label] for label in labels]
    rows = zip(dataset.paths, styles, clusters, *plane.T.tolist(), strict=True)
    files.write_rows(options.output("clusters.csv"), [["path", "style", "cluster", "pc1", "pc2"], *rows])
    pictures = {
        "reconstruction.png": lambda: pictures_part2.draw_reconstructions(
            model, dataset, errors, metrics, device, options.seed
        ),
        "clusters.png": lambda: pictures_part2.draw_clusters(plane, shares, clusters, labels, classes),
        "cluster_gallery.png": lambda: pictures_part2.draw_gallery(dataset, points, clusters),
        "dendrogram.png": lambda: pictures_part2.draw_dendrogram(dataset, points, tree, n_clusters),
    }
    plotting.write_all(options, pictures)
    console.say(f"wrote {', '.join(['metrics_auto.json', 'clusters.csv', *pictures])} into {options.outputdir}")


def number_of_clusters(options: settings.Settings, dataset: wikiart.WikiArtDataset) -> int:
    """That of the settings, or as many as there are styles; UserError where there are too few paintings for it."""
    number = len(dataset.classes) if options.clusters == "auto" else options.clusters
    if len(dataset) < max(number, 2):
        count = f"{console.count(len(dataset), 'painting')} in {console.quoted(options.testingdir)}"
        expected = "expected at least 2 paintings, and at least one per cluster"
        raise options.error("clusters", f"{count} for {number} clusters; {expected}")
    return number


@torch.no_grad()
def encode_paintings(
    model: wikiart.Autoencoder, loader: batches.Batches, batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What paintings are clustered by, the squared errors of their reconstructions, and those of the checkpoint's PCA.

    The first by the names of `clustering.SPACES`, float64 [N, D]; the errors are means over a painting's pixels, [N].
    """
    rows = []
    for images in loader.all_images(batch_size):
        latents = model.encode(images)
        codes = (images.flatten(1) - model.mean) @ model.components.T
        linear = (codes @ model.components + model.mean).clamp(0, 1)  # clipped as the network's are
        rows.append({
            "style": latents[:, : model.style_dim],
            "content": latents[:, model.style_dim :],
            "pixels": codes,
            "colour": description.colour_histogram(4 * images - 2),
            "statistics": description.colour_and_texture(4 * images - 2),
            "errors": (model.decode(latents) - images).square().mean((1, 2, 3)),
            "pca_errors": (linear - images.flatten(1)).square().mean(1),
        })  # fmt: skip
    arrays = {name: torch.cat([row[name] for row in rows]).cpu().double().numpy() for name in rows[0]}
    return arrays, arrays.pop("errors"), arrays.pop("pca_errors")


def open_folders(options: settings.Settings, checkpoint: dict[str, object]) -> list[wikiart.WikiArtDataset]:
    """The folders that --similar searches, and says so: training and test, or the one of them that exists.

    Raises UserError where they are of another collection: the network was trained on hardly any painting of the
    training folder, or does not know a style of the test folder.
    """
    names, datasets = ["trainingdir", "testingdir"], []
    if os.path.realpath(options.trainingdir) == os.path.realpath(options.testingdir):
        names.pop()
    present = [name for name in names if os.path.isdir(getattr(options, name))] or names
    for name in names:
        folder, classes = getattr(options, name), checkpoint["classes"] if name == "testingdir" else None
        if name not in present:
            console.say(f"no folder {console.quoted(folder)}: it is not searched")
            continue
        with options.checking(name, DataError):
            datasets.append(wikiart.WikiArtDataset(folder, checkpoint["image_size"], classes, options.cachedir))
            if name == "trainingdir":
                similar.check_trained_on(datasets[-1], checkpoint, folder)
        console.say(f"searching {console.count(len(datasets[-1]), 'painting')} in {console.quoted(folder)}")
    return datasets


if __name__ == "__main__":
    main()
