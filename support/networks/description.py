"""The description of a painting, which both parts read: what a trunk, if there is one, and histograms say about it."""

import torch
from torch import Tensor, nn

from support.networks import histograms, levels, pretrained


class Normalize(nn.Module):
    """(images - mean) / std per channel, in channels-last memory, which convolutions take fastest."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3,), 0.5))
        self.register_buffer("std", torch.full((3,), 0.25))

    def fit(self, images: Tensor, members: Tensor) -> None:
        """Take mean and standard deviation from the `members` (indices) of uint8 images [N, 3, S, S]."""
        sums = torch.zeros(2, 3, dtype=torch.float64)
        for part in members.split(32):
            pixels = images[part].float() / 255
            sums += torch.stack([p.sum((0, 2, 3), dtype=torch.float64) for p in (pixels, pixels.square())])
        mean, squares = sums / (len(members) * images[0, 0].numel())
        self.mean.copy_(mean)
        self.std.copy_((squares - mean.square()).clamp(min=1e-6).sqrt())

    def forward(self, images: Tensor) -> Tensor:
        if not images.is_floating_point():
            raise TypeError(f"images: got {images.dtype}, expected floats in [0, 1]; divide by 255")
        normalized = (images - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1)
        return normalized.contiguous(memory_format=torch.channels_last)


class Description(nn.Module):
    """Images [B, 3, S, S] in [0, 1] -> `all_features`, float32 [B, full_width].

    architecture: the trunk's name; trunk: normalized images -> features [B, W], or None: histograms alone. Of a trunk
    whose attribute `has_statistics` is false, the features are all there is.
    """

    def __init__(self, architecture: str, trunk: nn.Module | None, image_size: int) -> None:
        super().__init__()
        self.architecture, self.image_size, self.frozen_norms = architecture, image_size, []
        self.has_statistics, self.levels = getattr(trunk, "has_statistics", True), []
        self.normalize, self.trunk = Normalize(), trunk
        self.eval()
        blank = torch.zeros(1, 3, image_size, image_size)
        if trunk is not None and self.has_statistics:
            self.levels = levels.find(trunk, blank)
        with torch.no_grad():
            self.trunk_width = self._learned(blank)[0][0].shape[1]
            self.width, self.full_width = self.features(blank).shape[1], self.all_features(blank).shape[1]
        self.train()

    def features(self, images: Tensor) -> Tensor:
        """The trunk's features, and mean and standard deviation of every channel at its levels: float [B, width].

        The latter carry style (Huang and Belongie, 2017, arXiv:1703.06868). They are what trains a trunk.
        """
        return torch.cat(self._learned(images)[0], 1)

    def all_features(self, images: Tensor) -> Tensor:
        """`features`, correlations of channels at the two finest levels, histograms of the image: [B, full_width].

        They are `levels.correlations`, `histograms.colour_and_texture` and `histograms.edges`.
        """
        parts, maps = self._learned(images)
        parts = [*parts, *map(levels.correlations, maps[:2])]
        if self.has_statistics:
            pixels = 4 * images - 2
            parts += [histograms.colour_and_texture(pixels), histograms.edges(pixels)]
        return torch.cat(parts, 1)

    def _learned(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        if self.trunk is None:
            return [images.new_zeros(len(images), 0)], []
        features, maps = levels.run(self.trunk, self.normalize(images), self.levels)
        return [features, *map(levels.moments, maps)], maps

    @torch.no_grad()
    def takes(self, side: int) -> bool:
        """Whether images of that side have as many features: some networks take one size alone."""
        try:
            blank = torch.zeros(1, 3, side, side, device=self.normalize.mean.device)
            return self.features(blank).shape[1] == self.width
        except (RuntimeError, AssertionError):  # memory is enough: a larger image has passed
            return False

    def load_pretrained(self, source: bool | str) -> None:
        """Take the trunk and its normalization from torchvision's weights (True) or a file (its path).

        Raises UserError where weights are not available or do not fit.
        """
        state = pretrained.read(self.architecture, source)
        for name in ("normalize", "trunk"):
            own = {key.removeprefix(f"{name}."): v for key, v in state.items() if key.startswith(f"{name}.")}
            pretrained.load(self.get_submodule(name), self.architecture, own)
        self.frozen_norms = pretrained.freeze(self.trunk)

    def train(self, mode: bool = True) -> "Description":
        """As of any module, but the batch norms of a pretrained trunk stay in eval mode."""
        super().train(mode)
        for module in self.frozen_norms:
            module.eval()
        return self
