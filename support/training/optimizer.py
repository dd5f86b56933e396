"""How the weights move: the optimizer, and the learning rate over a training."""

import itertools
import math

import torch
from torch import nn

WARM_UP = 0.15  # share of all steps in which the learning rate rises to its peak
WEIGHT_DECAY = 0.05
NO_DECAY = ("pos_embedding", "class_token", "layer_scale", "relative_position_bias_table", "logit_scale")


def learning_rate_factor(progress: float) -> float:
    """Share of the peak learning rate at `progress` (0 to 1) through training: linear warm-up, then half a cosine."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def factor_in_epoch(epoch: int, share: float, ends: list[int]) -> float:
    """Share of the peak learning rate at a share of an epoch, counted from 1; ends: the last epoch of each schedule."""
    begin, end = next((a, b) for a, b in itertools.pairwise([0, *ends]) if epoch <= b)
    return learning_rate_factor((epoch - 1 - begin + share) / (end - begin))


def make(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """AdamW for what learns in a model: weights of layers decay, biases, norms and embeddings do not."""
    groups = {WEIGHT_DECAY: [], 0.0: []}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and not any(part in name for part in NO_DECAY)
        if parameter.requires_grad:
            groups[WEIGHT_DECAY if decays else 0.0].append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items() if parameters],
        learning_rate,
        fused=True,
    )
