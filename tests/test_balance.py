"""Which paintings an epoch takes: validation split, weighted sampler, and SMOTE against imbalanced-learn's."""

from types import SimpleNamespace

import jobs
import numpy as np
import pytest
import scipy.stats
import torch
from imblearn.over_sampling import SMOTE

import wikiart
from support.system import console
from support.training import balance, batches, checkpoints

# Training paintings of the course split, and what its students' version printed after SMOTE at 400.
COURSE = {
    "Abstract_Expressionism": 449, "Action_painting": 18, "Analytical_Cubism": 15, "Art_Nouveau_Modern": 688,
    "Baroque": 721, "Color_Field_Painting": 268, "Contemporary_Realism": 91, "Cubism": 390, "Early_Renaissance": 246,
    "Expressionism": 1127, "Fauvism": 163, "High_Renaissance": 198, "Impressionism": 2269,
    "Mannerism_Late_Renaissance": 246, "Minimalism": 212, "Naive_Art_Primitivism": 373, "New_Realism": 41,
    "Northern_Renaissance": 413, "Pointillism": 80, "Pop_Art": 244, "Post_Impressionism": 946, "Realism": 1712,
    "Rococo": 369, "Romanticism": 1157, "Symbolism": 679, "Synthetic_Cubism": 38, "Ukiyo_e": 197,
}  # fmt: skip
KEPT = [2269, 1712, 1157, 1127, 946, 721, 688, 679, 449, 413]


def labels_of(*counts):
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def made(*counts, size=8):
    """Random pictures, uint8, and labels: `counts` of each style."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (sum(counts), 3, size, size), dtype=torch.uint8, generator=generator)
    return images, labels_of(*counts)


# Validation split


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_a_share_of_every_style_is_held_out(share):
    labels, single = labels_of(1, 2, 3, 10, 100)[torch.randperm(116)], torch.arange(116)
    members, held_out = balance.split(labels, share, 7, single)
    assert sorted([*members.tolist(), *held_out.tolist()]) == list(range(116))
    found = labels[held_out].bincount(minlength=5).tolist()
    assert found == [0, 1, min(2, max(1, round(3 * share))), round(10 * share), round(100 * share)]
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
        assert len(held_out) > 5 and labels[held_out].unique().numel() == 4
        assert labels[members].unique().numel() == 4
    members, held_out = balance.split(labels_of(6, 2), 0.5, 0, torch.tensor([5, 5, 5, 5, 5, 5, 6, 7]))
    assert held_out.tolist() in ([6], [7])  # six copies are one painting


# Order of an epoch


def test_the_weighted_sampler_draws_every_style_equally_often():
    labels, members = labels_of(90, 30, 6), torch.arange(126)[torch.arange(126) % 3 > 0]
    drawn = torch.cat([balance.index_order("weighted_sampler", labels, members, None, 0, e) for e in range(100)])
    assert len(drawn) == 100 * len(members) and set(drawn.tolist()) == set(members.tolist())
    assert scipy.stats.chisquare(labels[drawn].bincount()).pvalue > 1e-3
    assert scipy.stats.chisquare(drawn[labels[drawn] == 0].bincount()[members[labels[members] == 0]]).pvalue > 1e-3


@pytest.mark.parametrize("imbalance", ["none", "weighted_sampler", "smote"])
def test_an_order_depends_on_seed_and_epoch(imbalance):
    images, labels = made(20, 7)
    members = torch.arange(27)
    plan = balance.plan_smote(images, labels, members, "auto", 0) if imbalance == "smote" else None
    cases = [(seed, epoch) for seed in (1, 2) for epoch in (1, 2, 1)]
    orders = [balance.index_order(imbalance, labels, members, plan, *case) for case in cases]
    assert len({tuple(order.tolist()) for order in orders}) == 4 and torch.equal(orders[0], orders[2])
    if imbalance != "weighted_sampler":
        assert sorted(orders[0].tolist()) == list(range(27 if plan is None else 40))


# SMOTE


def synthetic(images, labels, plan):
    """The plan's paintings as the batches have them: float pixels of 0 to 255, one row each, and labels."""
    loader = batches.Batches(images, labels, torch.device("cpu"), plan)
    parts = list(loader.batches(len(labels) + torch.arange(len(plan.label)), 7))
    images, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return 255 * images.flatten(1), labels


def assert_same(images, labels, members, target, seed, neighbours=5):
    """The plan's samples are imbalanced-learn's, one by one."""
    plan = balance.plan_smote(images, labels, members, target, seed)
    found, found_labels = synthetic(images, labels, plan)
    pixels, names = images[members].flatten(1).float().numpy(), labels[members].numpy()
    counts = np.bincount(names)
    strategy = "auto" if target == "auto" else {i: target for i in range(len(counts)) if counts[i] < target}
    sampler = SMOTE(sampling_strategy=strategy, k_neighbors=neighbours, random_state=seed)
    samples, expected_labels = sampler.fit_resample(pixels, names)
    expected, expected_labels = samples[len(names) :], expected_labels[len(names) :]
    assert found_labels.tolist() == plan.label.tolist() == expected_labels.tolist()
    assert found.shape == expected.shape and np.allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("target", ["auto", 25, 41, 400])
@pytest.mark.parametrize("seed", [0, 2326, 2**32 - 1])
def test_the_samples_are_imbalanced_learns_one_by_one(target, seed):
    assert_same(*made(40, 11, 6, 27, 9), torch.arange(93), target, seed)


def test_they_are_also_where_only_the_training_share_is_used():
    images, labels = made(40, 12, 9, 27)
    members, held_out = balance.split(labels, 0.2, 1, torch.arange(len(labels)))
    assert_same(images, labels, members, "auto", 5)
    plan = balance.plan_smote(images, labels, members, "auto", 5)
    assert len(held_out) > 10 and not torch.isin(torch.cat([plan.base, plan.neighbour]), held_out).any()


@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_a_style_with_few_paintings_uses_all_the_others_as_neighbours(count):
    images, labels = made(30, count)
    assert_same(images, labels, torch.arange(30 + count), "auto", 3, neighbours=count - 1)


def test_a_style_with_one_painting_repeats_it():
    images, labels = made(10, 1, 4)
    found, names = synthetic(images, labels, balance.plan_smote(images, labels, torch.arange(15), "auto", 0))
    assert (names == 1).sum() == 9
    assert torch.allclose(found[names == 1], images[10].flatten().float().expand(9, -1), atol=1e-3)


def test_the_counts_that_the_script_prints_at_400_are_the_students(tmp_path, monkeypatch):
    (images, labels), described = made(*COURSE.values(), size=4), []
    dataset = SimpleNamespace(
        images=images, labels=labels, classes=list(COURSE), counts=COURSE, paths=list(map(str, range(len(labels)))),
        fingerprints=torch.arange(len(labels)),
    )  # fmt: skip

    def enough(*_):
        raise console.UserError("this is enough")

    describe = checkpoints.describe
    monkeypatch.setattr(checkpoints, "describe", lambda *found: described.append(describe(*found)) or described[0])

    monkeypatch.setattr(wikiart, "WikiArtDataset", lambda *_, **__: dataset)
    monkeypatch.setattr(batches, "Batches", enough)
    done = jobs.call("trainpart1", "--imbalance", "smote", "--smote_target", 400, "--validation", 0,
                     "--image_size", 16, "--outputdir", tmp_path, "--device", "cpu")  # fmt: skip
    assert done.err == "this is enough\n" and described[0]["counts"] == COURSE
    (line,) = [line for line in done.out.splitlines() if line.startswith("SMOTE adds")]
    printed = {style: int(n) for style, n in (item.rsplit(" ", 1) for item in line.split(": ", 1)[1].split(", "))}
    assert printed == {style: max(count, 400) for style, count in COURSE.items()}
    assert sorted(printed.values(), reverse=True) == [*KEPT, *[400] * 17]
