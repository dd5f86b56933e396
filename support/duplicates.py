"""Copies of a painting: in two styles, or in training and test."""

import numpy as np
import torch
from torch import Tensor

from support import console


def warn_of_contradictions(paths: list[str], labels: Tensor, fingerprints: Tensor) -> None:
    """Warn of identical images (equal fingerprints, int64 [N]) that are in two styles (labels, int64 [N])."""
    first, pairs = {}, []
    for i, key in enumerate(fingerprints.tolist()):
        j = first.setdefault(key, i)
        if labels[i] != labels[j]:
            pairs.append(f"{paths[j]} and {paths[i]}")
    if pairs:
        console.warn(f"{len(pairs)} images are in two styles: {console.names(pairs)}")


def known_paintings(paths: list[str], fingerprints: Tensor, training: Tensor) -> np.ndarray:
    """Which test paintings (bool [N]) are identical to training paintings, by fingerprints (int64); warns of them."""
    known = torch.isin(fingerprints, training).numpy()
    if known.any():
        twins = [path for path, is_known in zip(paths, known, strict=True) if is_known]
        console.warn(f"{len(twins)} test paintings are identical to training paintings: {console.names(twins)}")
    return known
