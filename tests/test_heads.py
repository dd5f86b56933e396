"""The head that is fitted instead of being trained, alone and in whole runs of trainpart1.py."""

import jobs
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import trainpart1
import wikiart
from support.networks import description, heads, levels
from support.system import console, devices, processes
from support.training import checkpoints, runs

ARCHITECTURE, S = "shufflenet_v2_x0_5", 32


@pytest.mark.parametrize("styles, balanced, standardized", [(2, True, True), (3, False, True), (3, True, False)])
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
    with pytest.raises(console.UserError, match="not finite"):
        heads.fit(torch.tensor([[0, 1], [0, torch.inf]] * 2), torch.arange(4) % 2, 2, balanced=True)


@pytest.fixture
def scratch(tmp_path, paint):
    """The flags of a small training from scratch, but for the number of epochs."""
    paint(tmp_path / "train", {"A": 12, "B": 8})
    return jobs.flags(tmp_path / "train", tmp_path, "--image_size", S, "--batch_size", 4, "--validation", 0, "--epochs")


@pytest.fixture
def flags(scratch, tmp_path):
    """The same from a file of weights."""
    torch.save(wikiart.make_classifier(ARCHITECTURE, 2, S).trunk.state_dict(), tmp_path / "w.pth")
    more = ["--architecture", ARCHITECTURE, "--pretrained", tmp_path / "w.pth", "--validation", 0.1]
    return [*scratch[:-1], *more, "--epochs"]


@pytest.mark.parametrize("last, words", [(0.6, "epoch 2"), (0.3, "the head fitted after epoch 2")])
def test_modelfile_holds_the_trained_or_the_fitted_head_whichever_is_better(
    last, words, flags, tmp_path, run, monkeypatch
):
    losses = iter([0.5, 0.9, 0.4, last])  # before training, of epoch 1, epoch 2, the head fitted after it
    monkeypatch.setattr(trainpart1, "validate", lambda *_: {"validation_loss": next(losses)})
    assert f"wikiart.pth holds {words} (validation loss {min(0.4, last)})" in run(trainpart1, *flags, 2).out
    model = wikiart.load_network(checkpoints.read(tmp_path / "wikiart.pth", 1))
    assert (model.fitted is not None) == words.startswith("the head")


@pytest.mark.parametrize("first", ["--epochs 0", "an interruption in the first epoch"])
def test_epochs_go_on_from_a_fitted_head_to_where_one_run_ends(first, flags, tmp_path, run, monkeypatch):
    if first == "--epochs 0":
        done = run(trainpart1, *flags, 0)
        assert (done.status, done.err) == (0, "") and "fitted the head  validation loss" in done.out
    else:
        with monkeypatch.context() as patch:
            patch.setattr(processes, "average_statistics", lambda model: (_ for _ in ()).throw(KeyboardInterrupt))
            done = run(trainpart1, *flags, 2)
        words = "Stopped in epoch 1 of 2: what was fitted before it is saved; the same command goes on from there."
        assert (done.status, done.err.splitlines()[-1]) == (130, words)
    checkpoint = checkpoints.read(tmp_path / "wikiart.pth", 1)
    assert (checkpoint["epoch"], [row["kind"] for row in checkpoint["history"]]) == (0, ["fitted"])
    for name, value in jobs.load(tmp_path / "w.pth").items():
        assert torch.equal(checkpoint["model"][f"trunk.{name}"], value), name
    more = run(trainpart1, *flags, 2)
    assert (more.status, more.err) == (0, "") and "going on after epoch 0 of 2" in more.out
    resumed = jobs.load(tmp_path / "wikiart.resume.pth")
    assert run(trainpart1, *flags, 2, "--fresh").status == 0
    at_once = jobs.load(tmp_path / "wikiart.resume.pth")
    assert jobs.same(resumed["model"], at_once["model"])
    assert jobs.same(resumed["progress"]["rows"], at_once["progress"]["rows"])


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
    weights = jobs.load(tmp_path / "w.pth")
    torch.save(weights, tmp_path / "copy.pth")
    out = run(trainpart1, *flags, 0, "--pretrained", tmp_path / "copy.pth").out
    assert "finished" in out and "fitting" not in out
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
    again = heads.fit(features, dataset.labels, 2, balanced=True)
    assert torch.allclose(again(features), model(dataset.images / 255), atol=0.01)


@pytest.mark.parametrize("start", ["scratch", "flags"])
def test_steps_and_validation_read_no_statistics_and_a_fit_changes_nothing_else(
    start, request, tmp_path, run, monkeypatch
):
    flags, trained = request.getfixturevalue(start), []
    epochs, fit = runs.Run.epochs, trainpart1.fit_head

    def without_statistics(training):
        with monkeypatch.context() as patch:
            patch.setattr(levels, "correlations", None)
            patch.setattr(description, "histograms", None)
            yield from epochs(training)

    def noted(model, *arguments):
        trained.append({name: value.clone() for name, value in model.state_dict().items()})
        return fit(model, *arguments)

    monkeypatch.setattr(runs.Run, "epochs", without_statistics)
    monkeypatch.setattr(trainpart1, "fit_head", noted)
    assert run(trainpart1, *flags, 2, "--validation", 0.3).status == 0
    saved = jobs.load(tmp_path / "wikiart.resume.pth")["model"]
    own = {name: value for name, value in saved.items() if not name.startswith("fitted.")}
    assert len(own) < len(saved) and jobs.same(own, trained[-1])
