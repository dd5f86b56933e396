"""Occlusion maps against covering by hand and planted patches."""

import pytest
import torch
from torch import nn

import wikiart
from support.answers import heatmaps


@pytest.mark.parametrize("architecture", ["residual", "three_conv", "mobilenet_v2"])
def test_a_cell_is_the_mean_fall_of_the_squares_that_cover_it(architecture):
    torch.manual_seed(1)
    side, cells, window = 36, heatmaps.CELLS, heatmaps.WINDOW
    model = wikiart.make_classifier(architecture, 5, side).eval()
    images, labels = torch.rand(2, 3, side, side), torch.tensor([3, 0])
    maps = heatmaps.occlusion_maps(model, images, labels)
    assert maps.shape == (2, cells, cells) and not maps.requires_grad
    step, reach = side // cells, window // 2
    with torch.no_grad():
        for image, label, heat in zip(images, labels, maps, strict=True):
            whole, falls = model(image[None]).softmax(1)[0, label], torch.zeros(cells, cells)
            for y in range(cells):
                for x in range(cells):
                    covered = image.clone()
                    rows, columns = (slice(step * max(0, i - reach), step * (i + reach + 1)) for i in (y, x))
                    covered[:, rows, columns] = image.mean((1, 2))[:, None, None]
                    falls[y, x] = whole - model(covered[None]).softmax(1)[0, label]
            for y, x in [(0, 0), (5, 6), (11, 1)]:
                near = falls[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
                assert torch.allclose(heat[y, x], near.mean(), atol=1e-6)


class RedAgainstBlue(nn.Module):
    """Logits of how much red and how much blue there is."""

    def forward(self, images):
        return 20 * (images - images.mean(1, keepdim=True)).clamp(min=0).mean((2, 3))[:, ::2]


@pytest.mark.parametrize("side", [12, 64, 100])
def test_the_map_lights_the_patch_that_decides_the_class(side):
    images, labels = torch.full((2, 3, side, side), 0.3), torch.tensor([0, 1])
    patch = side // 6
    places = [(side // 2, side // 6), (side // 12, 2 * side // 3)]
    for image, label, (y, x) in zip(images, labels, places, strict=True):
        image[2 * label, y : y + patch, x : x + patch] = 1
    maps = heatmaps.occlusion_maps(RedAgainstBlue(), images, labels)
    for heat, (y, x) in zip(maps, places, strict=True):
        peak = torch.tensor([heat.argmax() // heatmaps.CELLS, heat.argmax() % heatmaps.CELLS])
        middle = torch.tensor([y, x]) + patch / 2
        assert (peak + 0.5 - middle * heatmaps.CELLS / side).abs().max() <= heatmaps.WINDOW / 2
        assert heat.max() > 0.01
