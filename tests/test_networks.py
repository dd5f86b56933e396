"""The classifiers: their layers, what their heads read, which names are known, what is optimized."""

import pytest
import torch
from torch import nn

import wikiart
from support.networks import heads, levels
from support.system import console
from support.training import epochs

pytestmark = pytest.mark.usefixtures("full_networks")


def test_three_conv_is_the_assignments_network_layer_by_layer():
    model = wikiart.make_classifier("three_conv", 27, 64)
    assert isinstance(model.head.standardize, nn.Identity) and model.full_width == model.width == 300
    model = nn.Sequential(*model.trunk, model.head.linear)
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
        if isinstance(layer, nn.MaxPool2d):
            assert (layer.kernel_size, layer.padding, layer.stride) == (4, 2, 4)
        images = layer(images)
        shapes.append(tuple(images.shape[1:]))
    assert shapes[3::4][:3] == [(16, 105, 105), (32, 28, 28), (64, 8, 8)]
    assert shapes[12:] == [(64, 8, 8), (4096,), (300,), (300,), (300,), (27,)]
    by_hand = (3 * 4 * 16 + 16) + (16 * 4 * 32 + 32) + (32 * 4 * 64 + 64) + 2 * (16 + 32 + 64)
    assert sum(p.numel() for p in model.parameters()) == by_hand + (4096 * 300 + 300) + (300 * 27 + 27)


@torch.no_grad()
def test_one_head_reads_trunk_and_moments_and_a_fitted_one_correlations_and_statistics_too():
    torch.manual_seed(0)
    model = wikiart.make_classifier("residual", 5, 64).eval()
    flat, red = torch.zeros(3, 64, 64), torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 64, 64)
    rough = (0.25 + 0.2 * torch.randn(64, 64).sign()).expand(3, 64, 64)  # all of it in the flat one's bin of colour
    moved = torch.cat([rough[:, 32:], rough[:, :32]], 1)  # the same brushwork elsewhere
    images = 0.5 + 0.25 * torch.stack([flat, red, rough, moved])  # mean and deviation before measuring
    trunk, maps = levels.run(model.trunk, model.normalize(images), model.levels)
    moments = [part for m in maps for part in (m.mean((2, 3)), m.flatten(2).std(2, correction=0))]
    expected = torch.cat([trunk, *moments, *map(levels.correlations, maps[:2])], 1)
    features, everything = model.features(images), model.all_features(images)
    assert features.shape[1] == model.width == 256 + 2 * (32 + 64 + 128 + 256)
    assert torch.equal(everything[:, : model.width], features) and everything.shape[1] == model.full_width
    assert torch.allclose(everything[:, : expected.shape[1]], expected, atol=2e-3)
    apart = torch.cdist(*2 * [everything[:, expected.shape[1] :]])  # palettes and textures, without convolutions
    assert min(apart[0, 1], apart[0, 2], apart[1, 2]) > 4 * apart[2, 3]

    assert torch.equal(model(images), model.head(features))
    model.fitted = heads.Head(model.full_width, 5).eval()
    assert torch.equal(model(images), model.fitted(everything))


@torch.no_grad()
@pytest.mark.parametrize("is_fitted", [True, False])
def test_a_state_decides_whether_a_network_has_a_fitted_head(is_fitted):
    """As the README loads a checkpoint, and as the scripts do."""
    model, other = (wikiart.make_classifier("shufflenet_v2_x0_5", 3, 32).eval() for _ in range(2))
    images = torch.rand(2, 3, 32, 32)
    (model if is_fitted else other).fitted = heads.fit(torch.randn(9, model.full_width), torch.arange(9) % 3, 3, True)
    other.load_state_dict(model.state_dict())
    assert (other.fitted is not None) == is_fitted and torch.equal(other(images), model(images))
    learning = {name for name, parameter in other.named_parameters() if parameter.requires_grad}
    assert learning == {name for name in dict(other.named_parameters()) if not name.startswith("fitted.")}
    checkpoint = {"part": 1, "architecture": model.architecture, "classes": ["A", "B", "C"], "image_size": 32}
    loaded = wikiart.load_network(checkpoint | {"model": model.state_dict()})
    assert (loaded.fitted is not None) == is_fitted and torch.equal(loaded(images), model(images))
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    if is_fitted:
        damaged = model.state_dict() | {"fitted.linear.weight": torch.zeros(3, model.width)}
        with pytest.raises(console.UserError, match="x: is damaged: its weights do not fit"):
            wikiart.load_network(checkpoint | {"model": damaged}, "x")


@pytest.mark.parametrize(
    "architecture, size",
    [(own, size) for own in ("three_conv", "residual") for size in (16, 33, 70)]
    + [("shufflenet_v2_x0_5", 32), ("squeezenet1_1", 32)],  # the last one ends in a convolution
)
def test_a_network_has_a_logit_per_style_and_all_of_it_learns(architecture, size):
    model = wikiart.make_classifier(architecture, 5, size)
    assert model.training
    logits = model(torch.rand(8, 3, size, size))
    assert logits.shape == (8, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["residual", "vit_b_16", "convnext_tiny", "swin_t", "swin_v2_t"])
def test_weight_decay_is_for_the_weights_of_layers_alone(name):
    with torch.device("meta"):
        model = wikiart.make_classifier(name, 5, 224)
    groups = epochs.Optimizer(model, torch.device("cpu")).adamw.param_groups
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


@pytest.mark.parametrize("image_size", [16, 31, 32, 33, 42, 43, 64])
def test_our_trunk_enlarges_a_crop_as_it_does_the_whole(image_size):
    model, seen = wikiart.make_classifier("residual", 3, image_size).eval(), []
    model.trunk[0].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].shape[2]))
    for side in model.crop_side, image_size:
        wikiart.classify(model, torch.rand(1, 3, side, side))
    assert seen[0] / model.crop_side == seen[1] / image_size
