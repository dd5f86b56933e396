"""Histograms of an image's colours, textures and edges, which do not depend on position.

Images are between -2 and 2: bins share that range, the outermost take what lies beyond.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

HISTOGRAM_WEIGHTS = (0.87, 2.02, 1.4)  # over WikiArt, each histogram then has a third of a total variance of 1


def colour_histogram(images: Tensor) -> Tensor:
    """Square roots of an 8x8x8 histogram of colours, which sums to 1: float [B, 3, S, S] -> [B, 512]."""
    red, green, blue = ((images + 2) * 2).clamp(0, 7).floor().unbind(1)
    return _root_histogram((64 * red + 8 * green + blue).long(), 512)


def texture_histogram(greys: Tensor) -> Tensor:
    """Square roots of a histogram of local binary patterns: float [B, S, S] -> [B, 256].

    A pixel's pattern says which of its eight neighbours are lighter by at least a hundredth of the range (Ojala et al.,
    2002, doi:10.1109/TPAMI.2002.1017623).
    """
    inner, threshold = greys.shape[-1] - 2, greys[:, 1:-1, 1:-1] + 0.04
    pattern = torch.zeros_like(threshold, dtype=torch.uint8)
    for bit, (y, x) in enumerate([(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]):
        pattern |= (greys[:, y : y + inner, x : x + inner] > threshold).view(torch.uint8) << bit
    return _root_histogram(pattern.long(), 256)


def gradient_histogram(greys: Tensor) -> Tensor:
    """Square roots of a histogram of gradients, 8 directions x 8 magnitudes (doubling): float [B, S, S] -> [B, 64]."""
    across, down = greys[:, 1:-1, 2:] - greys[:, 1:-1, :-2], greys[:, 2:, 1:-1] - greys[:, :-2, 1:-1]
    direction = 4 * (across > 0).long() + 2 * (down > 0).long() + (down.abs() > across.abs()).long()
    limits = 0.0004 * 4 ** torch.arange(7, device=greys.device)
    magnitude = torch.bucketize(across.square() + down.square(), limits)
    return _root_histogram(8 * direction + magnitude, 64)


def colour_step_histogram(images: Tensor) -> Tensor:
    """Square roots of a histogram of colour differences to the right, 5 per channel: float [B, 3, S, S] -> [B, 125]."""
    red, green, blue = ((images[..., 1:] - images[..., :-1]) * 2.5).round().clamp(-2, 2).unbind(1)
    return _root_histogram((25 * red + 5 * green + blue + 62).long(), 125)


def _root_histogram(values: Tensor, bins: int) -> Tensor:
    values = values.flatten(1)
    counts = torch.zeros(len(values), bins, device=values.device)
    return counts.scatter_add_(1, values, torch.ones_like(values, dtype=counts.dtype)).div_(values.shape[1]).sqrt_()


def colour_and_texture(images: Tensor) -> Tensor:
    """Histograms of colours, and of textures at full and half size: float [B, 3, S, S] -> [B, 1024]."""
    greys = sum(images.unbind(1)) / 3  # on a CPU several times faster than images.mean(1)
    histograms = colour_histogram(images), texture_histogram(greys), texture_histogram(F.avg_pool2d(greys, 2))
    return torch.cat([weight * part for weight, part in zip(HISTOGRAM_WEIGHTS, histograms, strict=True)], 1)


def edges(images: Tensor) -> Tensor:
    """Histograms of gradients at three sizes and of colour steps: float [B, 3, S, S] -> [B, 317]."""
    greys = sum(images.unbind(1)) / 3
    half = F.avg_pool2d(greys, 2)
    gradients = [gradient_histogram(size) for size in (greys, half, F.avg_pool2d(half, 2))]
    return torch.cat([*gradients, colour_step_histogram(images)], 1)
