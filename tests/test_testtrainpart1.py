"""testtrainpart1.py: metrics, predictions, priors and figures, and how they came about."""

import csv
import json
import os
import shutil
import subprocess
from types import SimpleNamespace

import jobs
import numpy as np
import pytest
import sklearn.metrics
import torch

import testtrainpart1
import trainpart1
import wikiart
from support.answers import pictures_part1, provenance, report
from support.paintings import images
from support.system import devices, settings

S = 32
TRAINING = {"Baroque": 14, "Cubism": 10, "Fauvism": 6, "Rococo": 1}
TEST = {"Baroque": 4, "Cubism": 5, "Fauvism": 3, "Rococo": 2}
WRITTEN = ["confusion_matrix.png", "heatmaps.png", "metrics_part1.json", "mistakes.png", "predictions.csv"]


def evaluate(flags, out, *more):
    """An evaluation into a folder: the run, its metrics without the run block, and its table."""
    result = jobs.call(testtrainpart1, *flags, "--outputdir", out, *more)
    assert result.status == 0, result.err
    metrics = json.loads((out / "metrics_part1.json").read_text())
    del metrics["run"]
    return result, metrics, read_table(out / "predictions.csv")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, paint, run):
    """A classifier that is trained and evaluated in .folder, which has train, test and out."""
    folder = tmp_path_factory.mktemp("part1")
    paint(folder / "train", TRAINING)
    paint(folder / "test", TEST, seed=1)
    flags = ["--trainingdir", folder / "train", "--testingdir", folder / "test", "--cachedir", folder / "cache",
             "--device", "cpu", "--modelfile", folder / "out" / "wikiart.pth"]  # fmt: skip
    more = ["--outputdir", folder / "out", "--image_size", S, "--epochs", 4, "--batch_size", 4]
    training = run(trainpart1, *flags, *more)
    assert (training.status, training.err) == (0, "")
    before = set(os.listdir(folder / "out"))
    evaluation, metrics, table = evaluate(flags, folder / "out")
    assert evaluation.err == "" and sorted(set(os.listdir(folder / "out")) - before) == WRITTEN
    checkpoint = jobs.load(folder / "out" / "wikiart.pth")
    return SimpleNamespace(
        folder=folder, flags=flags, evaluation=evaluation, checkpoint=checkpoint, metrics=metrics, table=table,
        model=wikiart.load_network(checkpoint),
    )  # fmt: skip


def read_table(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {os.sep.join(row["path"].split(os.sep)[-2:]): row for row in rows}


def numbers(row):
    return np.array([float(row[style]) for style in TRAINING])


def test_evaluation_writes_and_prints_what_the_contract_names(trained):
    lines = trained.evaluation.out.splitlines()
    assert lines[-1].startswith("wrote ") and all(name in lines[-1] for name in WRITTEN)
    (line,) = [line for line in lines if "most frequent training style" in line]
    assert all(text in line for text in [f"{trained.metrics['majority_accuracy']:.1%}", "always guessing Baroque"])
    for style, row in trained.metrics["per_class"].items():
        (line,) = [line for line in lines if line.startswith(style)]
        assert line.split()[1:] == [f"{row[n]:.1%}" for n in ("precision", "recall", "f1")] + [str(row["support"])]
    prior, counts = trained.metrics["prior"], list(TRAINING.values())
    assert prior["trained"] == "uniform"
    assert prior["uniform"] == {name: trained.metrics[name] for name in ("accuracy", "macro_f1")}
    right = [list(TRAINING)[(numbers(row) * counts).argmax()] == row["style"] for row in trained.table.values()]
    assert prior["training"]["accuracy"] == np.mean(right)
    for name, trained_so in ("uniform", " (as in training)"), ("training", ""):
        scores = f"accuracy {prior[name]['accuracy']:.1%}, macro F1 {prior[name]['macro_f1']:.1%}"
        assert f"predicting with {report.PRIORS[name]}{trained_so}: {scores}" in lines


@torch.no_grad()
def test_table_and_metrics_are_those_of_predictions_made_painting_by_painting(trained):
    paths = [path for style in TEST for path in sorted((trained.folder / "test" / style).iterdir())]
    probabilities = []
    for path, row in zip(paths, trained.table.values(), strict=True):
        image = torch.from_numpy(images.decode_image(path, S)[0]) / 255
        expected = trained.model(torch.stack([image, image.flip(2)])).mean(0).softmax(0).numpy()
        assert list(row) == ["path", "style", "predicted", "probability", *TRAINING]
        assert (row["path"], row["style"]) == (str(path), path.parent.name)
        assert numbers(row) == pytest.approx(expected, abs=2e-5)
        assert row["predicted"] == list(TRAINING)[expected.argmax()]
        assert float(row["probability"]) == numbers(row).max()
        probabilities.append(expected)
    assert len({row["predicted"] for row in trained.table.values()}) > 1  # else it would show little
    metrics = report.evaluate(np.repeat(range(4), list(TEST.values())), np.stack(probabilities), TRAINING)
    assert metrics == {name: trained.metrics[name] for name in metrics}


def test_metrics_are_scikit_learns_where_styles_are_missing_or_never_guessed():
    random, styles, score = np.random.default_rng(0), list("ABCDEF"), sklearn.metrics
    for _ in range(10):
        labels, probabilities = random.choice([0, 1, 2, 4], 25), random.dirichlet([1] * 6, 25)
        probabilities[:, 4] /= 100
        predicted, present = probabilities.argmax(1), sorted(set(labels))
        metrics = report.evaluate(labels, np.log(probabilities), dict.fromkeys(styles, 3) | {"B": 9})
        precision, recall, f1, _ = score.precision_recall_fscore_support(
            labels, predicted, labels=present, average="macro", zero_division=0
        )
        rows = score.precision_recall_fscore_support(labels, predicted, labels=range(6), zero_division=0)
        assert list(metrics["per_class"]) == styles
        assert [list(row.values()) for row in metrics.pop("per_class").values()] == np.transpose(rows).tolist()
        assert metrics == pytest.approx({
            "accuracy": score.accuracy_score(labels, predicted), "balanced_accuracy": recall,
            "macro_precision": precision, "macro_recall": recall, "macro_f1": f1,
            "weighted_f1": score.f1_score(labels, predicted, average="weighted", zero_division=0),
            "top3_accuracy": score.top_k_accuracy_score(labels, probabilities, k=3, labels=range(6)),
            "majority_accuracy": np.mean(labels == 1), "majority_style": "B", "images": 25,
        })  # fmt: skip


def test_a_figure_that_fails_is_seen_after_all_else_is_written(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(pictures_part1, "draw_mistakes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(trained.flags, tmp_path)
    assert json.loads((tmp_path / "metrics_part1.json").read_text()).keys() == {*trained.metrics, "run"}
    assert read_table(tmp_path / "predictions.csv") == trained.table
    assert sorted(os.listdir(tmp_path)) == [name for name in WRITTEN if name != "mistakes.png"]


def test_a_test_folder_that_lacks_a_style_and_holds_a_training_painting(trained, tmp_path):
    folder = shutil.copytree(trained.folder / "test", tmp_path / "test")
    shutil.rmtree(folder / "Baroque")
    known = shutil.copy(trained.folder / "train" / "Cubism" / "004.jpg", folder / "Rococo" / "known.jpg")
    result, metrics, table = evaluate(trained.flags, tmp_path, "--testingdir", folder)
    assert "no test paintings of 1 of 4 styles: macro metrics are means over the others\n" in result.out
    assert metrics["images"] == len(table) == 11 and metrics["per_class"]["Baroque"]["support"] == 0
    assert f'"{known}" looks like "Cubism/004.jpg" (identical)' in result.err
    copies = metrics["also_in_training"]
    assert copies["paintings"] == [{"path": str(known), "training": "Cubism/004.jpg", "likeness": "identical"}]
    del table["Rococo/known.jpg"]
    for name, row in table.items():
        assert row["style"] == name.split(os.sep)[0]
        assert numbers(row) == pytest.approx(numbers(trained.table[name]), abs=1e-5)
    without = copies["metrics_without"]
    assert (copies["images"], without["images"]) == (1, 10)
    assert without["accuracy"] == np.mean([row["style"] == row["predicted"] for row in table.values()])
    line = "without the 1 test painting that looks like training paintings: "
    assert f"{line}accuracy {without['accuracy']:.1%}, macro F1 {without['macro_f1']:.1%}\n" in result.out
    _, metrics, _ = evaluate(trained.flags, tmp_path, "--testingdir", trained.folder / "train")
    assert (metrics["also_in_training"]["images"], metrics["also_in_training"]["metrics_without"]) == (31, None)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("prior", ["uniform", "training"])
def test_predict_on_a_folder_gives_the_evaluations_probabilities(trained, run, tmp_path, listing, prior):
    before, target = listing(trained.folder / "out"), tmp_path / "new folder" / "table.csv"
    flags = ["--predict", trained.folder / "test", "--csv", target, "--batch_size", 5]
    result = run(testtrainpart1, *trained.flags, *flags, *(["--prior", prior] if prior == "training" else []))
    assert (result.status, result.err) == (0, "") and listing(trained.folder / "out") == before
    trained_so = " (as in training)" * (prior == "uniform")  # the weighted sampler is the default
    assert f"predicting with {report.PRIORS[prior]}{trained_so}\n" in result.out
    table, counts = read_table(target), list(TRAINING.values()) if prior == "training" else 1
    assert list(table) == list(trained.table)
    lines = [line for line in result.out.splitlines() if ".jpg: " in line]
    for line, row, expected in zip(lines, table.values(), trained.table.values(), strict=True):
        likely = numbers(expected) * counts
        assert list(row) == ["path", "predicted", "probability", *TRAINING]
        assert (row["path"], row["predicted"]) == (expected["path"], list(TRAINING)[likely.argmax()])
        assert numbers(row) == pytest.approx(likely / likely.sum(), abs=2e-5)
        best = np.argsort(-numbers(row))[:3]
        named = [text.rsplit(" ", 1) for text in line.removeprefix(f"{row['path']}: ").split(", ")]
        assert [style for style, _ in named] == [list(TRAINING)[i] for i in best]
        assert [float(text.rstrip("%")) for _, text in named] == pytest.approx(100 * numbers(row)[best], abs=0.06)


def test_predict_names_what_it_cannot_read_and_answers_the_others(trained, run, workdir):
    painting = trained.folder / "test" / "Cubism" / "001.jpg"
    (workdir / "a").mkdir()
    (workdir / "empty").mkdir()
    (workdir / "a" / "broken.jpg").write_text("no painting")
    shutil.copy(painting, "a")
    shutil.copy(painting, "no_extension")
    paths = ["missing.jpg", "a", "no_extension", "empty", painting, ""]
    result = run(testtrainpart1, *trained.flags, "--predict", *paths, "--csv", "t.csv", "--batch_size", 2)
    *warnings, last = result.err.splitlines()
    assert result.status == 2 and last.startswith("--predict: 4 of 7 could not be read")
    for name in ["missing.jpg", "a/broken.jpg", "empty", ""]:
        assert len([line for line in warnings if f'"{name}"' in line]) == 1, name
    table = read_table("t.csv")
    assert [row["path"] for row in table.values()] == ["a/001.jpg", "no_extension", str(painting)]
    for row in table.values():
        assert numbers(row) == pytest.approx(numbers(trained.table["Cubism/001.jpg"]), abs=1e-5)


def test_where_no_file_can_be_written_is_said_before_anything_is_decoded(trained, refused, workdir):
    (workdir / "file").write_text("")
    flags = [*trained.flags, "--cachedir", "cache"]
    painting = trained.folder / "test" / "Cubism" / "001.jpg"
    cases = dict.fromkeys([".", "", "new/"], "expected the path of a file") | {"file/t.csv": "is not a folder"}
    for path, words in cases.items():
        result = jobs.call(testtrainpart1, *flags, "--predict", painting, "--csv", path)
        assert jobs.refused(result, "--csv: ", words) and not result.out, path
    line = refused(testtrainpart1, *flags, "--outputdir", "file")
    assert line == f'--outputdir: "{workdir}/file" is not a folder'
    assert os.listdir() == ["file"]  # nothing was decoded
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


@pytest.mark.parametrize(("flags", "words"), [
    (["--csv", "t.csv"], ["need --predict"]), (["--csv", ""], ["need --predict"]), (["--predict"], ["--predict: "]),
    (["--prior", "uniform"], ["need --predict"]), (["--image_size", 64], ["--image_size: got 64, but", f"with {S}"]),
    (["--architecture", "three_conv"], ["--architecture: got", "three_conv", "residual"]),
])  # fmt: skip
def test_flags_that_do_not_apply_are_refused(trained, refused, flags, words):
    line = refused(testtrainpart1, *trained.flags, *flags)
    assert all(word in line for word in words)


def test_evaluation_computes_in_float32_where_training_does_not(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "precision", lambda device: torch.bfloat16)
    result, metrics, table = evaluate(trained.flags, tmp_path)
    assert (metrics, table) == (trained.metrics, trained.table) and "float32)" in result.out.splitlines()[0]


@pytest.mark.parametrize(
    "changes, name, seen",
    [
        ({"imbalance": "none"}, "training", [20, 5, 1]),
        ({"imbalance": "weighted_sampler"}, "uniform", [1, 1, 1]),
        ({"imbalance": "smote", "smote_target": "auto"}, "uniform", [1, 1, 1]),
        ({"imbalance": "smote", "smote_target": 10, "validation": 0.4}, "smote", [12, 10, 10]),
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


def test_the_run_block_says_how_the_metrics_came_about(trained):
    run = json.loads((trained.folder / "out" / "metrics_part1.json").read_text())["run"]
    checkpoint = trained.checkpoint
    first = {name: run[name] for name in ("architecture", "image_size", "seed")}
    assert first | run["settings"] == checkpoint["settings"]
    assert (run["epoch"], run["training_paintings"]) == (checkpoint["epoch"], sum(TRAINING.values()))
    assert run["folders"]["testingdir"] == str(trained.folder / "test")
    assert run["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0] and "code" in run["versions"]
    assert (run["device"], run["precision"]) == ("cpu", "float32")
    assert 0 < run["seconds"] < 600 and run["peak_memory_bytes"] > 1e7
    options = settings.read("classifier", "", [str(flag) for flag in trained.flags])
    other = checkpoint | {"fingerprints": checkpoint["fingerprints"] + 1}
    blocks = [provenance.run_block(options, one, torch.device("cpu"), 0) for one in (checkpoint, other)]
    assert [block["training_digest"] == run["training_digest"] for block in blocks] == [True, False]


def test_the_code_is_this_checkouts_commit_or_none(tmp_path, monkeypatch):
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
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "inside")  # of another repository, with a hook's variables
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert provenance.code_version() is None


def test_flags_that_disagree_with_the_checkpoint_are_errors(trained, refused):
    for name, value, has in [("architecture", "three_conv", "residual"), ("image_size", 64, str(S))]:
        line = refused(testtrainpart1, *trained.flags, f"--{name}", value)
        assert line.startswith(f"--{name}: ") and str(value) in line and has in line
