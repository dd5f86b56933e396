"""Heatmaps by occlusion: which parts of an image the answer of a classifier, of any kind, rests on."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELLS = 12  # along a side
WINDOW = 3  # side of the square that covers a part, in cells, odd


@torch.no_grad()
def occlusion_maps(model: nn.Module, images: Tensor, labels: Tensor, window: int = WINDOW) -> Tensor:
    """How far the probability of class `labels[i]` falls where `images[i]` is covered: float [B, CELLS, CELLS].

    model: float [B, 3, S, S] -> logits [B, classes], in eval mode; labels: int64 [B]. A square in the image's mean
    colour is centred on each cell in turn (Zeiler and Fergus, 2014, arXiv:1311.2901). The value of a cell is the mean
    fall of all squares that cover it, negative where the class gets more probable.
    """
    middle = torch.arange(CELLS, device=images.device)[:, None]
    cell = torch.arange(images.shape[2], device=images.device) * CELLS // images.shape[2]
    lines = (cell - middle).abs() <= window // 2  # [CELLS, S]
    falls = []
    for image, label in zip(images, labels, strict=True):
        colour = image.mean((1, 2), keepdim=True)
        whole = model(image[None]).float().softmax(1)[0, label]
        covered = [model(torch.where(line[:, None] & lines[:, None, None], colour, image)) for line in lines]
        falls.append(whole - torch.stack(covered).float().softmax(2)[..., label])
    return F.avg_pool2d(torch.stack(falls), window, 1, window // 2, count_include_pad=False)
