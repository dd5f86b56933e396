"""testtrainpart1.py: metrics, predictions, priors and figures, and how they came about."""

import copy
import csv
import json
import os
import shutil
import subprocess
import warnings
from types import SimpleNamespace

import jobs
import numpy as np
import pytest
import sklearn.metrics
import torch
from PIL import Image

import testtrainpart1
import trainpart1
import wikiart
from support.answers import heatmaps, pictures_part1, provenance, report
from support.paintings import images
from support.system import devices, plotting, settings

S = 32
TRAINING = {"Baroque": 14, "Cubism": 10, "Fauvism": 6, "Rococo": 1}
TEST = {"Baroque": 4, "Cubism": 5, "Fauvism": 3, "Rococo": 2}
WRITTEN = ["confusion_matrix.png", "heatmaps.png", "metrics_part1.json", "mistakes.png", "predictions.csv"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, paint, run):
    """A classifier that is trained and evaluated in .folder, which has train, test and out."""
    folder = tmp_path_factory.mktemp("part1")
    paint(folder / "train", TRAINING)
    paint(folder / "test", TEST, seed=1)
    flags = ("--trainingdir", folder / "train", "--testingdir", folder / "test", "--outputdir", folder / "out",
             "--cachedir", folder / "cache", "--device", "cpu")  # fmt: skip
    training = run(trainpart1, *flags, "--image_size", S, "--epochs", 4, "--batch_size", 4)
    assert (training.status, training.err) == (0, "")
    before = set(os.listdir(folder / "out"))
    evaluation = run(testtrainpart1, *flags)
    assert (evaluation.status, evaluation.err) == (0, "")
    checkpoint = torch.load(folder / "out" / "wikiart.pth", weights_only=True)
    metrics = json.loads((folder / "out" / "metrics_part1.json").read_text())
    return SimpleNamespace(
        folder=folder, flags=flags, evaluation=evaluation, checkpoint=checkpoint,
        model=wikiart.load_network(checkpoint), written=sorted(set(os.listdir(folder / "out")) - before),
        metrics=metrics, run=metrics.pop("run"),
        table=read_table(folder / "out" / "predictions.csv"),
    )  # fmt: skip


@pytest.fixture
def evaluate(trained, run, tmp_path, monkeypatch):
    """evaluate(*flags) evaluates the trained classifier into tmp_path, without figures: the run, metrics and table."""
    monkeypatch.setattr(plotting, "write_all", lambda *_: [])

    def evaluate(*flags):
        modelfile = trained.folder / "out" / "wikiart.pth"
        result = run(testtrainpart1, *trained.flags, "--outputdir", tmp_path, "--modelfile", modelfile, *flags)
        assert result.status == 0, result.err
        metrics = json.loads((tmp_path / "metrics_part1.json").read_text())
        del metrics["run"]
        return result, metrics, read_table(tmp_path / "predictions.csv")

    return evaluate


def read_table(path):
    """Path below the style folders' parent -> its row."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {os.sep.join(row["path"].split(os.sep)[-2:]): row for row in rows}


def numbers(row):
    return np.array([float(row[style]) for style in TRAINING])


@torch.no_grad()
def probabilities_of(path, trained):
    """One painting by itself: the mean over the painting and its flip.

    Its pixels and their normalization are the program's own to the last bit: histograms magnify a difference, and
    torchvision's pixels differ by a grey level on processors without AVX2.
    """
    state, model = trained.checkpoint["model"], copy.deepcopy(trained.model)
    mean, std = (state[f"normalize.{name}"].view(3, 1, 1) for name in ("mean", "std"))
    pixels, _ = images.decode_image(path, S)
    image = (torch.from_numpy(pixels) / 255 - mean) / std
    model.normalize.mean.zero_(), model.normalize.std.fill_(1)  # the image is normalized already
    return model(torch.stack([image, image.flip(2)])).mean(0).softmax(0).numpy()


# What an evaluation writes


def test_evaluation_writes_what_the_contract_names(trained):
    last = trained.evaluation.out.splitlines()[-1]
    assert trained.written == WRITTEN and last.startswith("wrote ") and all(name in last for name in WRITTEN)
    for name in [name for name in WRITTEN if name.endswith(".png")]:
        with Image.open(trained.folder / "out" / name) as image:
            assert min(image.size) > 300 and len(image.convert("RGB").getcolors(2**24)) > 20


def by_sklearn(labels, probabilities, counts):
    """The contract's figures from scikit-learn's own functions."""
    predicted, classes, score = probabilities.argmax(1), list(counts), sklearn.metrics.precision_recall_fscore_support
    present = sorted(set(labels))
    macro = score(labels, predicted, labels=present, average="macro", zero_division=0)
    rows = score(labels, predicted, labels=range(len(classes)), zero_division=0)
    top3 = [label in np.argsort(-row)[:3] for label, row in zip(labels, probabilities, strict=True)]
    majority = max(counts, key=counts.get)
    return {
        **dict(zip(["macro_precision", "macro_recall", "macro_f1"], macro, strict=False)),
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": macro[1],
        "weighted_f1": sklearn.metrics.f1_score(labels, predicted, average="weighted", zero_division=0),
        "top3_accuracy": np.mean(top3),
        "majority_accuracy": np.mean([classes[label] == majority for label in labels]),
        "majority_style": majority,
        "images": len(labels),
        "per_class": {
            style: dict(zip(["precision", "recall", "f1", "support"], map(float, values), strict=True))
            for style, *values in zip(classes, *rows, strict=True)
        },
    }


METRICS = set(by_sklearn([0], np.ones((1, 1)), {"A": 1}))


def assert_metrics(metrics, expected):
    assert {name: metrics[name] for name in METRICS - {"per_class"}} == pytest.approx(
        {name: expected[name] for name in METRICS - {"per_class"}}, abs=1e-9
    )
    assert list(metrics["per_class"]) == list(expected["per_class"])
    for style, row in expected["per_class"].items():
        assert metrics["per_class"][style] == pytest.approx(row, abs=1e-9), style


def test_table_and_metrics_are_those_of_predictions_made_painting_by_painting(trained):
    labels, probabilities = [], []
    for label, style in enumerate(TEST):
        for path in sorted((trained.folder / "test" / style).iterdir()):
            row = trained.table[f"{style}/{path.name}"]
            expected = probabilities_of(path, trained)
            assert list(row) == ["path", "style", "predicted", "probability", *TRAINING]
            assert (row["path"], row["style"]) == (str(path), style)
            assert numbers(row) == pytest.approx(expected, abs=2e-5)
            assert row["predicted"] == list(TRAINING)[expected.argmax()]
            assert float(row["probability"]) == numbers(row).max()
            labels.append(label)
            probabilities.append(expected)
    assert len(trained.table) == len(labels) == 14
    assert len({row["predicted"] for row in trained.table.values()}) > 1  # else it would show little
    assert_metrics(trained.metrics, by_sklearn(labels, np.stack(probabilities), TRAINING))


def test_metrics_agree_with_sklearn_where_styles_are_missing_or_never_guessed():
    random, counts = np.random.default_rng(0), {"A": 3, "B": 9, "C": 9, "D": 1, "E": 2, "F": 2}
    for _ in range(10):
        labels, probabilities = random.choice([0, 1, 2, 4], 25), random.dirichlet([1] * 6, 25)
        probabilities[:, 4] /= 100
        metrics = report.evaluate(labels, np.log(probabilities), counts)
        assert_metrics(metrics, by_sklearn(labels.tolist(), probabilities, counts))


def test_the_figures_are_printed_beside_the_majority_guess_with_a_row_per_style(trained):
    out = trained.evaluation.out
    (line,) = [line for line in out.splitlines() if "most frequent training style" in line]
    assert all(text in line for text in [f"{trained.metrics['majority_accuracy']:.1%}", "always guessing Baroque"])
    for style, row in trained.metrics["per_class"].items():
        (line,) = [line for line in out.splitlines() if line.startswith(style)]
        assert line.split()[1:] == [f"{row[n]:.1%}" for n in ("precision", "recall", "f1")] + [str(row["support"])]


def test_a_figure_that_fails_is_seen_after_all_else_is_written_and_a_file_that_cannot_be_written_is_an_error(
    trained, evaluate, refused, monkeypatch, tmp_path
):
    monkeypatch.undo()  # with figures
    monkeypatch.setattr(pictures_part1, "draw_mistakes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate()
    assert json.loads((tmp_path / "metrics_part1.json").read_text()).keys() == {*trained.metrics, "run"}
    assert read_table(tmp_path / "predictions.csv") == trained.table
    assert sorted(os.listdir(tmp_path)) == [name for name in WRITTEN if name != "mistakes.png"]
    shutil.copy(trained.folder / "out" / "wikiart.pth", tmp_path)
    (tmp_path / "predictions.csv").unlink()
    (tmp_path / "predictions.csv").mkdir()
    line = refused(testtrainpart1, *trained.flags, "--outputdir", tmp_path)
    assert line.startswith(f"{tmp_path}/predictions.csv: cannot be written")


# Labels are a promise


def test_a_test_folder_that_lacks_styles_keeps_every_prediction(trained, evaluate, tmp_path):
    folder = shutil.copytree(trained.folder / "test", tmp_path / "test")
    shutil.rmtree(folder / "Baroque")
    for path in sorted((folder / "Cubism").iterdir())[1:]:
        path.unlink()
    result, metrics, table = evaluate("--testingdir", folder)
    assert "no test paintings of 1 of 4 styles: macro metrics are means over the others\n" in result.out
    assert metrics["images"] == len(table) == 6 and metrics["per_class"]["Baroque"]["support"] == 0
    for name, row in table.items():
        assert row["style"] == name.split(os.sep)[0]
        assert numbers(row) == pytest.approx(numbers(trained.table[name]), abs=1e-5)
    right = [row["style"] == row["predicted"] for row in table.values()]
    assert metrics["accuracy"] == pytest.approx(np.mean(right))


def test_identical_test_and_training_images_are_counted_and_named(trained, evaluate, tmp_path):
    both = shutil.copytree(trained.folder / "test", tmp_path / "both")
    shutil.copy(trained.folder / "train" / "Cubism" / "003.jpg", both / "Cubism" / "known.jpg")
    shutil.copy(trained.folder / "train" / "Cubism" / "004.jpg", both / "Baroque" / "other_style.jpg")
    result, metrics, _ = evaluate("--testingdir", both)
    copies = metrics["also_in_training"]
    pairs = {
        str(both / "Baroque" / "other_style.jpg"): "Cubism/004.jpg",
        str(both / "Cubism" / "known.jpg"): "Cubism/003.jpg",
    }
    expected = [{"path": path, "training": known, "likeness": "identical"} for path, known in pairs.items()]
    assert (metrics["images"], copies["images"], copies["paintings"]) == (16, 2, expected)
    assert_metrics(copies["metrics_without"], {k: v for k, v in trained.metrics.items() if k in METRICS})
    without = copies["metrics_without"]
    assert (f"without the 2 test paintings that look like training paintings: accuracy {without['accuracy']:.1%}, "
            f"macro F1 {without['macro_f1']:.1%}\n") in result.out  # fmt: skip
    (line,) = result.err.splitlines()
    assert line.startswith("warning: test paintings that look like training paintings: 2 (2 identical)")
    assert all(f'"{path}" looks like "{known}" (identical)' in line for path, known in pairs.items())
    result, metrics, _ = evaluate("--testingdir", trained.folder / "train")
    assert (metrics["also_in_training"]["images"], metrics["also_in_training"]["metrics_without"]) == (31, None)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_predict_on_a_folder_gives_the_evaluations_probabilities(trained, run, tmp_path, batch_size, listing):
    before = listing(trained.folder / "out")
    target = tmp_path / "new folder" / "table.csv"
    flags = ("--predict", trained.folder / "test", "--csv", target, "--batch_size", batch_size)
    torch.set_warn_always(True)  # else torch warns once a process, in whichever test comes first
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = run(testtrainpart1, *trained.flags, *flags)
    torch.set_warn_always(False)
    assert (result.status, result.err) == (0, "")
    table = read_table(target)
    assert list(table) == list(trained.table) and listing(trained.folder / "out") == before
    lines = [line for line in result.out.splitlines() if ".jpg: " in line]
    for line, (name, row) in zip(lines, table.items(), strict=True):
        expected = trained.table[name]
        assert list(row) == ["path", "predicted", "probability", *TRAINING]
        assert (row["path"], row["predicted"]) == (expected["path"], expected["predicted"])
        assert numbers(row) == pytest.approx(numbers(expected), abs=1e-5)
        best = np.argsort(-numbers(row))[:3]
        named = [text.rsplit(" ", 1) for text in line.removeprefix(f"{row['path']}: ").split(", ")]
        assert [style for style, _ in named] == [list(TRAINING)[i] for i in best]
        assert [float(text.rstrip("%")) for _, text in named] == pytest.approx(100 * numbers(row)[best], abs=0.06)


def test_predict_finds_images_as_the_dataset_does_and_names_what_it_cannot_read(trained, run, workdir):
    painting = trained.folder / "test" / "Cubism" / "001.jpg"
    for name in ["a/b/c/deep.JPG", "a/new\nline.jpg", os.fsdecode(b"a/latin\xe9.jpg"), "a/.hidden.jpg",
                 "a/@eaDir/thumbnail.jpg", "a/.git/x.jpg", "no_extension"]:  # fmt: skip
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        shutil.copy(painting, name)
    (workdir / "a" / "notes.txt").write_text("no painting")
    (workdir / "a" / "broken.jpg").write_text("no painting")
    (workdir / "empty").mkdir()
    paths = ["missing.jpg", "a", "no_extension", "empty", painting, ""]
    result = run(testtrainpart1, *trained.flags, "--predict", *paths, "--csv", "t.csv", "--batch_size", 2)
    assert result.status == 2
    *warnings, last = result.err.splitlines()
    assert 'warning: "" cannot be read: No such file or directory' in warnings
    for name in ["missing.jpg", "a/broken.jpg", "empty", "@eaDir"]:
        assert len([line for line in warnings if f'"{name}"' in line]) == 1, name
    assert last.startswith("--predict: 4 of 9 could not be read")
    table = read_table("t.csv")
    names = ["a/latin\\udce9.jpg", "a/new\nline.jpg", "a/b/c/deep.JPG", "no_extension", str(painting)]
    assert [row["path"] for row in table.values()] == names
    for row in table.values():
        assert numbers(row) == pytest.approx(numbers(trained.table["Cubism/001.jpg"]), abs=1e-5)
    assert "a/new\\nline.jpg: " in result.out


def test_where_no_file_can_be_written_is_said_before_anything_is_decoded(trained, refused, workdir):
    (workdir / "file").write_text("")
    (workdir / "locked").mkdir(0o555)
    flags = [*trained.flags, "--cachedir", "cache", "--modelfile", trained.folder / "out" / "wikiart.pth"]
    painting = trained.folder / "test" / "Cubism" / "001.jpg"
    cases = dict.fromkeys([".", "", "new/"], "expected the path of a file") | {"file/t.csv": "is not a folder"}
    cases |= {"locked/t.csv": "cannot be written"} if os.geteuid() else {}  # nothing is locked for root
    for path, words in cases.items():
        result = jobs.call(testtrainpart1, *flags, "--predict", painting, "--csv", path)
        assert jobs.refused(result, "--csv: ", words) and not result.out, path
    line = refused(testtrainpart1, *flags, "--outputdir", "file")
    assert line == f'--outputdir: "{workdir}/file" is not a folder'
    assert sorted(os.listdir()) == ["file", "locked"]  # nothing was decoded
    assert jobs.call(testtrainpart1, *flags, "--outputdir", "file", "--predict", painting).status == 0


def test_no_style_takes_the_name_of_another_column(workdir):
    classes = ["Baroque", "path", "path_", "predicted", "probability", "style"]
    numbers = np.arange(18).reshape(3, 6) / 100
    for styles in None, ["path", "style", "Baroque"]:
        report.write_table("t.csv", classes, ["a", "b", "c"], numbers, styles)
        rows = list(read_table("t.csv").values())
        assert [row["path"] for row in rows] == ["a", "b", "c"] and rows[2]["predicted"] == "style"
        assert [row.get("style") for row in rows] == (styles or [None] * 3) and rows[2]["probability"] == "0.17"
        columns = ["Baroque", "path__", "path_", "predicted_", "probability_", "style_"]
        assert [[float(row[name]) for name in columns] for row in rows] == numbers.tolist()


def test_flags_of_predict_alone_are_refused_without_it(trained, refused):
    for flags in [("--csv", "t.csv"), ("--csv", ""), ("--prior", "uniform")]:
        assert "--predict" in refused(testtrainpart1, *trained.flags, *flags)
    assert "--predict" in refused(testtrainpart1, *trained.flags, "--predict")


def test_evaluation_computes_in_float32_where_training_does_not(trained, evaluate, monkeypatch):
    monkeypatch.setattr(devices, "precision", lambda device: torch.bfloat16)
    result, metrics, table = evaluate()
    assert (metrics, table) == (trained.metrics, trained.table) and "float32)" in result.out.splitlines()[0]


@pytest.mark.parametrize(
    "changes, name, seen",
    [
        ({"imbalance": "none"}, "training", [20, 5, 1]),
        ({"imbalance": "weighted_sampler"}, "uniform", [1, 1, 1]),
        ({"imbalance": "smote", "smote_target": "auto"}, "uniform", [1, 1, 1]),
        ({"imbalance": "smote", "smote_target": 30}, "uniform", [1, 1, 1]),
        ({"imbalance": "smote", "smote_target": 10}, "smote", [20, 10, 10]),
        ({"imbalance": "smote", "smote_target": 10, "validation": 0.4}, "smote", [12, 10, 10]),
        ({"imbalance": "smote", "smote_target": 10, "validation": 0.5}, "uniform", [1, 1, 1]),
    ],
)
def test_a_prior_is_exchanged_by_bayes_rule(changes, name, seen):
    """Of known likelihoods, a network that has learnt everything gives the posterior under what it has seen."""
    counts = {"A": 20, "B": 5, "C": 1}
    checkpoint = {"counts": counts, "settings": {"smote_target": 9, "validation": 0.0} | changes}
    likelihoods = np.random.default_rng(0).uniform(0.01, 1, (50, 3))
    logits = torch.tensor(np.log(likelihoods * seen) + 7).float()
    assert report.log_priors(checkpoint)[0] == name
    for prior, numbers in [("uniform", [1, 1, 1]), ("training", list(counts.values())), (name, seen)]:
        posterior = likelihoods * numbers / (likelihoods * numbers).sum(1, keepdims=True)
        probabilities = report.with_prior(logits, checkpoint, prior).softmax(1).numpy()
        assert probabilities == pytest.approx(posterior, abs=1e-5), prior
    labels = likelihoods.argmax(1)
    metrics = report.evaluate_priors(labels, logits, checkpoint)
    shifted = (likelihoods * list(counts.values())).argmax(1)
    assert metrics["trained"] == name and metrics["uniform"] == {"accuracy": 1.0, "macro_f1": 1.0}
    assert metrics["training"] == pytest.approx(
        {"accuracy": np.mean(shifted == labels), "macro_f1": sklearn.metrics.f1_score(labels, shifted, average="macro")}
    )


def test_evaluation_and_prediction_say_which_prior(trained, run, tmp_path):
    prior = trained.metrics["prior"]
    assert prior["trained"] == "uniform"  # the weighted sampler is the default
    assert prior["uniform"] == {name: trained.metrics[name] for name in ("accuracy", "macro_f1")}
    rows, counts = list(trained.table.values()), np.array(list(TRAINING.values()))
    shifted = [list(TRAINING)[(numbers(row) * counts).argmax()] for row in rows]
    assert prior["training"]["accuracy"] == np.mean([s == row["style"] for s, row in zip(shifted, rows, strict=True)])
    for name, trained_so in [("uniform", True), ("training", False)]:
        (line,) = [line for line in trained.evaluation.out.splitlines() if report.PRIORS[name] in line]
        assert f"accuracy {prior[name]['accuracy']:.1%}, macro F1 {prior[name]['macro_f1']:.1%}" in line
        assert ("(as in training)" in line) is trained_so
    for flags, name in [((), "uniform"), (("--prior", "uniform"), "uniform"), (("--prior", "training"), "training")]:
        target = tmp_path / "t.csv"
        result = run(testtrainpart1, *trained.flags, "--predict", trained.folder / "test", "--csv", target, *flags)
        assert f"predicting with {report.PRIORS[name]}" in result.out
        assert ("(as in training)" in result.out) is (name == "uniform")
        for given, row in zip(read_table(target).values(), rows, strict=True):
            expected = numbers(row) * (counts if name == "training" else 1)
            assert numbers(given) == pytest.approx(expected / expected.sum(), abs=2e-5)


def test_the_run_block_says_how_the_metrics_came_about(trained):
    run, checkpoint = trained.run, trained.checkpoint
    assert {name: run[name] for name in ("architecture", "image_size", "seed")} | run["settings"] == checkpoint[
        "settings"
    ]
    assert (run["epoch"], run["training_paintings"]) == (checkpoint["epoch"], sum(TRAINING.values()))
    assert run["folders"]["testingdir"] == str(trained.folder / "test")
    assert run["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0] and "code" in run["versions"]
    assert (run["device"], run["precision"]) == ("cpu", "float32")
    assert 0 < run["seconds"] < 600 and run["peak_memory_bytes"] > 1e7
    paths = checkpoint["paths"][::-1]
    other = checkpoint | {"fingerprints": checkpoint["fingerprints"].flip(0), "paths": paths}
    options = settings.read("classifier", "", [str(flag) for flag in trained.flags])
    assert provenance.run_block(options, other, torch.device("cpu"), 0)["training_digest"] == run["training_digest"]
    other["fingerprints"] = other["fingerprints"] + 1
    assert provenance.run_block(options, other, torch.device("cpu"), 0)["training_digest"] != run["training_digest"]


def test_the_code_is_this_checkouts_commit_or_none(tmp_path, monkeypatch):
    """Also where a hook of another repository has set Git's variables, or the project lies inside another one."""

    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", tmp_path, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "inside").mkdir()
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.code_version() == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert provenance.code_version() == git("rev-parse", "HEAD") + "+changes"
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "inside")
    assert provenance.code_version() is None
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert provenance.code_version() is None
    monkeypatch.setenv("PATH", "")
    assert provenance.code_version() is None


def test_a_network_without_convolutions_gets_a_line_and_no_heatmaps(evaluate, monkeypatch, tmp_path):
    monkeypatch.undo()  # with figures
    monkeypatch.setattr(heatmaps, "has_convolutions", lambda model: False)
    result, *_ = evaluate()
    (line,) = [line for line in result.out.splitlines() if line.startswith("no heatmaps.png")]
    assert "residual has no convolutions" in line and not (tmp_path / "heatmaps.png").exists()


# Checkpoints


def test_flags_that_disagree_with_the_checkpoint_are_errors_and_the_file_is_not_looked_at(
    trained, refused, evaluate, tmp_path
):
    for name, value, has in [("architecture", "three_conv", "residual"), ("image_size", 64, str(S))]:
        line = refused(testtrainpart1, *trained.flags, f"--{name}", value)
        assert line.startswith(f"--{name}: ") and str(value) in line and has in line
    config = {"image_size": 128, "classifier": {"architecture": "no such network"}}
    (tmp_path / "c.json").write_text(json.dumps(config))
    _, metrics, _ = evaluate("-c", tmp_path / "c.json", "--image_size", S)
    assert metrics == trained.metrics
