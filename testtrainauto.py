"""Part 2: reconstruct the test paintings, cluster their latents without using style labels, find similar paintings.

Prints the figures beside four baselines; writes metrics_auto.json, reconstruction.png, clusters.png,
cluster_gallery.png, dendrogram.png and clusters.csv into outputdir. With --similar it writes similar.png only.
"""

if __name__ == "__main__":
    from support.system import signals

    signals.quiet_ctrl_c()

import colorsys
import contextlib
import os
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.cluster.hierarchy import dendrogram
from sklearn.decomposition import PCA
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    homogeneity_completeness_v_measure,
    silhouette_score,
)
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.utils.data import ConcatDataset

import wikiart
from support.answers import clustering
from support.networks import description, features
from support.paintings import duplicates, folders
from support.system import console, devices, figures, files, settings
from support.system.console import DataError, UserError
from support.training import batches, checkpoints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SWITCHES = {
    "--similar": {
        "metavar": "PATH",
        "nargs": "+",
        "help": "find the paintings most similar to these images, and to all images in these folders",
    }
}
SILHOUETTE_POINTS = 10_000  # a silhouette needs all pairwise distances of so many at most
NAMED = 60  # clusters that a figure numbers at most
GALLERY_ROWS = 40  # clusters that a figure shows at most, a row each
SIMILAR = 8  # paintings that --similar finds for an image
SIMILAR_ROWS = 18  # images that similar.png shows at most
LOOKED_AT = 1000  # paintings of a folder by which it is known as that of the training
LEAST_KNOWN = 0.05  # the share of them that must be training paintings; a folder may have changed since
FIGURES = ("ari", "ami", "nmi", "homogeneity", "completeness", "silhouette")
SPACES = {
    "latents": "our latents: style numbers",
    "content": "our latents: content numbers",
    "pixels": "PCA of the pixels",
    "plane": "2-D plane of the style numbers",
    "colour": "colour histogram",
    "statistics": "statistics of colour and texture",
}
WAYS = {"as_is": "clustered as they are", "half_whitened": "clustered half-whitened"}


@console.script
def main(argv: list[str] | None = None) -> None:
    """Load the checkpoint; reconstruct and cluster the test folder, or find what is similar to the given images."""
    options = settings.read("autoencoder", __doc__, argv, SWITCHES)
    folders.check_outputs(options)
    with options.blame("outputdir"):
        files.check_folder(options.outputdir)
    modelfile = options.output(options.modelfile)
    checkpoint = checkpoints.read(modelfile, 2)
    checkpoints.check_flags(options, checkpoint)
    device = devices.start(options, training=False)
    model = wikiart.load_network(checkpoint, console.printable(modelfile)).to(device)
    if options.similar:
        find_similar(options, model, checkpoint, device)
        return

    classes = checkpoint["classes"]
    with options.blame("testingdir", DataError):
        dataset = wikiart.WikiArtDataset(options.testingdir, checkpoint["image_size"], classes, options.cachedir)
    clusters = len(classes) if options.clusters == "auto" else options.clusters
    if len(dataset) < max(clusters, 2):
        count = f"{console.count(len(dataset), 'painting')} in {console.quoted(options.testingdir)}"
        raise options.error(
            "clusters",
            f"{count} for {clusters} clusters; expected at least 2 paintings, and at least one per cluster",
        )

    loader = batches.Batches(dataset.images, dataset.labels, device)
    spaces, errors, pca_errors = measure_paintings(model, loader, options.batch_size)
    spaces["plane"], shares = project(spaces["latents"], options.seed)
    labels = dataset.labels.numpy()
    results = {name: cluster(spaces[name], labels, clusters, options.seed, device) for name in SPACES}
    points, (_, tree, found) = spaces["latents"], results["latents"]["as_is"]
    metrics = summarize(model, errors, pca_errors, results)
    print_metrics(metrics)
    known, copies = duplicates.known_paintings(dataset, checkpoint)
    if known.any():
        rest = None
        if not known.all():
            agreement = measure(labels[~known], found[~known], points[~known], options.seed)
            rest = {"mse": float(errors[~known].mean()), **agreement}
            console.say(f"without them: MSE {rest['mse']:.5f}, AMI {rest['ami']:.3f}")
        metrics |= duplicates.report(copies, rest)

    files.write_json(options.output("metrics_auto.json"), metrics)
    styles = [classes[label] for label in labels]
    rows = zip(dataset.paths, styles, found, *spaces["plane"].T.tolist(), strict=True)
    files.write_rows(options.output("clusters.csv"), [["path", "style", "cluster", "pc1", "pc2"], *rows])
    pictures = {
        "reconstruction.png": lambda: draw_reconstructions(model, dataset, errors, metrics, device, options.seed),
        "clusters.png": lambda: draw_clusters(spaces["plane"], shares, found, labels, classes),
        "cluster_gallery.png": lambda: draw_gallery(dataset, points, found),
        "dendrogram.png": lambda: draw_dendrogram(dataset, points, tree, clusters),
    }
    figures.write_all(options, pictures)
    console.say(f"wrote {', '.join(['metrics_auto.json', *pictures])} and clusters.csv into {options.outputdir}")


@torch.no_grad()
def measure_paintings(
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
        columns["statistics"].append(description.style(4 * images - 2))
        columns["errors"].append((pictures - images).square().mean((1, 2, 3)))
        columns["pca_errors"].append((linear - images.flatten(1)).square().mean(1))
    arrays = {name: torch.cat(parts).cpu().double().numpy() for name, parts in columns.items()}
    return arrays, arrays.pop("errors"), arrays.pop("pca_errors")


def half_whiten(points: np.ndarray) -> np.ndarray:
    """Points [N, D] with the spread along each principal axis replaced by its square root: [N, at most D].

    Half-way to whitening: what varies little counts more than before, what varies much less.
    """
    coordinates, lengths, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    return coordinates * np.sqrt(lengths * len(points) ** 0.5)


def project(points: np.ndarray, seed: int) -> tuple[np.ndarray, list[float]]:
    """The first two principal components [N, 2] of points [N, D], and the two's shares of the variance."""
    pca = PCA(min(2, *points.shape), random_state=seed).fit(points)
    plane = np.zeros((len(points), 2))
    plane[:, : pca.n_components_] = pca.transform(points)
    return plane, [*np.nan_to_num(pca.explained_variance_ratio_), 0.0][:2]


class Clusters(NamedTuple):
    """Clusters of paintings: figures, tree of merges (float64 [N - 1, 4]) and numbers (int [N], 0 largest)."""

    scores: dict[str, float | None]
    tree: np.ndarray
    found: np.ndarray


def cluster(
    points: np.ndarray, labels: np.ndarray, clusters: int, seed: int, device: torch.device
) -> dict[str, Clusters]:
    """Ward's agglomerative clustering of points [N, D] in each of `WAYS`, measured by labels (int [N])."""
    results = {}
    for way in WAYS:
        scaled = half_whiten(points) if way == "half_whitened" else points
        tree = clustering.ward_linkage(scaled, device if device.type == "cuda" else "cpu")  # it needs float64
        found = clustering.cut(tree, clusters)
        results[way] = Clusters(measure(labels, found, scaled, seed), tree, found)
    return results


def measure(labels: np.ndarray, found: np.ndarray, points: np.ndarray, seed: int) -> dict[str, float | None]:
    """The cluster figures: how `found` [N] agrees with `labels` [N], and how well it parts `points` [N, D].

    The silhouette (of at most `SILHOUETTE_POINTS` points, drawn by the seed) is None where it is not defined.
    """
    homogeneity, completeness, nmi = homogeneity_completeness_v_measure(labels, found)
    scores = {
        "ari": float(adjusted_rand_score(labels, found)),
        "ami": float(adjusted_mutual_info_score(labels, found)),
        "nmi": float(nmi),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        "silhouette": None,
    }
    count = min(len(points), SILHOUETTE_POINTS)
    with contextlib.suppress(ValueError):  # a single cluster, or one per painting
        scores["silhouette"] = float(silhouette_score(points, found, sample_size=count, random_state=seed))
    return scores


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [0, 1]; 100 where there is no error to speak of."""
    return float(-10 * np.log10(max(mse, 1e-10)))


def summarize(
    model: wikiart.Autoencoder, errors: np.ndarray, pca_errors: np.ndarray, results: dict[str, dict[str, Clusters]]
) -> dict[str, object]:
    """What metrics_auto.json holds. `spaces`: the figures of every space in each of `WAYS`.

    Beside it, at the top, those of our latents, and under the baselines' names theirs, all as they are.
    """
    spaces = {name: {way: one.scores for way, one in ways.items()} for name, ways in results.items()}
    return {
        "mse": float(errors.mean()),
        "psnr": psnr(errors.mean()),
        "pca_mse": float(pca_errors.mean()),
        "images": len(errors),
        "latent_dim": len(model.components),
        "content_numbers": len(model.scales),
        "clusters": int(results["latents"]["as_is"].found.max()) + 1,
        **spaces["latents"]["as_is"],
        **{name: ways["as_is"] for name, ways in spaces.items() if name != "latents"},
        "spaces": spaces,
    }


def print_metrics(metrics: dict[str, object]) -> None:
    """Print the reconstruction's figures, and the clusters' beside those of the baselines."""
    gain = 1 - metrics["mse"] / metrics["pca_mse"] if metrics["pca_mse"] > 1e-6 else 0.0
    compared = f": {abs(gain):.1%} {'less' if gain >= 0 else 'more'} error than it" if gain else ""
    console.say(
        f"{metrics['images']:,} test paintings from {metrics['content_numbers']} numbers each: "
        f"MSE {metrics['mse']:.5f} (PSNR {metrics['psnr']:.1f} dB); from {metrics['latent_dim']} of a PCA of the "
        f"training pixels: {metrics['pca_mse']:.5f} ({psnr(metrics['pca_mse']):.1f} dB){compared}"
    )
    console.say(
        f"Ward clustering into {metrics['clusters']} clusters; half-whitened: the spread along each principal axis is "
        "replaced by its square root"
    )
    width = 2 + max(map(len, [*SPACES.values(), *WAYS.values()]))
    for way, title in WAYS.items():
        console.say(f"{title:<{width}}" + "".join(f"{name:>14}" for name in FIGURES))
        for name, text in SPACES.items():
            row = metrics["spaces"][name][way]
            numbers = "".join(f"{'-' if row[figure] is None else f'{row[figure]:.3f}':>14}" for figure in FIGURES)
            console.say(f"  {text:<{width - 2}}{numbers}")


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
    figure = figures.new(max(9, 1.7 * len(chosen)), 4.6, dpi=110)
    figure.suptitle(
        f"Test paintings above their reconstructions from {metrics['content_numbers']} numbers "
        f"(PSNR of all {metrics['images']:,}: {metrics['psnr']:.1f} dB)"
    )
    for column, number in zip(figure.subplots(2, len(chosen), squeeze=False).T, range(len(chosen)), strict=True):
        name = figures.caption(dataset.classes[labels[chosen[number]]])
        show(column[0], images[number].cpu())
        column[0].set_title(textwrap.fill(name, 18), fontsize=8, parse_math=False)
        show(column[1], pictures[number])
        column[1].set_title(f"{psnr(errors[chosen[number]]):.1f} dB", fontsize=8)
    return figure


def show(axes: object, image: Tensor) -> None:
    """Draw an image [3, S, S] without axes, pixel by pixel."""
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.axis("off")


def distinct_colours(count: int) -> list[tuple[float, float, float]]:
    """As many colours that can be told apart: hues around the circle, beyond ten of them pale and dark ones too."""
    hues = max(-(-count // 3), min(count, 10))
    tones = [(0.9, 0.85), (0.45, 0.95), (1.0, 0.45)]
    return [colorsys.hsv_to_rgb(number % hues / hues, *tones[number // hues]) for number in range(count)]


def draw_clusters(
    plane: np.ndarray, shares: list[float], found: np.ndarray, labels: np.ndarray, classes: list[str]
) -> "Figure":
    """The latents' 2-D plane [N, 2] twice: by cluster, with the number at its middle, and by true style."""
    figure = figures.new(17, 7.5, dpi=110)
    figure.suptitle(
        f"{len(plane):,} test paintings: the first two principal components of their latents' style numbers "
        "(colours of the two sides are unrelated)"
    )
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    size = float(np.clip(12_000 / len(plane), 2, 30))
    colours = distinct_colours(found.max() + 1)
    left.scatter(*plane.T, s=size, c=[colours[number] for number in found], linewidths=0, alpha=0.8)
    for number, colour in enumerate(colours[:NAMED]):
        middle = np.median(plane[found == number], axis=0)
        box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
        left.text(*middle, str(number), ha="center", va="center", fontsize=8, bbox=box)
    marked = f"; the {NAMED} largest are marked" if len(colours) > NAMED else ""
    left.set_title(f"by cluster ({len(colours)}, numbered by size{marked})")
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
    right.set_title(f"by true style ({len(present)}{'' if right.get_legend() else ', too many to name'})")
    for axes in (left, right):
        axes.set_xlabel(f"first component ({shares[0]:.1%} of the variance)")
        axes.set_ylabel(f"second component ({shares[1]:.1%} of the variance)")
        axes.label_outer(remove_inner_ticks=False)
    return figure


def describe(members: np.ndarray, labels: np.ndarray, names: list[str], most: int) -> str:
    """How many paintings (indices `members`) a cluster has, and its most frequent styles with their shares."""
    numbers = np.bincount(labels[members], minlength=len(names))
    styles = [label for label in np.argsort(-numbers, kind="stable")[:most] if numbers[label]]
    lines = [console.count(len(members), "painting")]
    return "\n".join([*lines, *(f"{names[label]} {numbers[label] / len(members):.0%}" for label in styles)])


def central(points: np.ndarray, members: np.ndarray, most: int) -> np.ndarray:
    """Those of the members (indices into points [N, D]) nearest to their mean, the nearest first."""
    distance = np.square(points[members] - points[members].mean(0)).sum(1)
    return members[np.argsort(distance, kind="stable")[:most]]


def draw_gallery(dataset: wikiart.WikiArtDataset, points: np.ndarray, found: np.ndarray) -> "Figure":
    """A row per cluster: its size, its most frequent styles, and the eight paintings nearest its middle.

    Of more clusters than `GALLERY_ROWS` it shows the largest.
    """
    count, clusters = min(found.max() + 1, GALLERY_ROWS), found.max() + 1
    figure = figures.new(11.5, 1.05 * count + 0.8, dpi=100)
    shown = "Each cluster's" if count == clusters else f"The {count} largest of {clusters:,} clusters, each one's"
    figure.suptitle(f"{shown} eight paintings nearest its middle")
    labels, names = dataset.labels.numpy(), [figures.caption(name) for name in dataset.classes]
    for number, row in enumerate(figure.subplots(count, 9, squeeze=False, width_ratios=[3.2] + [1] * 8)):
        members = np.flatnonzero(found == number)
        text = f"cluster {number}: {describe(members, labels, names, 3)}"
        row[0].text(1, 0.5, text, ha="right", va="center", fontsize=8, parse_math=False)
        for axes in row:
            axes.axis("off")
        for axes, i in zip(row[1:], central(points, members, 8), strict=False):
            show(axes, dataset.images[i])
    return figure


def draw_dendrogram(dataset: wikiart.WikiArtDataset, points: np.ndarray, tree: np.ndarray, clusters: int) -> "Figure":
    """The last merges of a tree (float64 [N - 1, 4]), and beside each group that they join three of its paintings.

    A group is a cluster, or holds several where there are more than `GALLERY_ROWS`.
    """
    count = min(clusters, GALLERY_ROWS)
    found, word = clustering.cut(tree, count), "cluster" if count == clusters else "group"
    shape = dendrogram(tree, count, "lastp", no_plot=True)
    row, side = 0.62, 0.57  # inches
    width, height, below = 10.5, count * row + 1.3, 0.65
    figure = figures.new(width, height, dpi=100)
    figure.set_layout_engine("none")  # rows of known places
    figure.suptitle(f"How the {count} {word}s merge, with three paintings of each", y=1 - 0.25 / height)
    axes = figure.add_axes((0.03, below / height, 0.46, count * row / height))
    for places, heights in zip(shape["icoord"], shape["dcoord"], strict=True):
        axes.plot(heights, np.array(places) / 10 - 0.5, color="tab:blue")
    low, top = tree[-count + 1 :, 2].min(initial=tree[-1, 2]), tree[-1, 2] or 1.0
    axes.set(xlim=(1.03 * top, 0.9 * low), ylim=(count - 0.5, -0.5), yticks=[])
    axes.set_xlabel("Ward's distance of the two that merge")
    axes.spines[["left", "top", "right"]].set_visible(False)
    labels, names = dataset.labels.numpy(), [figures.caption(name) for name in dataset.classes]
    for place, node in enumerate(shape["leaves"]):
        while node > len(tree):
            node = int(tree[node - len(tree) - 1, 0])  # to any of its paintings
        members = np.flatnonzero(found == found[node])
        text = f"{word} {found[node]}: {describe(members, labels, names, 1)}"
        middle = height - 0.65 - (place + 0.5) * row
        figure.text(0.5, middle / height, text, va="center", fontsize=8, parse_math=False)
        for column, i in enumerate(central(points, members, 3)):
            left = 0.75 + column * row / width
            show(figure.add_axes((left, (middle - side / 2) / height, side / width, side / height)), dataset.images[i])
    return figure


def find_similar(
    options: settings.Settings, model: wikiart.Autoencoder, checkpoint: dict[str, object], device: torch.device
) -> None:
    """Print and draw the paintings of the training and test folders nearest to each image of --similar, without itself.

    Raises UserError at the end when an image cannot be decoded or a folder holds none; each is named in a warning.
    """
    datasets = open_folders(options, checkpoint)
    given, number = batches.given_images(options.similar)
    paths, pixels, own = [], [], []
    with contextlib.closing(batches.from_files(given, checkpoint["image_size"], options.batch_size)) as loader:
        for part, images in loader:
            paths += part
            pixels += images[: SIMILAR_ROWS - len(pixels)]
            own.append(wikiart.embed(model, images.to(device) / 255).cpu())
    if paths:
        latents = torch.cat([stored_latents(model, dataset, options.batch_size, device) for dataset in datasets])
        neighbours = min(SIMILAR + len(datasets), len(latents))  # an image may be in both folders
        search = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(latents.double())
        distances, nearest = search.kneighbors(torch.cat(own).double())
        everything = ConcatDataset(datasets)
        files_of = [
            (path, dataset.classes[label])
            for dataset in datasets
            for path, label in zip(dataset.paths, dataset.labels, strict=True)
        ]
        found = []
        for path, row, apart in zip(paths, nearest, distances, strict=True):
            others = [(i, far) for i, far in zip(row, apart, strict=True) if not os.path.samefile(path, files_of[i][0])]
            found.append([(i, *files_of[i], far) for i, far in others[:SIMILAR]])
            console.say(f"{console.printable(path)} is most similar to")
            for _, file, style, distance in found[-1]:
                console.say(f"  {distance:8.3f}  {file}  ({style})")
        figures.write_all(options, {"similar.png": lambda: draw_similar(paths, pixels, found, everything)})
        console.say(f"wrote similar.png into {options.outputdir}")
    if len(paths) < number:
        raise UserError(f"--similar: {number - len(paths)} of {number} could not be read; see the warnings")


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
        with options.blame(name, DataError):
            folder = getattr(options, name)
            datasets.append(wikiart.WikiArtDataset(folder, checkpoint["image_size"], classes, options.cachedir))
            if name == "trainingdir":
                check_trained_on(datasets[-1], checkpoint, folder)
        console.say(f"searching {console.count(len(datasets[-1]), 'painting')} in {console.quoted(folder)}")
    for name in set(names) - set(present):
        console.say(f"no folder {console.quoted(getattr(options, name))}: it is not searched")
    return datasets


def check_trained_on(dataset: wikiart.WikiArtDataset, checkpoint: dict[str, object], folder: str) -> None:
    """Raise DataError where hardly any painting of a folder is, or looks like, one that the network was trained on."""
    step = -(-len(dataset) // LOOKED_AT)
    known = torch.isin(dataset.fingerprints[::step], checkpoint["fingerprints"])
    thumbnails = duplicates.grey_fingerprints(dataset.images[::step])  # other machines decode to other pixels
    pairs, _ = duplicates.near_duplicates(thumbnails, duplicates.unpack(checkpoint["thumbnails"]))
    known[pairs[:, 0]] = True
    most = min(1.0, len(checkpoint["fingerprints"]) / len(dataset))  # the share if all of the training were there
    if known.sum() < LEAST_KNOWN * most * len(known):
        looked_at = console.count(len(known), "painting") + " looked at" * (step > 1)
        raise DataError(
            f"the network was trained on {known.sum()} of {looked_at} in {console.quoted(folder)}; expected the folder "
            "that it was trained on, give it with --trainingdir"
        )


def stored_latents(
    model: wikiart.Autoencoder, dataset: wikiart.WikiArtDataset, batch_size: int, device: torch.device
) -> Tensor:
    """A folder's paintings as `wikiart.embed` has them, float32 [N, D]; kept in a file beside its pixels."""

    def compute() -> Tensor:
        loader = batches.Batches(dataset.images, dataset.labels, device)
        return torch.cat([wikiart.embed(model, images).cpu() for images in loader.all_images(batch_size)])

    return features.cached(features.cache_path(dataset.pixel_file, model, len(dataset)), compute)


def draw_similar(
    paths: list[str], images: list[Tensor], found: list[list[tuple[int, str, str, float]]], everything: ConcatDataset
) -> "Figure":
    """A row per image (uint8 [3, S, S]), at most `SIMILAR_ROWS`: itself, then what was found, the nearest first.

    found: index in `everything`, path, style and distance of each.
    """
    count = min(len(paths), SIMILAR_ROWS)
    figure = figures.new(15, 2.3 * count + 0.5, dpi=100)
    shown = "Left the image" if count == len(paths) else f"Left the first {count} of {len(paths):,} images"
    figure.suptitle(
        f"{shown}, right of it the paintings whose latents have the nearest content, with style and distance"
    )
    for number, row in enumerate(figure.subplots(count, SIMILAR + 1, squeeze=False)):
        for axes in row:
            axes.axis("off")
        show(row[0], images[number])
        row[0].set_title(f"{file_name(paths[number])}", fontsize=7, fontweight="bold", parse_math=False)
        for axes, (i, path, style, distance) in zip(row[1:], found[number], strict=False):
            show(axes, everything[i][0])
            text = f"{figures.caption(style)}, {distance:.3f}\n{file_name(path)}"
            axes.set_title(text, fontsize=7, parse_math=False)
    return figure


def file_name(path: str) -> str:
    """A file's name without its folder, on at most two short lines."""
    name = console.printable(os.path.basename(path))
    return textwrap.fill(name, 26, max_lines=2, placeholder="\N{HORIZONTAL ELLIPSIS}")


if __name__ == "__main__":
    main()
