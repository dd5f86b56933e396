"""Which paintings an epoch takes: validation split, weighted sampler, and SMOTE against imbalanced-learn's."""

import numpy as np
import pytest
import scipy.stats
import torch
from imblearn.over_sampling import SMOTE

from support.training import balance, batches


def labels_of(*counts):
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def random_pictures(*counts):
    """Random pictures, uint8, and labels: `counts` of each style."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (sum(counts), 3, 8, 8), dtype=torch.uint8, generator=generator), labels_of(*counts)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_a_share_of_every_style_is_held_out(share):
    labels, single = labels_of(1, 2, 3, 10, 100)[torch.randperm(116)], torch.arange(116)
    members, held_out = balance.split(labels, share, 7, single)
    assert sorted([*members.tolist(), *held_out.tolist()]) == list(range(116))
    counts = labels[held_out].bincount(minlength=5).tolist()
    assert counts == [0, 1, min(2, max(1, round(3 * share))), round(10 * share), round(100 * share)]
    assert torch.equal(held_out, balance.split(labels, share, 7, single)[1])
    assert not torch.equal(held_out, balance.split(labels, share, 8, single)[1])
    assert len(balance.split(labels, 0, 7, single)[1]) == 0


def test_copies_of_a_painting_stay_on_one_side():
    for seed in range(20):
        random = np.random.default_rng(seed)
        labels = torch.from_numpy(random.integers(0, 4, 80))
        copies = torch.from_numpy(random.integers(0, 60, 80))  # also in different styles
        members, held_out = balance.split(labels, 0.3, seed, copies)
        assert not set(copies[members].tolist()) & set(copies[held_out].tolist())
        assert labels[held_out].unique().numel() == labels[members].unique().numel() == 4
    members, held_out = balance.split(labels_of(6, 2), 0.5, 0, torch.tensor([5, 5, 5, 5, 5, 5, 6, 7]))
    assert held_out.tolist() in ([6], [7])  # six copies are one painting


def test_the_weighted_sampler_draws_every_style_equally_often():
    labels, members = labels_of(90, 30, 6), torch.arange(126)[torch.arange(126) % 3 > 0]
    drawn = torch.cat([balance.index_order("weighted_sampler", labels, members, None, 0, e) for e in range(100)])
    assert len(drawn) == 100 * len(members) and set(drawn.tolist()) == set(members.tolist())
    assert scipy.stats.chisquare(labels[drawn].bincount()).pvalue > 1e-3
    assert scipy.stats.chisquare(drawn[labels[drawn] == 0].bincount()[members[labels[members] == 0]]).pvalue > 1e-3


@pytest.mark.parametrize("imbalance", ["none", "weighted_sampler", "smote"])
def test_an_order_depends_on_seed_and_epoch(imbalance):
    (images, labels), members = random_pictures(20, 7), torch.arange(27)
    plan = balance.plan_smote(images, labels, members, "auto", 0) if imbalance == "smote" else None
    cases = [(seed, epoch) for seed in (1, 2) for epoch in (1, 2, 1)]
    orders = [balance.index_order(imbalance, labels, members, plan, *case) for case in cases]
    assert len({tuple(order.tolist()) for order in orders}) == 4 and torch.equal(orders[0], orders[2])
    if imbalance != "weighted_sampler":
        assert sorted(orders[0].tolist()) == list(range(27 if plan is None else 40))


def synthetic(images, labels, plan):
    """The plan's paintings as the batches have them: float pixels of 0 to 255, one row each, and labels."""
    loader = batches.Batches(images, labels, torch.device("cpu"), plan)
    parts = list(loader.batches(len(labels) + torch.arange(len(plan.label)), 7))
    images, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return 255 * images.flatten(1), labels


def assert_same(images, labels, members, target, seed, neighbours=5):
    """The plan's samples are imbalanced-learn's, one by one."""
    pixels, their_labels = images[members].flatten(1).float().numpy(), labels[members].numpy()
    counts = np.bincount(their_labels)
    strategy = "auto" if target == "auto" else {i: target for i in range(len(counts)) if counts[i] < target}
    sampler = SMOTE(sampling_strategy=strategy, k_neighbors=neighbours, random_state=seed)
    theirs, their_labels = (column[len(members) :] for column in sampler.fit_resample(pixels, their_labels))
    ours, our_labels = synthetic(images, labels, balance.plan_smote(images, labels, members, target, seed))
    assert our_labels.tolist() == their_labels.tolist()
    assert ours.shape == theirs.shape and np.allclose(ours, theirs, atol=0.01)


@pytest.mark.parametrize("target, seed", [("auto", 0), (25, 0), (400, 2**32 - 1)])
def test_the_samples_are_imbalanced_learns_one_by_one(target, seed):
    images, labels = random_pictures(40, 11, 6, 27, 9)
    for members in torch.arange(93), torch.arange(93)[torch.arange(93) % 20 > 0]:  # all, and a training share
        assert_same(images, labels, members, target, seed)


@pytest.mark.parametrize("count", [2, 5])
def test_a_style_with_few_paintings_uses_all_the_others_as_neighbours(count):
    assert_same(*random_pictures(30, count), torch.arange(30 + count), "auto", 3, neighbours=count - 1)


def test_a_style_with_one_painting_repeats_it():
    images, labels = random_pictures(10, 1, 4)
    pixels, names = synthetic(images, labels, balance.plan_smote(images, labels, torch.arange(15), "auto", 0))
    assert (names == 1).sum() == 9
    assert torch.allclose(pixels[names == 1], images[10].flatten().float().expand(9, -1), atol=1e-3)
