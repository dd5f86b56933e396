"""wikiart.py's autoencoder: the network, its linear part, its statistics and its loss."""

import itertools

import numpy as np
import pytest
import torch

import wikiart
from support import console, statistics


def lively(model):
    """A network whose every part has a say: a new one's are zero where its training begins."""
    torch.manual_seed(0)
    ends = [model.encoder[-1], model.statistics_encoder, model.decoder[-2], model.statistics_decoder]
    for weights in [*(layer.weight for layer in ends), model.components]:
        torch.nn.init.normal_(weights, std=0.1)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [16, 32, 48, 80])
def test_any_multiple_of_16_goes_through_the_latent_and_back(size):
    model = lively(wikiart.Autoencoder(size, 7))
    images = torch.rand(3, 3, size, size)
    latents = model.encode(images)
    assert latents.shape == (3, 7)
    assert model.decode(latents).shape == images.shape
    far = model.decode(1000 * torch.randn(3, 7))
    assert far.min() == 0 and far.max() == 1
    pictures, error = model(images)
    assert pictures.shape == images.shape and error.shape == statistics.style(4 * images - 2).shape


@pytest.mark.parametrize("count, latent_dim", [(60, 20), (12, 20), (1, 3)])
def test_it_starts_as_the_best_linear_autoencoder(count, latent_dim):
    random = np.random.RandomState(4)
    codes = random.randn(count + 3, 30) * 0.8 ** np.arange(30)  # pictures with some directions that matter more
    pixels = np.clip(128 + 30 * codes @ random.randn(30, 768), 0, 255).astype(np.uint8)
    images = torch.from_numpy(pixels).view(-1, 3, 16, 16)
    model = wikiart.Autoencoder(16, latent_dim).eval()
    model.start_from(wikiart.fit_pca(images, torch.arange(3, count + 3), latent_dim, seed=0))  # three are held out
    with torch.no_grad():
        pictures, error = model(images / 255)
        latents = model.encode(images[3:] / 255)
    pixels = pixels / 255
    centred = pixels - pixels[3:].mean(0)
    axes = np.linalg.svd(centred[3:], full_matrices=False)[2][: min(latent_dim, count - 1)]
    expected = pixels - centred + centred @ axes.T @ axes
    assert np.allclose(pictures.flatten(1).numpy(), expected, atol=0.01)
    assert torch.allclose(error, -statistics.style(images / 255 * 4 - 2))  # nothing is read yet
    assert count == 1 or torch.allclose(latents.std(0)[: len(axes)], torch.ones(len(axes)), atol=0.01)


def test_the_latent_takes_pixels_and_statistics_and_is_all_that_the_decoder_gets():
    model = lively(wikiart.Autoencoder(32, 5))
    images = torch.rand(2, 3, 32, 32)
    pictures, error = model(images)
    assert len(pictures.unique()) > 1000 and len(error.unique()) > 1000
    assert pictures.min() < 0 or pictures.max() > 1  # errors beyond the range count in training
    assert torch.equal(pictures.clamp(0, 1), model.decode(model.encode(images)))
    read = model.statistics_decoder(model.encode(images))
    assert torch.equal(error, read - statistics.style(4 * images - 2))
    before = model.encode(images)
    expected = before - statistics.style(4 * images - 2) @ model.statistics_encoder.weight.T
    model.statistics_encoder.weight.zero_()
    assert torch.allclose(model.encode(images), expected, atol=1e-4)


def test_an_embedding_is_the_mean_with_the_mirror_image_for_any_batch():
    model = lively(wikiart.Autoencoder(32, 5))
    model.scales[:] = torch.arange(1.0, 6)
    images = torch.rand(5, 3, 32, 32)
    embedded = wikiart.embed(model, images)
    assert torch.allclose(embedded, (model.encode(images) + model.encode(images.flip(3))) / 2 * model.scales)
    assert torch.allclose(embedded, wikiart.embed(model, images.flip(3)), atol=1e-5)
    assert torch.allclose(embedded, torch.cat([wikiart.embed(model, part) for part in images.split(2)]), atol=1e-5)


def test_statistics_count_colours_and_patterns_as_loops_do():
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(3)).float() / 255
    images[0, :, :8] = 0.5  # flat paint
    colours = statistics.colour_histogram(4 * images - 2).numpy()
    ends = (8 * images - 4).clamp(-2, 2)  # what lies beyond the range counts as its ends
    assert torch.equal(statistics.colour_histogram(8 * images - 4), statistics.colour_histogram(ends))
    greys = images.mean(1)
    textures = statistics.texture_histogram(4 * greys - 2).numpy()
    around = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    for number in range(2):
        expected, patterns = np.zeros(512), np.zeros(256)
        for y, x in itertools.product(range(16), repeat=2):
            red, green, blue = (round(float(v) * 255) // 32 for v in images[number, :, y, x])
            expected[64 * red + 8 * green + blue] += 1 / 256
        for y, x in itertools.product(range(1, 15), repeat=2):
            lighter = [greys[number, y + dy, x + dx] > greys[number, y, x] + 0.01 for dy, dx in around]
            patterns[sum(2**bit for bit, yes in enumerate(lighter) if yes)] += 1 / 196
        assert np.allclose(colours[number], np.sqrt(expected), atol=1e-6)
        assert np.allclose(textures[number], np.sqrt(patterns), atol=1e-6)


def test_the_loss_of_the_statistics_does_not_depend_on_the_batch_size():
    random = torch.Generator().manual_seed(0)
    errors = torch.randn(64, 9, generator=random) * torch.arange(9) + 5

    def mean_loss(members):
        images = torch.zeros(len(members[0]), 3, 2, 2)
        losses = [wikiart.autoencoder_loss(lambda x, i=i: (x + 0.1, errors[i]), images) for i in members]
        assert all(mse == pytest.approx(0.01) for _, mse in losses)
        return np.mean([float(loss - mse) for loss, mse in losses])

    whole = mean_loss([torch.arange(64)])
    assert whole == pytest.approx(wikiart.STATISTICS_WEIGHT * np.cov(errors.T.numpy()).trace(), rel=1e-4)
    pairs = [torch.tensor(pair) for pair in itertools.combinations(range(64), 2)]
    assert mean_loss(pairs) == pytest.approx(whole, rel=1e-4)  # over all pairs there are: exact
    fours = [part for _ in range(60) for part in torch.randperm(64, generator=random).split(4)]
    assert mean_loss(fours) == pytest.approx(whole, rel=0.03)


def test_a_checkpoint_with_weights_that_do_not_fit_is_refused():
    model = wikiart.Autoencoder(16, 4)
    checkpoint = {"part": 2, "image_size": 16, "latent_dim": 4, "classes": ["A"], "model": model.state_dict()}
    assert not wikiart.load_network(checkpoint).training
    broken = checkpoint["model"] | {"mean": torch.full_like(model.mean, torch.nan)}
    for changes in ({"latent_dim": 5}, {"image_size": 32}, {"image_size": 40}, {"model": broken}, {"model": {}}):
        with pytest.raises(console.UserError, match="x: is damaged: its weights do not fit: "):
            wikiart.load_network(checkpoint | changes, "x")
