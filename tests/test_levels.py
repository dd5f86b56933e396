"""The last feature map of each resolution, by hand for networks whose structure is known; statistics of the maps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

import wikiart
from support.networks import description, levels


def maps_of(trunk, images):
    with torch.no_grad():
        return levels.run(trunk.eval(), images, levels.find(trunk, images[:1]))


def test_the_levels_of_resnet18_are_the_ends_of_its_stages():
    torch.manual_seed(0)
    network, images = models.resnet18(), torch.rand(2, 3, 64, 64)
    output, found = maps_of(network, images)
    with torch.no_grad():
        expected = [F.relu(network.bn1(network.conv1(images)))]
        expected.append(network.layer1(network.maxpool(expected[0])))
        expected += [network.layer2(expected[1]), network.layer3(network.layer2(expected[1]))]
        assert torch.equal(output, network(images))
    assert [level.shape[3] for level in found] == [32, 16, 8, 4]  # and not the last stage's 2
    assert all(torch.equal(level, wanted) for level, wanted in zip(found, expected, strict=True))
    assert not any(module._forward_hooks for module in network.modules())


def test_channels_come_first():
    _, found = maps_of(models.swin_t(), torch.rand(1, 3, 64, 64))
    assert [tuple(level.shape[1:]) for level in found] == [(96, 16, 16), (192, 8, 8), (384, 4, 4)]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu, self.pool = nn.ReLU(), nn.AvgPool2d(2)

    def forward(self, images):
        return self.relu(self.pool(self.pool(self.relu(images - 0.5))))


def test_a_module_that_is_called_at_two_resolutions_counts_at_each():
    images = torch.rand(1, 3, 8, 8)
    _, (first, second) = maps_of(Twice(), images)
    assert torch.equal(first, F.relu(images - 0.5)) and torch.equal(second, F.avg_pool2d(first, 2))


def test_correlations_are_numpys_of_the_first_channels():
    torch.manual_seed(2)
    maps = torch.randn(2, 66, 5, 5) @ torch.randn(5, 5) + 3
    found = levels.correlations(maps)
    upper = np.triu_indices(64, 1)
    expected = [np.corrcoef(image[:64].flatten(1).numpy())[upper] for image in maps.double()]
    assert found.dtype == torch.float32 and np.allclose(found, expected, atol=1e-5)


def test_correlations_of_large_numbers_fit_into_float16():
    torch.manual_seed(4)
    maps = 100 * torch.randn(1, 3, 40, 40)  # the sums of their squares do not
    exact = levels.correlations(maps)
    with torch.autocast("cpu", torch.float16):
        assert torch.allclose(levels.correlations(maps), exact, atol=2e-3)


def test_correlations_of_a_large_map_skip_positions():
    torch.manual_seed(3)
    maps = torch.randn(1, 4, 100, 100)
    assert torch.equal(levels.correlations(maps), levels.correlations(maps[:, :, ::3, ::3]))


def test_a_constant_channel_is_correlated_with_nothing_and_gives_finite_gradients():
    maps = torch.rand(1, 3, 4, 4)
    maps[:, 1] = 0.1  # whose mean is not exact in float32
    found = levels.correlations(maps.requires_grad_())
    assert found[0, [0, 2]].abs().max() < 1e-3 < found[0, 1].abs()
    found.sum().backward()
    assert maps.grad.isfinite().all()


@pytest.mark.usefixtures("full_networks")
def test_a_classifiers_head_sees_trunk_moments_correlations_and_statistics():
    torch.manual_seed(1)
    model = wikiart.make_classifier("residual", 4, 64).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found, normalized = model.features(images), model.normalize(images)
        trunk, maps = levels.run(model.trunk, normalized, model.levels)
    expected = [trunk]
    for level in maps:
        expected += [level.mean((2, 3)), level.flatten(2).std(2, correction=0)]
    expected += map(levels.correlations, maps[:2])
    expected = torch.cat([*expected, description.colour_and_texture(normalized), description.edges(normalized)], 1)
    assert model.width == 256 and [level.shape[1] for level in maps] == [32, 64, 128, 256]
    assert torch.allclose(found, expected, atol=2e-3)


def test_a_channel_that_is_the_same_everywhere_gives_finite_gradients():
    model = wikiart.make_classifier("residual", 3, 32)
    with torch.no_grad():
        model.trunk[1].weight.zero_()
        model.trunk[1].bias.zero_()
    wikiart.classifier_loss(model, torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
