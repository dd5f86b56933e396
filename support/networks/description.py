"""Statistics of an image's colours, textures and strokes, wherever they are in it; which of them paintings differ in.

Images are normalized, or at least mostly between -2 and 2, the range that the bins of colours share.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import eigh
from torch import Tensor
from tqdm import tqdm

from support.training import augmentation

STYLE = 512 + 256 + 256  # numbers of `style`
STROKES = 3 * 64 + 125  # and of `strokes`
COMBINED = STYLE + STROKES  # and of `combined`
SCALES = (0.87, 2.02, 1.4)  # over WikiArt, each block then has a third of a total variance of 1


def colour_histogram(images: Tensor) -> Tensor:
    """Square roots of each image's 8x8x8 histogram of colours, which sums to 1: float [B, 3, S, S] -> [B, 512].

    The bins share the range from -2 to 2 evenly; the outermost take what lies beyond.
    """
    red, green, blue = ((images + 2) * 2).clamp(0, 7).floor().unbind(1)
    return _root_histogram((64 * red + 8 * green + blue).long(), 512)


def texture_histogram(greys: Tensor) -> Tensor:
    """Square roots of each image's histogram of local binary patterns: float [B, S, S] -> [B, 256].

    A pixel's pattern says which of its eight neighbours are clearly lighter, by a hundredth of the range from -2 to 2
    (Ojala et al., 2002, doi:10.1109/TPAMI.2002.1017623): flat paint, edges and the grain of brushwork differ in it.
    """
    side, threshold = greys.shape[-1], greys[:, 1:-1, 1:-1] + 0.04
    around = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    pattern = torch.zeros_like(threshold, dtype=torch.uint8)
    for bit, (y, x) in enumerate(around):
        lighter = greys[:, y : side - 2 + y, x : side - 2 + x] > threshold
        pattern |= lighter.view(torch.uint8) << bit
    return _root_histogram(pattern.long(), 256)


def gradient_histogram(greys: Tensor) -> Tensor:
    """Square roots of each image's histogram of gradients: float [B, S, S] -> [B, 64].

    Eight directions times eight magnitudes, each twice the one before: the strokes' directions, and how hard edges are.
    """
    across, down = greys[:, 1:-1, 2:] - greys[:, 1:-1, :-2], greys[:, 2:, 1:-1] - greys[:, :-2, 1:-1]
    direction = 4 * (across > 0).long() + 2 * (down > 0).long() + (down.abs() > across.abs()).long()
    limits = 0.0004 * 4 ** torch.arange(7, device=greys.device)
    magnitude = torch.bucketize(across.square() + down.square(), limits)
    return _root_histogram(8 * direction + magnitude, 64)


def colour_step_histogram(images: Tensor) -> Tensor:
    """Square roots of each image's histogram of colour steps to the right: float [B, 3, S, S] -> [B, 125].

    Five steps per channel, a tenth of the range from -2 to 2 each; the outermost take what lies beyond.
    """
    red, green, blue = ((images[..., 1:] - images[..., :-1]) * 2.5).round().clamp(-2, 2).unbind(1)
    return _root_histogram((25 * red + 5 * green + blue + 62).long(), 125)


def _root_histogram(values: Tensor, bins: int) -> Tensor:
    values = values.flatten(1)
    counts = torch.zeros(len(values), bins, device=values.device)
    return counts.scatter_add_(1, values, torch.ones_like(values, dtype=counts.dtype)).div_(values.shape[1]).sqrt_()


def style(images: Tensor) -> Tensor:
    """Colour and texture features that do not depend on position: float [B, 3, S, S] -> [B, STYLE].

    Its colours, and its textures at full and at half size.
    """
    greys = sum(images.unbind(1)) / 3  # on a CPU several times faster than images.mean(1)
    blocks = [colour_histogram(images), texture_histogram(greys), texture_histogram(F.avg_pool2d(greys, 2))]
    return torch.cat([block * scale for block, scale in zip(blocks, SCALES, strict=True)], 1)


def strokes(images: Tensor) -> Tensor:
    """Gradients at three sizes and steps between colours: float [B, 3, S, S] -> [B, STROKES].

    The classifier reads them besides `style`, and so does part 2.
    """
    greys = sum(images.unbind(1)) / 3
    half = F.avg_pool2d(greys, 2)
    gradients = [gradient_histogram(size) for size in (greys, half, F.avg_pool2d(half, 2))]
    return torch.cat([*gradients, colour_step_histogram(images)], 1)


def combined(images: Tensor) -> Tensor:
    """`style`, and `strokes` doubled, of images in [0, 1]: float [B, 3, S, S] -> [B, COMBINED]."""
    images = 4 * images - 2
    return torch.cat([style(images), 2 * strokes(images)], 1)


FITTED = 10_000  # paintings at most that a discriminant is fitted on
CROP_SHARE = 0.625  # of a painting's side: the side of its crops
DIRECTIONS = 256  # principal components of the statistics that it looks at
RIDGE = 0.3  # added to the variance within paintings along every direction, as a share of its mean over the statistics


def fit_discriminant(
    images: Tensor, members: Tensor, count: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What differs between paintings but not within one: mean [COMBINED] and axes [count, COMBINED], float32.

    A linear discriminant analysis of `combined` (Fisher, 1936, doi:10.1111/j.1469-1809.1936.tb02137.x) in which every
    painting is a class of its own and two random crops are its members: no label is needed. It is fitted on the
    `members` (indices) of uint8 images [N, 3, S, S], at most `FITTED` of them; seed: of the draws. The variance along
    the first axis is 1; axes along which few or equal paintings do not vary are 0.
    """
    from sklearn.decomposition import PCA  # takes a second to import

    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device has the same crops
    drawn = members[torch.randperm(len(members), generator=generator)[:FITTED].sort().values]
    side, crops = max(round(CROP_SHARE * images.shape[2]), 12), []  # at quarter size one gradient is left
    with tqdm(total=len(drawn), desc="statistics", unit="painting", disable=None, leave=False) as bar:
        for part in drawn.split(max(1, min(64, 2**24 // images[0].numel()))):
            pixels = images[part].to(device) / 255
            views = [augmentation.crop_and_flip(pixels, side, generator) for _ in range(2)]
            crops.append(torch.stack([combined(view).cpu() for view in views], 1))
            bar.update(len(part))
    pairs = torch.cat(crops).flatten(0, 1).numpy()  # rows 2i and 2i + 1 are of one painting
    pca = PCA(min(DIRECTIONS, len(pairs)), random_state=seed).fit(pairs)
    codes = pca.transform(pairs).astype(np.float64)
    differences = codes[::2] - codes[1::2]
    within, spread = differences.T @ differences / len(pairs), np.square(pairs[::2] - pairs[1::2]).mean() / 2
    within += np.eye(len(within)) * (RIDGE * spread + 1e-6)
    variances, axes = eigh(codes.T @ codes / len(pairs), within)
    axes = axes[:, variances > 1e-6].T[::-1][:count] @ pca.components_ / max(variances[-1], 1e-6) ** 0.5
    return torch.from_numpy(pca.mean_).float(), F.pad(torch.from_numpy(axes).float(), (0, 0, 0, count - len(axes)))
