"""Weights to start from: torchvision's files as they are, and checkpoints of our own."""

import copy
import re
from unittest.mock import Mock

import jobs
import pytest
import torch
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

import wikiart
from support.networks import pretrained
from support.system import console
from support.training import checkpoints, epochs


def old_file(net):
    """As in torchvision's older files: no counts of batches, and DenseNet's "norm.1.weight" for "norm1.weight"."""
    state = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    return {re.sub(r"(layer\d+\.)(norm|conv)([12])\.", r"\1\2.\3.", name): value for name, value in state.items()}


def renamed(net, prefix):
    return {f"{prefix}{name}": value for name, value in net.state_dict().items()}


FILES = [
    ("densenet121", old_file),
    ("mobilenet_v3_small", lambda net: {n: v for n, v in net.state_dict().items() if "classifier.3" not in n}),
    ("mnasnet0_5", lambda net: net.state_dict()),  # whose loading depends on a version that the file carries
    ("resnet18", lambda net: torch.optim.swa_utils.AveragedModel(net).state_dict()),  # with their number
    ("resnet18", lambda net: {"net": renamed(net, "module._orig_mod."), "acc": 9.5}),  # DataParallel, compiled
    ("squeezenet1_1", lambda net: {  # as in PyTorch's tutorial
        "epoch": 3, "model_state_dict": net.state_dict(), "loss": torch.ones(()),
        "optimizer_state_dict": torch.optim.AdamW(net.parameters()).state_dict(),
    }),
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
    for name in "resnet50", "residual":
        assert pretrained.normalization(name) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for name in "efficientnet_v2_l", "googlenet":  # the last one changes ImageNet's into this
        assert pretrained.normalization(name) == ([0.5] * 3, [0.5] * 3)


def test_position_embeddings_are_resized():
    sizes = dict(patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    stored, network = VisionTransformer(image_size=224, **sizes), VisionTransformer(image_size=32, **sizes)
    network.heads.head = torch.nn.Identity()
    pretrained.load(network, "vit_b_16", stored.state_dict())
    assert network.encoder.pos_embedding.shape == (1, 5, 8)
    assert torch.equal(network.encoder.pos_embedding[:, 0], stored.encoder.pos_embedding[:, 0])
    assert network(torch.rand(2, 3, 32, 32)).isfinite().all()


def test_a_checkpoint_of_our_own_is_started_from(tmp_path):
    model = wikiart.make_classifier("residual", 5, 32)
    model.normalize.fit(torch.randint(0, 90, (4, 3, 32, 32), dtype=torch.uint8), torch.arange(4))
    checkpoint = {"part": 1, "version": checkpoints.VERSION, "architecture": "residual", "model": model.state_dict()}
    torch.save(checkpoint, tmp_path / "w.pth")
    start = wikiart.make_classifier("residual", 7, 64)  # other styles and another size, which changes the levels
    start.load_pretrained(str(tmp_path / "w.pth"))
    for name in "normalize", "trunk":
        assert jobs.same(dict(start.get_submodule(name).state_dict()), dict(model.get_submodule(name).state_dict()))
    torch.save(checkpoint | {"version": 1}, tmp_path / "w.pth")
    with pytest.raises(console.UserError, match=r"w\.pth.*written by another version"):
        start.load_pretrained(str(tmp_path / "w.pth"))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    model = wikiart.make_classifier("shufflenet_v2_x0_5", 5, 32)
    good, name = model.trunk.state_dict(), "conv1.0.weight"
    fit, checkpoint = "do not fit shufflenet_v2_x0_5: ", {"part": 1, "version": checkpoints.VERSION, "model": good}
    cases = [
        *[("is not a state_dict", v) for v in ([1], {5: torch.ones(1)}, {"model": [good]}, good | {name: "text"})],
        ('holds "residual", expected shufflenet_v2_x0_5', checkpoint | {"architecture": "residual"}),
        (fit, {}),
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
    stored = dict(FILES[:3]).get(architecture, lambda net: net.state_dict())
    torch.save(stored(models.get_model(architecture, weights=None)), tmp_path / "w.pth")
    jobs.paint(tmp_path / "train", {"A": 4, "B": 4})
    flags = jobs.flags(tmp_path / "train", tmp_path / "out", "--testingdir", tmp_path / "train", "--batch_size", 4)
    flags += ["--architecture", architecture, "--image_size", FAMILIES[architecture], "--validation", 0.25]
    done = jobs.call("trainpart1", *flags, "--pretrained", tmp_path / "w.pth")
    assert (done.status, done.err) == (0, "")
    assert jobs.call("testtrainpart1", *flags).status == 0


def test_a_pretrained_network_keeps_its_first_layers_and_statistics_and_sees_whole_paintings(tmp_path):
    model = wikiart.make_classifier("mobilenet_v2", 3, 48)
    torch.save(model.trunk.state_dict(), tmp_path / "w.pth")
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
