"""Statistics of colours, textures and edges, against what loops over the pixels find."""

import itertools
import math

import torch

from support.networks import histograms


def test_textures_and_gradients_are_those_found_pixel_by_pixel():
    greys, around = torch.randn(2, 9, 9), [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    greys[0, :4] = 0.5  # flat
    textures, gradients = torch.zeros(2, 256), torch.zeros(2, 8, 8)
    for image, y, x in itertools.product(range(2), range(1, 8), range(1, 8)):
        lighter = [bool(greys[image, y + v, x + u] > greys[image, y, x] + 0.04) for v, u in around]
        textures[image, sum(bit << i for i, bit in enumerate(lighter))] += 1 / 49
        across = float(greys[image, y, x + 1] - greys[image, y, x - 1])
        down = float(greys[image, y + 1, x] - greys[image, y - 1, x])
        direction = 4 * (across > 0) + 2 * (down > 0) + (abs(down) > abs(across))
        gradients[image, direction, sum(math.hypot(across, down) > 0.02 * 2**k for k in range(7))] += 1 / 49
    assert torch.allclose(histograms.texture_histogram(greys).square(), textures, atol=1e-6)
    assert torch.allclose(histograms.gradient_histogram(greys).square(), gradients.flatten(1), atol=1e-6)


def test_the_colour_steps_are_those_between_neighbours():
    images = torch.tensor([[0.0, 0.0, 0.4, 0.4, 2.0, -2.0]]).repeat(6, 1).expand(3, 6, 6).clone()
    images[2] = 0.3  # blue stays
    expected = torch.zeros(5, 5, 5)
    expected[[2, 3, 4, 0], [2, 3, 4, 0], 2] = torch.tensor([0.4, 0.2, 0.2, 0.2])
    assert torch.allclose(histograms.colour_step_histogram(images[None]).square().view(5, 5, 5), expected, atol=1e-6)
