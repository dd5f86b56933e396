"""Class activation maps: where in an image a convolutional network sees the class that it predicts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def has_convolutions(network: nn.Module) -> bool:
    """Whether a network has convolutions besides those that cut an image into patches, as transformers do first."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return any(layer.kernel_size == (1, 1) or layer.kernel_size != layer.stride for layer in layers)


@torch.enable_grad()
def activation_maps(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391) of the class `labels[i]` in `images[i]`, float [B, H, W].

    model: float [B, C, H, W] -> logits [B, classes], in eval mode; labels: int64 [B]. A map is the sum over channels of
    the network's last feature map (the last output of a layer with more than one position), each channel weighted by
    the mean gradient of the logit, where that sum is positive; scaled to a maximum of 1 and to the image's size.
    Raises ValueError where no layer gives a feature map.
    """
    found = []

    def keep(_module: nn.Module, _inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found[:] = [output]

    with nn.modules.module.register_module_forward_hook(keep):
        logits = model(images.detach().requires_grad_())  # the weights may not ask for gradients
    if not found:
        raise ValueError("no layer of the network gives a feature map")
    features = found[0]
    chosen = logits.gather(1, labels[:, None]).sum()
    (gradients,) = torch.autograd.grad(chosen, features)
    weights = gradients.mean((2, 3), keepdim=True)
    maps = F.relu((weights * features.detach()).sum(1, keepdim=True)).float()
    maps = F.interpolate(maps, size=images.shape[2:], mode="bilinear")
    return (maps / maps.amax((2, 3), keepdim=True).clamp(min=1e-12))[:, 0]
