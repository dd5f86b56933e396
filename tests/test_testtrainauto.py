"""testtrainauto.py: reconstruction, clusters and yardsticks, their figures, and paintings that are similar."""

import csv
import json
import math
import os
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
from support.answers import clustering, similar
from support.networks import description
from support.system import plotting
from support.training import checkpoints

TRAINING = {"Baroque": 12, "Cubism": 10, "Pay_$5_or_$6": 8}
TEST = {"Baroque": 6, "Cubism": 5, "Pay_$5_or_$6": 3}
PICTURES = ["reconstruction.png", "clusters.png", "cluster_gallery.png", "dendrogram.png"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, paint, run):
    """A small autoencoder, its files, and the test paintings measured with it."""
    folder = tmp_path_factory.mktemp("part2")
    paint(folder / "train", TRAINING)
    ramp = np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (32, 1))
    for style in TRAINING:  # ramps for training and a step for the test, so that a PCA leaves the range of [0, 1]
        for name, turn in (("ramp", 1), ("turned", -1)):
            Image.fromarray(ramp[:, ::turn]).save(folder / "train" / style / f"{name}.png")
    paint(folder / "test", TEST, seed=1)
    Image.fromarray(np.where(ramp > 127, 255, 0).astype(np.uint8)).save(folder / "test" / "Cubism" / "000.jpg")
    out = folder / "out"
    flags = ["--trainingdir", folder / "train", "--testingdir", folder / "test", "--modelfile", out / "autoencoder.pth",
             "--cachedir", folder / "cache", "--device", "cpu", "--batch_size", 9]  # fmt: skip
    training = run(trainauto, *flags, "--outputdir", out, "--image_size", 16, "--latent_dim", 6, "--epochs", 3,
                   "--learning_rate", 0.004, "--validation", 0)  # fmt: skip
    assert training.status == 0, training.err
    testing = run(testtrainauto, *flags, "--outputdir", out, "--clusters", 4)
    assert testing.status == 0, testing.err
    checkpoint = checkpoints.read(out / "autoencoder.pth", 2)
    metrics = json.loads((out / "metrics_auto.json").read_text())
    with open(out / "clusters.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return SimpleNamespace(
        folder=folder, out=out, flags=flags, testing=testing, checkpoint=checkpoint, rows=rows,
        metrics=metrics, run=metrics.pop("run"),
        clusters=np.array([int(row["cluster"]) for row in rows]),
        test=wikiart.WikiArtDataset(folder / "test", 16, cachedir=folder / "cache"),
        model=wikiart.load_network(checkpoint),
    )  # fmt: skip


def pixels_of(dataset):
    return dataset.images.flatten(1).double().numpy() / 255


@pytest.fixture(scope="module")
def spaces(trained):
    """The spaces, float64 [N, D], made in other ways than the script's."""
    images = trained.test.images.float() / 255
    combined = torch.cat([description.colour_and_texture(4 * images - 2), 2 * description.edges(4 * images - 2)], 1)
    weights = trained.checkpoint["model"]
    latents = ((combined - weights["style_mean"]) @ weights["style_axes"].T).double().numpy()
    assert latents.shape == (14, 3)
    with torch.no_grad():
        content = trained.model.content(images).double().numpy()
    histograms = np.zeros((len(trained.test), 512))
    for number, image in enumerate(trained.test.images.numpy()):
        for red, green, blue in image.reshape(3, -1).T // 32:
            histograms[number, 64 * int(red) + 8 * int(green) + int(blue)] += 1 / 16**2
    training = pixels_of(wikiart.WikiArtDataset(trained.folder / "train", 16, cachedir=trained.folder / "cache"))
    components = np.linalg.svd(training - training.mean(0), full_matrices=False)[2][:6]
    return {
        "style": latents,
        "content": content,
        "pixels": (pixels_of(trained.test) - training.mean(0)) @ components.T,
        "style_plane": PCA(2).fit_transform(latents),
        "colour": np.sqrt(histograms),
        "statistics": description.colour_and_texture(4 * images - 2).double().numpy(),
        "pca": (training.mean(0), components),
    }


@pytest.fixture
def drawn(monkeypatch):
    """The figures that the script has written, by name, instead of files."""
    written = {}
    monkeypatch.setattr(plotting, "write", lambda path, figure: written.update({path.name: figure}))
    return written


# What is measured


def test_every_space_is_clustered_and_measured_in_the_same_way(trained, spaces):
    styles = [row["style"] for row in trained.rows]
    measures = {
        "ari": sklearn_metrics.adjusted_rand_score, "ami": sklearn_metrics.adjusted_mutual_info_score,
        "nmi": sklearn_metrics.normalized_mutual_info_score, "homogeneity": sklearn_metrics.homogeneity_score,
        "completeness": sklearn_metrics.completeness_score,
    }  # fmt: skip
    assert list(trained.metrics["spaces"]) == ["style", "content", "pixels", "style_plane", "colour", "statistics"]
    for name, scores in trained.metrics["spaces"].items():
        found = AgglomerativeClustering(4).fit_predict(spaces[name])
        assert list(scores) == [*measures, "silhouette"]
        for figure, measure in measures.items():
            assert scores[figure] == pytest.approx(measure(styles, found)), (name, figure)
        assert scores["silhouette"] == pytest.approx(sklearn_metrics.silhouette_score(spaces[name], found), abs=2e-3)
    shape = {name: trained.metrics[name] for name in ("images", "content_numbers", "clusters")}
    assert shape == {"images": 14, "content_numbers": 3, "clusters": 4}
    assert list(trained.metrics) == ["mse", "psnr", "pca_mse", *shape, "spaces", "also_in_training"]  # each figure once
    assert (trained.run["latent_dim"], trained.run["epoch"]) == (6, trained.checkpoint["epoch"])
    assert trained.run["settings"]["learning_rate"] == 0.004 and trained.run["training_paintings"] == 36


def test_the_csv_holds_our_clusters_and_plane(trained, spaces):
    assert [row["path"] for row in trained.rows] == trained.test.paths
    assert {style: [row["style"] for row in trained.rows].count(style) for style in TEST} == TEST
    points = spaces["style"]
    assert sklearn_metrics.adjusted_rand_score(AgglomerativeClustering(4).fit_predict(points), trained.clusters) == 1
    sizes = np.bincount(trained.clusters)
    assert len(sizes) == 4 and list(sizes) == sorted(sizes, reverse=True)
    plane = np.array([[float(row["pc1"]), float(row["pc2"])] for row in trained.rows])
    assert np.allclose(np.abs(plane), np.abs(spaces["style_plane"]), atol=0.01)  # the sign is anyone's


def test_the_pca_is_the_training_paintings_and_clipped_like_ours(trained, spaces):
    mean, components = spaces["pca"]
    pixels = pixels_of(trained.test)
    linear = mean + (pixels - mean) @ components.T @ components
    clipped = np.square(linear.clip(0, 1) - pixels).mean()
    assert clipped < 0.997 * np.square(linear - pixels).mean()
    assert trained.metrics["pca_mse"] == pytest.approx(clipped, rel=1e-3)
    images = trained.test.images.float() / 255
    error = F.mse_loss(trained.model.decode(trained.model.encode(images)), images).item()
    assert trained.metrics["mse"] == pytest.approx(error, rel=1e-4)
    assert trained.metrics["psnr"] == pytest.approx(-10 * np.log10(trained.metrics["mse"]))


def test_latents_and_map_are_of_the_test_paintings_or_of_any_folders(trained, workdir, paint, run, refused):
    latents = np.load(trained.out / "latents.npy")
    assert latents.dtype == np.float32
    expected = trained.model.encode(trained.test.images.float() / 255)
    torch.testing.assert_close(torch.from_numpy(latents), expected, rtol=1e-4, atol=1e-4)
    assert all(os.path.basename(row["path"]) in (trained.out / "map.html").read_text() for row in trained.rows)
    paint(workdir / "flat", {"": 5})
    paint(workdir / "other", {"Unknown_to_it": 4}, seed=3)
    result = run(testtrainauto, *trained.flags, "--outputdir", "out", "--map", "flat", "other")
    assert result.status == 0 and os.listdir("out") == ["map.html"], result.err
    text = (workdir / "out" / "map.html").read_text()
    assert all(name in text for name in ("flat/004.jpg", "other/Unknown_to_it/003.jpg", "no style"))
    for folder, problem in (("absent", "cannot be read"), ("out", "no style folder")):
        assert problem in refused(testtrainauto, *trained.flags, "--outputdir", "out", "--map", folder)


@pytest.mark.parametrize("trainingdir", ["other", "absent"])
def test_the_training_folder_of_the_test_changes_nothing(trained, workdir, paint, run, drawn, trainingdir):
    paint(workdir / "other", {"Another": 3}, seed=5)
    flags = [*trained.flags, "--trainingdir", trainingdir, "--outputdir", "out", "--clusters", 4]
    result = run(testtrainauto, *flags)
    assert result.status == 0, result.err
    assert result.out.splitlines()[-10:-1] == trained.testing.out.splitlines()[-10:-1]
    assert (workdir / "out" / "clusters.csv").read_bytes() == (trained.out / "clusters.csv").read_bytes()
    metrics = json.loads((workdir / "out" / "metrics_auto.json").read_text())
    assert metrics.pop("run")["folders"]["trainingdir"] == trainingdir and metrics == trained.metrics


def test_the_table_shows_every_space(trained):
    lines = [line for line in trained.testing.out.splitlines() if not line.startswith("laying out ")]
    error, pca_error = trained.metrics["mse"], trained.metrics["pca_mse"]
    assert f"14 test paintings, each reconstructed from 3 numbers: mean squared error {error:.5f}, PSNR " in lines[-11]
    assert lines[-10].startswith("6 components of a PCA ") and f"mean squared error {pca_error:.5f}, " in lines[-10]
    compared = (
        f"the autoencoder's error is {abs(error / pca_error - 1):.1%} {'lower' if error < pca_error else 'higher'}"
    )
    assert compared in lines[-10] and lines[-9].startswith("Ward clusters compared with the styles")
    names = list(trained.metrics["spaces"]["style"])
    assert lines[-8].startswith("4 clusters of ") and lines[-8].split()[-6:] == names
    for line, (name, text) in zip(lines[-7:-1], clustering.SPACES.items(), strict=True):
        scores = trained.metrics["spaces"][name]
        assert line.startswith(text) and len(line) == len(lines[-8])
        assert line.split()[-6:] == [f"{scores[figure]:.3f}" for figure in names]


def test_paintings_from_training_are_counted_and_the_figures_without_them_given(trained, workdir, run, drawn):
    assert "warning" not in trained.testing.err
    shutil.copytree(trained.folder / "test", "mixed")
    shutil.copy(trained.folder / "train" / "Cubism" / "003.jpg", "mixed/Cubism/known.jpg")
    flags = [*trained.flags, "--outputdir", ".", "--clusters", 4]
    result = run(testtrainauto, *flags, "--testingdir", "mixed")
    assert result.status == 0 and "test paintings that look like training paintings: 1 (1 identical)" in result.err
    known = json.loads((workdir / "metrics_auto.json").read_text())["also_in_training"]
    assert known["images"] == 1 and known["paintings"][0]["training"] == "Cubism/003.jpg"
    assert known["metrics_without"]["mse"] == pytest.approx(trained.metrics["mse"], rel=0.01)
    without = "without the 1 test painting that looks like training paintings: mean squared error "
    assert f"{without}{known['metrics_without']['mse']:.5f}, ami of the style numbers " in result.out


def place_of(axes, dataset):
    """Which painting of a dataset is drawn."""
    shown = axes.images[0].get_array()
    return next(i for i, image in enumerate(dataset.images) if np.array_equal(shown, image.permute(1, 2, 0)))


def test_the_figures_show_what_was_measured(trained, spaces, workdir, run, drawn):
    assert run(testtrainauto, *trained.flags, "--clusters", 4, "--outputdir", ".").status == 0
    assert sorted(drawn) == sorted(PICTURES)
    styles = [style.replace("_", " ") for style in TEST]
    upper, lower = np.reshape(drawn["reconstruction.png"].axes, (2, -1))
    assert [axes.get_title() for axes in upper] == styles
    for above, below in zip(upper, lower, strict=True):
        image = torch.from_numpy(np.array(above.images[0].get_array())).permute(2, 0, 1)[None]
        i = next(i for i in range(14) if torch.allclose(image[0] * 255, trained.test.images[i].float(), atol=0.1))
        assert trained.rows[i]["style"].replace("_", " ") == above.get_title()
        picture = trained.model.decode(trained.model.encode(image))
        assert np.allclose(below.images[0].get_array(), picture[0].permute(1, 2, 0), atol=0.02)
        decibel = -10 * math.log10(F.mse_loss(picture, image))
        assert float(below.get_title().removesuffix(" dB")) == pytest.approx(decibel, abs=0.2)

    plane = np.array([[float(row["pc1"]), float(row["pc2"])] for row in trained.rows])
    texts = drawn["clusters.png"].subfigs[0].axes[0].texts
    assert [text.get_text() for text in texts] == ["0", "1", "2", "3"]
    for number, text in enumerate(texts):
        assert np.allclose(text.get_position(), np.median(plane[trained.clusters == number], axis=0))
    titles = [axes.get_title(loc="left") for axes in drawn["cluster_gallery.png"].axes]
    sizes = [title.split(" painting")[0] for title in titles]
    assert sizes == [f"Cluster {number}: {size}" for number, size in enumerate(np.bincount(trained.clusters))]


def test_fewer_paintings_than_clusters_is_one_line(trained, workdir, paint, refused):
    paint(workdir / "two", {"Baroque": 2})
    line = refused(testtrainauto, *trained.flags, "--clusters", 15)
    assert line.startswith("--clusters: 14 paintings") and "for 15 clusters" in line
    assert "config.json: autoencoder: clusters: 2 pain" in refused(testtrainauto, *trained.flags, "--testingdir", "two")


def test_one_painting_is_one_line_and_two_go_as_two_clusters(trained, workdir, paint, refused, run, drawn):
    paint(workdir / "one", {"Baroque": 1})
    paint(workdir / "two", {"Baroque": 2})
    flags = [*trained.flags, "--outputdir", "."]
    assert "1 painting " in refused(testtrainauto, *flags, "--testingdir", "one", "--clusters", 1)
    for clusters in (1, 2):
        result = run(testtrainauto, *flags, "--testingdir", "two", "--clusters", clusters)
        assert result.status == 0 and len(drawn) == 4
        assert json.loads((workdir / "metrics_auto.json").read_text())["spaces"]["style"]["silhouette"] is None


# Similar paintings


def test_similar_names_and_draws_the_nearest_paintings_of_both_folders(trained, workdir, run, drawn):
    folder, dataset = trained.folder, trained.test
    queries = [dataset.paths[3], dataset.paths[12]]
    result = run(testtrainauto, *trained.flags, "--outputdir", ".", "--similar", *queries)
    assert result.status == 0 and list(drawn) == ["similar.png"] and not list(workdir.iterdir())
    for part, number in ("train", 36), ("test", 14):
        assert f'searching {number} paintings in "{folder / part}"\n' in result.out
    both = [wikiart.WikiArtDataset(folder / part, 16, cachedir=folder / "cache") for part in ("train", "test")]
    latents = torch.cat([wikiart.embed(trained.model, one.images / 255) for one in both]).double()
    paths = [path for one in both for path in one.paths]
    lines = result.out.split("is most similar to\n")[1:]
    grid = np.reshape(drawn["similar.png"].axes, (2, 9))
    for query, block, row, image in zip(queries, lines, grid, dataset.images[[3, 12]], strict=True):
        own = latents[paths.index(query)]
        distances = (latents - own).norm(dim=1)
        distances[paths.index(query)] = torch.inf  # it is not its own neighbour
        nearest = distances.argsort()[:8]
        printed = [line.removeprefix("  distance ").split(": ") for line in block.splitlines()[:8]]
        assert sorted(distances[nearest].tolist()) == pytest.approx([float(d) for d, _ in printed], abs=2e-3)
        assert [text.rsplit(" (", 1)[0] for _, text in printed][:4] == [paths[i] for i in nearest[:4]]
        assert torch.equal(torch.from_numpy(np.array(row[0].images[0].get_array())), image.permute(1, 2, 0))
        for axes, (distance, text) in zip(row[1:], printed, strict=True):
            path, style = text.removesuffix(")").rsplit(" (", 1)
            assert style.replace("_", " ") in axes.get_title() and distance in axes.get_title()
            assert path.rsplit("/", 1)[1] in axes.get_title()
            one = next(one for one in both if path in one.paths)
            assert place_of(axes, one) in [i for i, p in enumerate(one.paths) if p == path]


def test_similar_takes_folders_and_a_copy_elsewhere_finds_its_painting(trained, workdir, run, drawn):
    (workdir / "new" / "deep").mkdir(parents=True)
    (workdir / "empty").mkdir()
    shutil.copy(trained.test.paths[0], "new/copy.jpg")
    os.symlink(trained.test.paths[3], "new/deep/same.jpg")
    flags = [*trained.flags, "--outputdir", ".", "--trainingdir", "absent", "--similar"]
    result = run(testtrainauto, *flags, "new", "empty", "")
    assert result.status == 2 and result.err.splitlines() == [
        'warning: "empty" holds no images',
        'warning: "" cannot be read: No such file or directory',
        "--similar: 2 of 4 could not be read; see the warnings",
    ]
    copy, same = result.out.split("new/")[1:]
    assert copy.startswith(f"copy.jpg is most similar to\n  distance 0.000: {trained.test.paths[0]} (")
    assert same.startswith("deep/same.jpg is most similar to\n") and trained.test.paths[3] not in same
    assert len(drawn["similar.png"].axes) == 2 * 9


def test_a_folder_that_is_given_for_training_and_test_is_searched_once(trained, workdir, run, drawn):
    flags = [*trained.flags, "--outputdir", ".", "--testingdir", trained.folder / "train" / ".." / "train"]
    result = run(testtrainauto, *flags, "--similar", trained.test.paths[0])
    assert result.status == 0 and result.out.count("searching 36 paintings") == 1
    shown = [line.split(": ")[1] for line in result.out.splitlines() if line.startswith("  distance")]
    assert len(set(shown)) == len(shown) == 8


def test_similar_refuses_another_collection_and_takes_a_changed_one(trained, workdir, paint, run, refused, drawn):
    paint(workdir / "other", TRAINING, seed=5)
    shutil.copy(trained.folder / "train" / "Cubism" / "003.jpg", "other/Cubism")  # hardly any of them is known
    flags = [*trained.flags, "--outputdir", ".", "--similar", trained.test.paths[0]]
    line = refused(testtrainauto, *flags, "--trainingdir", "other")
    assert line.startswith('--trainingdir: the network was trained on 1 of 30 paintings in "other"') and "give" in line
    paint(workdir / "unknown", {"Baroque": 1, "Rococo": 1})
    line = refused(testtrainauto, *flags, "--testingdir", "unknown")
    assert line.startswith("--testingdir: ") and '"unknown" has the style "Rococo"' in line and not drawn
    for path in (trained.folder / "train").rglob("*.jpg"):  # moved, decoded to other pixels, and more than before
        (workdir / "moved" / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((60, 48)).save(workdir / "moved" / path.parent.name / path.name, quality=80)
    shutil.copytree("other", "moved", dirs_exist_ok=True, ignore=lambda *_: ["003.jpg"])
    paint(workdir / "moved", {"New": 90}, seed=7)
    paint(workdir / "part", {})
    shutil.copytree(trained.folder / "train" / "Cubism", "part/Cubism")
    for name in "moved", "part":
        result = run(testtrainauto, *flags, "--trainingdir", name)
        assert (result.status, result.err) == (0, "") and f'paintings in "{name}"\n' in result.out


def test_where_no_file_can_be_written_is_said_before_anything_is_decoded(trained, workdir, refused):
    (workdir / "file").write_text("")
    for more in [], ["--similar", trained.test.paths[0]]:
        line = refused(testtrainauto, *trained.flags, "--cachedir", "cache", "--outputdir", "file", *more)
        assert line == f'--outputdir: "{workdir}/file" is not a folder' and not (workdir / "cache").exists()


def test_the_latents_of_a_folder_are_computed_once_per_network(trained, workdir, run, monkeypatch):
    embedded, honest = [], wikiart.embed
    monkeypatch.setattr(wikiart, "embed", lambda model, x: embedded.append(len(x)) or honest(model, x))
    torch.save(trained.checkpoint, "same.pth")
    weights = {name: value.clone() for name, value in trained.checkpoint["model"].items()}
    weights["mean"] += 0.01
    torch.save(trained.checkpoint | {"model": weights}, "other.pth")
    flags = [*trained.flags, "--cachedir", "cache", "--outputdir", ".", "--similar", trained.test.paths[0]]
    counts = []
    for model in ("same.pth", "same.pth", "other.pth", "same.pth"):
        embedded.clear()
        assert run(testtrainauto, *flags, "--modelfile", workdir / model).status == 0
        counts.append(sum(embedded))
    assert counts == [51, 1, 51, 1]  # 36 training and 14 test paintings, and the image itself
    assert len(list((workdir / "cache").glob("*.pth"))) == 4


@pytest.mark.figures
def test_without_a_training_folder_the_test_paintings_are_searched(trained, workdir, run):
    flags = [*trained.flags, "--trainingdir", "absent", "--outputdir", ".", "--similar", trained.test.paths[0]]
    result = run(testtrainauto, *flags)
    assert result.status == 0 and 'no folder "absent": it is not searched' in result.out
    assert str(trained.folder / "train") not in result.out and f'14 paintings in "{trained.folder}/test"' in result.out
    assert Image.open("similar.png").size[0] > 1000


def test_an_unreadable_image_is_named_and_the_others_go_on(trained, workdir, run, drawn, monkeypatch):
    (workdir / "broken.jpg").write_text("no image")
    monkeypatch.setattr(similar, "SIMILAR_ROWS", 1)
    images = [trained.test.paths[0], "broken.jpg", trained.test.paths[1]]
    result = run(testtrainauto, *trained.flags, "--outputdir", ".", "--similar", *images)
    assert result.status == 2 and 'warning: "broken.jpg" cannot be read' in result.err
    assert result.err.splitlines()[-1] == "--similar: 1 of 3 could not be read; see the warnings"
    assert result.out.count("is most similar to") == 2
    assert len(drawn["similar.png"].axes) == 9 and "first 1 of 2" in drawn["similar.png"].get_suptitle()
    drawn.clear()
    assert run(testtrainauto, *trained.flags, "--similar", "broken.jpg").status == 2 and not drawn
