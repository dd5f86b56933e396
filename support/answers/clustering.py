"""What paintings are clustered by, how well the clusters agree with the styles, and the figures of part 2.

Ward's clustering itself: ward.py.
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
from torch import nn

from support.answers import ward
from support.system import console

SILHOUETTE_POINTS = 10_000  # a silhouette needs all pairwise distances of so many at most
FIGURES = ("ari", "ami", "nmi", "homogeneity", "completeness", "silhouette")
SPACES = {
    "latents": "our latents: style numbers",
    "content": "our latents: content numbers",
    "pixels": "PCA of the pixels",
    "plane": "2-D plane of the style numbers",
    "colour": "colour histogram",
    "statistics": "statistics of colour and texture",
}


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


def cluster(points: np.ndarray, labels: np.ndarray, clusters: int, seed: int, device: torch.device) -> Clusters:
    """Ward's agglomerative clustering of points [N, D], measured by labels (int [N])."""
    tree = ward.ward_linkage(points, device if device.type == "cuda" else "cpu")  # it needs float64
    found = ward.cut_tree(tree, clusters)
    return Clusters(score_clusters(labels, found, points, seed), tree, found)


def score_clusters(labels: np.ndarray, found: np.ndarray, points: np.ndarray, seed: int) -> dict[str, float | None]:
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
    model: nn.Module, errors: np.ndarray, pca_errors: np.ndarray, results: dict[str, Clusters]
) -> dict[str, object]:
    """What metrics_auto.json holds. `spaces`: the cluster figures of each of `SPACES`."""
    return {
        "mse": float(errors.mean()),
        "psnr": psnr(errors.mean()),
        "pca_mse": float(pca_errors.mean()),
        "images": len(errors),
        "latent_dim": len(model.components),
        "content_numbers": len(model.content_std),
        "clusters": int(results["latents"].found.max()) + 1,
        "spaces": {name: result.scores for name, result in results.items()},
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
    title = f"Ward clustering into {metrics['clusters']} clusters"
    width = max(map(len, [title, *SPACES.values()]))
    console.say(f"{title:<{width}}" + "".join(f"{name:>14}" for name in FIGURES))
    for name, text in SPACES.items():
        row = metrics["spaces"][name]
        numbers = "".join(f"{'-' if row[figure] is None else f'{row[figure]:.3f}':>14}" for figure in FIGURES)
        console.say(f"{text:<{width}}{numbers}")
