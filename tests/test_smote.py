"""SMOTE as a plan: the same synthetic paintings as imbalanced-learn's, blended when the batch is made."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from imblearn.over_sampling import SMOTE

import trainpart1
import wikiart
from support import balance, batches, console, training

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
CPU = torch.device("cpu")


def made(counts, size=8, seed=0):
    """A stand-in for a dataset: random pictures of a size, `counts` of each style, styles together and in order."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (sum(counts), 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    classes = [f"style{i:02d}" for i in range(len(counts))]
    return SimpleNamespace(
        images=images,
        labels=labels,
        classes=classes,
        counts=dict(zip(classes, counts, strict=True)),
        paths=[str(i) for i in range(len(labels))],
        fingerprints=torch.arange(len(labels)),
    )


def synthetic(dataset, plan):
    """The plan's paintings as the batches have them: float pixels of 0 to 255, one row each, and labels."""
    paintings = batches.Paintings(dataset, CPU, plan)
    order = len(dataset.labels) + torch.arange(len(plan.label))
    made = list(paintings.batches(order, 7))
    images, labels = (torch.cat(column) for column in zip(*made, strict=True))
    return 255 * images.flatten(1), labels


def by_imblearn(dataset, members, target, seed, neighbours=5):
    """imbalanced-learn's synthetic samples, in its own order."""
    pixels, labels = dataset.images[members].flatten(1).float().numpy(), dataset.labels[members].numpy()
    counts = np.bincount(labels)
    strategy = "auto" if target == "auto" else {i: target for i in range(len(counts)) if counts[i] < target}
    sampler = SMOTE(sampling_strategy=strategy, k_neighbors=neighbours, random_state=seed)
    samples, names = sampler.fit_resample(pixels, labels)
    return torch.from_numpy(samples[len(labels) :]), torch.from_numpy(names[len(labels) :])


def assert_same(dataset, members, target, seed, neighbours=5):
    plan = balance.plan_smote(dataset.images, dataset.labels, members, target, seed)
    images, labels = synthetic(dataset, plan)
    expected, expected_labels = by_imblearn(dataset, members, target, seed, neighbours)
    assert torch.equal(labels, expected_labels) and torch.equal(plan.label, labels)
    assert images.shape == expected.shape and torch.allclose(images, expected, atol=0.01)


@pytest.mark.parametrize("target", ["auto", 25, 41, 400])
@pytest.mark.parametrize("seed", [0, 2326, 2**32 - 1])
def test_the_samples_are_imbalanced_learns_one_by_one(target, seed):
    dataset = made([40, 11, 6, 27, 9])
    assert_same(dataset, torch.arange(93), target, seed)


def test_they_are_also_where_only_the_training_share_is_used():
    dataset = made([40, 12, 9, 27])
    members, held_out = balance.split(dataset.labels, 0.2, 1)
    assert len(held_out) > 10
    assert_same(dataset, members, "auto", 5)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_style_with_few_paintings_uses_all_the_others_as_neighbours(count):
    dataset = made([30, count])
    assert_same(dataset, torch.arange(30 + count), "auto", 3, neighbours=count - 1)
    plan = balance.plan_smote(dataset.images, dataset.labels, torch.arange(30 + count), 300, 3)
    pairs = {(b, n) for b, n in zip(plan.base.tolist(), plan.neighbour.tolist(), strict=True) if b >= 30}
    assert len(pairs) == count * (count - 1) and all(b != n for b, n in pairs)


def test_six_paintings_have_the_five_neighbours_of_imbalanced_learn():
    assert_same(made([30, 6]), torch.arange(36), "auto", 3)


def test_a_style_with_one_painting_repeats_it():
    dataset = made([10, 1, 4])
    plan = balance.plan_smote(dataset.images, dataset.labels, torch.arange(15), "auto", 0)
    images, labels = synthetic(dataset, plan)
    assert (labels == 1).sum() == 9
    assert torch.allclose(images[labels == 1], dataset.images[10].flatten().float().expand(9, -1), atol=1e-3)


@pytest.mark.parametrize("target, numbers", [("auto", [20, 20, 20]), (9, [20, 9, 9]), (3, [20, 7, 3]), (1, [20, 7, 2])])
def test_every_style_has_at_least_the_target_and_none_loses_a_painting(target, numbers):
    dataset = made([20, 7, 2])
    plan = balance.plan_smote(dataset.images, dataset.labels, torch.arange(29), target, 0)
    order = balance.index_order("smote", dataset.labels, torch.arange(29), plan, 0, 1)
    assert sorted(order.tolist()) == list(range(sum(numbers)))
    labels = torch.cat([labels for _, labels in batches.Paintings(dataset, CPU, plan).batches(order, 8)])
    assert labels.bincount().tolist() == numbers


def test_an_epochs_order_depends_on_seed_and_epoch():
    dataset = made([20, 7])
    plan = balance.plan_smote(dataset.images, dataset.labels, torch.arange(27), "auto", 0)
    orders = {
        tuple(balance.index_order("smote", dataset.labels, torch.arange(27), plan, seed, epoch).tolist())
        for seed in (1, 2)
        for epoch in (1, 2, 3)
    }
    assert len(orders) == 6


def test_another_seed_draws_other_samples_and_the_same_seed_the_same():
    dataset = made([20, 7])
    first, again, other = (
        balance.plan_smote(dataset.images, dataset.labels, torch.arange(27), "auto", seed) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.weight, other.weight)


def test_a_sample_lies_between_a_painting_and_one_of_its_five_nearest_in_style():
    dataset = made([50, 20])
    plan = balance.plan_smote(dataset.images, dataset.labels, torch.arange(70), 200, 4)
    pixels = dataset.images.flatten(1).double()
    assert ((plan.weight >= 0) & (plan.weight < 1)).all()
    assert torch.equal(dataset.labels[plan.base], dataset.labels[plan.neighbour])
    for base, neighbour in set(zip(plan.base.tolist(), plan.neighbour.tolist(), strict=True)):
        style = [i for i in range(70) if dataset.labels[i] == dataset.labels[base] and i != base]
        nearest = sorted(style, key=lambda i: float((pixels[i] - pixels[base]).square().sum()))[:5]
        assert neighbour in nearest


def test_a_plan_is_small_and_keeps_no_pixels():
    dataset = made([60, 20], size=16)
    plan = balance.plan_smote(dataset.images, dataset.labels, torch.arange(80), 1000, 0)
    assert sum(column.nbytes for column in plan) == 4 * 8 * len(plan.label)
    paintings = batches.Paintings(dataset, CPU, plan)
    assert paintings.images is dataset.images


# Through the script


@pytest.fixture
def started(monkeypatch, run, tmp_path):
    """started(dataset, *flags): trainpart1 up to its first step; what it printed, and what it would train on."""

    def started(dataset, *flags):
        seen = {}

        def train(options, part, facts, model, paintings, order_of, *_):
            seen.update(paintings=paintings, order=order_of(1), facts=facts)
            raise console.UserError("this is enough")

        monkeypatch.setattr(wikiart, "open_dataset", lambda *_: dataset)
        monkeypatch.setattr(training, "train", train)
        flags = ("--imbalance", "smote", "--outputdir", tmp_path, "--device", "cpu", *flags)
        result = run(trainpart1, *flags)
        assert result.err == "this is enough\n"
        return SimpleNamespace(out=result.out, **seen)

    return started


def test_the_printed_counts_at_400_are_the_students(started):
    dataset = made(list(COURSE.values()), size=16)
    dataset.classes, dataset.counts = list(COURSE), COURSE
    seen = started(dataset, "--validation", 0, "--smote_target", 400, "--image_size", 16)
    (line,) = [line for line in seen.out.splitlines() if line.startswith("SMOTE adds")]
    printed = dict(item.rsplit(" ", 1) for item in line.split(": ", 1)[1].split(", "))
    assert list(printed) == list(COURSE)
    numbers = sorted(map(int, printed.values()), reverse=True)
    assert numbers == sorted([*KEPT, *[400] * 17], reverse=True)
    assert all(int(printed[style]) == max(count, 400) for style, count in COURSE.items())
    assert seen.paintings.labels[seen.order].bincount().tolist() == [max(count, 400) for count in COURSE.values()]
    assert seen.facts["counts"] == COURSE


def test_the_validation_share_is_never_blended_and_never_drawn(started):
    dataset = made([30, 12, 5])
    seen = started(dataset, "--validation", 0.3, "--smote_target", "auto", "--seed", 7, "--image_size", 16)
    _, held_out = balance.split(dataset.labels, 0.3, 7)
    assert len(held_out) == 15 or len(held_out) == 14
    base, neighbour, _ = seen.paintings.blend
    used = set(base[seen.order].tolist()) | set(neighbour[seen.order].tolist())
    assert len(seen.order) > 47 - len(held_out) and not used & set(held_out.tolist())


def test_the_shares_of_two_processes_blend_what_one_would(monkeypatch):
    dataset = made([20, 7])
    plan = balance.plan_smote(dataset.images, dataset.labels, torch.arange(27), "auto", 0)
    paintings = batches.Paintings(dataset, CPU, plan)
    order = balance.index_order("smote", dataset.labels, torch.arange(27), plan, 0, 1)
    whole = [images for images, _ in paintings.batches(order, 8)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        shares.append([images for images, _ in paintings.batches(order, 8)])
    for batch, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(batch[0::2], first) and torch.equal(batch[1::2], second)


@pytest.mark.parametrize("target", [8, "auto"])
def test_training_with_smote_keeps_the_true_counts(workdir, paint, run, target):
    counts = {"A": 12, "B": 3, "C": 1}
    paint(workdir / "train", counts)
    result = run(trainpart1, "--trainingdir", "train", "--imbalance", "smote", "--smote_target", target,
                 "--epochs", 1, "--image_size", 16, "--batch_size", 8, "--device", "cpu")  # fmt: skip
    assert (result.status, result.err) == (0, "") and "SMOTE adds" in result.out
    assert torch.load(workdir / "wikiart.pth", weights_only=True)["counts"] == counts
