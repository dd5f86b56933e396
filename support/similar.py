"""Which points are nearest to given ones; the points of a folder are computed once and kept in a file."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from support import files

BLOCK = 1 << 22  # distances held at a time


def digest(weights: dict[str, Tensor]) -> str:
    """A short text that differs for different weights: names, shapes and values."""
    total = hashlib.sha256()
    for name, value in weights.items():
        array = value.detach().cpu().numpy()
        total.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return total.hexdigest()[:16]


def stored(path: Path, count: int, compute: Callable[[], Tensor]) -> Tensor:
    """The points (float32 [count, D]) that the file `path` holds; where there is none, or a damaged one, it is written.

    Raises UserError when the file cannot be written.
    """
    with contextlib.suppress(Exception):  # a damaged file can raise anything
        points = np.load(path, allow_pickle=False)
        if points.dtype == np.float32 and points.ndim == 2 and len(points) == count:
            return torch.from_numpy(points)
    points = compute()
    files.write_whole(path, lambda file: np.save(file, points.numpy()))
    return points


def nearest(queries: Tensor, points: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The `most` points [N, D] nearest to each query [Q, D], the nearest first: int64 and float64 [Q, at most `most`].

    Euclidean distances from differences, not from products, so that a point is at distance 0 from itself.
    """
    points, parts = points.double(), []
    for part in queries.double().split(max(1, BLOCK // len(points))):
        distances = torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist")
        parts.append(distances.topk(min(most, len(points)), largest=False))
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])
