"""uint8 images to batches: order, shares of processes, full batches, augmentation."""

import itertools

import pytest
import torch

from support.training import augmentation, balance, batches

CPU = torch.device("cpu")


def numbered(count, size=16):
    """Images and labels, painting i all of value i."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, size, size).contiguous()
    return images, torch.arange(count) % 7


def test_batches_are_the_paintings_in_order_as_floats_from_0_to_1():
    paintings, targets = numbered(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    made = list(batches.Batches(paintings, targets, CPU).batches(order, 16))
    assert [len(images) for images, _ in made] == [16, 16, 16, 2]
    images, labels = (torch.cat(column) for column in zip(*made, strict=True))
    assert images.dtype == torch.float32 and torch.equal(images, paintings[order].float() / 255)
    assert torch.equal(labels, targets[order])


def test_a_plans_synthetic_paintings_are_blended_after_the_real_ones():
    paintings, targets = numbered(10)
    plan = balance.SmotePlan(
        torch.tensor([2, 8]), torch.tensor([6, 9]), torch.tensor([0.25, 0.5]), torch.tensor([5, 3])
    )
    loader = batches.Batches(paintings, targets, CPU, plan)
    ((images, labels),) = loader.batches(torch.tensor([11, 4, 10]), 3)
    assert len(loader) == 12 and labels.tolist() == [3, 4, 5]
    assert torch.allclose(255 * images[:, 0, 0, 0], torch.tensor([8.5, 4, 3]))


@pytest.mark.parametrize("processes", [2, 3])
def test_the_shares_of_the_processes_make_up_each_batch(processes, monkeypatch):
    order, loader = torch.randperm(60), batches.Batches(*numbered(60), CPU)
    monkeypatch.setattr(batches.processes, "world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(batches.processes, "rank", lambda rank=rank: rank)
        shares.append([(255 * images[:, 0, 0, 0]).round().int() for images, _ in loader.batches(order, 12)])
    for number, parts in enumerate(zip(*shares, strict=True)):
        assert {len(part) for part in parts} == {12 // processes}
        assert sorted(torch.cat(parts).tolist()) == sorted(order[12 * number : 12 * number + 12].tolist())


@pytest.mark.parametrize("count, batch_size", [(10, 4), (10, 5), (3, 8), (1, 7), (9, 1)])
def test_every_training_batch_is_full_and_no_painting_is_missed(count, batch_size):
    order = torch.randperm(count)
    filled = batches.full_batches(order, batch_size)
    assert len(filled) % batch_size == 0 and len(filled) - count < batch_size
    assert torch.equal(filled[:count], order) and set(filled.tolist()) == set(range(count))


@pytest.mark.parametrize("side", [5, 8])
def test_crops_are_windows_of_the_image_as_they_are_at_every_place_and_half_of_them_flipped(side):
    torch.manual_seed(7)
    images = torch.rand(2, 3, 8, 8)
    cropped = augmentation.crop_and_flip(images.repeat_interleave(400, 0), side).view(2, 400, 3, side, side)
    for image, crops in zip(images, cropped, strict=True):
        windows = {}  # every window there is, by its pixels
        for flipped, source in enumerate([image, image.flip(2)]):
            for top, left in itertools.product(range(8 - side + 1), repeat=2):
                windows[source[:, top : top + side, left : left + side].numpy().tobytes()] = flipped
        flipped = [windows[crop.numpy().tobytes()] for crop in crops]
        assert 140 < sum(flipped) < 260 and len({crop.numpy().tobytes() for crop in crops}) == len(windows)
