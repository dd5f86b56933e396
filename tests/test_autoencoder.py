"""wikiart.py's autoencoder: the network, its linear part, its style and its loss."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import wikiart
from support.networks import description, pca
from support.system import console


def lively(model):
    """A network whose every part has a say: a new one's are zero where its training begins."""
    torch.manual_seed(0)
    for weights in (model.encoder.out[1].weight, model.decoder.out[1].weight, model.components, model.style_axes):
        torch.nn.init.normal_(weights, std=0.1)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("size, latent_dim", [(16, 2), (17, 7), (33, 12), (80, 20)])
def test_any_size_goes_through_the_latent_and_back(size, latent_dim):
    model = lively(wikiart.Autoencoder(size, latent_dim))
    images = torch.rand(3, 3, size, size)
    latents = model.encode(images)
    assert latents.shape == (3, latent_dim)
    assert model.decode(latents).shape == model(images).shape == images.shape
    far = model.decode(1000 * torch.randn(3, latent_dim))
    assert far.min() == 0 and far.max() == 1


@pytest.mark.parametrize("count, latent_dim", [(60, 20), (12, 20), (1, 3)])
def test_it_starts_as_the_best_linear_autoencoder(count, latent_dim):
    random = np.random.RandomState(4)
    codes = random.randn(count + 3, 30) * 0.8 ** np.arange(30)  # pictures with some directions that matter more
    pixels = np.clip(128 + 30 * codes @ random.randn(30, 768), 0, 255).astype(np.uint8)
    images = torch.from_numpy(pixels).view(-1, 3, 16, 16)
    model = wikiart.Autoencoder(16, latent_dim).eval()
    style = torch.rand(description.ALL_STATISTICS), torch.randn(model.style_dim, description.ALL_STATISTICS)
    members = torch.arange(3, count + 3)  # three are held out
    model.start_from(pca.fit_pca(images, members, latent_dim, seed=0), style)
    with torch.no_grad():
        pictures, latents = model(images / 255), model.encode(images / 255)
    pixels = pixels / 255
    centred = pixels - pixels[3:].mean(0)
    axes = np.linalg.svd(centred[3:], full_matrices=False)[2][: min(latent_dim, count - 1)]
    used = axes[: latent_dim - model.style_dim]
    assert np.allclose(pictures.flatten(1).numpy(), pixels - centred + centred @ used.T @ used, atol=0.01)
    content = latents[3:, model.style_dim :]
    assert count == 1 or torch.allclose(content.std(0)[: len(axes)], torch.ones(len(used)), atol=0.01)
    expected = (description.all_statistics(images / 255) - style[0]) @ style[1].T
    assert torch.allclose(latents[:, : model.style_dim], expected, atol=1e-4)
    assert np.allclose(model.components.numpy().T @ model.components.numpy(), axes.T @ axes, atol=0.01)  # the yardstick


def test_style_and_content_are_apart_and_the_content_is_all_that_is_decoded():
    model = lively(wikiart.Autoencoder(32, 20))
    images = torch.rand(2, 3, 32, 32)
    latents, pictures = model.encode(images), model(images)
    assert model.style_dim == 6 and torch.equal(latents[:, 6:], model.content(images))
    assert pictures.min() < 0 or pictures.max() > 1  # errors beyond the range count in training
    assert torch.equal(pictures.clamp(0, 1), model.decode(latents))
    latents[:, :6] += 1
    assert torch.equal(pictures.clamp(0, 1), model.decode(latents))
    mirrored = model.encode(images.flip(2))
    assert not torch.allclose(mirrored[:, 6:], latents[:, 6:], atol=1)
    assert wikiart.autoencoder_loss(model, images).item() == pytest.approx((pictures - images).square().mean().item())


def test_both_networks_learn_and_the_linear_part_does_not():
    model = wikiart.Autoencoder(16, 8)
    for weights in [model.components, *model.parameters()]:  # some are zero at first, as residual blocks begin
        torch.nn.init.normal_(weights, std=0.1)
    wikiart.autoencoder_loss(model, torch.rand(4, 3, 16, 16)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"encoder", "decoder"}


def test_reduced_precision_stays_in_the_convolutions():
    model, images = lively(wikiart.Autoencoder(64, 12)), torch.rand(2, 3, 64, 64)
    sides = []
    model.encoder.fine.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[2:]))
    latents, pictures = model.encode(images), model(images)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = model.encode(images), model(images), model.decode(latents)
    assert all(tensor.dtype == torch.float32 for tensor in reduced)
    assert torch.equal(reduced[0][:, :6], latents[:, :6])
    assert torch.allclose(reduced[1], pictures, atol=0.1) and not torch.equal(reduced[1], pictures)
    corrected = images + model.encoder(images)
    exact = F.linear(corrected.flatten(1) - model.mean, model.components[:6])
    planted = wikiart.Autoencoder(64, 12)
    planted.load_state_dict(model.state_dict())
    planted.encoder.forward = lambda images: corrected - images
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(planted.eval().content(images), exact, atol=1e-3)
    assert set(sides) == {(32, 32)}


def test_an_embedding_is_the_contents_mean_with_the_mirror_image_for_any_batch():
    model = lively(wikiart.Autoencoder(32, 8))
    model.scales[:] = torch.arange(1.0, 5)
    images = torch.rand(5, 3, 32, 32)
    embedded = wikiart.embed(model, images)
    both = (model.encode(images) + model.encode(images.flip(3))) / 2
    assert torch.allclose(embedded, both[:, 4:] * model.scales, atol=1e-5)
    assert torch.allclose(embedded, wikiart.embed(model, images.flip(3)), atol=1e-5)
    assert torch.allclose(embedded, torch.cat([wikiart.embed(model, part) for part in images.split(2)]), atol=1e-5)


def test_statistics_count_colours_and_patterns_as_loops_do():
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(3)).float() / 255
    images[0, :, :8] = 0.5  # flat paint
    colours = description.colour_histogram(4 * images - 2).numpy()
    ends = (8 * images - 4).clamp(-2, 2)  # what lies beyond the range counts as its ends
    assert torch.equal(description.colour_histogram(8 * images - 4), description.colour_histogram(ends))
    greys = images.mean(1)
    textures = description.texture_histogram(4 * greys - 2).numpy()
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


def test_a_checkpoint_with_weights_that_do_not_fit_is_refused():
    model = wikiart.Autoencoder(16, 4)
    checkpoint = {"part": 2, "image_size": 16, "latent_dim": 4, "classes": ["A"], "model": model.state_dict()}
    assert not wikiart.load_network(checkpoint).training
    broken = checkpoint["model"] | {"mean": torch.full_like(model.mean, torch.nan)}
    for changes in ({"latent_dim": 5}, {"image_size": 32}, {"image_size": 40}, {"model": broken}, {"model": {}}):
        with pytest.raises(console.UserError, match="x: is damaged: its weights do not fit: "):
            wikiart.load_network(checkpoint | changes, "x")
