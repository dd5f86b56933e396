"""Weights to start from: torchvision's files as they are, and checkpoints of our own."""

import copy
import re
from functools import partial
from pathlib import Path

import jobs
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

import wikiart
from support.networks import pretrained
from support.system import console
from support.training import checkpoints, epochs

MOBILENET = Path(jobs.ROOT).parent / "shared" / "mobilenet_v2_imagenet.pth"


def without_counters(state):
    """As in torchvision's older files, which were written before batch norm counted its batches."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def densenet_file(state):
    """As in torchvision's DenseNet files: "denselayer1.norm.1.weight" for "denselayer1.norm1.weight"."""
    return {re.sub(r"(layer\d+\.)(norm|conv)([12])\.", r"\1\2.\3.", n): v for n, v in without_counters(state).items()}


FILES = {
    "resnet18": without_counters,
    "densenet121": densenet_file,
    "mobilenet_v3_small": lambda state: {n: v for n, v in state.items() if "classifier" not in n or n < "classifier.3"},
    "mnasnet0_5": lambda state: state,  # whose loading depends on a version that the file carries
}


@pytest.mark.parametrize("architecture", FILES)
def test_torchvisions_files_fill_all_but_the_last_layer(architecture, tmp_path):
    torch.manual_seed(9)
    weights = models.get_model(architecture, weights=None).state_dict()
    stored = FILES[architecture](weights)
    assert architecture == "mnasnet0_5" or set(stored) != set(weights)
    torch.save(stored, tmp_path / "w.pth")
    torch.manual_seed(10)
    model = wikiart.make_classifier(architecture, 5, 32)
    model.load_pretrained(str(tmp_path / "w.pth"))
    found = model.trunk.state_dict()
    removed = set(weights) - set(found)
    assert len(removed) == 2 and set(found) < set(weights)  # weight and bias of the last layer
    assert all(torch.equal(weights[name], value) for name, value in found.items())
    usual = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    assert torch.equal(torch.stack([model.normalize.mean, model.normalize.std]), usual)


def test_the_normalization_is_that_of_torchvisions_weights():
    imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    halves = ([0.5] * 3, [0.5] * 3)
    for name in "resnet50", "efficientnet_v2_s", "vit_b_16":
        assert pretrained.normalization(name) == imagenet
    for name in "efficientnet_v2_l", "googlenet", "inception_v3":  # the last two change ImageNet's into this one
        assert pretrained.normalization(name) == halves


def test_position_embeddings_are_resized():
    sizes = dict(patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    stored, network = VisionTransformer(image_size=224, **sizes), VisionTransformer(image_size=32, **sizes)
    network.heads.head = torch.nn.Identity()
    pretrained.load(network, "vit_b_16", stored.state_dict())
    assert network.encoder.pos_embedding.shape == (1, 5, 8)
    assert torch.equal(network.encoder.pos_embedding[:, 0], stored.encoder.pos_embedding[:, 0])
    assert network(torch.rand(2, 3, 32, 32)).isfinite().all()


def checkpoint_of(model, path, **more):
    contents = {
        "part": 1, "version": checkpoints.VERSION, "architecture": model.architecture, "classes": list("abcde"),
        "counts": dict.fromkeys("abcde", 1), "image_size": 32, "fingerprints": torch.zeros(5).long(),
        "settings": {"imbalance": "none", "smote_target": 9, "validation": 0.1},
        "thumbnails": torch.zeros(5, 256, dtype=torch.int8), "artists": [], "paths": list("vwxyz"),
    }  # fmt: skip
    checkpoints.write(path, contents | more, model.state_dict(), [{"epoch": 1}])


@pytest.mark.parametrize("architecture", ["residual", "mnasnet0_5", "regnet_x_400mf"])
def test_a_checkpoint_of_our_own_is_loaded_and_started_from(architecture, tmp_path):
    model = wikiart.make_classifier(architecture, 5, 32)
    model.normalize.fit(torch.randint(0, 90, (4, 3, 32, 32), dtype=torch.uint8), torch.arange(4))
    checkpoint_of(model, tmp_path / "w.pth")
    loaded = wikiart.load_network(checkpoints.read(tmp_path / "w.pth", 1))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), model.eval()(images))
    start = wikiart.make_classifier(architecture, 7, 64)  # other styles and another size, which changes the levels
    start.load_pretrained(str(tmp_path / "w.pth"))
    wanted, found = model.state_dict(), start.state_dict()
    taken = [name for name in found if name.startswith(("normalize.", "trunk."))]
    assert taken and all(torch.equal(found[name], wanted[name]) for name in taken)
    checkpoint_of(model, tmp_path / "old.pth", version=1)
    with pytest.raises(console.UserError, match=r"old\.pth.*written by another version"):
        start.load_pretrained(str(tmp_path / "old.pth"))


def named(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def raising(error, *_, **__):
    raise error


WRAPPINGS = {
    "DataParallel": lambda net: nn.DataParallel(net).state_dict(),
    "averaged weights": lambda net: torch.optim.swa_utils.AveragedModel(net).state_dict(),  # with their number
    "compiled": lambda net: named("_orig_mod.", net.state_dict()),
    "DataParallel of a compiled one": lambda net: {"net": named("module._orig_mod.", net.state_dict()), "acc": 9.5},
    "the tutorial's": lambda net: {
        "epoch": 3, "model_state_dict": net.state_dict(), "loss": torch.ones(()),
        "optimizer_state_dict": torch.optim.AdamW(net.parameters()).state_dict(),
    },
    "torchvision's": lambda net: {"model": net.state_dict(), "optimizer": {}, "model_ema": {}, "epoch": 2},
    "Lightning": lambda net: {
        "pytorch-lightning_version": "2.5", "optimizer_states": [{}], "hyper_parameters": {"lr": 0.1},
        "state_dict": named("model._orig_mod.module.", net.state_dict()) | {"criterion.weight": torch.ones(5)},
    },
}  # fmt: skip


@pytest.mark.parametrize("architecture, wrapping", [
    *[("shufflenet_v2_x0_5", wrapping) for wrapping in WRAPPINGS], ("mobilenet_v2", "Lightning"),
    ("squeezenet1_1", "DataParallel of a compiled one"), ("resnet18", "the tutorial's"),
])  # fmt: skip
def test_weights_are_found_in_the_usual_wrappings(architecture, wrapping, tmp_path):
    network = models.get_model(architecture, weights=None)
    torch.save(WRAPPINGS[wrapping](network), tmp_path / "w.pth")
    model = wikiart.make_classifier(architecture, 5, 32)
    model.load_pretrained(str(tmp_path / "w.pth"))
    wanted = network.state_dict()
    assert all(torch.equal(wanted[name], value) for name, value in model.trunk.state_dict().items())


def test_weights_that_do_not_fit_are_refused(tmp_path):
    model = wikiart.make_classifier("shufflenet_v2_x0_5", 5, 32)
    good = model.trunk.state_dict()
    cases = {
        "is not a state_dict": [
            [1, 2], {"a": 5}, {5: torch.ones(1)}, {"model": [good]}, {"model": {"a": {"b": good}}},
        ],
        "do not fit shufflenet_v2_x0_5: conv1.0.weight has the shape [1], expected [24, 3, 3, 3]": [
            good | {"conv1.0.weight": torch.zeros(1)}
        ],
        "conv1.1.num_batches_tracked has the shape [1], expected []": [
            good | {"conv1.1.num_batches_tracked": torch.zeros(1)}
        ],
        "do not fit shufflenet_v2_x0_5: more is not part of it": [good | {"more": v} for v in (torch.zeros(1), "a")],
        "conv1.0.weight is missing": [good | {"conv1.0.weight": "text"}],
        "conv1.0.weight is sparse": [good | {"conv1.0.weight": good["conv1.0.weight"].to_sparse()}],
        "do not fit shufflenet_v2_x0_5: conv1.0.weight is missing": [
            {n: v for n, v in good.items() if n != "conv1.0.weight"}
        ],
        'holds "residual", expected shufflenet_v2_x0_5': [
            {"part": 1, "version": checkpoints.VERSION, "architecture": "residual", "model": good}
        ],
        "do not fit shufflenet_v2_x0_5": [
            {}, {n: v for n, v in good.items() if "stage4" not in n}, good | {"more": torch.zeros(1)},
            good | {"conv1.0.weight": torch.zeros(1)}, wikiart.make_classifier("residual", 5, 32).state_dict(),
        ],
        "conv1.0.weight holds numbers that are not finite": [good | {"conv1.0.weight": good["conv1.0.weight"] / 0}],
    }  # fmt: skip
    for words, values in cases.items():
        for value in values:
            torch.save(value, tmp_path / "w.pth")
            with pytest.raises(console.UserError) as caught:
                model.load_pretrained(str(tmp_path / "w.pth"))
            assert words in str(caught.value) and str(caught.value).isprintable(), caught.value
    with pytest.raises(console.UserError, match="no such file"):
        model.load_pretrained(str(tmp_path / "missing.pth"))


def test_true_asks_torchvision_for_its_weights(monkeypatch, tmp_path):
    model, weights = (wikiart.make_classifier("shufflenet_v2_x0_5", 5, 32) for _ in range(2))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for error in RuntimeError('invalid hash value (expected "f707e7126e", got "0")'), OSError(28, "No space left"):
        monkeypatch.setattr(torch.hub, "download_url_to_file", partial(raising, error))
        with pytest.raises(
            console.UserError, match=rf"shufflenetv2_x0.5-f707e7126e.pth cannot be .*{error.args[-1][:9]}"
        ):
            model.load_pretrained(True)
    downloads = []

    def download(url, path, digest, progress):
        downloads.append((url.split("/")[-1], digest))
        torch.save(weights.trunk.state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        model.load_pretrained(True)
        assert torch.equal(model.trunk.conv1[0].weight, weights.trunk.conv1[0].weight)
    assert downloads == [("shufflenetv2_x0.5-f707e7126e.pth", "f707e7126e")]
    (file,) = (tmp_path / "hub" / "checkpoints").iterdir()
    whole = file.read_bytes()
    torch.save(model.trunk, file)  # loading it would run code
    for content, words in (
        (file.read_bytes(), "is a whole network"),
        (whole[:9999], "is incomplete or damaged; delete it"),
    ):
        file.write_bytes(content)
        with pytest.raises(console.UserError, match=f"^{re.escape(str(file))}: {words}"):
            model.load_pretrained(True)
    with pytest.raises(console.UserError, match="no weights to download for residual"):
        wikiart.make_classifier("residual", 5, 32).load_pretrained(True)


# Through the scripts


def round_trip(folder, architecture, size, weights):
    """Train an epoch from a file of weights, evaluate, predict."""
    jobs.paint(folder / "train", {"A": 4, "B": 4})
    jobs.paint(folder / "test", {"A": 2, "B": 2}, seed=1)
    flags = ["--trainingdir", folder / "train", "--testingdir", folder / "test", "--outputdir", folder / "out",
             "--cachedir", folder / "cache", "--device", "cpu"]  # fmt: skip
    more = ["--architecture", architecture, "--image_size", size, "--pretrained", weights, "--epochs", 1]
    done = jobs.call("trainpart1", *flags, *more, "--batch_size", 4, "--validation", 0.25)
    assert (done.status, done.err) == (0, "")
    assert jobs.call("testtrainpart1", *flags).status == 0
    done = jobs.call("testtrainpart1", *flags, "--predict", folder / "test" / "A" / "0.png")
    assert done.status == 0 and "0.png: " in done.out


@pytest.mark.skipif(not MOBILENET.exists(), reason="needs ../shared/mobilenet_v2_imagenet.pth")
def test_an_epoch_from_real_weights(tmp_path):
    round_trip(tmp_path, "mobilenet_v2", 32, MOBILENET)
    start, trained = jobs.load(MOBILENET), jobs.load(tmp_path / "out" / "wikiart.pth")["model"]
    name = "features.0.0.weight"
    assert torch.allclose(trained[f"trunk.{name}"], start[name], atol=0.01)
    assert trained["normalize.mean"].tolist() == pytest.approx([0.485, 0.456, 0.406])


FAMILIES = {
    "alexnet": 64, "convnext_tiny": 32, "densenet121": 32, "efficientnet_v2_s": 32, "googlenet": 32,
    "inception_v3": 80, "maxvit_t": 224, "mnasnet0_5": 32, "mobilenet_v2": 32, "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32, "resnet18": 32, "resnext50_32x4d": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_1": 32,
    "swin_t": 32, "vgg11": 32, "vit_b_32": 64, "wide_resnet50_2": 32,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_of_torchvision(architecture, tmp_path):
    state = models.get_model(architecture, weights=None).state_dict()
    state = FILES.get(architecture, lambda state: state)(state)
    torch.save(state, tmp_path / "w.pth")
    round_trip(tmp_path, architecture, FAMILIES[architecture], tmp_path / "w.pth")


def test_a_pretrained_network_keeps_its_first_layers_and_statistics_and_sees_whole_paintings(tmp_path):
    start = wikiart.make_classifier("mobilenet_v2", 3, 48)
    torch.save(start.trunk.state_dict(), tmp_path / "w.pth")
    model = wikiart.make_classifier("mobilenet_v2", 3, 48)
    assert model.crop_side == 36
    model.load_pretrained(str(tmp_path / "w.pth"))
    assert model.crop_side == 48
    before = copy.deepcopy(model.state_dict())
    steps = epochs.Optimizer(model.train(), torch.device("cpu")).adamw
    for _ in range(2):
        wikiart.classifier_loss(model, torch.rand(6, 3, 32, 32), torch.arange(6) % 3).backward()
        steps.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in changed if name.startswith("trunk.") and "running" in name}
    learned = [f"trunk.{name}" in changed for name, _ in model.trunk.named_parameters()]
    first = learned.index(True)
    assert first == round(pretrained.FROZEN * len(learned)) and all(learned[first:])
    assert {"head.linear.weight", "head.standardize.running_mean"} <= changed
