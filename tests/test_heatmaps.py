"""Class activation maps against class activation mapping by hand, finite differences and planted patches."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

import wikiart
from support.answers import heatmaps


def finished(maps, size):
    """Maps [B, h, w] as the paper shows them: the positive part, at the image's size, with a maximum of 1."""
    maps = F.interpolate(F.relu(maps)[:, None].float(), size=(size, size), mode="bilinear")[:, 0]
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


def class_activation(features, weights):
    """Zhou et al., 2016: what each position adds to the logit of a network that ends in pooling and a linear layer."""
    return torch.einsum("bkhw,bk->bhw", features, weights)


NETWORKS = {
    "resnet18": lambda trunk, images: nn.Sequential(*list(trunk.children())[:-2])(images),
    "mobilenet_v2": lambda trunk, images: trunk.features(images),
    "densenet121": lambda trunk, images: F.relu(trunk.features(images)),
    "residual": lambda trunk, images: nn.Sequential(*trunk)(images),
}


@pytest.mark.parametrize("architecture", NETWORKS)
def test_a_network_from_a_checkpoint_is_looked_at_in_its_last_feature_map(architecture):
    torch.manual_seed(1)
    model = wikiart.make_classifier(architecture, 5, 64).eval().requires_grad_(False)
    images, labels = torch.rand(2, 3, 64, 64), torch.tensor([3, 0])
    with torch.no_grad():  # as scripts that only evaluate may
        found = heatmaps.activation_maps(model, images, labels)
        features = NETWORKS[architecture](model.trunk, model.normalize(images))
        slope = model.head.weight[labels] / (model.scale.running_var + model.scale.eps).sqrt()
    assert features.shape[2:] == (2, 2)
    weights = slope[:, : features.shape[1]]
    assert torch.allclose(found, finished(class_activation(features, weights), 64), atol=1e-4)
    assert not found.requires_grad and not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    alone = torch.cat([heatmaps.activation_maps(model, images[i : i + 1], labels[i : i + 1]) for i in range(2)])
    assert torch.allclose(found, alone, atol=1e-4)


def test_three_conv_agrees_with_finite_differences():
    torch.manual_seed(2)
    model = wikiart.make_classifier("three_conv", 4, 48).eval().double()
    images, label, step = torch.rand(1, 3, 48, 48, dtype=torch.float64), torch.tensor([2]), 1e-6
    found = heatmaps.activation_maps(model, images, label)
    layers = [*model.trunk, model.head]
    end = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten))
    with torch.no_grad():
        features = nn.Sequential(*layers[:end])(model.normalize(images))
        moved = step * torch.eye(64, dtype=torch.float64).view(64, 64, 1, 1)
        head = nn.Sequential(*layers[end:])
        slopes = (head(features + moved) - head(features - moved))[:, 2] / (2 * step)
        expected = finished(class_activation(features, slopes[None]), 48)
    assert expected.max() == 1 and torch.allclose(found, expected, atol=1e-4)


def test_the_map_lights_the_patch_that_decides_the_class():
    """Class 0 has a red patch somewhere, class 1 a blue one, class 2 neither; all have a grey one elsewhere."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(3)

    def draw(count):
        images, labels = 0.2 * torch.rand(count, 3, 16, 16, generator=generator), torch.arange(count) % 3
        places = torch.randint(0, 13, (count, 2), generator=generator)
        for image, label, (y, x) in zip(images, labels.tolist(), places.tolist(), strict=True):
            top, left = (y + 7) % 13, (x + 7) % 13
            image[:, top : top + 4, left : left + 4] = 0.8
            if label < 2:
                image[:, y : y + 4, x : x + 4] = torch.eye(3)[2 * label].view(3, 1, 1)
        return images, labels, places

    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(80):
        images, labels, _ = draw(30)
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    images, labels, places = draw(60)
    assert (network(images).argmax(1) == labels).float().mean() > 0.95
    maps = heatmaps.activation_maps(network.eval(), images, labels)
    peaks = torch.stack([maps.flatten(1).argmax(1) // 16, maps.flatten(1).argmax(1) % 16], 1)
    inside = ((peaks >= places - 1) & (peaks <= places + 4)).all(1)
    assert inside[labels < 2].float().mean() > 0.9


@pytest.mark.parametrize(
    "architecture, expected",
    [("vit_b_16", False), ("swin_t", False), ("swin_v2_t", False), ("resnet18", True), ("convnext_tiny", True),
     ("vgg11", True)],
)  # fmt: skip
def test_cutting_into_patches_does_not_count_as_convolution(architecture, expected):
    with torch.device("meta"):
        network = models.get_model(architecture)
    assert heatmaps.has_convolutions(network) is expected


def test_a_network_without_feature_maps_is_an_error():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    assert not heatmaps.has_convolutions(linear)
    with pytest.raises(ValueError, match="feature map"):
        heatmaps.activation_maps(linear, torch.rand(1, 3, 4, 4), torch.tensor([0]))
