"""The classifiers: their layers, what they see, which names are known, and how their parameters are optimized."""

import pytest
import torch
from torch import nn

import wikiart
from support.networks import description
from support.system import console
from support.training import optimizer

pytestmark = pytest.mark.usefixtures("full_networks")


def test_three_conv_is_the_assignments_network_layer_by_layer():
    model = wikiart.make_classifier("three_conv", 27, 64)
    assert not model.has_statistics
    assert isinstance(model.scale, nn.Identity)
    model = nn.Sequential(*model.trunk, model.head)
    block = [wikiart.PaddedConv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    head = [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.Dropout, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in model] == 3 * block + head
    channels = [(layer.in_channels, layer.out_channels) for layer in model if isinstance(layer, nn.Conv2d)]
    assert channels == [(3, 16), (16, 32), (32, 64)] and model[-3].p == 0.1
    shapes, images = [], torch.rand(2, 3, 416, 416)
    for layer in model:
        if isinstance(layer, nn.Conv2d):  # pads by itself: the same numbers as torch's own padding
            assert (layer.kernel_size, layer.padding, layer.stride) == ((2, 2), (2, 2), (1, 1))
            plain = nn.functional.conv2d(images, layer.weight, layer.bias, padding=2)
            assert torch.allclose(layer(images), plain, atol=1e-5)
            plain = nn.Conv2d(layer.in_channels, 4, 3, stride=2, padding=(1, 3), dilation=2, groups=1)
            own = wikiart.PaddedConv2d(layer.in_channels, 4, 3, stride=2, padding=(1, 3), dilation=2, groups=1)
            own.load_state_dict(plain.state_dict())
            assert torch.allclose(own(images), plain(images), atol=1e-5)
        if isinstance(layer, nn.MaxPool2d):
            assert (layer.kernel_size, layer.padding, layer.stride) == (4, 2, 4)
        images = layer(images)
        shapes.append(tuple(images.shape[1:]))
    assert shapes[3::4][:3] == [(16, 105, 105), (32, 28, 28), (64, 8, 8)]
    assert shapes[12:] == [(64, 8, 8), (4096,), (300,), (300,), (300,), (27,)]
    by_hand = (3 * 4 * 16 + 16) + (16 * 4 * 32 + 32) + (32 * 4 * 64 + 64) + 2 * (16 + 32 + 64)
    assert sum(p.numel() for p in model.parameters()) == by_hand + (4096 * 300 + 300) + (300 * 27 + 27)


def test_residual_tells_palettes_and_textures_apart_without_its_convolutions():
    torch.manual_seed(0)
    model = wikiart.make_classifier("residual", 300, 64).eval()
    model.trunk.register_forward_hook(lambda trunk, images, features: torch.zeros_like(features))
    flat, red = torch.zeros(3, 64, 64), torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 64, 64)
    rough = (0.25 + 0.2 * torch.randn(64, 64).sign()).expand(3, 64, 64)  # all of it in the flat one's bin of colour
    moved = torch.cat([rough[:, 32:], rough[:, :32]], 1)  # the same brushwork elsewhere
    with torch.no_grad():
        model.head.weight.normal_()
    logits = model(0.5 + 0.25 * torch.stack([flat, red, rough, moved]))  # mean and deviation before measuring
    apart = torch.cdist(logits, logits)
    assert min(apart[0, 1], apart[0, 2], apart[1, 2]) > 4 * apart[2, 3]


def test_a_new_trunk_learns_without_correlations_and_the_images_statistics_and_a_pretrained_one_with_them():
    torch.manual_seed(0)
    model, images = wikiart.make_classifier("residual", 3, 32), torch.rand(6, 3, 32, 32)
    correlations = 32 * 31 // 2 + 64 * 63 // 2
    own = model.head.weight[:, -correlations - description.COLOUR_AND_TEXTURE - description.EDGES :]
    assert not own.any() and model.head.weight[:, -own.shape[1] - 1].all()
    plain = model(images)
    with torch.no_grad():
        own.normal_()
    assert torch.equal(model(images), plain)
    wikiart.classifier_loss(model, images, torch.arange(6) % 3).backward()
    learns = model.head.weight.grad.any(0)
    assert learns[: -own.shape[1]].any() and not learns[-own.shape[1] :].any()
    model.is_pretrained = True
    assert not torch.allclose(model(images), plain)
    read = model.eval()(images)
    model.ignore_statistics()
    assert not own.any() and not torch.allclose(model(images), read)


@pytest.mark.parametrize("architecture", ["three_conv", "residual"])
@pytest.mark.parametrize("size", [16, 33, 70])
def test_our_networks_take_any_size(architecture, size):
    model = wikiart.make_classifier(architecture, 5, size)
    logits = model(torch.rand(8, 3, size, size))
    assert logits.shape == (8, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x0_5", "squeezenet1_1"])  # the second ends in a convolution
def test_torchvisions_networks_have_a_last_layer_sized_to_the_styles(architecture):
    model = wikiart.make_classifier(architecture, 5, 32)
    assert model.training and model(torch.rand(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    "architecture, words",
    [
        ("three_con", 'unknown architecture "three_con"; did you mean "three_conv"?'),
        ("fasterrcnn_resnet50_fpn", 'unknown architecture "fasterrcnn_resnet50_fpn"'),
        ("alexnet", "alexnet does not take images of 20 pixels a side"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_by_name(architecture, words):
    with pytest.raises(console.UserError) as caught:
        wikiart.make_classifier(architecture, 5, 20)
    assert str(caught.value).startswith(words), caught.value


# Optimizer

NETWORKS = ["residual", "vit_b_16", "convnext_tiny", "swin_t", "swin_v2_t"]


@pytest.mark.parametrize("name", NETWORKS)
def test_weight_decay_is_for_the_weights_of_layers_alone(name):
    with torch.device("meta"):
        model = wikiart.make_classifier(name, 5, 224)
    groups = optimizer.make(model, 0.01).param_groups
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)]
    weights = {id(layer.weight) for layer in layers if layer.weight.ndim > 1}
    weights |= {id(m.in_proj_weight) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert {names[key] for key in decayed} == {names[key] for key in weights}
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(names)


def test_pixels_that_are_not_scaled_are_refused():
    model = wikiart.make_classifier("three_conv", 3, 16)
    with pytest.raises(TypeError, match=r"got torch.uint8, expected floats in \[0, 1\]"):
        model(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))


def test_with_flips_a_painting_and_its_mirror_image_get_the_same_logits():
    model, images = wikiart.make_classifier("residual", 3, 32).eval(), torch.rand(2, 3, 32, 32)
    both = wikiart.classify(model, images, flips=True)
    assert torch.allclose(both, wikiart.classify(model, images.flip(3), flips=True), atol=1e-6)
    alone = [wikiart.classify(model, views) for views in (images, images.flip(3))]
    assert torch.allclose(both, sum(alone) / 2, atol=1e-6) and not torch.allclose(*alone, atol=1e-6)


@pytest.mark.parametrize(
    "architecture, image_size, side",
    [("residual", 64, 48), ("three_conv", 64, 64), ("shufflenet_v2_x0_5", 64, 48), ("vit_b_16", 64, 64),
     ("alexnet", 64, 64)],
)  # fmt: skip
def test_training_from_scratch_sees_crops_unless_a_network_takes_none_so_small(architecture, image_size, side):
    model = wikiart.make_classifier(architecture, 3, image_size)
    assert model.crop_side == side
    shapes = [wikiart.classify(model.eval(), torch.rand(1, 3, size, size)).shape for size in (side, image_size)]
    assert shapes == [(1, 3), (1, 3)]


def test_a_bug_in_a_network_does_not_decide_what_it_is_trained_on(monkeypatch):
    calls = iter([None, None])  # as a whole: to find its levels, and their widths
    real = wikiart.Residual.forward
    monkeypatch.setattr(wikiart.Residual, "forward", lambda self, images: next(calls) or real(self, images))
    with pytest.raises(StopIteration):
        wikiart.make_classifier("residual", 3, 64)


@pytest.mark.parametrize("image_size", [16, 31, 32, 33, 42, 43, 64])
def test_our_trunk_enlarges_a_crop_as_it_does_the_whole(image_size):
    model, seen = wikiart.make_classifier("residual", 3, image_size).eval(), []
    model.trunk[0].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].shape[2]))
    for side in model.crop_side, image_size:
        wikiart.classify(model, torch.rand(1, 3, side, side))
    assert seen[0] / model.crop_side == seen[1] / image_size
