"""Part 2: reconstruct the test paintings, cluster their latents without using style labels, find similar paintings.

Prints the figures beside four baselines; writes metrics_auto.json, clusters.csv, latents.npy, reconstruction.png,
clusters.png, cluster_gallery.png, dendrogram.png and map.html into outputdir. With --similar it writes similar.png
only, with --map only map.html.
"""

if __name__ == "__main__":
    from support.system import signals

    signals.quiet_ctrl_c()

import os
import time

import numpy as np
import torch

import wikiart
from support.answers import clustering, pictures_part2, provenance, similar, ward
from support.answers import map as painting_map
from support.networks import histograms
from support.paintings import duplicates, folders
from support.system import console, devices, files, plotting, settings
from support.system.console import DataError, UserError
from support.training import batches, checkpoints

SWITCHES = {
    "--similar": {
        "metavar": "PATH",
        "nargs": "+",
        "help": "find the paintings most similar to these images, and to all images in these folders",
    },
    "--map": {"metavar": "FOLDER", "nargs": "+", "help": "write only the map, of the paintings in these folders"},
}


@console.script
def main(argv: list[str] | None = None) -> None:
    """Load the checkpoint; reconstruct and cluster the test folder, or do what --similar or --map asks for."""
    started = time.perf_counter()
    options = settings.read("autoencoder", __doc__, argv, SWITCHES, training=False)
    checkpoint, model, device = load(options)
    if options.similar:
        return similar.find_similar(options, model, open_folders(options, checkpoint), wikiart.embed, device)
    if options.map:
        return map_folders(options, checkpoint, model, device)

    classes = checkpoint["classes"]
    with options.checking("testingdir", DataError):
        dataset = wikiart.WikiArtDataset(options.testingdir, checkpoint["image_size"], classes, options.cachedir)
    n_clusters = clustering.number_of_clusters(options, classes, len(dataset), console.quoted(options.testingdir))
    loader = batches.Batches(dataset.images, dataset.labels, device)
    spaces, errors, pca_errors = encode_paintings(model, loader, options.batch_size)
    plane, shares = clustering.project(spaces["style"], options.seed)
    spaces["style_plane"], labels = plane, dataset.labels.numpy()
    results = {
        name: clustering.cluster(spaces[name], labels, n_clusters, options.seed, device)
        for name in clustering.SPACES
        if spaces[name].size  # there may be no trunk
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
    latents = np.concatenate([points, spaces["content"]], 1, dtype=np.float32)
    files.write_whole(options.output("latents.npy"), lambda file: np.save(file, latents))
    pictures = {
        "reconstruction.png": lambda: pictures_part2.draw_reconstructions(
            model, dataset, errors, metrics, device, options.seed
        ),
        "clusters.png": lambda: pictures_part2.draw_clusters(plane, shares, clusters, labels, classes),
        "cluster_gallery.png": lambda: pictures_part2.draw_gallery(dataset, points, clusters),
        "dendrogram.png": lambda: pictures_part2.draw_dendrogram(dataset, points, tree, n_clusters),
    }
    plotting.write_all(options, pictures)
    painting_map.write(options, dataset.paths, styles, likeness_spaces(model, latents), clusters)
    written = ", ".join(["metrics_auto.json", "clusters.csv", "latents.npy", *pictures, "map.html"])
    console.say(f"wrote {written} into {options.outputdir}")


def load(options: settings.Settings) -> tuple[dict[str, object], wikiart.Autoencoder, torch.device]:
    """The checkpoint, its network, and the device that this is on; UserError where outputdir cannot be written."""
    folders.check_outputs(options)
    with options.checking("outputdir"):
        files.check_folder(options.outputdir)
    modelfile = options.output(options.modelfile)
    checkpoint = checkpoints.read(modelfile, 2)
    checkpoints.check_flags(options, checkpoint)
    device = devices.start(options, training=False)
    return checkpoint, wikiart.load_network(checkpoint, console.printable(modelfile)).to(device), device


@torch.no_grad()
def encode_paintings(
    model: wikiart.Autoencoder, loader: batches.Batches, batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What paintings are clustered by, the squared errors of their reconstructions, and those of the checkpoint's PCA.

    The first by the names of `clustering.SPACES`, float64 [N, D]; the errors are means over a painting's pixels, [N].
    """
    rows = []
    for images in loader.all_images(batch_size):
        described = model.description.all_features(images)
        latents = torch.cat([model.style(described), model.content(images)], 1)
        codes = (images.flatten(1) - model.mean) @ model.components.T
        linear = (codes @ model.components + model.mean).clamp(0, 1)  # clipped as the network's are
        rows.append({
            "style": latents[:, : model.style_dim],
            "content": latents[:, model.style_dim :],
            "pixels": codes,
            "colour": histograms.colour_histogram(4 * images - 2),
            "statistics": histograms.colour_and_texture(4 * images - 2),
            "trunk": described[:, : model.description.trunk_width],
            "errors": (model.decode(latents) - images).square().mean((1, 2, 3)),
            "pca_errors": (linear - images.flatten(1)).square().mean(1),
        })  # fmt: skip
    arrays = {name: torch.cat([row[name] for row in rows]).cpu().double().numpy() for name in rows[0]}
    return arrays, arrays.pop("errors"), arrays.pop("pca_errors")


def likeness_spaces(model: wikiart.Autoencoder, latents: np.ndarray) -> dict[str, np.ndarray]:
    """What the map compares paintings by: latents [N, latent_dim], the content numbers weighed as by wikiart.embed."""
    style, content = np.split(latents, [model.style_dim], 1)
    return {"style": style, "content": content * model.content_std.cpu().numpy()}


def map_folders(
    options: settings.Settings, checkpoint: dict[str, object], model: wikiart.Autoencoder, device: torch.device
) -> None:
    """Write the map of the paintings in the folders of --map, clustered; a folder need not have a folder per style."""
    paths, styles, latents, image_size = [], [], [], checkpoint["image_size"]
    for folder in options.map:
        try:
            dataset = wikiart.WikiArtDataset(folder, image_size, None, options.cachedir)
            images, inside, names = dataset.images, dataset.paths, [dataset.classes[label] for label in dataset.labels]
        except DataError as error:  # no folder per style
            parts = list(batches.from_files(folders.find_in_folder(folder), image_size, options.batch_size))
            if not parts:
                raise UserError(f"--map: {error}") from None
            images, inside = torch.cat([pixels for _, pixels in parts]), [path for part, _ in parts for path in part]
            names = ["no style"] * len(inside)
        paths, styles = paths + inside, styles + names
        loader = batches.Batches(images, torch.zeros(len(images), dtype=torch.int64), device)
        latents += [model.encode(part).cpu() for part in loader.all_images(options.batch_size)]
    spaces = likeness_spaces(model, torch.cat(latents).double().numpy())
    n_clusters = clustering.number_of_clusters(options, checkpoint["classes"], len(paths), "the folders of --map")
    tree = ward.ward_linkage(spaces["style"], device if device.type == "cuda" else "cpu")
    painting_map.write(options, paths, styles, spaces, ward.cut_tree(tree, n_clusters))
    console.say(f"wrote map.html into {options.outputdir}")


def open_folders(options: settings.Settings, checkpoint: dict[str, object]) -> list[wikiart.WikiArtDataset]:
    """The folders that --similar searches, and says so: training and test, or the one of them that exists.

    Raises UserError where they are of another collection: the network was trained on hardly any painting of the
    training folder, or does not know every style in the test folder.
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
