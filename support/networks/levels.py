"""The levels of a network (the last feature map at each resolution), and statistics of them."""

import contextlib
import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 64  # at most that are correlated, the first of a level
SIDE = 32  # a map of twice this side or more is subsampled before its channels are correlated


def find(trunk: nn.Module, images: Tensor) -> list[str]:
    """The names of the modules that give the last feature map of each resolution but the lowest, which is pooled.

    trunk: float [B, 3, S, S] -> anything; it is run once on `images`.
    """
    with torch.no_grad():
        _, last = _run_and_watch(trunk, images, [name for name, _ in trunk.named_modules() if name])
    return [name for name, _ in last[:-1]]


def run(trunk: nn.Module, images: Tensor, names: list[str]) -> tuple[Tensor, list[Tensor]]:
    """The trunk's output, and the feature maps of the modules that `find` named, [B, C, H, H] with falling H."""
    features, last = _run_and_watch(trunk, images, names)
    return features, [level for _, level in last[: len(names)]]


def _run_and_watch(trunk: nn.Module, images: Tensor, names: list[str]) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    last = {}  # resolution -> name of the module, feature map

    def keep(name: str, _module: nn.Module, _inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            if output.shape[1] == output.shape[2] != output.shape[3]:  # networks that put channels last
                output = output.permute(0, 3, 1, 2)
            if output.shape[2] == output.shape[3] > 1:  # 1 is after pooling
                last[output.shape[3]] = name, output

    with contextlib.ExitStack() as hooks:
        for name in names:
            hooks.enter_context(trunk.get_submodule(name).register_forward_hook(functools.partial(keep, name)))
        features = trunk(images)
    return features, [last[side] for side in sorted(last, reverse=True)]


def moments(maps: Tensor) -> Tensor:
    """Mean and standard deviation of each channel: feature maps [B, C, H, H] -> float32 [B, 2 * C]."""
    maps = maps.float()
    mean, squares = maps.mean((2, 3)), torch.linalg.vector_norm(maps, dim=(2, 3)).square() / maps[0, 0].numel()
    variance = (squares - mean.square()).clamp(min=0)  # on a CPU several times faster than torch.var
    return torch.cat([mean, (variance + 1e-6).sqrt()], 1)  # the root's slope at 0 is infinite


def correlations(maps: Tensor) -> Tensor:
    """Correlation over the positions of every two of the first `CHANNELS` channels, 0 for a constant channel.

    Feature maps [B, C, H, H] -> float32 [B, c * (c - 1) / 2], c = min(C, CHANNELS). Like the Gram matrix of Gatys et
    al. (2015, arXiv:1508.06576), they describe style. Of a larger map, `SIDE` to 2 * `SIDE` positions a side count.
    """
    step = max(maps.shape[3] // SIDE, 1)
    channels = maps[:, :CHANNELS, ::step, ::step].permute(0, 2, 3, 1).flatten(1, 2).float()  # [B, positions, c]
    channels = channels - channels.mean(1, keepdim=True)
    channels = F.normalize(channels, dim=1, eps=1e-3 * channels.shape[1] ** 0.5)  # rounding is no pattern
    products = (channels.mT @ channels).float()  # of numbers up to 1, which float16 can add up
    row, column = torch.triu_indices(*products.shape[1:], offset=1, device=maps.device)
    return products[:, row, column]
