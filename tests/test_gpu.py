"""On a GPU: batches from its memory and from the host's are the CPU's, steps wait for nothing, and a run resumes."""

import jobs
import pytest
import torch

import wikiart
from support.system import processes
from support.training import augmentation, balance, batches, epochs

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("full_networks"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> wikiart.WikiArtDataset:
    folder = tmp_path_factory.mktemp("gpu")
    return wikiart.WikiArtDataset(jobs.paint(folder / "train", side=40), 32, cachedir=folder / "cache")


@pytest.mark.parametrize("share", [0.5, 0.0])
@pytest.mark.parametrize("imbalance", ["weighted_sampler", "smote"])
def test_batches_are_the_cpus(dataset, monkeypatch, share, imbalance):
    """Images that fit beside the model, and images that stay in host memory."""
    monkeypatch.setattr(batches, "RESIDENT_SHARE", share)
    members, plan = torch.arange(len(dataset)), None
    if imbalance == "smote":
        plan = balance.plan_smote(dataset.images, dataset.labels, members, 20, seed=0)
    order = balance.index_order(imbalance, dataset.labels, members, plan, 0, 1)
    there = batches.Batches(dataset.images, dataset.labels, torch.device("cuda", 0), plan)
    assert (there.images.device.type == "cuda") == (share > 0)
    here = batches.Batches(dataset.images, dataset.labels, torch.device("cpu"), plan)
    for (images, labels), (expected, targets) in zip(there.batches(order, 7), here.batches(order, 7), strict=True):
        assert torch.allclose(images.cpu(), expected, atol=1e-5) and torch.equal(labels.cpu(), targets)


@pytest.mark.parametrize("network", ["residual", "three_conv", "autoencoder"])
def test_steps_do_not_wait_for_the_gpu(dataset, network):
    device = torch.device("cuda", 0)
    model = wikiart.Autoencoder(32, 8) if network == "autoencoder" else wikiart.make_classifier(network, 3, 32)
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = epochs.Optimizer(model, device)
    loader = batches.Batches(dataset.images, dataset.labels, device)
    for number, (images, labels) in enumerate(loader.batches(batches.full_batches(torch.arange(len(dataset)), 5), 5)):
        torch.cuda.set_sync_debug_mode("error" if number else "default")  # the first one sets things up
        try:
            if network == "autoencoder":
                loss = wikiart.autoencoder_loss(model, augmentation.crop_and_flip(images, 32))
            else:
                loss = wikiart.classifier_loss(model, augmentation.crop_and_flip(images, model.crop_side), labels)
            optimizer.step(loss, 0.001)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("script", ["trainpart1", "trainauto"])
def test_an_interrupted_run_goes_on(script, tmp_path, monkeypatch):
    jobs.paint(tmp_path / "train")
    flags = jobs.flags(tmp_path / "train", tmp_path, "--device", "cuda", "--image_size", 32, "--epochs", 2)
    real, calls = processes.average_statistics, iter([False, True])

    def interrupted(model):
        if next(calls):
            raise KeyboardInterrupt
        real(model)

    monkeypatch.setattr(processes, "average_statistics", interrupted)
    assert jobs.call(script, *flags).status == 130
    monkeypatch.setattr(processes, "average_statistics", real)
    done = jobs.call(script, *flags)
    assert done.status == 0 and "going on after epoch 1 of 2" in done.out
