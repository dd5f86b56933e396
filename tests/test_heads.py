"""The head that is fitted instead of being trained, alone and in whole runs of trainpart1.py."""

import shutil

import jobs
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import testtrainpart1
import trainpart1
import wikiart
from support.networks import heads, levels
from support.system import console, devices, processes
from support.training import checkpoints, history, runs

ARCHITECTURE, S = "shufflenet_v2_x0_5", 32


@pytest.mark.parametrize("standardized", [True, False])
@pytest.mark.parametrize("styles, balanced", [(2, True), (2, False), (3, True), (3, False)])
def test_a_fitted_head_is_a_logistic_regression(styles, balanced, standardized):
    torch.manual_seed(6)
    labels = torch.tensor([0] * 40 + [1] * 15 + [styles - 1] * 10)
    features = torch.randn(65, 300) * 0.2 + 0.05 * labels[:, None]
    before = features.clone()
    head = heads.fit(features, labels, styles, balanced, standardized)
    assert torch.equal(features, before) and not head.training and not head.linear.weight.requires_grad
    inputs = features.double()
    if standardized:
        inputs = (inputs - inputs.mean(0)) / (inputs.var(0, correction=0) + heads.EPS).sqrt()
    yardstick = LogisticRegression(C=heads.C, class_weight="balanced" if balanced else None, max_iter=1000)
    expected = yardstick.fit(inputs.numpy(), labels.numpy()).predict_proba(inputs.numpy())
    assert np.allclose(head(features).softmax(1).numpy(), expected, atol=1e-3)


def test_a_style_without_paintings_is_never_predicted():
    features, labels = torch.randn(30, 200), torch.tensor([0, 1, 3]).repeat(10)
    logits = heads.fit(features, labels, 4, balanced=True)(features)
    assert (logits.argmax(1) == labels).all() and (logits[:, 2] == heads.NEVER).all()


def test_no_head_is_fitted_to_features_that_are_not_finite():
    features = torch.zeros(4, 9)
    features[1, 3] = torch.nan
    with pytest.raises(console.UserError, match="not finite"):
        heads.fit(features, torch.arange(4) % 2, 2, balanced=True)


@pytest.fixture
def flags(tmp_path, paint):
    """The flags of a small training from a file of weights, but for the number of epochs."""
    paint(tmp_path / "train", {"A": 12, "B": 8})
    torch.save(wikiart.make_classifier(ARCHITECTURE, 2, S).trunk.state_dict(), tmp_path / "w.pth")
    more = ["--architecture", ARCHITECTURE, "--pretrained", tmp_path / "w.pth"]
    return jobs.flags(tmp_path / "train", tmp_path, *more, "--image_size", S, "--batch_size", 4, "--epochs")


@pytest.fixture
def scratch(tmp_path, paint):
    """The flags of a small training from scratch, but for the number of epochs."""
    paint(tmp_path / "train", {"A": 12, "B": 8})
    return jobs.flags(tmp_path / "train", tmp_path, "--image_size", S, "--batch_size", 4, "--validation", 0, "--epochs")


@pytest.mark.parametrize("last, kind", [(0.6, "epoch"), (0.3, "fitted")])
def test_modelfile_holds_the_trained_or_the_fitted_head_whichever_is_better(
    last, kind, flags, tmp_path, run, monkeypatch
):
    losses = iter([0.5, 0.9, 0.4, last])  # before training, of epoch 1, epoch 2, the head fitted after it
    monkeypatch.setattr(trainpart1, "validate", lambda *_: {"validation_loss": next(losses)})
    done = run(trainpart1, *flags, 2)
    assert (done.status, done.err) == (0, "")
    words = {"epoch": "epoch 2", "fitted": "the head fitted after epoch 2"}[kind]
    for text in done.out, run(trainpart1, *flags, 2).out:
        assert f"wikiart.pth holds {words} (validation loss {min(0.4, last)})" in text
    first, second = [line for line in done.out.splitlines() if line.startswith("fitted the head  validation loss 0.")]
    assert first.endswith("-> wikiart.pth") and second.endswith("-> wikiart.pth") == (kind == "fitted")
    checkpoint = checkpoints.read(tmp_path / "wikiart.pth", 1)
    assert checkpoint["epoch"] == 2 and checkpoint["history"][-1]["kind"] == kind
    assert (wikiart.load_network(checkpoint).fitted is not None) == (kind == "fitted")


@pytest.mark.parametrize("first", ["--epochs 0", "an interruption in the first epoch"])
def test_epochs_go_on_from_a_fitted_head_to_where_one_run_ends(first, flags, tmp_path, run, monkeypatch):
    if first == "--epochs 0":
        done = run(trainpart1, *flags, 0)
        assert (done.status, done.err) == (0, "") and "fitted the head  validation loss" in done.out
        again = run(trainpart1, *flags, 0)
        assert again.status == 0 and "finished" in again.out and "fitting" not in again.out
    else:
        with monkeypatch.context() as patch:
            patch.setattr(processes, "average_statistics", lambda model: (_ for _ in ()).throw(KeyboardInterrupt))
            done = run(trainpart1, *flags, 2)
        assert (done.status, done.err.splitlines()[-1]) == (
            130, "Stopped in epoch 1 of 2: what was fitted before it is saved; the same command goes on from there."
        )  # fmt: skip
    checkpoint = checkpoints.read(tmp_path / "wikiart.pth", 1)
    assert (checkpoint["epoch"], [row["kind"] for row in checkpoint["history"]]) == (0, ["fitted"])
    for name, value in jobs.load(tmp_path / "w.pth").items():
        assert torch.equal(checkpoint["model"][f"trunk.{name}"], value), name
    test = ["--testingdir", tmp_path / "train", "--outputdir", tmp_path, "--device", "cpu"]
    assert run(testtrainpart1, *test, "--cachedir", tmp_path / "cache").status == 0

    more = run(trainpart1, *flags, 2)
    assert (more.status, more.err) == (0, "") and "going on after epoch 0 of 2" in more.out
    resumed = jobs.load(tmp_path / "wikiart.resume.pth")
    assert run(trainpart1, *flags, 2, "--fresh").status == 0
    at_once = jobs.load(tmp_path / "wikiart.resume.pth")
    assert jobs.same(resumed["model"], at_once["model"])
    assert jobs.same(resumed["progress"]["rows"], at_once["progress"]["rows"])


def test_fitted_heads_have_marks_of_their_own_and_curves_go_with_their_run(flags, tmp_path, run, monkeypatch):
    figures, draw = [], history.draw
    monkeypatch.setattr(history, "draw", lambda *arguments: figures.append(draw(*arguments)) or figures[-1])
    assert run(trainpart1, *flags, 2).status == 0
    (figure,) = figures
    lines = [line for axes in figure.axes for line in axes.lines]
    marks = [line for line in lines if line.get_marker() == "D"]
    assert len(marks) == 3 and len(lines) == 7  # and the training loss
    for line in lines:
        assert line.get_label().endswith("fitted head") == (line in marks)
        assert list(line.get_xdata()) == ([0, 2] if line in marks else [1, 2])
    assert [axes.get_xlabel() for axes in figure.axes] == 2 * ["epoch (0: before training)"]
    assert (tmp_path / "training_part1.png").exists()
    assert run(trainpart1, *flags, 0, "--fresh").status == 0
    assert not (tmp_path / "training_part1.png").exists()


def test_a_fitted_head_is_the_same_whatever_trains_the_trunk(flags, tmp_path, run, monkeypatch):
    """Everything but the steps of a training is float32: features, the validation, the test."""
    found = []
    for kind in torch.float32, torch.bfloat16:
        monkeypatch.setattr(devices, "precision", lambda device, kind=kind: kind)
        assert run(trainpart1, *flags, 0, "--fresh", "--cachedir", tmp_path / str(kind)).status == 0
        state = jobs.load(tmp_path / "wikiart.resume.pth")
        found.append((state["model"], state["progress"]["rows"]))
    assert jobs.same(*[(model["fitted.linear.weight"], rows) for model, rows in found])


def test_what_the_weights_are_makes_a_run_and_not_their_name(flags, tmp_path, run, refused):
    assert run(trainpart1, *flags, 0).status == 0
    shutil.copy(tmp_path / "w.pth", tmp_path / "copy.pth")
    assert "finished" in run(trainpart1, *flags, 0, "--pretrained", tmp_path / "copy.pth").out
    weights = jobs.load(tmp_path / "w.pth")
    torch.save({name: value + value.is_floating_point() for name, value in weights.items()}, tmp_path / "w.pth")
    assert "belongs to another run: pretrained was" in refused(trainpart1, *flags, 0)


def test_after_the_last_epoch_the_head_is_the_best_one_for_whole_paintings(scratch, tmp_path, run, precision):
    done = run(trainpart1, *scratch, 2)
    assert (done.status, done.err) == (0, "") and "fitting the head" in done.out
    checkpoint = checkpoints.read(tmp_path / "wikiart.pth", 1)
    assert checkpoint["epoch"] == 2 and checkpoint["history"][-1] == {"epoch": 2, "kind": "fitted"}
    model = wikiart.load_network(checkpoint)
    dataset = wikiart.WikiArtDataset(tmp_path / "train", S, cachedir=tmp_path / "cache")
    features = model.all_features(dataset.images / 255)
    assert torch.allclose(model.fitted.standardize.running_mean, features.mean(0), atol=1e-4)
    again = heads.fit(features, dataset.labels, 2, balanced=True)
    assert torch.allclose(again(features), model(dataset.images / 255), atol=0.01)


@pytest.mark.parametrize("start", ["scratch", "flags"])
def test_training_goes_on_from_the_trained_head_and_reads_no_statistics(start, request, tmp_path, run, monkeypatch):
    """A fit touches nothing else; steps and the validation between epochs see no correlations or histograms."""
    flags, begun, trained = request.getfixturevalue(start), [], []
    epochs, fit = runs.Run.epochs, trainpart1.fit_head

    def copied(model):
        return {name: value.clone() for name, value in model.state_dict().items()}

    def without_statistics(training):
        begun.append(copied(training.model))
        with monkeypatch.context() as patch:
            patch.setattr(levels, "correlations", None)
            patch.setattr(wikiart, "description", None)
            yield from epochs(training)

    def noted(model, *arguments):
        trained.append(copied(model))
        return fit(model, *arguments)

    monkeypatch.setattr(runs.Run, "epochs", without_statistics)
    monkeypatch.setattr(trainpart1, "fit_head", noted)
    assert run(trainpart1, *flags, 2, "--validation", 0.3).status == 0
    saved = jobs.load(tmp_path / "wikiart.resume.pth")["model"]
    own = {name: value for name, value in saved.items() if not name.startswith("fitted.")}
    assert len(own) < len(saved) and jobs.same(own, trained[-1])
    assert run(trainpart1, *flags, 3, "--validation", 0.3).status == 0
    assert len(begun) == 2 and jobs.same(begun[1], own)
    assert not jobs.same(trained[-1]["head.linear.weight"], own["head.linear.weight"])


def test_three_conv_keeps_the_head_that_it_learned(scratch, tmp_path, run):
    done = run(trainpart1, *scratch, 1, "--architecture", "three_conv")
    assert (done.status, done.err) == (0, "") and "fitting" not in done.out
    checkpoint = checkpoints.read(tmp_path / "wikiart.pth", 1)
    assert [row["kind"] for row in checkpoint["history"]] == ["epoch"]
    assert {name.split(".", 1)[0] for name in checkpoint["model"]} == {"normalize", "trunk", "head"}
