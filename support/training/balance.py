"""Which paintings an epoch takes, and in which order: validation split, weighted sampler, SMOTE."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import WeightedRandomSampler

from support.system import console
from support.system.console import DataError
from support.system.devices import random_seed

NEIGHBOURS = 5  # nearest ones that SMOTE may blend a painting with, as in imbalanced-learn


def check_styles(counts: dict[str, int]) -> None:
    """Raise DataError for a training on one style only, which is most likely a wrong folder; counts: of paintings."""
    styles = [style for style, count in counts.items() if count]
    if len(styles) < 2:
        raise DataError(f"only one style, {console.quoted(styles[0])}; expected one folder per style")


def split(labels: Tensor, share: float, seed: int, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Training and validation indices (int64, sorted), `share` of every style held out at random.

    labels: int64 [N]; copies: int64 [N], equal for paintings that are copies of each other and must stay on one side.
    A style with several paintings gives at least one and keeps at least one; a style with one keeps it in training, and
    copies that are in several styles stay there.
    """
    generator = torch.Generator().manual_seed(random_seed(seed, 0))
    styles = {}  # of each group of copies
    for group, label in zip(copies.tolist(), labels.tolist(), strict=True):
        styles.setdefault(group, set()).add(label)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        groups = torch.tensor([group for group, its in styles.items() if its == {label}], dtype=copies.dtype)
        count = min(max(1, round(share * len(groups))), len(groups) - 1) if share and len(groups) else 0
        held_out |= torch.isin(copies, groups[torch.randperm(len(groups), generator=generator)[:count]])
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


class SmotePlan(NamedTuple):
    """Synthetic paintings, `base + weight * (neighbour - base)`, blended when their batch is made.

    base, neighbour: int64 [M], indices into the dataset; weight: float64 [M] in [0, 1); label: int64 [M].
    """

    base: Tensor
    neighbour: Tensor
    weight: Tensor
    label: Tensor


def plan_smote(images: Tensor, labels: Tensor, members: Tensor, target: int | str, seed: int) -> SmotePlan:
    """SMOTE (Chawla et al., 2002, doi:10.1613/jair.953) as a plan instead of as pixels, with imbalanced-learn's draws.

    images: [N, ...] of any dtype; labels: int64 [N]; members: indices of the paintings that may be used. Every style
    with fewer than `target` members ("auto": the largest style's) gets what it lacks. A style with fewer than
    `NEIGHBOURS` + 1 members uses all the others; a style with one member repeats it.
    """
    from sklearn.neighbors import NearestNeighbors  # takes a second to import, and only SMOTE needs it

    counts = torch.bincount(labels[members])
    goal = int(counts.max()) if target == "auto" else int(target)
    parts = [(members[:0], members[:0], torch.zeros(0, dtype=torch.float64))]
    for label in range(len(counts)):
        lacking = goal - int(counts[label])
        if lacking <= 0 or not counts[label]:
            continue
        style = members[labels[members] == label]
        random = np.random.RandomState(seed)
        if len(style) == 1:
            parts.append((style.repeat(lacking), style.repeat(lacking), torch.zeros(lacking, dtype=torch.float64)))
            continue
        nearest = min(NEIGHBOURS, len(style) - 1)
        pixels = images[style].flatten(1).float().numpy()
        search = NearestNeighbors(n_neighbors=nearest + 1).fit(pixels)
        neighbours = search.kneighbors(pixels, return_distance=False)[:, 1:].ravel()
        drawn = random.randint(0, len(neighbours), lacking)
        weight = torch.from_numpy(random.uniform(size=lacking))
        parts.append((style[drawn // nearest], style[neighbours[drawn]], weight))
    base, neighbour, weight = (torch.cat(column) for column in zip(*parts, strict=True))
    return SmotePlan(base, neighbour, weight, labels[base])


def index_order(
    imbalance: str, labels: Tensor, members: Tensor, plan: SmotePlan | None, seed: int, epoch: int
) -> Tensor:
    """An epoch's paintings in random order: int64 indices into the dataset; N + k is the plan's k-th synthetic one.

    "weighted_sampler" draws as many as there are members, with inverse style frequency; else each is taken once.
    """
    generator = torch.Generator().manual_seed(random_seed(seed, epoch))
    if imbalance == "weighted_sampler":
        weights = 1.0 / torch.bincount(labels[members])[labels[members]]
        return members[list(WeightedRandomSampler(weights, len(members), generator=generator))]
    if plan is not None:
        members = torch.cat([members, len(labels) + torch.arange(len(plan.base))])
    return members[torch.randperm(len(members), generator=generator)]
