"""Part 2: the autoencoder, its training, the reconstruction, the clusters and their figures."""

import copy
import csv
import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn import metrics as sklearn_metrics
from sklearn.cluster import AgglomerativeClustering
from sklearn.decomposition import PCA

import testtrainauto
import trainauto
import wikiart
from support import balance, checkpoints, console, devices, figures, training

TRAINING = {"Baroque": 12, "Cubism": 10, "Pay_$5_or_$6": 8}
TEST = {"Baroque": 6, "Cubism": 5, "Pay_$5_or_$6": 3}
PICTURES = ["reconstruction.png", "clusters.png", "cluster_gallery.png"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, paint, run):
    """A small autoencoder, its files, and the test paintings measured with it."""
    folder = tmp_path_factory.mktemp("part2")
    paint(folder / "train", TRAINING)
    paint(folder / "test", TEST, seed=1)
    flags = ["--trainingdir", folder / "train", "--testingdir", folder / "test", "--outputdir", folder / "out",
             "--cachedir", folder / "cache", "--device", "cpu", "--batch_size", 9]  # fmt: skip
    training = run(
        trainauto, *flags, "--image_size", 32, "--latent_dim", 6, "--epochs", 16, "--learning_rate", 0.004,
        "--validation", 0.2,
    )  # fmt: skip
    assert training.status == 0, training.err
    testing = run(testtrainauto, *flags, "--clusters", 4)
    assert testing.status == 0, testing.err
    out = folder / "out"
    checkpoint = checkpoints.read(out / "autoencoder.pth", 2)
    with open(out / "clusters.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return SimpleNamespace(
        folder=folder, out=out, flags=flags, training=training, testing=testing, checkpoint=checkpoint, rows=rows,
        metrics=json.loads((out / "metrics_auto.json").read_text()),
        test=wikiart.WikiArtDataset(folder / "test", 32, cachedir=folder / "cache"),
        model=wikiart.load_model(checkpoint, "x", torch.device("cpu")),
    )  # fmt: skip


# The network


def lively(model):
    """A network whose every part has a say: a new one's are zero where its training begins."""
    torch.manual_seed(0)
    ends = [model.encoder[-1], model.statistics_encoder, model.decoder[-2], model.statistics_decoder]
    for weights in [*(layer.weight for layer in ends), model.components]:
        torch.nn.init.normal_(weights, std=0.1)
    return model.eval()


@pytest.mark.parametrize("size", [16, 32, 48, 80, 96])
def test_any_multiple_of_16_goes_through_the_latent_and_back(size):
    model = lively(wikiart.Autoencoder(size, 7))
    images = torch.rand(3, 3, size, size)
    latents = model.encode(images)
    assert latents.shape == (3, 7)
    assert model.decode(latents).shape == images.shape
    far = model.decode(1000 * torch.randn(3, 7))
    assert far.min() == 0 and far.max() == 1
    pictures, error = model(images)
    assert pictures.shape == images.shape and error.shape == wikiart.style_statistics(4 * images - 2).shape


def test_a_checkpoint_whose_scales_are_zero_is_refused(trained):
    model = trained.checkpoint["model"] | {"scales": torch.zeros_like(trained.checkpoint["model"]["scales"])}
    with pytest.raises(console.UserError, match=r"x: is damaged: .*scale"):
        wikiart.load_model(trained.checkpoint | {"model": model}, "x", torch.device("cpu"))


def test_black_and_white_are_both_reached():
    torch.manual_seed(0)
    model = wikiart.Autoencoder(16, 4, width=8)
    images = torch.cat([torch.zeros(4, 3, 16, 16), torch.ones(4, 3, 16, 16)])
    for learn in (model.train, model.eval):  # a batch this small has other statistics than BatchNorm's running ones
        learn()
        optimizer = training.make_optimizer(model, 0.01)
        for step in range(160):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * training.learning_rate_factor(step / 160)
            F.mse_loss(model(images)[0], images).backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        pictures = model.decode(model.encode(images))
    assert pictures[:4].mean((1, 2, 3)).max() < 0.02
    assert pictures[4:].mean((1, 2, 3)).min() > 0.98


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
    statistics = wikiart.style_statistics(images / 255 * 4 - 2)
    assert torch.allclose(error, statistics.mean(0) - statistics)  # nothing is read yet
    assert count == 1 or torch.allclose(latents.std(0)[: len(axes)], torch.ones(len(axes)), atol=0.01)


def test_the_latent_is_all_that_the_decoder_gets():
    model = lively(wikiart.Autoencoder(32, 5))
    images = torch.rand(2, 3, 32, 32)
    assert len(model(images)[0].unique()) > 1000 and len(model(images)[1].unique()) > 1000
    assert torch.equal(model(images)[0].clamp(0, 1), model.decode(model.encode(images)))
    error = model.statistics_decoder(model.encode(images)) - wikiart.style_statistics(4 * images - 2)
    assert torch.equal(model(images)[1], error - error.mean(0))


def test_the_statistics_go_into_the_latent():
    model = lively(wikiart.Autoencoder(32, 5))
    images = torch.rand(2, 3, 32, 32)
    before = model.encode(images)
    with torch.no_grad():
        expected = before - wikiart.style_statistics(4 * images - 2) @ model.statistics_encoder.weight.T
        model.statistics_encoder.weight.zero_()
    assert torch.allclose(model.encode(images), expected, atol=1e-4)


def test_statistics_count_colours_and_patterns_as_loops_do():
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(3)).float() / 255
    images[0, :, :8] = 0.5  # flat paint
    colours = wikiart.colour_histogram(4 * images - 2).numpy()
    ends = (8 * images - 4).clamp(-2, 2)  # what lies beyond the range counts as its ends
    assert torch.equal(wikiart.colour_histogram(8 * images - 4), wikiart.colour_histogram(ends))
    greys = images.mean(1)
    textures = wikiart.texture_histogram(4 * greys - 2).numpy()
    for number in range(2):
        expected = np.zeros(512)
        for y in range(16):
            for x in range(16):
                red, green, blue = (round(float(v) * 255) // 32 for v in images[number, :, y, x])
                expected[64 * red + 8 * green + blue] += 1 / 256
        assert np.allclose(colours[number], np.sqrt(expected), atol=1e-6)
        patterns = np.zeros(256)
        around = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
        for y in range(1, 15):
            for x in range(1, 15):
                lighter = [greys[number, y + dy, x + dx] > greys[number, y, x] + 0.01 for dy, dx in around]
                patterns[sum(2**bit for bit, yes in enumerate(lighter) if yes)] += 1 / 196
        assert np.allclose(textures[number], np.sqrt(patterns), atol=1e-6)


# Training


def test_training_learns_and_keeps_its_best_epoch(trained):
    history = trained.checkpoint["history"]
    assert set(history[0]) == {"epoch", "training_loss", "training_mse", "validation_mse"}
    lines = [line for line in trained.training.out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 16 and "validation mse" in lines[0]
    losses = [float(re.search(r"training loss ([\d.e-]+)", line)[1]) for line in lines]
    assert losses[-1] < 0.8 * losses[0]
    assert all(row["training_mse"] < row["training_loss"] for row in history)
    assert trained.checkpoint["epoch"] == min(history, key=lambda row: row["validation_mse"])["epoch"]
    assert trained.checkpoint["latent_dim"] == 6 and trained.checkpoint["image_size"] == 32
    assert Image.open(trained.out / "training_auto.png").size[0] > 300
    assert not (trained.out / "autoencoder.resume.pth").exists()


def test_the_validation_figure_is_the_held_out_paintings_error(trained):
    dataset = wikiart.WikiArtDataset(trained.folder / "train", 32, cachedir=trained.folder / "cache")
    _, held_out = balance.split(dataset.labels, 0.2, 2326)
    images = dataset.images[held_out].float() / 255
    with torch.no_grad():
        error = F.mse_loss(trained.model.decode(trained.model.encode(images)), images).item()
    row = next(row for row in trained.checkpoint["history"] if row["epoch"] == trained.checkpoint["epoch"])
    assert row["validation_mse"] == pytest.approx(error, rel=0.02)  # bfloat16 where the machine has it


def test_training_never_sees_a_style(trained, workdir, run, monkeypatch):
    weights = []
    honest = wikiart.open_dataset
    for change in (lambda labels: labels, lambda labels: labels.flip(0)):

        def shuffled(*arguments, change=change):
            dataset = honest(*arguments)
            dataset.labels = change(dataset.labels)
            return dataset

        monkeypatch.setattr(wikiart, "open_dataset", shuffled)
        flags = ["--image_size", 16, "--latent_dim", 3, "--epochs", 2, "--validation", 0, "--fresh"]
        assert run(trainauto, *trained.flags, *flags, "--outputdir", ".").status == 0
        weights.append(checkpoints.read("autoencoder.pth", 2)["model"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--image_size", 40], ["--image_size: ", "40", "multiple of 16"]),
        (["--batch_size", 1], ["--batch_size: ", "at least 2"]),
    ],
)
def test_sizes_that_do_not_go_are_one_line(trained, workdir, refused, flags, parts):
    line = refused(trainauto, *trained.flags, "--outputdir", ".", *flags)
    assert all(part in line for part in parts), line
    assert not list(workdir.iterdir())


# Figures of the test


def test_cluster_figures_are_scikit_learns_of_the_csv(trained):
    metrics, rows = trained.metrics, trained.rows
    assert [row["path"] for row in rows] == trained.test.paths
    styles = [row["style"] for row in rows]
    assert {style: styles.count(style) for style in TEST} == TEST
    found = [int(row["cluster"]) for row in rows]
    sizes = np.bincount(found)
    assert metrics["clusters"] == len(sizes) == 4 and list(sizes) == sorted(sizes, reverse=True)
    plane = PCA(2).fit_transform(latents_of(trained))  # as they are, not as they are clustered
    on_plane = AgglomerativeClustering(4).fit_predict(plane)
    for scores, clusters in ((metrics, found), (metrics["plane"], on_plane)):
        assert scores["ari"] == pytest.approx(sklearn_metrics.adjusted_rand_score(styles, clusters))
        assert scores["ami"] == pytest.approx(sklearn_metrics.adjusted_mutual_info_score(styles, clusters))
        assert figures["homogeneity"] == pytest.approx(sklearn_metrics.homogeneity_score(styles, clusters))
        assert figures["completeness"] == pytest.approx(sklearn_metrics.completeness_score(styles, clusters))
    silhouette = sklearn_metrics.silhouette_score(plane, on_plane)
    assert metrics["plane"]["silhouette"] == pytest.approx(silhouette, abs=1e-3)


def latents_of(trained):
    """The test paintings' latents, float64 [N, latent_dim]: of each the mean with its mirror image's."""
    images = trained.test.images.float() / 255
    with torch.no_grad(), devices.autocast(torch.device("cpu")):
        latents = (trained.model.encode(images).float() + trained.model.encode(images.flip(3)).float()) / 2
    return latents.double().numpy()


def half_whitened(points):
    """Principal components, each divided by the root of its standard deviation."""
    components = PCA().fit_transform(points)
    components = components[:, components.std(0) > 1e-9]
    return components / components.std(0) ** 0.5


def test_our_clusters_are_ward_on_what_is_read_from_the_latents(trained):
    read = half_whitened(latents_of(trained) @ trained.model.statistics_decoder.weight.double().numpy().T)
    found = AgglomerativeClustering(4).fit_predict(read)
    ours = [int(row["cluster"]) for row in trained.rows]
    assert sklearn_metrics.adjusted_rand_score(found, ours) == 1
    assert trained.metrics["silhouette"] == pytest.approx(sklearn_metrics.silhouette_score(read, found), abs=1e-3)
    plane = np.array([[float(row["pc1"]), float(row["pc2"])] for row in trained.rows])
    assert np.allclose(np.abs(plane), np.abs(read[:, :2]), atol=0.02 * np.abs(read).max())  # the sign is anyone's


def test_the_colour_yardstick_is_ward_on_a_histogram_made_by_loops(trained):
    histograms = np.zeros((len(trained.test), 512))
    for number, image in enumerate(trained.test.images.numpy()):
        for red, green, blue in image.reshape(3, -1).T // 32:
            histograms[number, 64 * int(red) + 8 * int(green) + int(blue)] += 1 / 32**2
    found = AgglomerativeClustering(4).fit_predict(np.sqrt(histograms))
    expected = sklearn_metrics.adjusted_mutual_info_score(trained.test.labels, found)
    assert trained.metrics["colour"]["ami"] == pytest.approx(expected)


def test_the_pixel_yardstick_is_the_svd_of_the_training_pixels(trained):
    training = wikiart.WikiArtDataset(trained.folder / "train", 32, cachedir=trained.folder / "cache")
    pixels, test = (part.images.flatten(1).double().numpy() / 255 for part in (training, trained.test))
    mean = pixels.mean(0)
    components = np.linalg.svd(pixels - mean, full_matrices=False)[2][:6]
    codes = (test - mean) @ components.T
    error = np.square(test - mean - codes @ components).mean()
    assert trained.metrics["pca_mse"] == pytest.approx(error, rel=1e-3)
    found = AgglomerativeClustering(4).fit_predict(codes)
    expected = sklearn_metrics.adjusted_mutual_info_score(trained.test.labels, found)
    assert trained.metrics["pixels"]["ami"] == pytest.approx(expected)


def test_mse_and_psnr_are_those_of_the_reconstruction(trained):
    images = trained.test.images.float() / 255
    with torch.no_grad():
        error = F.mse_loss(trained.model.decode(trained.model.encode(images)), images).item()
    assert trained.metrics["mse"] == pytest.approx(error, rel=0.02)
    assert trained.metrics["psnr"] == pytest.approx(-10 * np.log10(trained.metrics["mse"]))
    assert trained.metrics["images"] == len(trained.rows) and trained.metrics["latent_dim"] == 6


def test_the_table_shows_the_yardsticks_beside_ours(trained):
    out = trained.testing.out
    assert f"MSE {trained.metrics['mse']:.5f}" in out and f"{trained.metrics['pca_mse']:.5f}" in out
    assert "Ward clustering of 14 paintings into 4" in out
    for name, text in testtrainauto.YARDSTICKS.items():
        row = trained.metrics if name == "latents" else trained.metrics[name]
        line = next(line for line in out.splitlines() if line.startswith(text))
        assert line[len(text) :].split() == [f"{row[figure]:.3f}" for figure in testtrainauto.FIGURES]


def test_pictures_are_there_and_the_run_repeats_itself(trained, workdir, run):
    for name in PICTURES:
        width, height = Image.open(trained.out / name).size
        assert 300 < width < 4000 and 200 < height < 4000
    model = trained.out / "autoencoder.pth"
    again = run(testtrainauto, *trained.flags, "--clusters", 4, "--outputdir", ".", "--modelfile", model)
    assert again.status == 0
    for name in [*PICTURES, "clusters.csv", "metrics_auto.json"]:
        assert (workdir / name).read_bytes() == (trained.out / name).read_bytes()


def test_paintings_from_training_are_counted_in_a_warning(trained, run):
    assert "warning" not in trained.testing.err
    result = run(testtrainauto, *trained.flags, "--testingdir", trained.folder / "train", "--outputdir",
                 trained.folder / "known", "--modelfile", trained.out / "autoencoder.pth")  # fmt: skip
    assert result.status == 0
    assert "warning: 30 test paintings are identical to training ones" in result.err
    metrics = json.loads((trained.folder / "known" / "metrics_auto.json").read_text())
    assert metrics["clusters"] == len(TRAINING) and metrics["also_in_training"]["metrics_without"] is None


def test_the_figures_without_paintings_from_training_are_those_of_the_others(trained, run):
    mixed, out = trained.folder / "mixed", trained.folder / "mixed_out"
    shutil.copytree(trained.folder / "test", mixed)
    shutil.copy(trained.folder / "train" / "Cubism" / "003.jpg", mixed / "Cubism" / "known.jpg")
    result = run(testtrainauto, *trained.flags, "--testingdir", mixed, "--outputdir", out, "--clusters", 4,
                 "--modelfile", trained.out / "autoencoder.pth")  # fmt: skip
    assert result.status == 0
    known = json.loads((out / "metrics_auto.json").read_text())["also_in_training"]
    assert known["images"] == 1 and known["paths"] == [str(mixed / "Cubism" / "known.jpg")]
    assert known["metrics_without"]["mse"] == pytest.approx(trained.metrics["mse"], rel=0.01)
    assert f"without them: MSE {known['metrics_without']['mse']:.5f}, AMI " in result.out


def test_the_figures_show_what_was_measured(trained, workdir, run, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, "write_figure", lambda path, figure: drawn.update({path.name: figure}))
    model = trained.out / "autoencoder.pth"
    assert run(testtrainauto, *trained.flags, "--clusters", 4, "--outputdir", ".", "--modelfile", model).status == 0
    styles = [style.replace("_", " ") for style in TEST]
    images = trained.test.images.permute(0, 2, 3, 1).numpy()

    def place_of(axes):
        shown = axes.images[0].get_array()
        return next(i for i, image in enumerate(images) if np.allclose(shown / shown.max(), image / image.max()))

    upper, lower = np.reshape(drawn["reconstruction.png"].axes, (2, -1))
    assert [axes.get_title() for axes in upper] == styles
    for above, below in zip(upper, lower, strict=True):
        i = place_of(above)
        assert trained.rows[i]["style"].replace("_", " ") == above.get_title()
        image = torch.from_numpy(images[i]).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            picture = trained.model.decode(trained.model.encode(image))
        assert np.allclose(below.images[0].get_array(), picture[0].permute(1, 2, 0), atol=0.02)
        decibel = -10 * math.log10(F.mse_loss(picture, image))
        assert float(below.get_title().removesuffix(" dB")) == pytest.approx(decibel, abs=0.2)

    found = np.array([int(row["cluster"]) for row in trained.rows])
    plane = np.array([[float(row["pc1"]), float(row["pc2"])] for row in trained.rows])
    left, right = drawn["clusters.png"].axes
    assert [text.get_text() for text in left.texts] == ["0", "1", "2", "3"]
    for number, text in enumerate(left.texts):
        assert np.allclose(text.get_position(), np.median(plane[found == number], axis=0))
    assert np.allclose(left.collections[0].get_offsets(), plane)
    colours = left.collections[0].get_facecolors()
    assert len(np.unique(colours, axis=0)) == 4 and all(
        len(np.unique(colours[found == i], axis=0)) == 1 for i in range(4)
    )
    assert [text.get_text() for text in right.get_legend().get_texts()] == styles
    for style, points in zip(TEST, right.collections, strict=True):
        assert np.allclose(points.get_offsets(), plane[[row["style"] == style for row in trained.rows]])
    assert "% of the variance" in right.get_xlabel() and "% of the variance" in left.get_ylabel()

    read = half_whitened(latents_of(trained) @ trained.model.statistics_decoder.weight.double().numpy().T)
    for number, row in enumerate(np.reshape(drawn["cluster_gallery.png"].axes, (4, 9))):
        members = np.flatnonzero(found == number)
        distances = np.linalg.norm(read[members] - read[members].mean(0), axis=1)
        assert [place_of(axes) for axes in row[1:] if axes.images] == members[np.argsort(distances)][:8].tolist()
        assert row[0].texts[0].get_text().startswith(f"cluster {number}: {len(members)} painting")


# Many paintings


def test_above_the_limit_a_sample_is_clustered_and_the_rest_joins_the_nearest_mean(monkeypatch):
    monkeypatch.setattr(testtrainauto, "WARD_LIMIT", 40)
    random = np.random.default_rng(5)
    points = random.normal(size=(130, 3)) + 3 * random.integers(0, 3, (130, 1))
    found = testtrainauto.cluster(points, 5, 7)
    drawn = np.random.default_rng(7).choice(130, 40, replace=False)
    sampled = AgglomerativeClustering(5).fit_predict(points[drawn])
    assert sklearn_metrics.adjusted_rand_score(sampled, found[drawn]) == 1
    means = {}
    for number in range(5):
        name = found[drawn][sampled == number][0]
        means[name] = points[drawn][sampled == number].mean(0)
    for i in set(range(130)) - set(drawn.tolist()):
        assert found[i] == min(means, key=lambda name: np.square(points[i] - means[name]).sum())
    assert (np.diff(np.bincount(found)) <= 0).all()
    assert "40 of 130" in testtrainauto.how_clustered(130, 5) and "nearest" in testtrainauto.how_clustered(130, 5)


def test_a_gallery_of_many_clusters_shows_the_largest(trained, monkeypatch):
    points, found = np.random.RandomState(0).randn(14, 3), np.arange(14) % 5
    assert len(testtrainauto.draw_gallery(trained.test, points, found).axes) == 5 * 9
    monkeypatch.setattr(testtrainauto, "GALLERY_ROWS", 2)
    figure = testtrainauto.draw_gallery(trained.test, points, found)
    assert len(figure.axes) == 2 * 9 and "2 largest of 5" in figure.get_suptitle()


def test_the_sample_is_told_of_in_output_and_figure(trained, run, monkeypatch, tmp_path):
    monkeypatch.setattr(testtrainauto, "WARD_LIMIT", 8)
    titles = []
    honest = testtrainauto.draw_clusters
    monkeypatch.setattr(testtrainauto, "draw_clusters", lambda *args: titles.append(honest(*args)) or titles[-1])
    result = run(testtrainauto, *trained.flags, "--clusters", 2, "--outputdir", tmp_path, "--modelfile",
                 trained.out / "autoencoder.pth")  # fmt: skip
    assert result.status == 0, result.err
    assert "Ward clustering of 8 of 14 paintings" in result.out
    assert "Ward clustering of 8 of 14 paintings" in titles[0].get_suptitle()


def test_scaling_is_half_a_whitening_of_what_is_read():
    torch.manual_seed(1)
    model = wikiart.Autoencoder(16, 5)
    torch.nn.init.normal_(model.statistics_decoder.weight)  # it starts at zero
    latents = np.random.default_rng(1).normal(size=(9, 5))
    read = latents @ model.statistics_decoder.weight.detach().double().numpy().T
    scaled = testtrainauto.scale_latents(model, latents)
    distances = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (half_whitened(read), scaled)]
    assert np.allclose(*distances)
    assert scaled.shape == (9, 5)


def test_colours_are_all_different():
    for count in (1, 2, 27, 40):
        colours = np.array(testtrainauto.distinct_colours(count))
        apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 9 * np.eye(count)
        assert len(colours) == count and apart.min() > 0.05


# What cannot be done


@pytest.mark.parametrize("origin", ["flag", "auto"])
def test_fewer_paintings_than_clusters_is_one_line(trained, workdir, paint, refused, origin):
    paint(workdir / "two", {"Baroque": 2})
    flags = ["--clusters", 15] if origin == "flag" else ["--testingdir", "two"]
    line = refused(testtrainauto, *trained.flags, "--modelfile", trained.out / "autoencoder.pth", "--outputdir", ".",
                   *flags)  # fmt: skip
    assert "clusters: " in line and ("14 paintings" in line if origin == "flag" else "2 paintings" in line)
    assert line.startswith("--clusters: ") == (origin == "flag")


def test_one_painting_is_one_line_and_two_go_as_two_clusters(trained, workdir, paint, refused, run):
    paint(workdir / "one", {"Baroque": 1})
    paint(workdir / "two", {"Baroque": 2})
    flags = [*trained.flags, "--modelfile", trained.out / "autoencoder.pth", "--outputdir", "."]
    line = refused(testtrainauto, *flags, "--testingdir", "one", "--clusters", 1)
    assert "1 painting " in line
    for clusters in (1, 2):
        assert run(testtrainauto, *flags, "--testingdir", "two", "--clusters", clusters).status == 0
        assert json.loads((workdir / "metrics_auto.json").read_text())["silhouette"] is None


def test_flags_that_disagree_with_the_checkpoint_are_one_line(trained, refused):
    for name, value in (("image_size", 64), ("latent_dim", 5)):
        line = refused(testtrainauto, *trained.flags, f"--{name}", value)
        assert line.startswith(f"--{name}: found {value}, but autoencoder.pth was trained with")


def test_the_other_parts_checkpoint_and_a_spoilt_one_are_one_line(trained, workdir, refused):
    cases = {
        "a style classifier": {"part": 1, "architecture": "residual"},
        "damaged": {"latent_dim": 7},
        "damaged: its weights do not fit": {"image_size": 40},
    }
    for meant, changes in cases.items():
        torch.save({**copy.copy(trained.checkpoint), **changes}, workdir / "autoencoder.pth")
        line = refused(testtrainauto, *trained.flags, "--outputdir", ".")
        assert line.startswith("autoencoder.pth: ") and meant in line
    assert [path.name for path in workdir.iterdir()] == ["autoencoder.pth"]
