"""Part 2's clusters: of what, how well they agree with the styles, and the printed table. ward.py does the clustering.

To add a score, add it to `score_clusters`: it is then printed, and written to metrics_auto.json.
"""

import contextlib
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    homogeneity_completeness_v_measure,
    silhouette_score,
)

from support.answers import ward
from support.system import console, settings

SILHOUETTE_POINTS = 10_000  # a silhouette needs all pairwise distances of so many at most
SPACES = {
    "style": "style numbers of the latent vectors",
    "content": "content numbers of the latent vectors",
    "pixels": "PCA of the pixels",
    "style_plane": "style numbers, reduced to two by a PCA",
    "colour": "colour histograms",
    "statistics": "statistics of colour and texture",
    "trunk": "pooled features of the pretrained trunk",
}


class Clustering(NamedTuple):
    """Scores, tree of merges (float64 [N - 1, 4]) and cluster numbers (int64 [N], 0 the largest) of N paintings."""

    scores: dict[str, float | None]
    tree: np.ndarray
    clusters: np.ndarray


def number_of_clusters(options: settings.Settings, classes: list[str], paintings: int, where: str) -> int:
    """That of the settings, or as many as there are styles; UserError where there are too few paintings for it."""
    number = len(classes) if options.clusters == "auto" else options.clusters
    if paintings < max(number, 2):
        count = f"{console.count(paintings, 'painting')} in {where}"
        expected = "expected at least 2 paintings, and at least one per cluster"
        raise options.error("clusters", f"{count} for {number} clusters; {expected}")
    return number


def project(points: np.ndarray, seed: int) -> tuple[np.ndarray, list[float]]:
    """The first two principal components [N, 2] of points [N, D], and the two's shares of the variance."""
    with np.errstate(invalid="ignore"):  # equal points have no variance to share
        pca = PCA(min(2, *points.shape), random_state=seed).fit(points)
    plane = np.zeros((len(points), 2))
    plane[:, : pca.n_components_] = pca.transform(points)
    return plane, [*np.nan_to_num(pca.explained_variance_ratio_), 0.0][:2]


def cluster(points: np.ndarray, labels: np.ndarray, n_clusters: int, seed: int, device: torch.device) -> Clustering:
    """Ward's agglomerative clustering of points [N, D], compared with labels (int [N])."""
    tree = ward.ward_linkage(points, device if device.type == "cuda" else "cpu")  # it needs float64
    clusters = ward.cut_tree(tree, n_clusters)
    return Clustering(score_clusters(labels, clusters, points, seed), tree, clusters)


def score_clusters(labels: np.ndarray, clusters: np.ndarray, points: np.ndarray, seed: int) -> dict[str, float | None]:
    """How clusters (int [N]) agree with labels (int [N]), and how well they separate points [N, D].

    The silhouette (of at most `SILHOUETTE_POINTS` points, drawn by the seed) is None where it is not defined.
    """
    homogeneity, completeness, nmi = homogeneity_completeness_v_measure(labels, clusters)
    silhouette, count = None, min(len(points), SILHOUETTE_POINTS)
    with contextlib.suppress(ValueError):  # a single cluster, or one per painting
        silhouette = float(silhouette_score(points, clusters, sample_size=count, random_state=seed))
    return {
        "ari": float(adjusted_rand_score(labels, clusters)),
        "ami": float(adjusted_mutual_info_score(labels, clusters)),
        "nmi": float(nmi),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        "silhouette": silhouette,
    }


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [0, 1]; 100 where there is no error to speak of."""
    return float(-10 * np.log10(max(mse, 1e-10)))


def print_metrics(metrics: dict[str, object]) -> None:
    """Print the reconstruction's error beside that of a PCA, and a table of the clusters' scores."""
    error, pca_error = metrics["mse"], metrics["pca_mse"]
    console.say(f"{metrics['images']:,} test paintings, each reconstructed from {metrics['content_numbers']} numbers: "
                f"mean squared error {error:.5f}, PSNR {metrics['psnr']:.1f} dB")  # fmt: skip
    change = error / pca_error - 1 if pca_error > 1e-6 else 0.0
    compared = f"; the autoencoder's error is {abs(change):.1%} {'higher' if change > 0 else 'lower'}" if change else ""
    console.say(f"{metrics['run']['latent_dim']} components of a PCA of the training paintings' pixels: "
                f"mean squared error {pca_error:.5f}, PSNR {psnr(pca_error):.1f} dB{compared}")  # fmt: skip
    console.say("Ward clusters compared with the styles (1: they agree; ari and ami are 0 by chance); "
                "silhouette: how well the clusters are separated (at most 1)")  # fmt: skip
    title, scores = f"{metrics['clusters']} clusters of", list(metrics["spaces"]["style"])
    width = max(map(len, [title, *SPACES.values()]))
    console.say(f"{title:<{width}}" + "".join(f"{name:>14}" for name in scores))
    for space, row in metrics["spaces"].items():
        numbers = "".join(f"{'-' if row[name] is None else f'{row[name]:.3f}':>14}" for name in scores)
        console.say(f"{SPACES[space]:<{width}}{numbers}")
    if rest := metrics["also_in_training"]["metrics_without"]:
        number = metrics["also_in_training"]["images"]
        known = console.count(number, "test painting that looks", "test paintings that look")
        console.say(f"without the {known} like training paintings: mean squared error {rest['mse']:.5f}, "
                    f"ami of the style numbers {rest['ami']:.3f}")  # fmt: skip
