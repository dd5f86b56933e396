"""Part 1: the networks, then training and evaluation from folders to files."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor, resize, resized_crop

import testtrainpart1
import trainpart1
import wikiart
from support import devices

S = 32
TRAINING = {"Baroque": 14, "Cubism": 10, "Fauvism": 6, "Rococo": 1}
TEST = {"Baroque": 4, "Cubism": 5, "Fauvism": 3, "Rococo": 2}
FLAGS = ("--device", "cpu", "--image_size", S, "--epochs", 2, "--batch_size", 8)
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


@pytest.fixture(autouse=True, scope="module")
def float32():
    """Exact enough arithmetic on every machine for comparisons with yardsticks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "uses_bfloat16", lambda device: False)
        yield


# Networks


# Pretrained weights


# From folders to files


@pytest.fixture(scope="module")
def trained(tmp_path_factory, paint, run):
    """A trained and evaluated classifier: .folder with train, test and out, .flags, .checkpoint, .metrics, .training,
    .evaluation."""
    folder = tmp_path_factory.mktemp("part1")
    paint(folder / "train", TRAINING)
    paint(folder / "test", TEST, seed=1)
    flags = ("--trainingdir", folder / "train", "--testingdir", folder / "test", "--outputdir", folder / "out",
             "--cachedir", folder / "cache", "--device", "cpu")  # fmt: skip
    training = run(trainpart1, *flags, "--image_size", S, "--epochs", 4, "--batch_size", 4)
    assert (training.status, training.err) == (0, "")
    left = sorted(path.name for path in (folder / "out").iterdir())
    evaluation = run(testtrainpart1, *flags)
    assert (evaluation.status, evaluation.err) == (0, "")
    return SimpleNamespace(
        folder=folder,
        flags=flags,
        left=left,
        training=training,
        evaluation=evaluation,
        checkpoint=torch.load(folder / "out" / "wikiart.pth", weights_only=True),
        metrics=json.loads((folder / "out" / "metrics_part1.json").read_text()),
    )


def network_of(checkpoint):
    model = wikiart.make_classifier(checkpoint["architecture"], len(checkpoint["classes"]), checkpoint["image_size"])
    model.load_state_dict(checkpoint["model"])
    return model.eval()


def stretched(path, size=S):
    """An image file by Pillow and torchvision: float64 [3, S, S] in [0, 1]."""
    return resize(pil_to_tensor(Image.open(path).convert("RGB")), [size, size]).double() / 255


@torch.no_grad()
def probabilities_of(path, checkpoint, model, views=12):
    """One painting by Pillow and torchvision alone; the prediction is the mean over the views, made one by one."""
    size = checkpoint["image_size"]
    mean, std = (torch.tensor(checkpoint[name], dtype=torch.float64).view(3, 1, 1) for name in ("mean", "std"))
    whole = ((stretched(path, size) - mean) / std).float()
    if views == 1:
        return model(whole[None])[0].softmax(0).numpy()
    part, looks = round(0.8 * size), [whole]
    far, middle = size - part, (size - part) // 2
    for top, left in [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]:
        looks.append(resized_crop(whole, top, left, part, part, [size, size], antialias=False))
    return torch.stack([model(torch.stack([look, look.flip(2)])).mean(0) for look in looks]).mean(0).softmax(0).numpy()


@pytest.fixture
def observed(monkeypatch):
    """What the evaluation measured: a list of dicts path -> probabilities, one a run."""
    seen, paths = [], []
    make, measure = wikiart.open_dataset, testtrainpart1.measure

    def open_dataset(*arguments):
        dataset = make(*arguments)
        paths.append([os.path.join(*path.split(os.sep)[-2:]) for path in dataset.paths])
        return dataset

    def spy(labels, probabilities, counts):
        if len(labels) == len(paths[-1]):
            seen.append(dict(zip(paths[-1], zip(labels.tolist(), probabilities, strict=True), strict=True)))
        return measure(labels, probabilities, counts)

    monkeypatch.setattr(wikiart, "open_dataset", open_dataset)
    monkeypatch.setattr(testtrainpart1, "measure", spy)
    return seen


def test_evaluation_writes_what_the_contract_names(trained):
    written = {path.name for path in (trained.folder / "out").iterdir()} - set(trained.left)
    assert written == {"confusion_matrix.png", "metrics_part1.json", "mistakes.png"}


@pytest.mark.parametrize("name", ["training_part1.png", "confusion_matrix.png", "mistakes.png"])
def test_figures_are_whole_pictures_that_show_something(trained, name):
    with Image.open(trained.folder / "out" / name) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


METRICS = {"accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "weighted_f1",
           "top3_accuracy", "majority_accuracy", "images", "per_class"}  # fmt: skip


def by_sklearn(labels, probabilities, counts):
    """The contract's figures from scikit-learn's own functions."""
    predicted, classes = probabilities.argmax(1), list(counts)
    present = sorted(set(labels))
    macro = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=present, average="macro", zero_division=0
    )
    weighted = sklearn.metrics.f1_score(labels, predicted, average="weighted", zero_division=0)
    rows = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    majority = max(counts, key=counts.get)
    return {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": macro[1],
        "macro_precision": macro[0],
        "macro_recall": macro[1],
        "macro_f1": macro[2],
        "weighted_f1": weighted,
        "top3_accuracy": sum(label in np.argsort(-p)[:3] for label, p in zip(labels, probabilities, strict=True))
        / len(labels),
        "majority_accuracy": sum(classes[label] == majority for label in labels) / len(labels),
        "images": len(labels),
        "per_class": {
            style: dict(zip(["precision", "recall", "f1", "support"], map(float, figures), strict=True))
            for style, *figures in zip(classes, *rows, strict=True)
        },
    }


def assert_metrics(found, expected):
    assert set(found) - {"also_in_training"} == METRICS == set(expected)
    for name in METRICS - {"per_class"}:
        assert found[name] == pytest.approx(expected[name], abs=1e-9), name
    assert list(found["per_class"]) == list(expected["per_class"])
    for style, row in expected["per_class"].items():
        assert found["per_class"][style] == pytest.approx(row, abs=1e-9), style


def test_metrics_are_sklearns_of_predictions_made_painting_by_painting(trained):
    model = network_of(trained.checkpoint)
    labels, probabilities = [], []
    for label, style in enumerate(TEST):
        for path in sorted((trained.folder / "test" / style).iterdir()):
            labels.append(label)
            probabilities.append(probabilities_of(path, trained.checkpoint, model))
    assert_metrics(trained.metrics, by_sklearn(labels, np.stack(probabilities), TRAINING))


def test_probabilities_are_those_of_twelve_views_one_by_one(trained, run, tmp_path, observed):
    evaluate(trained, run, tmp_path)
    model = network_of(trained.checkpoint)
    (found,) = observed
    for path, (label, probabilities) in found.items():
        assert label == list(TEST).index(path.split(os.sep)[0])
        expected = probabilities_of(trained.folder / "test" / path, trained.checkpoint, model)
        assert probabilities == pytest.approx(expected, abs=2e-5)
    assert len({int(probabilities.argmax()) for _, probabilities in found.values()}) > 1  # else it would show little


def test_bfloat16_changes_probabilities_little(trained, run, tmp_path, observed, monkeypatch):
    evaluate(trained, run, tmp_path)
    monkeypatch.setattr(devices, "uses_bfloat16", lambda device: True)
    evaluate(trained, run, tmp_path)
    exact, rounded = (np.stack([p for _, p in found.values()]) for found in observed)
    assert 0 < np.abs(exact - rounded).max() < 0.02 and rounded.dtype == np.float32


def test_the_figures_show_what_was_measured(trained):
    dataset = wikiart.WikiArtDataset(trained.folder / "test", S, list(TRAINING), trained.folder / "cache")
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), len(dataset))
    actual, predicted, names = dataset.labels.numpy(), probabilities.argmax(1), list(TRAINING)
    matrix = sklearn.metrics.confusion_matrix(actual, predicted, labels=range(4))

    axes = testtrainpart1.draw_confusion(matrix, names, "a title").axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == names
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"{name} ({TEST[name]})" for name in names]
    assert np.allclose(axes.images[0].get_array(), matrix / matrix.sum(1, keepdims=True))
    cells = {text.get_position()[::-1]: int(text.get_text()) for text in axes.texts}
    assert cells == {(i, j): matrix[i, j] for i, j in zip(*matrix.nonzero(), strict=True)}
    assert "predicted" in axes.get_xlabel() and "true" in axes.get_ylabel() and axes.get_title() == "a title"

    sheet, chart = testtrainpart1.draw_mistakes(dataset, matrix, probabilities).subfigs
    wrong = sorted(np.flatnonzero(predicted != actual), key=lambda i: -probabilities[i].max())
    shown = [axes for axes in sheet.axes if axes.images]
    assert 5 < len(shown) == len(wrong) <= 15
    for axes, i in zip(shown, wrong, strict=True):
        assert axes.get_title() == f"is {names[actual[i]]}\nsaid {names[predicted[i]]} {probabilities[i].max():.0%}"
        assert np.array_equal(axes.images[0].get_array(), dataset.images[i].permute(1, 2, 0))
    pairs = sorted(((matrix[i, j] + matrix[j, i], i, j) for i in range(4) for j in range(i)), reverse=True)
    pairs = [(i, j) for number, i, j in pairs if number]
    assert [text.get_text() for text in chart.axes[0].get_yticklabels()] == [
        f"{names[i]},\n{names[j]}" for i, j in pairs
    ]
    widths = [bar.get_width() for bar in chart.axes[0].patches]
    assert widths == [matrix[i, j] for i, j in pairs] + [matrix[j, i] for i, j in pairs]


def test_measure_agrees_with_sklearn_where_styles_are_missing_or_never_guessed():
    random = np.random.default_rng(0)
    counts = {"A": 3, "B": 9, "C": 9, "D": 1, "E": 2, "F": 2}
    for _ in range(30):
        labels = random.choice([0, 1, 2, 4], 25)
        probabilities = random.dirichlet([1] * 6, 25)
        probabilities[:, 4] /= 100
        found = testtrainpart1.measure(labels, probabilities, counts)
        assert_metrics(found, by_sklearn(labels.tolist(), probabilities, counts))


def test_the_figures_are_printed_beside_the_majority_guess_with_a_row_a_style(trained):
    out = trained.evaluation.out
    (line,) = [line for line in out.splitlines() if "most frequent training style" in line]
    assert f"{trained.metrics['majority_accuracy']:.1%}" in line
    assert f"{trained.metrics['macro_f1']:.1%}" in out
    for style, row in trained.metrics["per_class"].items():
        (line,) = [line for line in out.splitlines() if line.startswith(style)]
        assert line.split()[1:] == [f"{row[n]:.1%}" for n in ("precision", "recall", "f1")] + [str(row["support"])]


def test_predict_names_the_three_likeliest_styles_with_probabilities(trained, run):
    paths = [trained.folder / "test" / "Cubism" / "001.jpg", trained.folder / "test" / "Rococo" / "000.jpg"]
    before = {path: path.stat().st_mtime_ns for path in (trained.folder / "out").iterdir()}
    result = run(testtrainpart1, *trained.flags, "--predict", *paths)
    assert (result.status, result.err) == (0, "")
    lines, model = result.out.splitlines()[-2:], network_of(trained.checkpoint)
    for path, line in zip(paths, lines, strict=True):
        found = probabilities_of(path, trained.checkpoint, model)
        assert line.startswith(f"{path}: ")
        named = [text.rsplit(" ", 1) for text in line.removeprefix(f"{path}: ").split(", ")]
        best = np.argsort(-found)[:3]
        assert [style for style, _ in named] == [list(TRAINING)[i] for i in best]
        assert [float(text.removesuffix("%")) for _, text in named] == pytest.approx(100 * found[best], abs=0.11)
    assert {path: path.stat().st_mtime_ns for path in (trained.folder / "out").iterdir()} == before


@pytest.mark.parametrize("name", ["missing.jpg", "text.jpg", "folder.jpg"])
def test_predict_names_an_image_that_cannot_be_read(trained, workdir, refused, name):
    (workdir / "text.jpg").write_text("no painting")
    (workdir / "folder.jpg").mkdir()
    line = refused(testtrainpart1, *trained.flags, "--predict", name)
    assert line.startswith("--predict: ") and f'"{name}"' in line


def test_predict_needs_a_name(trained, refused):
    assert "--predict" in refused(testtrainpart1, *trained.flags, "--predict")


# Labels are a promise


def evaluate(trained, run, tmp_path, *flags):
    result = run(testtrainpart1, *trained.flags, "--outputdir", tmp_path, "--modelfile",
                 trained.folder / "out" / "wikiart.pth", *flags)  # fmt: skip
    assert result.status == 0, result.err
    return result


def test_a_test_folder_that_lacks_styles_keeps_every_prediction(trained, run, tmp_path, observed):
    evaluate(trained, run, tmp_path)
    removed = shutil.copytree(trained.folder / "test", tmp_path / "removed")
    shutil.rmtree(removed / "Baroque")
    single = shutil.copytree(trained.folder / "test", tmp_path / "single")
    for path in sorted((single / "Cubism").iterdir())[1:]:
        path.unlink()
    evaluate(trained, run, tmp_path, "--testingdir", removed)
    metrics = json.loads((tmp_path / "metrics_part1.json").read_text())
    assert metrics["images"] == 10 and metrics["per_class"]["Baroque"]["support"] == 0
    evaluate(trained, run, tmp_path, "--testingdir", single)
    full, *parts = observed
    assert [len(full), *map(len, parts)] == [14, 10, 10]
    for part in parts:
        for path, (label, probabilities) in part.items():
            assert label == full[path][0] == list(TRAINING).index(path.split(os.sep)[0])
            assert probabilities.argmax() == full[path][1].argmax()
            assert probabilities == pytest.approx(full[path][1], abs=1e-5)


def test_a_test_style_that_the_model_does_not_know_is_one_line(trained, workdir, paint, refused, listing):
    paint(workdir / "test", {"Baroque": 1, "Dada": 2})
    before = listing(trained.folder / "out")
    line = refused(testtrainpart1, *trained.flags, "--testingdir", "test")
    assert line.startswith("--testingdir: ") and '"Dada"' in line
    assert listing(trained.folder / "out") == before


# Checkpoints that cannot be used


def test_what_the_file_says_of_the_network_is_not_looked_at(trained, run, tmp_path, monkeypatch):
    config = {"image_size": 128, "classifier": {"architecture": "no such network"}}
    (tmp_path / "c.json").write_text(json.dumps(config))
    evaluate(trained, run, tmp_path, "-c", tmp_path / "c.json")
    assert json.loads((tmp_path / "metrics_part1.json").read_text()) == trained.metrics


# Training


def test_identical_test_and_training_images_are_counted_and_named(trained, run, tmp_path, observed):
    both = shutil.copytree(trained.folder / "test", tmp_path / "both")
    shutil.copy(trained.folder / "train" / "Cubism" / "003.jpg", both / "Cubism" / "known.jpg")
    shutil.copy(trained.folder / "train" / "Cubism" / "004.jpg", both / "Baroque" / "other_style.jpg")
    result = evaluate(trained, run, tmp_path, "--testingdir", both)
    metrics = json.loads((tmp_path / "metrics_part1.json").read_text())
    report = metrics["also_in_training"]
    expected = [str(both / "Baroque" / "other_style.jpg"), str(both / "Cubism" / "known.jpg")]
    assert (metrics["images"], report["images"], report["paths"]) == (16, 2, expected)
    assert_metrics(report["metrics_without"], {k: v for k, v in trained.metrics.items() if k in METRICS})
    (line,) = result.err.splitlines()
    assert line.startswith("warning: 2 test paintings") and all(path in line for path in expected)


def test_a_test_folder_of_nothing_but_training_paintings_has_no_figures_without_them(trained, run, tmp_path):
    result = evaluate(trained, run, tmp_path, "--testingdir", trained.folder / "train")
    report = json.loads((tmp_path / "metrics_part1.json").read_text())["also_in_training"]
    assert (report["images"], report["metrics_without"]) == (31, None)
    assert "31 test paintings" in result.err
