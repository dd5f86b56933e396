"""Training paintings whose style may be wrong: those that a head fitted without them finds least probable."""

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from support.networks import heads
from support.system import console, plotting
from support.system.console import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDS = 4  # a style with fewer paintings is left out
SHOWN = 24  # paintings in suspects.png at most


def predict_out_of_fold(features: Tensor, labels: Tensor, groups: Tensor, standardized: bool, seed: int) -> Tensor:
    """Probabilities of the styles, float32 [N, classes], by heads that were fitted without the painting or its copies.

    features: float32 [N, F]; labels: int64 [N]; groups: int64 [N], equal for copies, which stay in one fold. Styles are
    as frequent as in `labels`. A row is NaN for a painting of a style that has fewer than `FOLDS` groups. Raises
    DataError where fewer than two styles have more.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second to import

    classes = int(labels.max()) + 1
    enough = [label for label in range(classes) if len(groups[labels == label].unique()) >= FOLDS]
    if len(enough) < 2:
        raise DataError(f"{console.count(len(enough), 'style')} with {FOLDS} paintings or more, expected at least 2")
    judged = torch.isin(labels, torch.tensor(enough)).nonzero().flatten()
    probabilities = torch.full((len(labels), classes), torch.nan)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of groups in several styles, which leave a style with fewer
        parts = list(folds.split(judged, labels[judged], groups[judged]))
    for fitted, held_out in tqdm(parts, desc="heads", unit="fold", disable=None, leave=False):
        fitted, held_out = judged[torch.from_numpy(fitted)], judged[torch.from_numpy(held_out)]
        head = heads.fit(features[fitted], labels[fitted], classes, False, standardized)
        probabilities[held_out] = head(features[held_out]).softmax(1)
    return probabilities


def rank(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The indices of the judged paintings, the one whose own style is least probable first: int [M], M <= N."""
    own = probabilities[np.arange(len(labels)), labels]
    order = np.argsort(own, kind="stable")  # NaN comes last
    return order[: np.count_nonzero(~np.isnan(own))]


def table(dataset: object, probabilities: np.ndarray, order: np.ndarray) -> list[list[object]]:
    """The rows of suspects.csv with their header; dataset: a wikiart.WikiArtDataset."""
    rows = [["path", "style", "probability", "predicted", "predicted_probability"]]
    for i in order:
        own, best = int(dataset.labels[i]), int(probabilities[i].argmax())
        figures = dataset.classes[own], f"{probabilities[i, own]:.6g}", dataset.classes[best]
        rows.append([dataset.paths[i], *figures, f"{probabilities[i, best]:.6g}"])
    return rows


def draw(dataset: object, probabilities: np.ndarray, order: np.ndarray) -> "Figure":
    """The first `SHOWN` paintings of an order with their styles, and those that are found more probable."""
    figure = plotting.new(16, 2.9 * -(-min(len(order), SHOWN) // 8) + 0.6, dpi=100)
    figure.suptitle("Training paintings whose style may be wrong, the least probable first")
    grid = figure.subplots(-(-min(len(order), SHOWN) // 8), 8, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, i in zip(grid, order, strict=False):
        own, best = int(dataset.labels[i]), int(probabilities[i].argmax())
        axes.imshow(dataset.images[i].permute(1, 2, 0).numpy())
        styles = [own, best] if own != best else [own]
        lines = [f"{plotting.caption(dataset.classes[style])} {probabilities[i, style]:.1%}" for style in styles]
        axes.set_title("\nor ".join(lines), fontsize=8, parse_math=False)
    return figure
