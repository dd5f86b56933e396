"""wikiart.py's autoencoder: the network, its linear part, its style and its loss."""

import numpy as np
import pytest
import torch

import wikiart
from support.networks import histograms, pca


def lively(model):
    """A network whose every part has a say: a new one's are zero where its training begins."""
    torch.manual_seed(0)
    for weights in (model.encoder.out[1].weight, model.decoder.out[1].weight, model.components, model.style_axes):
        torch.nn.init.normal_(weights, std=0.1)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("size, latent_dim", [(16, 2), (17, 7), (80, 20)])
def test_any_size_goes_through_the_latent_and_back(size, latent_dim):
    model = lively(wikiart.Autoencoder(size, latent_dim))
    images = torch.rand(3, 3, size, size)
    latents = model.encode(images)
    assert latents.shape == (3, latent_dim)
    assert model.decode(latents).shape == model(images).shape == images.shape


@pytest.mark.parametrize("count, latent_dim", [(60, 20), (12, 20), (1, 3)])
def test_it_starts_as_the_best_linear_autoencoder(count, latent_dim):
    random = np.random.RandomState(4)
    codes = random.randn(count + 3, 30) * 0.8 ** np.arange(30)  # pictures with some directions that matter more
    pixels = np.clip(128 + 30 * codes @ random.randn(30, 768), 0, 255).astype(np.uint8)
    images = torch.from_numpy(pixels).view(-1, 3, 16, 16)
    model = wikiart.Autoencoder(16, latent_dim).eval()
    style = torch.rand(width := model.description.full_width), torch.randn(model.style_dim, width)
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
    expected = (model.description.all_features(images / 255) - style[0]) @ style[1].T
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
    latents, pictures = model.encode(images), model(images)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = model.encode(images), model(images), model.decode(latents), model.content(images)
    assert all(tensor.dtype == torch.float32 for tensor in reduced)
    assert torch.equal(reduced[0][:, :6], latents[:, :6])
    assert torch.allclose(reduced[1], pictures, atol=0.1) and not torch.equal(reduced[1], pictures)


def test_an_embedding_is_the_mean_latent_with_the_mirror_image_for_any_batch():
    model = lively(wikiart.Autoencoder(32, 8))
    model.content_std[:] = torch.arange(1.0, 5)
    images = torch.rand(5, 3, 32, 32)
    embedded = wikiart.embed(model, images)
    both = (model.encode(images) + model.encode(images.flip(3))) / 2
    assert torch.allclose(embedded[:, :4], both[:, :4], atol=1e-5)
    assert torch.allclose(embedded[:, 4:], both[:, 4:] * model.content_std, atol=1e-5)
    assert torch.allclose(embedded, wikiart.embed(model, images.flip(3)), atol=1e-5)
    assert torch.allclose(embedded, torch.cat([wikiart.embed(model, part) for part in images.split(2)]), atol=1e-5)


def test_a_trunk_describes_the_style_and_does_not_train():
    plain, model = (lively(wikiart.Autoencoder(32, 12, name)) for name in ("none", "shufflenet_v2_x0_5"))
    images = torch.rand(3, 3, 32, 32)
    features, histograms_alone = (m.description.all_features(images) for m in (model, plain))
    assert torch.equal(features[:, -histograms_alone.shape[1] :], histograms_alone)
    classifier = wikiart.make_classifier("shufflenet_v2_x0_5", 3, 32).eval()
    classifier.trunk.load_state_dict(model.description.trunk.state_dict())
    assert torch.equal(classifier.all_features(images), features)  # part 1 reads the same
    assert torch.allclose(model.encode(images)[:, :6], (features - model.style_mean) @ model.style_axes.T, atol=1e-4)
    new = wikiart.Autoencoder(32, 12, "shufflenet_v2_x0_5").train()
    assert not any(parameter.requires_grad for parameter in new.description.parameters())
    assert not any(module.training for module in new.description.modules())


def test_a_colour_histogram_counts_the_pixels_of_each_colour():
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(3))
    found = histograms.colour_histogram(images / 63.75 - 2)
    for image, histogram in zip(images, found, strict=True):
        expected, _ = np.histogramdd(image.flatten(1).T.numpy(), 8, [(0, 256)] * 3)
        assert np.allclose(histogram.square() * 256, expected.ravel(), atol=1e-4)
    clipped = (images / 32 - 4).clamp(-2, 2)  # what lies beyond the range counts as its ends
    assert torch.equal(histograms.colour_histogram(images / 32 - 4), histograms.colour_histogram(clipped))
