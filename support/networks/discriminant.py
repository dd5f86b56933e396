"""What differs between paintings but not within one: part 2's style numbers, a linear map of the description."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import eigh
from torch import Tensor
from tqdm import tqdm

from support.networks import features
from support.networks.description import Description
from support.networks.heads import EPS
from support.training import augmentation

PAIRS = 3_000  # paintings at most of which two crops are compared
FITTED = 10_000  # paintings at most of which the directions are found
CROP_SHARE = 0.625  # of a painting's side: the side of its crops
DIRECTIONS = 128  # principal components of the description that it looks at
RIDGE = 10  # added to the variance within paintings along every direction, as a multiple of its mean over the features


def fit(
    description: Description, whole: Tensor, images: Tensor, members: Tensor, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Mean [F] and axes [count, F], float32, of the description's features.

    A linear discriminant analysis (Fisher, 1936, doi:10.1111/j.1469-1809.1936.tb02137.x) without labels: every painting
    is a class, and its members are two random crops. whole: features of the `members` (indices) of uint8 images
    [N, 3, S, S], float32 [M, F] on the CPU; standardized as for the fitted head, they give the variance between
    paintings. The variance along the first axis is 1; axes along which few or equal paintings do not vary are 0.
    """
    from sklearn.decomposition import PCA  # takes a second to import

    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device has the same crops
    order = torch.randperm(len(members), generator=generator)
    whole = whole[order[:FITTED].sort().values]
    mean, scale = whole.mean(0), (whole.var(0, correction=0) + EPS).rsqrt()
    whole = (whole - mean).mul_(scale).numpy()
    pca = PCA(min(DIRECTIONS, *whole.shape), svd_solver="randomized", random_state=seed)
    with np.errstate(invalid="ignore"):  # a single painting has no variance to explain
        pca.fit(whole)
    first, second = _crops(description, images, members[order[:PAIRS].sort().values], generator)
    differences = (first - second).mul_(scale).double().numpy()
    ridge = RIDGE * np.square(differences).mean() / 2 + 1e-6
    differences = differences @ pca.components_.T
    within = differences.T @ differences / (2 * len(differences)) + np.eye(len(pca.components_)) * ridge
    variances, axes = eigh(np.diag(np.nan_to_num(pca.explained_variance_).astype(np.float64)), within)
    axes = axes[:, variances > 1e-6].T[::-1][:count] @ pca.components_ / max(variances[-1], 1e-6) ** 0.5
    return mean, F.pad(torch.from_numpy(axes).float(), (0, 0, 0, count - len(axes))) * scale


@torch.no_grad()
def _crops(
    description: Description, images: Tensor, drawn: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Features of two random crops of each of the `drawn` paintings: float32 [P, F] each, on the CPU."""
    quick, rows, size = features.quick(description), ([], []), description.image_size
    side = max(round(CROP_SHARE * size), 12)  # at quarter size one gradient is left
    resized = not quick.takes(side)  # then crops are enlarged
    device = quick.normalize.mean.device
    with tqdm(total=len(drawn), desc="crops", unit="painting", disable=None, leave=False) as bar:
        for part in drawn.split(features.batch_size(device)):
            pixels = images[part].to(device) / 255
            for views in rows:
                crops = augmentation.crop_and_flip(pixels, side, generator)
                crops = F.interpolate(crops, size=(size, size), mode="bilinear") if resized else crops
                views.append(quick.all_features(crops).cpu())
            bar.update(len(part))
    return torch.cat(rows[0]), torch.cat(rows[1])
