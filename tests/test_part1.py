"""Part 1: the networks, then training and evaluation from folders to files."""

import copy
import functools
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import pil_to_tensor, resize, resized_crop

import testtrainpart1
import trainpart1
import wikiart
from support import balance, batches, devices, settings, training

S = 32
TRAINING = {"Baroque": 14, "Cubism": 10, "Fauvism": 6, "Rococo": 1}
TEST = {"Baroque": 4, "Cubism": 5, "Fauvism": 3, "Rococo": 2}
FLAGS = ("--device", "cpu", "--image_size", S, "--epochs", 2, "--batch_size", 8)
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


@pytest.fixture(autouse=True, scope="module")
def float32():
    """Exact enough arithmetic on every machine for comparisons with yardsticks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "uses_bfloat16", lambda device: False)
        yield


# Networks


def test_three_conv_is_the_assignments_network_layer_by_layer():
    model = wikiart.make_classifier("three_conv", 27, 64)
    kinds = [type(layer) for layer in model]
    block = [wikiart.PaddedConv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    head = [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.Dropout, nn.ReLU, nn.Linear]
    assert kinds == 3 * block + head
    channels = [(layer.in_channels, layer.out_channels) for layer in model if isinstance(layer, nn.Conv2d)]
    assert channels == [(3, 16), (16, 32), (32, 64)]
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            assert (layer.kernel_size, layer.padding, layer.stride) == ((2, 2), (2, 2), (1, 1))
        if isinstance(layer, nn.MaxPool2d):
            assert (layer.kernel_size, layer.padding, layer.stride) == (4, 2, 4)
        if isinstance(layer, nn.Dropout):
            assert layer.p == 0.1
    shapes, images = [], torch.rand(2, 3, 416, 416)
    for layer in model:
        if isinstance(layer, nn.Conv2d):  # pads by itself: the same numbers as torch's own padding
            plain = nn.functional.conv2d(images, layer.weight, layer.bias, padding=2)
            assert torch.allclose(layer(images), plain, atol=1e-5)
        images = layer(images)
        shapes.append(tuple(images.shape[1:]))
    assert shapes[3::4][:3] == [(16, 105, 105), (32, 28, 28), (64, 8, 8)]
    assert shapes[12:] == [(64, 8, 8), (4096,), (300,), (300,), (300,), (27,)]


def test_three_conv_has_the_parameters_counted_by_hand():
    convolutions = (3 * 4 * 16 + 16) + (16 * 4 * 32 + 32) + (32 * 4 * 64 + 64)
    norms = 2 * (16 + 32 + 64)
    linear = (4096 * 300 + 300) + (300 * 27 + 27)
    model = wikiart.make_classifier("three_conv", 27, 64)
    assert sum(p.numel() for p in model.parameters()) == convolutions + norms + linear


def test_residual_tells_palettes_and_textures_apart_without_its_convolutions():
    torch.manual_seed(0)
    model = wikiart.make_classifier("residual", 300, 64).eval()
    model.trunk.register_forward_hook(lambda trunk, images, features: torch.zeros_like(features))
    flat, red = torch.zeros(3, 64, 64), torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 64, 64)
    rough = (0.25 + 0.2 * torch.randn(64, 64).sign()).expand(3, 64, 64)  # all of it in the flat one's bin of colour
    moved = torch.cat([rough[:, 32:], rough[:, :32]], 1)  # the same brushwork elsewhere
    logits = model(torch.stack([flat, red, rough, moved]))
    apart = torch.cdist(logits, logits)
    assert min(apart[0, 1], apart[0, 2], apart[1, 2]) > 4 * apart[2, 3]


@pytest.mark.parametrize("architecture", ["three_conv", "residual"])
@pytest.mark.parametrize("size", [16, 33, 64, 150])
def test_our_networks_give_plain_logits_at_any_size(architecture, size):
    model = wikiart.make_classifier(architecture, 5, size)
    logits = model(10 * torch.randn(8, 3, size, size))
    assert logits.shape == (8, 5)
    assert not torch.allclose(logits.exp().sum(1), torch.ones(8), atol=1e-2)  # no softmax inside
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    "architecture, size", [("resnet18", 32), ("efficientnet_b0", 32), ("convnext_tiny", 32), ("vit_b_16", 32)]
)
def test_torchvisions_networks_have_a_head_sized_to_the_styles(architecture, size):
    model = wikiart.make_classifier(architecture, 5, size).eval()
    assert model(torch.rand(1, 3, size, size)).shape == (1, 5)
    assert model.get_submodule(training.head_of(model)).out_features == 5


@pytest.mark.parametrize(
    "architecture, parts",
    [
        ("inception_v3", ["inception_v3", "plain logits"]),
        ("googlenet", ["googlenet", "plain logits"]),
        ("resnet81", ['"resnet81"', 'did you mean "resnet']),
        ("three_con", ['"three_con"', 'did you mean "three_conv"?']),
        ("fasterrcnn_resnet50_fpn", ['"fasterrcnn_resnet50_fpn"']),
        ("vit_b_16", ["vit_b_16", "40 pixels"]),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_by_name(refused, workdir, paint, recwarn, architecture, parts):
    paint(workdir / "p", {"A": 2, "B": 2})
    size = 299 if architecture == "inception_v3" else 40
    line = refused(trainpart1, "--trainingdir", "p", "--outputdir", "out", "--architecture", architecture,
                   "--device", "cpu", "--image_size", size)  # fmt: skip
    assert line.startswith("--architecture: ") and all(part in line for part in parts), line
    assert not recwarn.list  # each would be more lines on standard error
    assert not (workdir / "out").exists()


# Pretrained weights


@pytest.fixture(scope="module")
def weights():
    """A state_dict of resnet18 with torchvision's 1,000 classes."""
    from torchvision.models import resnet18

    torch.manual_seed(9)
    return resnet18().state_dict()


def trunk_is_equal(network, weights):
    state = network.state_dict()
    return all(torch.equal(state[name], value) for name, value in weights.items() if not name.startswith("fc."))


def build(**values):
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return wikiart.build_classifier(settings.read("classifier", "", flags), 5)


def test_a_state_dict_fills_all_but_the_head(weights, tmp_path):
    torch.save(weights, tmp_path / "w.pth")
    network = build(architecture="resnet18", pretrained=tmp_path / "w.pth")
    assert trunk_is_equal(network, weights) and network.fc.out_features == 5
    assert not trunk_is_equal(build(architecture="resnet18"), weights)


def test_true_asks_torchvision_for_its_weights(weights, monkeypatch):
    urls = []
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda url, **_: urls.append(url) or weights
    )
    assert trunk_is_equal(build(architecture="resnet18", pretrained="true"), weights)
    assert len(urls) == 1 and "resnet18" in urls[0]


def test_weights_that_cannot_be_downloaded_are_one_line(workdir, paint, refused, monkeypatch):
    def no_network(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    paint(workdir / "p", {"A": 2, "B": 2})
    for architecture, part in [("resnet18", "Name or service not known"), ("residual", "no weights to download")]:
        line = refused(trainpart1, "--trainingdir", "p", "--outputdir", "out", "--image_size", S,
                       "--architecture", architecture, "--pretrained", "true")  # fmt: skip
        assert line.startswith("--pretrained: ") and architecture in line and part in line
    assert not (workdir / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "a text", "a list", "another network", "a smaller network", "not finite"])
def test_weights_that_do_not_fit_are_one_line(weights, workdir, paint, refused, kind):
    paint(workdir / "p", {"A": 2, "B": 2})
    if kind == "a text":
        (workdir / "w.pth").write_text("no weights")
    if kind == "a list":
        torch.save([1, 2], workdir / "w.pth")
    if kind == "another network":
        torch.save(wikiart.make_classifier("residual", 5, S).state_dict(), workdir / "w.pth")
    if kind == "a smaller network":
        torch.save({n: v for n, v in weights.items() if not n.startswith("layer4")}, workdir / "w.pth")
    if kind == "not finite":
        torch.save(weights | {"conv1.weight": weights["conv1.weight"] / 0}, workdir / "w.pth")
    line = refused(trainpart1, "--trainingdir", "p", "--outputdir", "out", "--image_size", S,
                   "--architecture", "resnet18", "--pretrained", "w.pth")  # fmt: skip
    assert line.startswith("--pretrained: ")
    assert "w.pth" in line or "resnet18" in line or "conv1.weight" in line
    assert not (workdir / "out").exists()


# From folders to files


@pytest.fixture(scope="module")
def trained(tmp_path_factory, paint, run):
    """A trained and evaluated classifier: .folder with train, test and out, .flags, .checkpoint, .metrics, .training,
    .evaluation."""
    folder = tmp_path_factory.mktemp("part1")
    paint(folder / "train", TRAINING)
    paint(folder / "test", TEST, seed=1)
    flags = ("--trainingdir", folder / "train", "--testingdir", folder / "test", "--outputdir", folder / "out",
             "--cachedir", folder / "cache", "--device", "cpu")  # fmt: skip
    training = run(trainpart1, *flags, "--image_size", S, "--epochs", 4, "--batch_size", 4)
    assert (training.status, training.err) == (0, "")
    left = sorted(path.name for path in (folder / "out").iterdir())
    evaluation = run(testtrainpart1, *flags)
    assert (evaluation.status, evaluation.err) == (0, "")
    return SimpleNamespace(
        folder=folder,
        flags=flags,
        left=left,
        training=training,
        evaluation=evaluation,
        checkpoint=torch.load(folder / "out" / "wikiart.pth", weights_only=True),
        metrics=json.loads((folder / "out" / "metrics_part1.json").read_text()),
    )


def network_of(checkpoint):
    model = wikiart.make_classifier(checkpoint["architecture"], len(checkpoint["classes"]), checkpoint["image_size"])
    model.load_state_dict(checkpoint["model"])
    return model.eval()


def stretched(path, size=S):
    """An image file by Pillow and torchvision: float64 [3, S, S] in [0, 1]."""
    return resize(pil_to_tensor(Image.open(path).convert("RGB")), [size, size]).double() / 255


@torch.no_grad()
def probabilities_of(path, checkpoint, model, views=12):
    """One painting by Pillow and torchvision alone; the prediction is the mean over the views, made one by one."""
    size = checkpoint["image_size"]
    mean, std = (torch.tensor(checkpoint[name], dtype=torch.float64).view(3, 1, 1) for name in ("mean", "std"))
    whole = ((stretched(path, size) - mean) / std).float()
    if views == 1:
        return model(whole[None])[0].softmax(0).numpy()
    part, looks = round(0.8 * size), [whole]
    far, middle = size - part, (size - part) // 2
    for top, left in [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]:
        looks.append(resized_crop(whole, top, left, part, part, [size, size], antialias=False))
    return torch.stack([model(torch.stack([look, look.flip(2)])).mean(0) for look in looks]).mean(0).softmax(0).numpy()


def test_training_writes_checkpoint_and_curves_and_nothing_else(trained):
    assert trained.left == ["training_part1.png", "wikiart.pth"]


@pytest.mark.parametrize("name", ["training_part1.png"])
def test_figures_are_whole_pictures_that_show_something(trained, name):
    with Image.open(trained.folder / "out" / name) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_the_checkpoint_holds_the_contracts_keys_as_plain_data(trained):
    checkpoint = trained.checkpoint
    assert (checkpoint["part"], checkpoint["architecture"], checkpoint["image_size"]) == (1, "residual", S)
    assert checkpoint["classes"] == list(TRAINING) and checkpoint["counts"] == TRAINING
    assert checkpoint["settings"]["epochs"] == 4 and checkpoint["settings"]["seed"] == 2326
    assert set(checkpoint["settings"]) >= set(settings.SHARED_SETTINGS) | set(settings.SECTIONS["classifier"])
    assert isinstance(network_of(checkpoint), nn.Module)


def test_mean_and_std_are_those_of_the_training_share(trained):
    folder = trained.folder / "train"
    images = [path for style in TRAINING for path in sorted((folder / style).iterdir())]
    labels = torch.tensor([place for place, count in enumerate(TRAINING.values()) for _ in range(count)])
    members, _ = balance.split(labels, 0.1, 2326)
    pixels = np.stack([stretched(images[i]) for i in members])
    assert trained.checkpoint["mean"] == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-5)
    assert trained.checkpoint["std"] == pytest.approx(pixels.std((0, 2, 3)), abs=1e-5)


def test_history_has_a_row_an_epoch_and_nothing_of_the_clock(trained):
    history = trained.checkpoint["history"]
    assert [row["epoch"] for row in history] == list(range(1, trained.checkpoint["epoch"] + 1))
    for row in history:
        assert set(row) == {"epoch", "training_loss", "validation_loss", "accuracy", "macro_f1"}
        assert all(math.isfinite(value) for value in row.values())


def test_a_line_an_epoch_says_what_the_contract_asks(trained):
    lines = [line for line in trained.training.out.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    for line in lines:
        for part in ["training loss", "validation loss", "accuracy", "macro F1", "paintings/s", "left"]:
            assert part.lower() in line.lower()
    assert lines[trained.checkpoint["epoch"] - 1].endswith("wikiart.pth")


def test_validation_figures_are_sklearns_on_the_held_out_share(trained):
    model = network_of(trained.checkpoint)
    dataset = wikiart.WikiArtDataset(str(trained.folder / "train"), S, None, str(trained.folder / "cache"))
    _, held_out = balance.split(dataset.labels, 0.1, 2326)
    actual = dataset.labels[held_out].tolist()
    found = np.stack([probabilities_of(dataset.paths[i], trained.checkpoint, model, views=1) for i in held_out])
    predicted, present = found.argmax(1), sorted(set(actual))
    row = trained.checkpoint["history"][-1]
    f1 = sklearn.metrics.f1_score(actual, predicted, labels=present, average="macro", zero_division=0)
    assert row["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(actual, predicted), abs=1e-6)
    assert row["macro_f1"] == pytest.approx(f1, abs=1e-6)
    loss = -np.log([p[label] for p, label in zip(found, actual, strict=True)]).mean()
    assert row["validation_loss"] == pytest.approx(loss, rel=1e-3)


# Training


@pytest.fixture
def train(workdir, run):
    """train(*flags) trains in the current folder and returns the checkpoint; the paintings are expected in train/."""

    def train(*flags, err=""):
        result = run(trainpart1, *FLAGS, "--trainingdir", "train", "--outputdir", "out", *flags)
        assert result.status == 0 and (err is None or result.err == err), result.err
        return torch.load(workdir / "out" / "wikiart.pth", weights_only=True)

    return train


def equal(one, other):
    return all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


@pytest.mark.parametrize("imbalance", ["none", "weighted_sampler", "smote"])
def test_one_seed_gives_bit_identical_weights_and_another_does_not(workdir, paint, train, imbalance):
    paint(workdir / "train", {"A": 6, "B": 4, "C": 3})
    flags = ("--epochs", 1, "--imbalance", imbalance, "--smote_target", 7, "--image_size", 16, "--validation", 0)
    first, again, other = train(*flags), train(*flags), train(*flags, "--seed", 1)
    assert equal(first, again) and first["history"] == again["history"]
    assert not equal(first, other)


def test_no_validation_trains_on_everything_and_keeps_the_latest(workdir, paint, train):
    paint(workdir / "train", {"A": 5, "B": 1})
    checkpoint = train("--validation", 0, "--epochs", 3)
    assert checkpoint["epoch"] == 3
    assert [set(row) for row in checkpoint["history"]] == 3 * [{"epoch", "training_loss"}]
    pixels = np.stack([stretched(path) for path in workdir.glob("train/*/*.jpg")])
    assert checkpoint["mean"] == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-5)


@pytest.mark.parametrize(
    "score, figures, kept",
    [
        ("macro_f1", [0.3, 0.9, 0.5, 0.9], 2),
        ("macro_f1", [0.0, 0.0, 0.0, 0.1], 4),
        ("validation_mse", [0.3, 0.1, 0.2, 0.1], 2),
        (None, [1, 2, 3, 4], 4),
    ],
)
def test_modelfile_holds_the_best_epoch_so_far(tmp_path, paint, score, figures, kept, capsys):
    paint(tmp_path / "train", {"A": 2, "B": 2})
    dataset = wikiart.WikiArtDataset(str(tmp_path / "train"), 16, None, str(tmp_path / "cache"))
    flags = ["--outputdir", str(tmp_path), "--epochs", "4", "--batch_size", "4", "--image_size", "16"]
    options = settings.read("classifier", "", flags, settings.FRESH)
    facts = {"classes": dataset.classes, "counts": dataset.counts, "fingerprints": dataset.fingerprints}
    model, weights, kept_weights = wikiart.make_classifier("residual", 2, 16), [], []

    def validate(model):
        weights.append(copy.deepcopy(model.state_dict()))
        if len(weights) > 1:
            kept_weights.append(torch.load(tmp_path / "wikiart.pth", weights_only=True)["epoch"])
        return {score: figures[len(weights) - 1]} if score else {}

    history = training.train(
        options, 1, facts, model, batches.Paintings(dataset, torch.device("cpu")),
        functools.partial(balance.index_order, "none", dataset.labels, torch.arange(4), None, 0),
        lambda model, images, labels: nn.functional.cross_entropy(model(images), labels), validate, score or "macro_f1",
    )  # fmt: skip
    checkpoint = torch.load(tmp_path / "wikiart.pth", weights_only=True)
    assert len(history) == 4 and checkpoint["epoch"] == kept
    assert all(torch.equal(checkpoint["model"][name], weights[kept - 1][name]) for name in checkpoint["model"])
    sign = -1 if score == "validation_mse" else 1
    best = [max(range(n), key=lambda i: sign * figures[i]) + 1 for n in range(1, 4)]
    assert kept_weights == best
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    written = [i + 1 for i, line in enumerate(lines) if line.endswith("-> wikiart.pth")]
    assert written[-1] == kept
    assert not (tmp_path / "wikiart.resume.pth").exists()


def test_twins_under_two_styles_are_warned_of(workdir, paint, run):
    paint(workdir / "train", {"A": 3, "B": 3})
    shutil.copy(workdir / "train" / "A" / "001.jpg", workdir / "train" / "B" / "twin.jpg")
    shutil.copy(workdir / "train" / "A" / "002.jpg", workdir / "train" / "A" / "same_style.jpg")
    flags = ("--epochs", 1, "--image_size", 16)
    result = run(trainpart1, *FLAGS, "--trainingdir", "train", "--outputdir", "out", *flags)
    (line,) = result.err.splitlines()
    assert result.status == 0 and line.startswith("warning: ") and "two styles" in line
    assert "A/001.jpg" in line and "B/twin.jpg" in line and "same_style" not in line


def test_training_goes_on_without_broken_images(workdir, paint, train, run):
    paint(workdir / "train", {"A": 3, "B": 3})
    (workdir / "train" / "A" / "text.jpg").write_text("no painting")
    checkpoint = train("--epochs", 1, "--image_size", 16, err=None)
    assert checkpoint["counts"] == {"A": 3, "B": 3}


def test_an_error_in_training_overwrites_nothing(workdir, paint, train, refused, listing):
    paint(workdir / "train", {"A": 3, "B": 3})
    train("--epochs", 1, "--image_size", 16)
    before = listing(workdir / "out")
    for flags in [("--learning_rate", 20), ("--architecture", "nothing"), ("--trainingdir", "nothing")]:
        refused(trainpart1, *FLAGS, "--trainingdir", "train", "--outputdir", "out", *flags)
    assert listing(workdir / "out") == before


@pytest.mark.parametrize("architecture", ["residual", "resnet18"])
def test_pretrained_weights_are_trained_from_with_their_own_normalisation(
    workdir, paint, train, monkeypatch, architecture
):
    paint(workdir / "train", {"A": 3, "B": 3})
    flags = ["--epochs", 1, "--validation", 0, "--architecture", architecture]
    first = train(*flags)
    (workdir / "out" / "wikiart.pth").rename(workdir / "first.pth")
    paint(workdir / "train", {"A": 3, "B": 3, "C": 3})
    make, rates = training.make_optimizer, {}

    def make_optimizer(model, *arguments):
        optimizer = make(model, *arguments)
        of = {parameter: group["peak"] for group in optimizer.param_groups for parameter in group["params"]}
        rates.update({name: of[parameter] for name, parameter in model.named_parameters()})
        return optimizer

    monkeypatch.setattr(training, "make_optimizer", make_optimizer)
    second = train(*flags, "--pretrained", "first.pth", "--learning_rate", 1e-7)
    pixels = np.stack([stretched(path) for path in workdir.glob("train/*/*.jpg")])
    own = architecture == "residual"  # torchvision's networks expect what torchvision's weights were made with
    assert second["mean"] == pytest.approx(pixels.mean((0, 2, 3)) if own else wikiart.IMAGENET_MEAN, abs=1e-5)
    assert second["std"] == pytest.approx(pixels.std((0, 2, 3)) if own else wikiart.IMAGENET_STD, abs=1e-5)
    head = "head." if own else "fc."
    assert {rate for name, rate in rates.items() if name.startswith(head)} == {1e-7}
    assert {rate for name, rate in rates.items() if not name.startswith(head)} == {0.1 * 1e-7}
    for name, value in first["model"].items():
        if name.endswith("weight") and not name.startswith(head):
            assert torch.allclose(second["model"][name], value, atol=1e-5)


@pytest.mark.parametrize("architecture, epochs", [("residual", 6), ("three_conv", 10)])
def test_styles_that_are_easy_to_tell_apart_are_learnt(workdir, paint, train, run, architecture, epochs):
    counts = {"A": 40, "B": 40, "C": 40, "D": 10}
    paint(workdir / "train", counts)
    paint(workdir / "test", dict.fromkeys(counts, 10), seed=1)
    train("--epochs", epochs, "--architecture", architecture)
    run(testtrainpart1, "--testingdir", "test", "--outputdir", "out", "--device", "cpu")
    metrics = json.loads((workdir / "out" / "metrics_part1.json").read_text())
    assert metrics["majority_accuracy"] == 0.25 and metrics["accuracy"] > 0.9 and metrics["macro_f1"] > 0.9


def test_real_paintings_from_folders_to_figures(workdir, real_paintings, train, run):
    for part, count in [("train", 10), ("test", 4)]:
        for style in sorted(path for path in (real_paintings / part).iterdir() if path.is_dir()):
            (workdir / part / style.name).mkdir(parents=True)
            for path in sorted(style.iterdir())[:count]:
                (workdir / part / style.name / path.name).symlink_to(path)
    checkpoint = train("--epochs", 1, err=None)
    assert len(checkpoint["classes"]) == 7 and sum(checkpoint["counts"].values()) == 70
    result = run(testtrainpart1, "--testingdir", "test", "--outputdir", "out", "--device", "cpu")
    assert result.status == 0 and json.loads((workdir / "out" / "metrics_part1.json").read_text())["images"] == 28
