"""Part 2: reconstruct the test paintings and cluster them by their latents, without a word about their styles.

Prints the figures beside three yardsticks; writes metrics_auto.json, reconstruction.png, clusters.png,
cluster_gallery.png and clusters.csv into outputdir.
"""

import colorsys
import csv
import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.decomposition import PCA
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    completeness_score,
    homogeneity_score,
    silhouette_score,
)
from torch import Tensor
from tqdm import tqdm

import wikiart
from support import batches, checkpoints, console, devices, duplicates, figures, files, settings
from support.console import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SILHOUETTE_POINTS = 10_000  # a silhouette needs all pairwise distances of so many at most
WARD_LIMIT = 10_000  # paintings: Ward holds all pairwise distances, 0.4 GB for so many and 26 GB for all of WikiArt
NAMED = 60  # clusters that a figure numbers at most
GALLERY_ROWS = 40  # clusters that the gallery shows at most
FIGURES = ("ari", "ami", "homogeneity", "completeness", "silhouette")
YARDSTICKS = {
    "latents": "our latents",
    "pixels": "PCA of the pixels",
    "plane": "latents' 2-D plane",
    "colour": "colour histogram",
    "statistics": "style statistics, no network",
}


@console.script
def main(argv: list[str] | None = None) -> None:
    """Load the checkpoint, reconstruct and cluster the test folder, write the files."""
    options = settings.read("autoencoder", __doc__, argv)
    modelfile = options.output(options.modelfile)
    checkpoint = checkpoints.read(modelfile, 2)
    checkpoints.check_flags(options, checkpoint)
    device = devices.start(options, training=False)
    model = wikiart.load_network(checkpoint, console.printable(modelfile)).to(device)

    classes, size = checkpoint["classes"], checkpoint["image_size"]
    with options.blame("testingdir", DataError):
        dataset = wikiart.WikiArtDataset(options.testingdir, size, classes, options.cachedir)
    clusters = len(classes) if options.clusters == "auto" else options.clusters
    if len(dataset) < max(clusters, 2):
        count = f"{len(dataset)} painting{'s' * (len(dataset) > 1)} in {console.quoted(options.testingdir)}"
        raise options.error("clusters", f"{count} cannot make {clusters} clusters; expected at least 2 and as many")

    loader = batches.Batches(dataset.images, dataset.labels, device)
    spaces, errors, pca_errors = measure_paintings(model, loader, options.batch_size)
    plane = project(spaces["latents"], options.seed)[0]
    spaces |= {"latents": scale_latents(model, spaces["latents"]), "plane": plane}
    scaled = spaces["latents"]
    scaled_plane, shares = project(scaled, options.seed)

    labels = dataset.labels.numpy()
    found = {name: cluster(space, clusters, options.seed) for name, space in spaces.items()}
    results = {name: measure(labels, found[name], spaces[name], options.seed) for name in spaces}
    metrics = {
        "mse": float(errors.mean()),
        "psnr": psnr(errors.mean()),
        "pca_mse": float(pca_errors.mean()),
        "images": len(dataset),
        "latent_dim": checkpoint["latent_dim"],
        "clusters": clusters,
        **results.pop("latents"),
        **results,
    }
    note = how_clustered(len(dataset), clusters)
    print_metrics(metrics, note)
    known = duplicates.known_paintings(dataset, checkpoint)
    if known.any():
        rest, paths = None, [path for path, is_known in zip(dataset.paths, known, strict=True) if is_known]
        if not known.all():
            agreement = measure(labels[~known], found["latents"][~known], scaled[~known], options.seed)
            rest = {"mse": float(errors[~known].mean()), **agreement}
            console.say(f"without them: MSE {rest['mse']:.5f}, AMI {rest['ami']:.3f}")
        metrics["also_in_training"] = {"images": len(paths), "paths": paths, "metrics_without": rest}

    files.write_json(options.output("metrics_auto.json"), metrics)
    write_clusters(options, dataset, found["latents"], scaled_plane)
    with figures.drawing("reconstruction.png"):
        figure = draw_reconstructions(model, dataset, errors, metrics, device, options.seed)
        figures.write(options.output("reconstruction.png"), figure)
    with figures.drawing("clusters.png"):
        figure = draw_clusters(scaled_plane, shares, found["latents"], labels, classes, note)
        figures.write(options.output("clusters.png"), figure)
    with figures.drawing("cluster_gallery.png"):
        figures.write(options.output("cluster_gallery.png"), draw_gallery(dataset, scaled, found["latents"]))
    console.say(
        "wrote metrics_auto.json, reconstruction.png, clusters.png, cluster_gallery.png and clusters.csv "
        f"into {options.outputdir}"
    )


def measure_paintings(
    model: wikiart.Autoencoder, loader: batches.Batches, batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What every painting is clustered by, its squared error, and that of the checkpoint's PCA (mean of pixels, [N]).

    By name, float [N, D]: latents, pixels (the PCA's codes), colour (histogram), statistics (of the painting itself).
    """
    columns = {name: [] for name in ("latents", "pixels", "colour", "statistics", "errors", "pca_errors")}
    everything = torch.arange(len(loader))
    with tqdm(total=len(loader), unit="painting", disable=None, leave=False) as bar:
        for images, pictures, latents in wikiart.reconstruct(model, loader, everything, batch_size):
            codes = (images.flatten(1) - model.mean) @ model.components.T
            linear = (codes @ model.components + model.mean).clamp(0, 1)  # clipped as the network's are
            columns["latents"].append(latents)
            columns["pixels"].append(codes)
            columns["colour"].append(wikiart.colour_histogram(4 * images - 2))
            columns["statistics"].append(wikiart.style_statistics(4 * images - 2))
            columns["errors"].append((pictures - images).square().mean((1, 2, 3)))
            columns["pca_errors"].append((linear - images.flatten(1)).square().mean(1))
            bar.update(len(images))
    arrays = {name: torch.cat(parts).double().cpu().numpy() for name, parts in columns.items()}
    return arrays, arrays.pop("errors"), arrays.pop("pca_errors")


def scale_latents(model: wikiart.Autoencoder, latents: np.ndarray) -> np.ndarray:
    """The latents [N, D] as they are clustered, [N, at most D]: by the colours and textures that are read from them.

    The statistics are linear in the latents with weights W = QR, so that R alone, at most D x D, keeps all distances.
    What is hard to read is read too faintly: along each principal axis the spread is therefore replaced by its root,
    half-way to whitening (docs/recipe.md has the trials).
    """
    weights = model.statistics_decoder.weight.detach().double().cpu().numpy()
    read = latents @ np.linalg.qr(weights, mode="r").T
    coordinates, lengths, _ = np.linalg.svd(read - read.mean(0), full_matrices=False)
    whitened, spreads = coordinates * len(read) ** 0.5, lengths / len(read) ** 0.5
    return whitened * np.sqrt(spreads)


def project(points: np.ndarray, seed: int) -> tuple[np.ndarray, list[float]]:
    """The first two principal components [N, 2] of points [N, D], and the two's shares of the variance."""
    pca = PCA(min(2, *points.shape), random_state=seed).fit(points)
    plane = np.zeros((len(points), 2))
    plane[:, : pca.n_components_] = pca.transform(points)
    return plane, [*np.nan_to_num(pca.explained_variance_ratio_), 0.0][:2]


def cluster(points: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Cluster numbers (int [N], 0 the largest cluster) of points [N, D] by Ward's agglomerative clustering.

    Of more than `WARD_LIMIT` points it clusters a sample of so many, drawn by the seed; every other point joins the
    cluster with the nearest mean.
    """
    points = np.ascontiguousarray(points, np.float64)
    if len(points) <= WARD_LIMIT:
        found = AgglomerativeClustering(clusters, linkage="ward").fit_predict(points)
    else:
        drawn = np.random.default_rng(seed).choice(len(points), WARD_LIMIT, replace=False)
        sampled = AgglomerativeClustering(clusters, linkage="ward").fit_predict(points[drawn])
        means = np.stack([points[drawn[sampled == number]].mean(0) for number in range(clusters)])
        lengths = np.square(means).sum(1)  # |p - m|^2 without |p|^2, which is the same for every mean
        parts = np.array_split(points, -(-len(points) // WARD_LIMIT))
        found = np.concatenate([(lengths - 2 * part @ means.T).argmin(1) for part in parts])
        found[drawn] = sampled
    order = np.argsort(-np.bincount(found, minlength=clusters), kind="stable")
    return np.argsort(order)[found]


def how_clustered(count: int, clusters: int) -> str:
    """How `count` paintings were clustered, in words."""
    if count <= WARD_LIMIT:
        return f"Ward clustering of {count:,} paintings into {clusters}"
    return (
        f"Ward clustering of {WARD_LIMIT:,} of {count:,} paintings, drawn by the seed, into {clusters}; "
        "the others joined the nearest cluster mean"
    )


def measure(labels: np.ndarray, found: np.ndarray, points: np.ndarray, seed: int) -> dict[str, float | None]:
    """The cluster figures: how `found` [N] agrees with `labels` [N], and how well it parts `points` [N, D].

    The silhouette (of at most `SILHOUETTE_POINTS` points, drawn by the seed) is None where it is not defined.
    """
    scores = {
        "ari": float(adjusted_rand_score(labels, found)),
        "ami": float(adjusted_mutual_info_score(labels, found)),
        "homogeneity": float(homogeneity_score(labels, found)),
        "completeness": float(completeness_score(labels, found)),
        "silhouette": None,
    }
    if len(points) > SILHOUETTE_POINTS:
        drawn = np.random.default_rng(seed).choice(len(points), SILHOUETTE_POINTS, replace=False)
        points, found = points[drawn], found[drawn]
    if 2 <= len(np.unique(found)) < len(points):
        scores["silhouette"] = float(silhouette_score(points, found))
    return scores


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [0, 1]; 100 where there is no error to speak of."""
    return float(-10 * np.log10(max(mse, 1e-10)))


def print_metrics(metrics: dict[str, object], note: str) -> None:
    """Print the reconstruction's figures, and the clusters' beside those of the yardsticks."""
    gain = 1 - metrics["mse"] / metrics["pca_mse"] if metrics["pca_mse"] > 0 else 0.0
    console.say(
        f"{metrics['images']:,} test paintings in {metrics['latent_dim']} numbers each: MSE {metrics['mse']:.5f} "
        f"(PSNR {metrics['psnr']:.1f} dB); PCA of the pixels {metrics['pca_mse']:.5f} "
        f"({psnr(metrics['pca_mse']):.1f} dB): {abs(gain):.1%} {'less' if gain >= 0 else 'more'} error than it"
    )
    console.say(note)
    console.say(
        "the latents are scaled first: by the weights with which the network reads colours and textures from them, "
        "then half-way to equal spread along all axes"
    )
    width = max(map(len, YARDSTICKS.values()))
    console.say(" " * width + "".join(f"{name:>14}" for name in FIGURES))
    for name, text in YARDSTICKS.items():
        row = metrics if name == "latents" else metrics[name]
        numbers = "".join(f"{'-' if row[figure] is None else f'{row[figure]:.3f}':>14}" for figure in FIGURES)
        console.say(f"{text:<{width}}{numbers}")


def write_clusters(
    options: settings.Settings, dataset: wikiart.WikiArtDataset, found: np.ndarray, plane: np.ndarray
) -> None:
    """Write clusters.csv: a row a painting."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["path", "style", "cluster", "pc1", "pc2"])
    for path, label, number, place in zip(dataset.paths, dataset.labels.tolist(), found, plane, strict=True):
        rows.writerow([path, dataset.classes[label], number, *map(float, place)])
    content = text.getvalue().encode(errors="surrogateescape")
    files.write_whole(options.output("clusters.csv"), lambda file: file.write(content))


def draw_reconstructions(
    model: wikiart.Autoencoder,
    dataset: wikiart.WikiArtDataset,
    errors: np.ndarray,
    metrics: dict[str, object],
    device: torch.device,
    seed: int,
) -> "Figure":
    """Up to ten paintings of different styles drawn by the seed, each above its reconstruction."""
    random = np.random.default_rng(seed)
    labels = dataset.labels.numpy()
    styles = random.permutation(np.unique(labels))[:10]
    chosen = [int(random.choice(np.flatnonzero(labels == style))) for style in np.sort(styles)]
    images = dataset.images[chosen].to(device).float() / 255
    with torch.no_grad():
        pictures = model.decode(model.encode(images)).cpu()
    figure = figures.new(max(6, 1.7 * len(chosen)), 4.6, dpi=110)
    figure.suptitle(
        f"Test paintings above what the autoencoder paints from {metrics['latent_dim']} numbers "
        f"(PSNR of all {metrics['images']:,}: {metrics['psnr']:.1f} dB)"
    )
    for column, number in zip(figure.subplots(2, len(chosen), squeeze=False).T, range(len(chosen)), strict=True):
        name = figures.caption(dataset.classes[labels[chosen[number]]])
        show(column[0], images[number].cpu())
        column[0].set_title(wrap(name), fontsize=8, parse_math=False)
        show(column[1], pictures[number])
        column[1].set_title(f"{psnr(errors[chosen[number]]):.1f} dB", fontsize=8)
    return figure


def show(axes: object, image: Tensor) -> None:
    """Draw an image [3, S, S] without axes, pixel by pixel."""
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.axis("off")


def wrap(name: str) -> str:
    """A long name on two lines."""
    words = name.split(" ")
    return name if len(name) <= 16 else " ".join(words[: len(words) // 2]) + "\n" + " ".join(words[len(words) // 2 :])


def distinct_colours(count: int) -> list[tuple[float, float, float]]:
    """As many colours that can be told apart: hues around the circle, each strong, pale and dark."""
    hues = -(-count // 3)
    tones = [(0.9, 0.85), (0.45, 0.95), (1.0, 0.45)]
    return [colorsys.hsv_to_rgb(number % hues / hues, *tones[number // hues]) for number in range(count)]


def draw_clusters(
    plane: np.ndarray, shares: list[float], found: np.ndarray, labels: np.ndarray, classes: list[str], note: str
) -> "Figure":
    """The scaled latents' 2-D plane [N, 2] twice: by cluster, with the number at its middle, and by true style."""
    figure = figures.new(17, 7.5, dpi=110)
    figure.suptitle(f"The scaled latents' first two principal components. {note}")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    size = float(np.clip(12_000 / len(plane), 2, 30))
    colours = distinct_colours(found.max() + 1)
    left.scatter(*plane.T, s=size, c=[colours[number] for number in found], linewidths=0, alpha=0.8)
    for number, colour in enumerate(colours[:NAMED]):
        middle = np.median(plane[found == number], axis=0)
        box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
        left.text(*middle, str(number), ha="center", va="center", fontsize=8, bbox=box)
    left.set_title(f"by cluster ({len(colours)}, numbered by size)")
    present = np.unique(labels)
    marks = [
        right.scatter(*plane[labels == label].T, s=size, color=colour, linewidths=0, alpha=0.8)
        for label, colour in zip(present, distinct_colours(len(present)), strict=True)
    ]
    names = [figures.caption(classes[label]) for label in present]
    if len(names) <= 2 * NAMED:
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "ncols": -(-len(names) // 40)}
        legend = right.legend(marks, names, fontsize=8, title="true style", markerscale=(30 / size) ** 0.5, **place)
        for text in legend.get_texts():
            text.set_parse_math(False)
    right.set_title(f"by true style ({len(present)})")
    for axes in (left, right):
        axes.set_xlabel(f"first component ({shares[0]:.1%} of the variance)")
        axes.set_ylabel(f"second component ({shares[1]:.1%} of the variance)")
        axes.label_outer(remove_inner_ticks=False)
    return figure


def draw_gallery(dataset: wikiart.WikiArtDataset, points: np.ndarray, found: np.ndarray) -> "Figure":
    """A row a cluster: its size, its most frequent styles, and the eight paintings nearest its middle.

    Of more clusters than `GALLERY_ROWS` it shows the largest.
    """
    count, clusters = min(found.max() + 1, GALLERY_ROWS), found.max() + 1
    figure = figures.new(11.5, 1.05 * count + 0.8, dpi=100)
    shown = "Each cluster's" if count == clusters else f"The {count} largest of {clusters:,} clusters, each one's"
    figure.suptitle(f"{shown} eight paintings nearest its middle")
    labels = dataset.labels.numpy()
    names = [figures.caption(name) for name in dataset.classes]
    grid = figure.subplots(count, 9, squeeze=False, width_ratios=[3.2] + [1] * 8)
    for number, row in enumerate(grid):
        members = np.flatnonzero(found == number)
        distance = np.square(points[members] - points[members].mean(0)).sum(1)
        nearest = members[np.argsort(distance, kind="stable")[:8]]
        numbers = np.bincount(labels[members], minlength=len(names))
        styles = [label for label in np.argsort(-numbers, kind="stable")[:3] if numbers[label]]
        text = f"cluster {number}: {len(members):,} painting{'s' * (len(members) > 1)}\n"
        text += "\n".join(f"{names[label]} {numbers[label] / len(members):.0%}" for label in styles)
        row[0].text(1, 0.5, text, ha="right", va="center", fontsize=8, parse_math=False)
        for axes in row:
            axes.axis("off")
        for axes, i in zip(row[1:], nearest, strict=False):
            show(axes, dataset.images[i])
    return figure


if __name__ == "__main__":
    main()
