"""Weights to start from: torchvision's files as they are, and checkpoints of our own."""

import copy
import re
from pathlib import Path
from unittest.mock import Mock

import jobs
import pytest
import torch
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

import wikiart
from support.networks import pretrained
from support.system import console
from support.training import checkpoints, optimizer

MOBILENET = Path(jobs.ROOT).parent / "shared" / "mobilenet_v2_imagenet.pth"


def without_counters(net):
    """As in torchvision's older files, which were written before batch norm counted its batches."""
    return {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}


def densenet_file(net):
    """As in torchvision's DenseNet files: "denselayer1.norm.1.weight" for "denselayer1.norm1.weight"."""
    return {re.sub(r"(layer\d+\.)(norm|conv)([12])\.", r"\1\2.\3.", n): v for n, v in without_counters(net).items()}


def renamed(net, prefix):
    return {f"{prefix}{name}": value for name, value in net.state_dict().items()}


FILES = [
    ("resnet18", without_counters),
    ("densenet121", densenet_file),
    ("mobilenet_v3_small", lambda net: {n: v for n, v in net.state_dict().items() if "classifier.3" not in n}),
    ("mnasnet0_5", lambda net: net.state_dict()),  # whose loading depends on a version that the file carries
    ("resnet18", lambda net: torch.optim.swa_utils.AveragedModel(net).state_dict()),  # with their number
    ("resnet18", lambda net: {"net": renamed(net, "module._orig_mod."), "acc": 9.5}),  # DataParallel, compiled
    ("squeezenet1_1", lambda net: {  # as in PyTorch's tutorial
        "epoch": 3, "model_state_dict": net.state_dict(), "loss": torch.ones(()),
        "optimizer_state_dict": torch.optim.AdamW(net.parameters()).state_dict(),
    }),
    ("resnet18", lambda net: {"model": net.state_dict(), "optimizer": {}, "epoch": 2}),  # torchvision's
    ("mobilenet_v2", lambda net: {  # Lightning's
        "pytorch-lightning_version": "2.5", "optimizer_states": [{}], "hyper_parameters": {"lr": 0.1},
        "state_dict": renamed(net, "model._orig_mod.module.") | {"criterion.weight": torch.ones(5)},
    }),
]  # fmt: skip


@pytest.mark.parametrize("architecture, stored", FILES)
def test_files_fill_all_but_the_last_layer(architecture, stored, tmp_path):
    network = models.get_model(architecture, weights=None)
    torch.save(stored(network), tmp_path / "w.pth")
    model = wikiart.make_classifier(architecture, 5, 32)
    model.load_pretrained(str(tmp_path / "w.pth"))
    weights, filled = network.state_dict(), model.trunk.state_dict()
    assert len(set(weights) - set(filled)) == 2 and set(filled) < set(weights)  # weight and bias of the last layer
    assert all(torch.equal(weights[name], v) for name, v in filled.items() if "num_batches" not in name)
    assert torch.equal(torch.stack([model.normalize.mean, model.normalize.std]), torch.tensor(pretrained.IMAGENET))


def test_the_normalization_is_that_of_torchvisions_weights():
    imagenet, halves = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ([0.5] * 3, [0.5] * 3)
    for name in "resnet50", "vit_b_16", "residual":
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


@pytest.mark.parametrize("architecture", ["residual", "mnasnet0_5"])
def test_a_checkpoint_of_our_own_is_loaded_and_started_from(architecture, tmp_path):
    model, path = wikiart.make_classifier(architecture, 5, 32), tmp_path / "w.pth"
    model.normalize.fit(torch.randint(0, 90, (4, 3, 32, 32), dtype=torch.uint8), torch.arange(4))
    contents = {
        "part": 1, "version": checkpoints.VERSION, "architecture": architecture, "classes": list("abcde"),
        "image_size": 32, "model": model.state_dict(),
    }  # fmt: skip
    torch.save(contents, path)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(wikiart.load_network(jobs.load(path))(images), model.eval()(images))
    start = wikiart.make_classifier(architecture, 7, 64)  # other styles and another size, which changes the levels
    start.load_pretrained(str(path))
    for name in "normalize", "trunk":
        assert jobs.same(dict(start.get_submodule(name).state_dict()), dict(model.get_submodule(name).state_dict()))
    torch.save(contents | {"version": 1}, path)
    with pytest.raises(console.UserError, match=r"w\.pth.*written by another version"):
        start.load_pretrained(str(path))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    model = wikiart.make_classifier("shufflenet_v2_x0_5", 5, 32)
    good, name = model.trunk.state_dict(), "conv1.0.weight"
    fit, checkpoint = "do not fit shufflenet_v2_x0_5: ", {"part": 1, "version": checkpoints.VERSION, "model": good}
    cases = [
        *[("is not a state_dict", v) for v in ([1], {5: torch.ones(1)}, {"model": [good]}, good | {name: "text"})],
        ('holds "residual", expected shufflenet_v2_x0_5', checkpoint | {"architecture": "residual"}),
        ('holds "an autoencoder", expected shufflenet_v2_x0_5', checkpoint),
        (fit, {}),
        (fit, wikiart.make_classifier("residual", 5, 32).state_dict()),
        ('Missing key(s) in state_dict: "conv1.0.weight"', {n: v for n, v in good.items() if n != name}),
        ('Unexpected key(s) in state_dict: "more"', good | {"more": torch.ones(1)}),
        ("size mismatch for conv1.0.weight: copying a param with shape torch", good | {name: torch.zeros(1)}),
        ("conv1.0.weight", good | {name: good[name].to_sparse()}),
        (f"{fit}conv1.0.weight holds numbers that are not finite", good | {name: good[name] / 0}),
    ]
    for words, value in cases:
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
        monkeypatch.setattr(torch.hub, "download_url_to_file", Mock(side_effect=error))
        with pytest.raises(console.UserError, match=rf"x0.5-f707e7126e.pth cannot be .*{error.args[-1][:9]}"):
            model.load_pretrained(True)
    download = Mock(side_effect=lambda url, path, *_, **__: torch.save(weights.trunk.state_dict(), path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        model.load_pretrained(True)
        assert torch.equal(model.trunk.conv1[0].weight, weights.trunk.conv1[0].weight)
    ((url, path, digest),) = [call.args for call in download.call_args_list]
    assert url.endswith("/shufflenetv2_x0.5-f707e7126e.pth") and digest == "f707e7126e"
    torch.save(model.trunk, path)  # loading it would run code
    with pytest.raises(console.UserError, match=f"^{re.escape(path)}: holds torchvision.*could run code"):
        model.load_pretrained(True)
    with pytest.raises(console.UserError, match="no weights to download for residual"):
        wikiart.make_classifier("residual", 5, 32).load_pretrained(True)


# Through the scripts


def round_trip(folder, architecture, size, weights):
    """Train an epoch from a file of weights, evaluate, predict."""
    jobs.paint(folder / "train", {"A": 4, "B": 4})
    jobs.paint(folder / "test", {"A": 2, "B": 2}, seed=1)
    flags = jobs.flags(folder / "train", folder / "out", "--testingdir", folder / "test", "--batch_size", 4)
    more = ["--architecture", architecture, "--image_size", size, "--pretrained", weights, "--validation", 0.25]
    done = jobs.call("trainpart1", *flags, *more)
    assert (done.status, done.err) == (0, "")
    assert jobs.call("testtrainpart1", *flags, "--image_size", size).status == 0
    done = jobs.call("testtrainpart1", *flags, "--image_size", size, "--predict", folder / "test" / "A" / "0.png")
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
    stored = dict(FILES[:4]).get(architecture, lambda net: net.state_dict())
    torch.save(stored(models.get_model(architecture, weights=None)), tmp_path / "w.pth")
    round_trip(tmp_path, architecture, FAMILIES[architecture], tmp_path / "w.pth")


def test_a_pretrained_network_keeps_its_first_layers_and_statistics_and_sees_whole_paintings(tmp_path):
    start = wikiart.make_classifier("mobilenet_v2", 3, 48)
    torch.save(start.trunk.state_dict(), tmp_path / "w.pth")
    model = wikiart.make_classifier("mobilenet_v2", 3, 48)
    assert model.crop_side == 36
    model.load_pretrained(str(tmp_path / "w.pth"))
    assert model.crop_side == 48
    before = copy.deepcopy(model.state_dict())
    steps = optimizer.make(model.train(), 0.01)
    for _ in range(2):
        wikiart.classifier_loss(model, torch.rand(6, 3, 32, 32), torch.arange(6) % 3).backward()
        steps.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in changed if name.startswith("trunk.") and "running" in name}
    learned = [f"trunk.{name}" in changed for name, _ in model.trunk.named_parameters()]
    first = learned.index(True)
    assert first == round(pretrained.FROZEN * len(learned)) and all(learned[first:])
