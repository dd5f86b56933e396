"""The last feature map of each resolution, by hand for networks whose structure is known; statistics of the maps."""

import numpy as np
import torch
import torch.nn.functional as F
from torchvision import models

from support.networks import levels


def maps_of(trunk, images):
    with torch.no_grad():
        return levels.run(trunk.eval(), images, levels.find(trunk, images[:1]))


def test_the_levels_of_resnet18_are_the_ends_of_its_stages():
    torch.manual_seed(0)
    network, images = models.resnet18(), torch.rand(2, 3, 64, 64)
    output, maps = maps_of(network, images)
    with torch.no_grad():
        expected = [F.relu(network.bn1(network.conv1(images)))]
        expected.append(network.layer1(network.maxpool(expected[0])))
        expected += [network.layer2(expected[1]), network.layer3(network.layer2(expected[1]))]
        assert torch.equal(output, network(images))
    assert [level.shape[3] for level in maps] == [32, 16, 8, 4]  # and not the last stage's 2
    assert all(torch.equal(level, wanted) for level, wanted in zip(maps, expected, strict=True))
    assert not any(module._forward_hooks for module in network.modules())


def test_channels_come_first():
    _, maps = maps_of(models.swin_t(), torch.rand(1, 3, 64, 64))
    assert [tuple(level.shape[1:]) for level in maps] == [(96, 16, 16), (192, 8, 8), (384, 4, 4)]


def test_correlations_are_numpys_of_the_first_channels():
    torch.manual_seed(2)
    maps = torch.randn(2, 66, 5, 5) @ torch.randn(5, 5) + 3
    correlations = levels.correlations(maps)
    expected = [np.corrcoef(image[:64].flatten(1).numpy())[np.triu_indices(64, 1)] for image in maps.double()]
    assert correlations.dtype == torch.float32 and np.allclose(correlations, expected, atol=1e-5)


def test_correlations_of_large_numbers_fit_into_float16_and_those_of_large_maps_skip_positions():
    torch.manual_seed(4)
    maps = 100 * torch.randn(1, 4, 100, 100)  # the sums of their squares do not
    exact = levels.correlations(maps)
    with torch.autocast("cpu", torch.float16):
        assert torch.allclose(levels.correlations(maps), exact, atol=2e-3)
    assert torch.equal(exact, levels.correlations(maps[:, :, ::3, ::3]))


def test_moments_are_the_mean_and_the_standard_deviation_of_each_channel():
    maps = torch.randn(2, 3, 6, 6) * 5 + 2
    expected = torch.cat([maps.mean((2, 3)), maps.flatten(2).std(2, correction=0)], 1)
    assert torch.allclose(levels.moments(maps), expected, atol=1e-4)


def test_a_constant_channel_is_correlated_with_nothing_and_gives_finite_gradients():
    maps = torch.rand(1, 3, 4, 4)
    maps[:, 1] = 0.1  # whose mean is not exact in float32
    correlations = levels.correlations(maps.requires_grad_())
    assert correlations[0, [0, 2]].abs().max() < 1e-3 < correlations[0, 1].abs()
    (correlations.sum() + levels.moments(maps).sum()).backward()
    assert maps.grad.isfinite().all()
