"""The classifiers: their layers, what their heads read, which names are known, what is optimized."""

import pytest
import torch
from torch import nn

import wikiart
from support.networks import heads, histograms, levels
from support.training import epochs

pytestmark = pytest.mark.usefixtures("full_networks")


@torch.no_grad()
def test_three_conv_is_the_assignments_network_layer_by_layer():
    model, layers = wikiart.make_classifier("three_conv", 27, 64).eval(), []
    for inputs, outputs in (3, 16), (16, 32), (32, 64):
        layers += [nn.Conv2d(inputs, outputs, 2, padding=2), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(4, 4, 2)]
    layers += [nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(4096, 300), nn.Dropout(0.1), nn.ReLU()]
    plain, state = nn.Sequential(*layers, nn.Linear(300, 27)).eval(), model.state_dict()
    values = [value for name, value in state.items() if not name.startswith("normalize")]
    plain.load_state_dict(dict(zip(plain.state_dict(), values, strict=True)))
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.1]
    images = torch.rand(2, 3, 200, 200)
    assert torch.allclose(model(images), plain(model.normalize(images)), atol=1e-5)


@torch.no_grad()
def test_one_head_reads_trunk_and_moments_and_a_fitted_one_correlations_and_statistics_too():
    torch.manual_seed(0)
    model, images = wikiart.make_classifier("residual", 5, 64).eval(), torch.rand(4, 3, 64, 64)
    normalized = (images - 0.5) / 0.25  # which is 4 * images - 2, what histograms are taken of
    trunk, maps = levels.run(model.trunk, normalized, model.levels)
    moments = [part for m in maps for part in (m.mean((2, 3)), m.flatten(2).std(2, correction=0))]
    statistics = [histograms.colour_and_texture(normalized), histograms.edges(normalized)]
    expected = torch.cat([trunk, *moments, *map(levels.correlations, maps[:2]), *statistics], 1)
    features, everything = model.features(images), model.all_features(images)
    assert features.shape[1] == model.width == 256 + 2 * (32 + 64 + 128 + 256)
    assert torch.equal(everything[:, : model.width], features) and everything.shape[1] == model.full_width
    assert torch.allclose(everything, expected, atol=2e-3)
    assert torch.equal(model(images), model.head(features))
    model.fitted = heads.Head(model.full_width, 5).eval()
    assert torch.equal(model(images), model.fitted(everything))
    with pytest.raises(TypeError, match=r"got torch.uint8, expected floats in \[0, 1\]"):
        model(images.to(torch.uint8))


@torch.no_grad()
@pytest.mark.parametrize("is_fitted", [True, False])
def test_a_state_decides_whether_a_network_has_a_fitted_head(is_fitted):
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


@pytest.mark.parametrize("name, size", [("three_conv", 16), ("residual", 16), ("residual", 70), ("squeezenet1_1", 32)])
def test_a_network_has_a_logit_per_style_and_all_of_it_learns(name, size):
    model = wikiart.make_classifier(name, 5, size)
    logits = model(torch.rand(8, 3, size, size))
    assert logits.shape == (8, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["residual", "vit_b_16", "swin_v2_t"])
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


def test_with_flips_a_painting_and_its_mirror_image_get_the_same_logits():
    model, images = wikiart.make_classifier("residual", 3, 32).eval(), torch.rand(2, 3, 32, 32)
    both = wikiart.classify(model, images, flips=True)
    assert torch.allclose(both, wikiart.classify(model, images.flip(3), flips=True), atol=1e-6)
    alone = [wikiart.classify(model, views) for views in (images, images.flip(3))]
    assert torch.allclose(both, sum(alone) / 2, atol=1e-6) and not torch.allclose(*alone, atol=1e-6)


@pytest.mark.parametrize("name, side", [("residual", 48), ("three_conv", 64), ("vit_b_16", 64), ("alexnet", 64)])
def test_training_from_scratch_sees_crops_unless_a_network_takes_none_so_small(name, side):
    model = wikiart.make_classifier(name, 3, 64)
    assert model.crop_side == side and wikiart.classify(model.eval(), torch.rand(1, 3, side, side)).shape == (1, 3)


@pytest.mark.parametrize("image_size", [16, 33, 42, 43])
def test_our_trunk_enlarges_a_crop_as_it_does_the_whole(image_size):
    model, seen = wikiart.make_classifier("residual", 3, image_size).eval(), []
    model.trunk[0].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].shape[2]))
    for side in model.crop_side, image_size:
        wikiart.classify(model, torch.rand(1, 3, side, side))
    assert seen[0] / model.crop_side == seen[1] / image_size
