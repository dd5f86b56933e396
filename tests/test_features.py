"""The features of a pretrained trunk and the head that is fitted to them."""

import copy
import shutil

import jobs
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import testtrainpart1
import trainpart1
import wikiart
from support.networks import description, features
from support.system import console, devices, processes, settings
from support.training import balance, batches, checkpoints, history

ARCHITECTURE, S = "shufflenet_v2_x0_5", 32


@pytest.fixture
def model():
    torch.manual_seed(4)
    return wikiart.make_classifier(ARCHITECTURE, 3, S).eval()


def make_loader(plan=None, size=23):
    random = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (size, 3, S, S), dtype=torch.uint8, generator=random)
    return batches.Batches(images, torch.arange(size) % 3, torch.device("cpu"), plan)


def test_features_are_what_the_head_sees_of_every_image_and_synthetic_one(model, tmp_path):
    base, neighbour, weight = torch.tensor([1, 4]), torch.tensor([4, 7]), torch.tensor([0.25, 0.5])
    plan = balance.SmotePlan(base, neighbour, weight, torch.tensor([1, 1]))
    loader = make_loader(plan)
    found = features.compute(model, loader, torch.arange(25), tmp_path / "a.uint8")
    seen = []
    model.scale.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    first, second = loader.images[base].float(), loader.images[neighbour].float()
    with torch.no_grad():
        model(torch.cat([loader.images, torch.lerp(first, second, weight.view(-1, 1, 1, 1))]) / 255)
    assert found.dtype == torch.float32 and torch.allclose(found[:23], seen[0][:23], atol=1e-4)
    assert (found - seen[0]).abs().mean() < 1e-4  # rounding in the blend moves single pixels in histograms
    some = torch.tensor([7, 2, 24])
    for beside in None, tmp_path / "a.uint8":
        assert torch.allclose(features.compute(model, loader, some, beside), found[some], atol=1e-4)
    assert len(list(tmp_path.iterdir())) == 1  # without a file to keep them beside, none is written


def test_features_are_kept_until_the_weights_change(model, tmp_path, monkeypatch):
    loader, pixels, folded = make_loader(), tmp_path / "a.uint8", []
    before, fold = copy.deepcopy(model.state_dict()), features.fold_batch_norms
    monkeypatch.setattr(features, "fold_batch_norms", lambda trunk: folded.append(trunk) or fold(trunk))
    first = features.compute(model, loader, torch.arange(23), pixels)
    assert len(folded) == 1 and folded[0] is not model.trunk  # a copy: the model keeps its batch norms
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("a.") and path.suffix == ".pth"  # goes when the paintings' own file goes
    monkeypatch.setattr(model, "features", None)
    assert torch.equal(features.compute(model, loader, torch.arange(23), pixels), first)
    path.write_bytes(path.read_bytes()[:-200])
    monkeypatch.undo()
    assert torch.equal(features.compute(model, loader, torch.arange(23), pixels), first)  # a damaged file is made again
    with torch.no_grad():
        model.head.weight.add_(1)
    features.compute(model, loader, torch.arange(23), pixels)
    assert list(tmp_path.iterdir()) == [path]
    fewer = batches.Batches(loader.images[:9], loader.labels[:9], torch.device("cpu"))  # some cannot be read any more
    assert torch.allclose(features.compute(model, fewer, torch.arange(9), pixels), first[:9], atol=1e-5)
    (other,) = set(tmp_path.iterdir()) - {path}
    other.unlink()
    with torch.no_grad():
        model.trunk.conv1[0].weight[0].add_(1)
    assert (
        not torch.equal(features.compute(model, loader, torch.arange(23), pixels), first)
        and len(list(tmp_path.iterdir())) == 2
    )


@pytest.mark.parametrize("changed", ["wikiart.py", "support/networks/levels.py", "support/folder/new.py"])
def test_features_are_not_those_of_other_code(changed, model, tmp_path, monkeypatch):
    shutil.copytree(jobs.ROOT / "support", tmp_path / "support")
    shutil.copy(jobs.ROOT / "wikiart.py", tmp_path)
    paths = [features.cache_path("a.uint8", model, 23)]
    monkeypatch.setattr(features, "CODE", tmp_path)
    for _ in range(2):
        features.code_version.cache_clear()
        paths.append(features.cache_path("a.uint8", model, 23))
        (tmp_path / changed).parent.mkdir(exist_ok=True)
        with open(tmp_path / changed, "a") as file:
            file.write("STEP = 2\n")
    features.code_version.cache_clear()
    assert paths[0] != paths[1]  # one of the four scripts is not there
    assert paths[1] != paths[2]


def test_features_of_other_code_are_removed(model, tmp_path, monkeypatch):
    for code in "a" * 64, "b" * 64:
        monkeypatch.setattr(features, "code_version", lambda code=code: code)
        path = features.cache_path(tmp_path / "x-32-1.uint8", model, 23)
        features.cached(path, lambda: torch.ones(3))
        features.cached(path.with_name(path.name.replace("x-", "y-")), lambda: torch.ones(3))
    assert sorted(file.name[:14] for file in tmp_path.iterdir()) == ["x-32-1.bbbbbbb", "y-32-1.bbbbbbb"]


def test_where_features_cannot_be_kept_is_a_warning(tmp_path, capsys):
    (tmp_path / "cache").write_text("no folder")
    found = features.cached(tmp_path / "cache" / "a.pth", lambda: torch.ones(3))
    assert torch.equal(found, torch.ones(3)) and "a.pth: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("architecture", ["residual", "mobilenet_v2", "densenet121", ARCHITECTURE])
def test_folded_batch_norms_change_no_feature(architecture):
    torch.manual_seed(7)
    model = wikiart.make_classifier(architecture, 3, S).eval()
    norms = [module for module in model.trunk.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            for values in norm.weight, norm.bias, norm.running_mean, norm.running_var:
                values.copy_(torch.rand_like(values) + 0.5)
        images = torch.rand(4, 3, S, S)
        quick = copy.deepcopy(model)
        features.fold_batch_norms(quick.trunk)
        expected, found = model.features(images), quick.features(images)
    assert len([module for module in quick.modules() if isinstance(module, torch.nn.BatchNorm2d)]) < len(norms)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max())


@pytest.mark.parametrize("styles", [2, 3])
@pytest.mark.parametrize("balanced", [True, False])
def test_the_head_is_the_logistic_regression_of_scaled_features(styles, balanced):
    torch.manual_seed(6)
    model = wikiart.make_classifier(ARCHITECTURE, styles, S)
    labels = torch.tensor([0] * 40 + [1] * 15 + [styles - 1] * 10)
    values = torch.randn(65, model.head.in_features) * 0.2 + 0.05 * labels[:, None]
    features.fit_head(model, values, labels, balanced)
    scaled = (values.double() - values.double().mean(0)) / (
        values.double().var(0, correction=0) + wikiart.SCALE_EPS
    ).sqrt()
    yardstick = LogisticRegression(C=features.HEAD_C, class_weight="balanced" if balanced else None, max_iter=1000)
    expected = yardstick.fit(scaled.numpy(), labels.numpy()).predict_proba(scaled.numpy())
    with torch.no_grad():
        found = model.head(model.scale.eval()(values)).softmax(1)
    assert np.allclose(found.numpy(), expected, atol=1e-3)


def test_a_style_without_paintings_is_never_predicted():
    model = wikiart.make_classifier(ARCHITECTURE, 4, S)
    values, labels = torch.randn(30, model.head.in_features), torch.arange(30) % 3
    labels[labels == 2] = 3
    features.fit_head(model, values, labels, balanced=True)
    with torch.no_grad():
        found = model.head(model.scale.eval()(values))
    assert (found.argmax(1) == labels).all() and (found[:, 2] == features.NEVER).all()


def test_no_head_is_fitted_to_features_that_are_not_finite():
    model = wikiart.make_classifier(ARCHITECTURE, 2, S)
    values = torch.zeros(4, model.head.in_features)
    values[1, 3] = torch.nan
    with pytest.raises(console.UserError, match="not finite"):
        features.fit_head(model, values, torch.arange(4) % 2, balanced=True)


@pytest.fixture
def flags(tmp_path, paint):
    """The flags of a small training from a file of weights, but for the number of epochs."""
    paint(tmp_path / "train", {"A": 12, "B": 8})
    paint(tmp_path / "test", {"A": 4, "B": 4}, seed=1)
    torch.save(wikiart.make_classifier(ARCHITECTURE, 2, S).trunk.state_dict(), tmp_path / "w.pth")
    more = ["--architecture", ARCHITECTURE, "--pretrained", tmp_path / "w.pth", "--testingdir", tmp_path / "test"]
    return jobs.flags(tmp_path / "train", tmp_path / "out", *more, "--image_size", S, "--batch_size", 4, "--epochs")


@pytest.mark.parametrize("losses, kept", [([0.5, 0.9, 0.8], 0), ([0.5, 0.9, 0.4], 2)])
def test_an_epoch_replaces_the_fitted_head_only_if_it_is_better(losses, kept, flags, tmp_path, run, monkeypatch):
    values = iter(losses)
    monkeypatch.setattr(trainpart1, "validate", lambda *_: {"validation_loss": next(values)})
    assert run(trainpart1, *flags, 2).status == 0
    checkpoint = checkpoints.read(tmp_path / "out" / "wikiart.pth", 1)
    assert checkpoint["epoch"] == len(checkpoint["history"]) == kept
    done = run(trainpart1, *flags, 2)
    assert f"wikiart.pth is epoch {kept or '0 (before training)'}, validation loss {min(losses)}" in done.out


def test_a_run_interrupted_in_its_first_epoch_has_saved_the_fitted_head(flags, tmp_path, run, monkeypatch):
    def interrupt(_model):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(processes, "average_statistics", interrupt)
        done = run(trainpart1, *flags, 2)
    assert (done.status, done.err.splitlines()[-1]) == (
        130, "Stopped in epoch 1 of 2: what was fitted before it is saved; the same command goes on from there."
    )  # fmt: skip
    done = run(trainpart1, *flags, 2)
    assert done.status == 0 and "fitting the head" not in done.out.split("epoch 1/2")[0]


def test_curves_begin_with_the_fitted_head_and_go_with_their_run(flags, tmp_path, run, monkeypatch):
    drawn, draw = [], history.draw
    monkeypatch.setattr(history, "draw", lambda rows, *more: drawn.append(rows) or draw(rows, *more))
    assert run(trainpart1, *flags, 1).status == 0
    ((before, after),) = drawn
    assert before["epoch"] == 0 and {*before} == {"epoch", "validation_loss", "accuracy", "macro_f1"} and after["epoch"]
    assert (tmp_path / "out" / "training_part1.png").exists()
    assert run(trainpart1, *flags, 0, "--fresh").status == 0
    assert not (tmp_path / "out" / "training_part1.png").exists()


def test_a_fitted_head_is_the_same_whatever_trains_the_trunk(flags, tmp_path, run, monkeypatch):
    """Everything but the steps of a training is float32: features, the validation, the test."""
    found = []
    for kind in torch.float32, torch.bfloat16:
        monkeypatch.setattr(devices, "precision", lambda device, kind=kind: kind)
        assert run(trainpart1, *flags, 0, "--fresh", "--cachedir", tmp_path / str(kind)).status == 0
        state = jobs.load(tmp_path / "out" / "wikiart.resume.pth")
        found.append((state["model"]["head.weight"], state["start"]["validation_loss"]))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


def test_epochs_0_fits_the_head_alone_and_later_epochs_go_on_from_it(flags, tmp_path, run):
    weights = jobs.load(tmp_path / "w.pth")
    done = run(trainpart1, *flags, 0)
    assert (done.status, done.err) == (0, "") and "fitted the head" in done.out and "accuracy" in done.out
    checkpoint = checkpoints.read(tmp_path / "out" / "wikiart.pth", 1)
    assert checkpoint["epoch"] == 0 and checkpoint["history"] == []
    for name, value in weights.items():
        assert torch.equal(checkpoint["model"][f"trunk.{name}"], value), name
    assert checkpoint["model"]["head.weight"].abs().max() > 0
    assert run(testtrainpart1, *flags, 0).status == 0
    again = run(trainpart1, *flags, 0)
    assert again.status == 0 and "finished" in again.out and "fitted" not in again.out
    more = run(trainpart1, *flags, 2)
    assert (more.status, more.err) == (0, "") and "fitted" not in more.out and "epoch 2/2" in more.out
    whole = jobs.load(tmp_path / "out" / "wikiart.resume.pth")
    at_once = run(trainpart1, *flags, 2, "--fresh")
    assert at_once.status == 0 and "fitted" in at_once.out
    other = jobs.load(tmp_path / "out" / "wikiart.resume.pth")
    different = [name for name, value in whole["model"].items() if not torch.equal(value, other["model"][name])]
    assert not different


def test_what_the_weights_are_makes_a_run_and_not_their_name(flags, tmp_path, run, refused):
    assert run(trainpart1, *flags, 0).status == 0
    shutil.copy(tmp_path / "w.pth", tmp_path / "copy.pth")
    assert "finished" in run(trainpart1, *flags, 0, "--pretrained", tmp_path / "copy.pth").out
    weights = jobs.load(tmp_path / "w.pth")
    torch.save({name: value + value.is_floating_point() for name, value in weights.items()}, tmp_path / "w.pth")
    assert "belongs to another run: pretrained was" in refused(trainpart1, *flags, 0)


@pytest.fixture
def scratch(tmp_path, paint):
    """The flags of a small training from scratch, but for the number of epochs."""
    paint(tmp_path / "train", {"A": 12, "B": 8})
    return jobs.flags(tmp_path / "train", tmp_path, "--image_size", S, "--batch_size", 4, "--validation", 0, "--epochs")


def test_after_the_last_epoch_the_head_is_the_best_one_for_whole_paintings(scratch, tmp_path, run, precision):
    done = run(trainpart1, *scratch, 2)
    assert (done.status, done.err) == (0, "") and "fitting the head" in done.out
    checkpoint = checkpoints.read(tmp_path / "wikiart.pth", 1)
    assert checkpoint["epoch"] == 2
    model = wikiart.load_network(checkpoint)
    dataset = wikiart.WikiArtDataset(tmp_path / "train", S, cachedir=tmp_path / "cache")
    found = model.features(dataset.images / 255)
    assert torch.allclose(model.scale.running_mean, found.mean(0), atol=1e-4)
    features.fit_head(again := copy.deepcopy(model), found, dataset.labels, balanced=True)
    assert torch.allclose(again(dataset.images / 255), model(dataset.images / 255), atol=0.01)


def test_before_the_last_epoch_the_head_does_not_read_the_images_statistics(scratch, tmp_path, run, monkeypatch):
    """Neither in a first training, nor where one is continued that ended with a fitted head."""
    read, honest = [], trainpart1.validate

    def note(model, *arguments):
        read.append(bool(model.head.weight[:, -description.EDGES :].any()))
        return honest(model, *arguments)

    monkeypatch.setattr(trainpart1, "validate", note)
    assert run(trainpart1, *scratch, 2).status == run(trainpart1, *scratch, 4).status == 0
    assert read == [False, True, False, True]


def test_three_conv_keeps_the_last_layer_that_it_learned(scratch, tmp_path, run):
    done = run(trainpart1, *scratch, 1, "--architecture", "three_conv")
    assert (done.status, done.err) == (0, "") and "fitting" not in done.out
    assert not [name for name in checkpoints.read(tmp_path / "wikiart.pth", 1)["model"] if name.startswith("scale")]


def test_epochs_0_needs_pretrained_weights(tmp_path, paint, refused):
    paint(tmp_path / "train", {"A": 3, "B": 3})
    line = refused(trainpart1, "--trainingdir", tmp_path / "train", "--cachedir", tmp_path / "cache", "--epochs", 0,
                   "--device", "cpu")  # fmt: skip
    assert line.startswith("--epochs: got 0") and "set pretrained" in line
    assert not settings.SECTIONS["autoencoder"]["epochs"].accepts(0)
