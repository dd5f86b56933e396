"""A PCA of pixels, from which the autoencoder starts."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

MOST_IMAGES = 10_000  # that a PCA is fitted on
MOST_VALUES = 2**28  # of pixels that it is fitted on: a gigabyte


def fit_pca(images: Tensor, members: Tensor, components: int, seed: int) -> PCA:
    """The best linear autoencoder: scikit-learn's PCA of the `members` of uint8 images [N, 3, S, S], pixels in [0, 1].

    It is fitted on at most `MOST_IMAGES`, drawn by the seed, and has fewer components where those allow no more.
    """
    values = images[0].numel()
    count = min(len(members), MOST_IMAGES, max(1, MOST_VALUES // values))
    drawn = np.sort(np.random.default_rng(seed).permutation(len(members))[:count])
    pixels = images[members[torch.from_numpy(drawn)]].flatten(1).float().div_(255).numpy()
    pca = PCA(min(components, count, values), copy=False, svd_solver="randomized", random_state=seed)
    with np.errstate(invalid="ignore"):  # a single painting has no variance to explain
        return pca.fit(pixels)
