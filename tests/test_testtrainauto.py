"""testtrainauto.py: reconstruction, clusters and yardsticks, their figures, and paintings that are similar."""

import csv
import json
import math
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.cluster import AgglomerativeClustering
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

import testtrainauto
import trainauto
import wikiart
from support.answers import clustering, similar
from support.networks import histograms
from support.system import plotting
from support.training import checkpoints

TRAINING = {"Baroque": 12, "Cubism": 10, "Pay_$5_or_$6": 8}
TEST = {"Baroque": 6, "Cubism": 5, "Pay_$5_or_$6": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, paint, run):
    """A small autoencoder, and its evaluation without the training folder: what it wrote, and figures by name."""
    folder = tmp_path_factory.mktemp("part2")
    paint(folder / "train", TRAINING)
    ramp = np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (32, 1))
    for style in TRAINING:  # ramps for training and a step for the test, so that a PCA leaves the range of [0, 1]
        Image.fromarray(ramp).save(folder / "train" / style / "ramp.png")
        Image.fromarray(ramp[:, ::-1]).save(folder / "train" / style / "turned.png")
    paint(folder / "test", TEST, seed=1)
    Image.fromarray(np.where(ramp > 127, 255, 0).astype(np.uint8)).save(folder / "test" / "Cubism" / "000.jpg")
    out, drawn = folder / "out", {}
    flags = ["--trainingdir", folder / "train", "--testingdir", folder / "test", "--modelfile", out / "autoencoder.pth",
             "--cachedir", folder / "cache", "--device", "cpu", "--batch_size", 9]  # fmt: skip
    training = run(trainauto, *flags, "--outputdir", out, "--image_size", 16, "--latent_dim", 6, "--epochs", 3,
                   "--learning_rate", 0.004, "--validation", 0)  # fmt: skip
    assert training.status == 0, training.err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "write", lambda path, figure: drawn.update({path.name: figure}))
        testing = run(testtrainauto, *flags, "--trainingdir", "absent", "--outputdir", out, "--clusters", 4)
    assert testing.status == 0 and "warning" not in testing.err
    metrics = json.loads((out / "metrics_auto.json").read_text())
    with open(out / "clusters.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return SimpleNamespace(
        folder=folder, out=out, flags=flags, testing=testing, drawn=drawn, rows=rows, metrics=metrics,
        clusters=np.array([int(row["cluster"]) for row in rows]),
        plane=np.array([[float(row["pc1"]), float(row["pc2"])] for row in rows]),
        test=wikiart.WikiArtDataset(folder / "test", 16, cachedir=folder / "cache"),
        model=wikiart.load_network(checkpoints.read(out / "autoencoder.pth", 2)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def spaces(trained):
    """The spaces, float64 [N, D], made in other ways than the script's."""
    training = wikiart.WikiArtDataset(trained.folder / "train", 16, cachedir=trained.folder / "cache")
    pixels, known = (dataset.images.flatten(1).double().numpy() / 255 for dataset in (trained.test, training))
    components = np.linalg.svd(known - known.mean(0), full_matrices=False)[2][:6]
    images = trained.test.images / 255
    latents = trained.model.encode(images).double().numpy()
    return {
        "style": latents[:, :3],
        "content": latents[:, 3:],
        "pixels": (pixels - known.mean(0)) @ components.T,
        "style_plane": PCA(2).fit_transform(latents[:, :3]),
        "colour": histograms.colour_histogram(4 * images - 2).double().numpy(),
        "statistics": histograms.colour_and_texture(4 * images - 2).double().numpy(),
        "pca": (pixels, known.mean(0), components),
    }


def test_every_space_is_clustered_and_measured_in_the_same_way(trained, spaces):
    styles = [row["style"] for row in trained.rows]
    assert list(trained.metrics["spaces"]) == ["style", "content", "pixels", "style_plane", "colour", "statistics"]
    for name, scores in trained.metrics["spaces"].items():
        clusters = AgglomerativeClustering(4).fit_predict(spaces[name])
        expected = clustering.score_clusters(styles, clusters, spaces[name], 0)
        assert scores == pytest.approx(expected | {"silhouette": pytest.approx(expected["silhouette"], abs=2e-3)})
        assert scores["ami"] == pytest.approx(adjusted_mutual_info_score(styles, clusters))
    assert [trained.metrics[name] for name in ("images", "content_numbers", "clusters")] == [14, 3, 4]
    run = trained.metrics["run"]
    assert (run["latent_dim"], run["training_paintings"], run["settings"]["learning_rate"]) == (6, 36, 0.004)


def test_the_csv_holds_our_clusters_and_plane(trained, spaces):
    assert [row["path"] for row in trained.rows] == trained.test.paths
    assert [row["style"] for row in trained.rows] == [style for style in TEST for _ in range(TEST[style])]
    expected = AgglomerativeClustering(4).fit_predict(spaces["style"])
    assert adjusted_rand_score(expected, trained.clusters) == 1
    assert np.allclose(np.abs(trained.plane), np.abs(spaces["style_plane"]), atol=0.01)  # the sign is anyone's


def test_the_pca_is_the_training_paintings_and_clipped_like_ours(trained, spaces):
    pixels, mean, components = spaces["pca"]
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


def test_the_table_shows_every_space(trained):
    lines = [line for line in trained.testing.out.splitlines() if not line.startswith("laying out ")]
    *_, ours, pca, _, header = lines[:-7]
    error, pca_error = trained.metrics["mse"], trained.metrics["pca_mse"]
    assert f"14 test paintings, each reconstructed from 3 numbers: mean squared error {error:.5f}, PSNR " in ours
    compared = f"{abs(error / pca_error - 1):.1%} {'lower' if error < pca_error else 'higher'}"
    assert pca.startswith("6 components of a PCA ") and f"mean squared error {pca_error:.5f}, " in pca
    assert pca.endswith(f"; the autoencoder's error is {compared}")
    names = list(trained.metrics["spaces"]["style"])
    assert header.startswith("4 clusters of ") and header.split()[-6:] == names
    shown = [(name, text) for name, text in clustering.SPACES.items() if name != "trunk"]  # there is none
    for line, (name, text) in zip(lines[-7:-1], shown, strict=True):
        assert line.startswith(text) and len(line) == len(header)
        assert line.split()[-6:] == [f"{trained.metrics['spaces'][name][figure]:.3f}" for figure in names]


def test_paintings_from_training_are_counted_and_the_figures_without_them_given(trained, workdir, run, drawn):
    shutil.copytree(trained.folder / "test", "mixed")
    shutil.copy(trained.folder / "train" / "Cubism" / "003.jpg", "mixed/Cubism/known.jpg")
    result = run(testtrainauto, *trained.flags, "--outputdir", ".", "--clusters", 4, "--testingdir", "mixed")
    assert result.status == 0 and "test paintings that look like training paintings: 1 (1 identical)" in result.err
    known = json.loads((workdir / "metrics_auto.json").read_text())["also_in_training"]
    assert known["images"] == 1 and known["paintings"][0]["training"] == "Cubism/003.jpg"
    assert known["metrics_without"]["mse"] == pytest.approx(trained.metrics["mse"], rel=0.01)
    without = "without the 1 test painting that looks like training paintings: mean squared error "
    assert f"{without}{known['metrics_without']['mse']:.5f}, ami of the style numbers " in result.out


def test_the_figures_show_what_was_measured(trained, spaces):
    assert list(trained.drawn) == ["reconstruction.png", "clusters.png", "cluster_gallery.png", "dendrogram.png"]
    styles = [style.replace("_", " ") for style in TEST]
    upper, lower = np.reshape(trained.drawn["reconstruction.png"].axes, (2, -1))
    assert [axes.get_title() for axes in upper] == styles
    for above, below in zip(upper, lower, strict=True):
        image = torch.from_numpy(np.array(above.images[0].get_array())).permute(2, 0, 1)[None]
        i = next(i for i in range(14) if torch.allclose(image[0] * 255, trained.test.images[i].float(), atol=0.1))
        assert trained.rows[i]["style"].replace("_", " ") == above.get_title()
        picture = trained.model.decode(trained.model.encode(image))
        assert np.allclose(below.images[0].get_array(), picture[0].permute(1, 2, 0), atol=0.02)
        decibel = -10 * math.log10(F.mse_loss(picture, image))
        assert float(below.get_title().removesuffix(" dB")) == pytest.approx(decibel, abs=0.2)

    texts = trained.drawn["clusters.png"].subfigs[0].axes[0].texts
    assert [text.get_text() for text in texts] == ["0", "1", "2", "3"]
    for number, text in enumerate(texts):
        assert np.allclose(text.get_position(), np.median(trained.plane[trained.clusters == number], axis=0))
    titles = [axes.get_title(loc="left") for axes in trained.drawn["cluster_gallery.png"].axes]
    sizes = [title.split(" painting")[0] for title in titles]
    assert sizes == [f"Cluster {number}: {size}" for number, size in enumerate(np.bincount(trained.clusters))]


def test_too_few_paintings_are_one_line_and_two_go_as_two_clusters(trained, workdir, paint, refused, run, drawn):
    paint(workdir / "one", {"Baroque": 1})
    paint(workdir / "two", {"Baroque": 2})
    flags = [*trained.flags, "--outputdir", "."]
    line = refused(testtrainauto, *flags, "--clusters", 15)
    assert "--clusters: 14 paintings" in line and "for 15 clusters" in line
    assert "config.json: autoencoder: clusters: 2 pain" in refused(testtrainauto, *flags, "--testingdir", "two")
    assert "1 painting " in refused(testtrainauto, *flags, "--testingdir", "one", "--clusters", 1)
    result = run(testtrainauto, *flags, "--testingdir", "two", "--clusters", 2)
    assert result.status == 0 and len(drawn) == 4
    assert json.loads((workdir / "metrics_auto.json").read_text())["spaces"]["style"]["silhouette"] is None


def test_similar_names_and_draws_the_nearest_paintings_of_both_folders(trained, workdir, run, drawn):
    queries = [3, 12]
    given = [trained.test.paths[query] for query in queries]
    result = run(testtrainauto, *trained.flags, "--outputdir", ".", "--similar", *given)
    assert result.status == 0 and list(drawn) == ["similar.png"] and not list(workdir.iterdir())
    both = [trained.test, wikiart.WikiArtDataset(trained.folder / "train", 16, cachedir=trained.folder / "cache")]
    images, paths = torch.cat([one.images for one in both]), both[0].paths + both[1].paths
    latents = wikiart.embed(trained.model, images / 255).double()
    grid = np.reshape(drawn["similar.png"].axes, (4, 9))
    blocks = re.split(r" is most similar in \w+ to\n", result.out)[1:]
    cases = [(query, part) for query in queries for part in (slice(3), slice(3, 6))]  # style numbers, then content
    for (query, part), block, row in zip(cases, blocks, grid, strict=True):
        distances = (latents - latents[query])[:, part].norm(dim=1)
        distances[query] = torch.inf  # it is not its own neighbour
        nearest = distances.argsort()[:8]
        printed = [line.removeprefix("  distance ").split(": ") for line in block.splitlines()[:8]]
        assert sorted(distances[nearest].tolist()) == pytest.approx([float(d) for d, _ in printed], abs=2e-3)
        assert [text.rsplit(" (", 1)[0] for _, text in printed][:4] == [paths[i] for i in nearest[:4]]
        assert row[0].get_title().startswith("by style" if part.start is None else "by content")
        assert np.array_equal(row[0].images[0].get_array(), images[query].permute(1, 2, 0))
        for axes, (distance, text) in zip(row[1:], printed, strict=True):
            path, style = text.removesuffix(")").rsplit(" (", 1)
            assert all(part in axes.get_title() for part in (style.replace("_", " "), distance, os.path.basename(path)))
            assert np.array_equal(axes.images[0].get_array(), images[paths.index(path)].permute(1, 2, 0))


def test_similar_searches_the_folder_that_is_there_and_names_what_it_cannot_read(
    trained, workdir, run, drawn, monkeypatch
):
    monkeypatch.setattr(similar, "SIMILAR_IMAGES", 1)
    (workdir / "new" / "deep").mkdir(parents=True)
    (workdir / "empty").mkdir()
    (workdir / "broken.jpg").write_text("no image")
    shutil.copy(trained.test.paths[0], "new/copy.jpg")
    os.symlink(trained.test.paths[3], "new/deep/same.jpg")
    flags = [*trained.flags, "--outputdir", ".", "--trainingdir", "absent", "--similar"]
    result = run(testtrainauto, *flags, "new", "empty", "", "broken.jpg")
    *warnings, last = result.err.splitlines()
    assert (result.status, last) == (2, "--similar: 3 of 5 could not be read; see the warnings")
    assert warnings[:2] == ['warning: "empty" holds no images', 'warning: "" cannot be read: No such file or directory']
    assert warnings[2].startswith('warning: "broken.jpg" cannot be read') and len(warnings) == 3
    assert 'no folder "absent": it is not searched' in result.out
    assert f'14 paintings in "{trained.folder}/test"' in result.out and f"{trained.folder}/train" not in result.out
    for number, kind in enumerate(("style", "content")):
        copy, same = result.out.split("new/")[1 + number :: 2]
        assert copy.startswith(f"copy.jpg is most similar in {kind} to\n  distance 0.000: {trained.test.paths[0]} (")
        assert same.startswith(f"deep/same.jpg is most similar in {kind} to\n") and trained.test.paths[3] not in same
    assert len(drawn["similar.png"].axes) == 18 and "first 1 of 2" in drawn["similar.png"].get_suptitle()
    drawn.clear()
    assert run(testtrainauto, *flags, "broken.jpg").status == 2 and not drawn


def test_a_folder_that_is_given_for_training_and_test_is_searched_once(trained, workdir, run, drawn):
    flags = [*trained.flags, "--outputdir", ".", "--testingdir", trained.folder / "train" / ".." / "train"]
    result = run(testtrainauto, *flags, "--similar", trained.test.paths[0])
    assert result.status == 0 and result.out.count("searching 36 paintings") == 1
    shown = [line.split(": ")[1] for line in result.out.splitlines() if line.startswith("  distance")]
    assert len(set(shown[:8])) == len(set(shown[8:])) == 8 and len(shown) == 16


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
    result = run(testtrainauto, *flags, "--trainingdir", "moved")
    assert (result.status, result.err) == (0, "") and 'paintings in "moved"\n' in result.out


def test_where_no_file_can_be_written_is_said_before_anything_is_decoded(trained, workdir, refused):
    (workdir / "file").write_text("")
    for more in [], ["--similar", trained.test.paths[0]]:
        line = refused(testtrainauto, *trained.flags, "--cachedir", "cache", "--outputdir", "file", *more)
        assert line == f'--outputdir: "{workdir}/file" is not a folder' and not (workdir / "cache").exists()
