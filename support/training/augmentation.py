"""Random changes of the paintings in training."""

import torch
from torch import Tensor


def crop_and_flip(images: Tensor, side: int, generator: torch.Generator | None = None) -> Tensor:
    """A random square of each image, not resampled, half of them flipped: float [B, 3, S, S] -> [B, 3, side, side].

    generator: of the squares and flips; by default torch's for the images' device.
    """
    count, device = len(images), images.device
    place = generator.device if generator else device
    start = torch.randint(images.shape[2] - side + 1, (2, count, 1), generator=generator, device=place).to(device)
    flipped = torch.rand(count, 1, generator=generator, device=place).to(device) < 0.5
    rows, columns = start + torch.arange(side, device=device)
    columns = torch.where(flipped, columns.flip(1), columns)
    image, channel = torch.arange(count, device=device), torch.arange(images.shape[1], device=device)
    return images[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]
