"""trainauto.py: the autoencoder's training through the script."""

import csv
import os
from types import SimpleNamespace

import jobs
import pytest
import torch
import torch.nn.functional as F

import testtrainauto
import trainauto
import wikiart
from support.networks import discriminant, pca
from support.system import devices
from support.training import balance, checkpoints
from support.training.batches import Batches

TRAINING = {"Baroque": 12, "Cubism": 10, "Pay_$5_or_$6": 8}
SMALL = ["--image_size", 16, "--latent_dim", 3, "--epochs", 2, "--validation", 0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, paint, run):
    folder = tmp_path_factory.mktemp("trainauto")
    paint(folder / "train", TRAINING)
    flags = ["--trainingdir", folder / "train", "--cachedir", folder / "cache", "--device", "cpu", "--batch_size", 9]
    result = run(
        trainauto, *flags, "--outputdir", folder, "--image_size", 16, "--latent_dim", 6, "--epochs", 10,
        "--learning_rate", 0.0005, "--validation", 0.2,
    )  # fmt: skip
    assert result.status == 0, result.err
    return SimpleNamespace(folder=folder, flags=flags, checkpoint=checkpoints.read(folder / "autoencoder.pth", 2))


def test_training_learns_and_keeps_its_best_epoch(trained):
    checkpoint, kept = trained.checkpoint, trained.checkpoint["history"][-1]
    with open(trained.folder / "history_auto.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["kind"]) for row in rows] == [("0", "start"), *((str(i), "epoch") for i in range(1, 11))]
    losses = [float(row["validation_mse"]) for row in rows]  # the first one is the PCA's
    assert kept["validation_mse"] == min(losses) == losses[kept["epoch"]] < losses[0]
    assert len(checkpoint["history"]) == kept["epoch"] + 1 == checkpoint["epoch"] + 1
    assert {"epoch", "kind", "learning_rate", "training_loss", "validation_mse"} == set(kept)
    assert checkpoint["latent_dim"] == 6 and checkpoint["image_size"] == 16


def test_the_validation_error_is_that_of_clipped_reconstructions_of_held_out_paintings(trained):
    dataset = wikiart.WikiArtDataset(trained.folder / "train", 16, cachedir=trained.folder / "cache")
    _, held_out = balance.split(dataset.labels, 0.2, 2326, dataset.fingerprints)
    images, model = dataset.images[held_out].float() / 255, wikiart.load_network(trained.checkpoint)
    error = F.mse_loss(model.decode(model.encode(images)), images).item()
    assert trained.checkpoint["history"][-1]["validation_mse"] == pytest.approx(error, rel=1e-4)  # in other batches

    grey = torch.full((3, 3, 16, 16), 204, dtype=torch.uint8)
    loader = Batches(grey, torch.zeros(3, dtype=torch.int64), torch.device("cpu"))
    metrics = trainauto.validate(lambda images: images + 7, loader, torch.arange(3), 2)
    assert metrics == {"validation_mse": pytest.approx(0.2**2, rel=1e-3)}


def test_what_is_fitted_and_validated_does_not_depend_on_what_training_computes_in(trained, workdir, run, monkeypatch):
    starts = []
    for kind in torch.float32, torch.bfloat16:
        monkeypatch.setattr(devices, "precision", lambda device, kind=kind: kind)
        assert run(trainauto, *trained.flags, *SMALL, "--validation", 0.2, "--outputdir", str(kind)).status == 0
        state = jobs.load(f"{kind}/autoencoder.resume.pth")
        starts.append((state["progress"]["rows"][0], *(state["model"][name] for name in ("components", "style_axes"))))
    assert jobs.same(*starts)


def test_an_epoch_replaces_the_pca_only_if_it_is_better(trained, workdir, run):
    flags = [*trained.flags, "--image_size", 16, "--latent_dim", 6, "--validation", 0.2, "--outputdir", "."]
    done = run(trainauto, *flags, "--epochs", 1, "--learning_rate", 1)
    words = "finished: 1 epoch trained; autoencoder.pth holds what was fitted before training (validation mse 0."
    assert done.status == 0 and words in done.out
    model = wikiart.load_network(checkpoints.read("autoencoder.pth", 2))
    assert not model.encoder.fine[1].running_mean.any()  # measured in eval mode: held-out paintings leave no trace
    images = torch.rand(3, 3, 16, 16)
    linear = (images.flatten(1) - model.mean) @ model.components[:3].T @ model.components[:3] + model.mean
    assert torch.allclose(model(images).flatten(1), linear, atol=1e-5)


def test_held_out_paintings_are_in_no_part_of_the_training(trained, workdir, run, monkeypatch):
    fits, batches, loss = [], [], wikiart.autoencoder_loss
    for room, name in (pca, "fit_pca"), (discriminant, "fit"):
        fit = getattr(room, name)
        monkeypatch.setattr(room, name, lambda *given, fit=fit: fits.append(given) or fit(*given))
    monkeypatch.setattr(wikiart, "autoencoder_loss", lambda model, seen: batches.append(seen) or loss(model, seen))
    assert run(trainauto, *trained.flags, *SMALL[:-2], "--validation", 0.4, "--outputdir", ".").status == 0
    dataset = wikiart.WikiArtDataset(trained.folder / "train", 16, cachedir=trained.folder / "cache")
    members, held_out = balance.split(dataset.labels, 0.4, 2326, dataset.fingerprints)
    assert len(held_out) > 5 and len(fits) == 2
    assert [len(given[1]) for given in fits] == [len(members)] * 2  # the discriminant's: their features
    for images, fitted_to, *more in (given[-4:] for given in fits):
        assert torch.equal(images, dataset.images) and torch.equal(fitted_to, members) and 2326 in more
    whole = {image.numpy().tobytes(): False for image in dataset.images[members]}
    whole |= {image.flip(2).numpy().tobytes(): True for image in dataset.images[members]}
    flipped = [whole[image.numpy().tobytes()] for image in torch.cat(batches).mul(255).round().to(torch.uint8)]
    assert 0.2 < sum(flipped) / len(flipped) < 0.8


def test_training_never_sees_a_style(trained, workdir, run, monkeypatch):
    weights, honest = [], wikiart.WikiArtDataset
    for change in (lambda labels: labels, lambda labels: labels.flip(0)):

        def shuffled(*arguments, change=change, **named):
            dataset = honest(*arguments, **named)
            dataset.labels = change(dataset.labels)
            return dataset

        monkeypatch.setattr(wikiart, "WikiArtDataset", shuffled)
        assert run(trainauto, *trained.flags, *SMALL, "--fresh", "--outputdir", ".").status == 0
        weights.append(checkpoints.read("autoencoder.pth", 2)["model"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_pretrained_trunk_describes_the_style_and_is_in_the_checkpoint(trained, workdir, run, refused):
    name, torch_state = "shufflenet_v2_x0_5", wikiart.make_classifier("shufflenet_v2_x0_5", 2, 32).trunk.state_dict()
    torch.save(torch_state, "w.pth")
    flags = [*trained.flags, "--latent_dim", 8, "--epochs", 2, "--validation", 0.2, "--image_size", 32]
    flags += ["--outputdir", ".", "--architecture", name, "--pretrained", "w.pth"]
    done = run(trainauto, *flags)
    assert (done.status, done.err) == (0, "")
    before = {name: value.clone() for name, value in torch_state.items()}
    os.remove("w.pth")
    checkpoint = checkpoints.read("autoencoder.pth", 2)
    model, resumed = wikiart.load_network(checkpoint), jobs.load("autoencoder.resume.pth")["model"]
    for key, value in before.items():  # training changes nothing of it
        assert torch.equal(resumed[f"description.trunk.{key}"], value), key
    assert torch.allclose(model.description.normalize.mean, torch.tensor([0.485, 0.456, 0.406]))
    dataset = wikiart.WikiArtDataset(trained.folder / "train", 32, cachedir=trained.folder / "cache")
    members, _ = balance.split(dataset.labels, 0.2, 2326, dataset.fingerprints)
    with torch.no_grad():
        described = model.description.all_features(dataset.images[members] / 255)
    assert torch.allclose(model.style_mean, described.mean(0), atol=1e-3)
    assert model.style(described).var(0)[0] == pytest.approx(1, rel=0.05)
    result = run(testtrainauto, *flags[:2], "--testingdir", trained.folder / "train", *flags[2:6], "--outputdir", ".")
    assert result.status == 0 and "pooled features of the pretrained trunk" in result.out
    line = refused(testtrainauto, "--outputdir", ".", "--architecture", "none")
    assert line == f'--architecture: got "none", but autoencoder.pth was trained with "{name}"'


@pytest.mark.parametrize("flags", [["--architecture", "residual"], ["--pretrained", "w.pth"]])
def test_a_network_without_weights_and_weights_without_a_network_are_refused(trained, workdir, refused, flags):
    line = refused(trainauto, *trained.flags, "--outputdir", ".", *flags)
    assert line.endswith('architecture: expected "none" without pretrained, and a network with it')
