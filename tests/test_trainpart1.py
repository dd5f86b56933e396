"""Part 1, training: from folders to checkpoint, curves and CSV file."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
import torch

import testtrainpart1
import trainauto
import trainpart1
import wikiart
from support.training import balance, checkpoints

S = 32
TRAINING = {"Baroque": 14, "Cubism": 10, "Fauvism": 6, "Rococo": 1}
FLAGS = ("--device", "cpu", "--image_size", 16, "--epochs", 1, "--batch_size", 8, "--trainingdir", "train")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, paint, run):
    """A trained classifier: .out, .result, .checkpoint, .dataset, .members, .held_out."""
    folder = tmp_path_factory.mktemp("part1")
    paint(folder / "train", TRAINING)
    result = run(trainpart1, "--trainingdir", folder / "train", "--outputdir", folder / "out", "--cachedir",
                 folder / "cache", "--device", "cpu", "--image_size", S, "--epochs", 3, "--batch_size", 4,
                 "--validation", 0.2)  # fmt: skip
    assert (result.status, result.err) == (0, "")
    dataset = wikiart.WikiArtDataset(folder / "train", S, cachedir=folder / "cache")
    members, held_out = balance.split(dataset.labels, 0.2, 2326, dataset.fingerprints)
    checkpoint = checkpoints.read(folder / "out" / "wikiart.pth", 1)
    return SimpleNamespace(out=folder / "out", result=result, checkpoint=checkpoint, dataset=dataset, members=members,
                           held_out=held_out)  # fmt: skip


@torch.no_grad()
def test_pixels_are_scaled_by_the_training_share_and_metrics_are_sklearns_on_the_held_out_one(trained):
    model, dataset = wikiart.load_network(trained.checkpoint), trained.dataset
    pixels = dataset.images[trained.members].double() / 255
    assert torch.allclose(model.normalize.mean.double(), pixels.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model.normalize.std.double(), pixels.std((0, 2, 3)), atol=1e-3)
    actual = dataset.labels[trained.held_out].numpy()
    probabilities = [model(dataset.images[i][None] / 255)[0].double().softmax(0).numpy() for i in trained.held_out]
    predicted, present = np.argmax(probabilities, 1), sorted(set(actual))
    expected = {
        "validation_loss": sklearn.metrics.log_loss(actual, probabilities, labels=range(4)),
        "validation_accuracy": sklearn.metrics.accuracy_score(actual, predicted),
        "validation_macro_f1": sklearn.metrics.f1_score(actual, predicted, labels=present, average="macro"),
    }
    row = trained.checkpoint["history"][-1]
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("script", [trainpart1, trainauto])
def test_copies_in_two_styles_are_named_by_part_1_and_broken_images_left_out(script, workdir, paint, run):
    paint(workdir / "train", {"A": 4, "B": 4})
    shutil.copy(workdir / "train" / "A" / "001.jpg", workdir / "train" / "B" / "twin.jpg")
    (workdir / "train" / "B" / "text.jpg").write_text("no painting")
    result = run(script, *FLAGS, "--validation", 0.5, "--batch_size", 4)
    left_out, *two_styles = result.err.splitlines()
    assert result.status == 0 and "text.jpg" in left_out and len(two_styles) == (script is trainpart1)
    assert all(text in line for line in two_styles for text in ("two styles", "A/001.jpg", "B/twin.jpg"))


def test_training_is_on_crops_and_validation_on_whole_paintings(workdir, paint, run, monkeypatch):
    paint(workdir / "train", {"A": 6, "B": 6})
    seen, honest = {True: set(), False: set()}, wikiart.Classifier.forward

    def note(model, images):
        seen[model.training].add(images.shape[2])
        return honest(model, images)

    monkeypatch.setattr(wikiart.Classifier, "forward", note)
    assert run(trainpart1, *FLAGS, "--validation", 0.3, "--image_size", 64).status == 0
    assert seen == {True: {48}, False: {64}}


def test_styles_that_are_easy_to_tell_apart_are_learnt(workdir, paint, run):
    counts = {"A": 20, "B": 20, "C": 8}
    paint(workdir / "train", counts)
    paint(workdir / "test", dict.fromkeys(counts, 10), seed=1)
    assert run(trainpart1, *FLAGS, "--epochs", 2, "--outputdir", ".").status == 0
    out = run(testtrainpart1, "--testingdir", "test", "--outputdir", ".", "--device", "cpu").out
    (line,) = [line for line in out.splitlines() if line.strip().startswith("balanced accuracy")]
    assert float(line.split()[2].removesuffix("%")) > 90, out


def test_wrong_names_are_reported_before_anything_is_decoded(workdir, paint, refused):
    paint(workdir / "train", {"A": 3, "B": 3})
    (workdir / "file").write_text("")
    torch.save({"a": 5}, "other.pth")
    torch.save(wikiart.make_classifier("three_conv", 2, 16).trunk.state_dict(), "three.pth")
    torch.save(wikiart.make_classifier("residual", 2, 16).trunk.state_dict(), "own.pth")
    shutil.copy("own.pth", "a.resume.pth")
    (workdir / "folder.pth").mkdir()
    (workdir / "training_part1_x.png").mkdir()
    before = {path.name for path in workdir.iterdir()}
    cases = [
        (["--architecture", "residul"], 'unknown architecture "residul"; did you mean "residual"?'),
        (["--architecture", "alexnet"], "alexnet does not take images of 16 pixels a side"),
        (["--pretrained", "other.pth"], "is not a state_dict"),
        (["--pretrained", "three.pth"], "the weights do not fit residual: "),
        (["--pretrained", "own.pth", "--modelfile", "own.pth"], "this run would overwrite it"),
        (["--pretrained", "a.resume.pth", "--modelfile", "a.pth"], "this run would overwrite it"),
        (["--epochs", 0], "set pretrained"),
        (["--modelfile", "x.pth"], 'training_part1_x.png" is a folder'),
    ]
    both = [
        (["--modelfile", "folder.pth"], 'folder.pth" is a folder'),
        (["--modelfile", workdir / "file" / "x.pth"], 'file" is not a folder'),
    ]
    for name in "history_part1.csv", "config.json", ".pth", "x.resume.pth":
        both.append((["--modelfile", name], f'got "{name}", expected a name that ends in .pth'))
    cases = [(trainpart1, *case) for case in cases + both] + [(trainauto, *case) for case in both]
    for script, flags, words in cases:
        line = refused(script, *FLAGS, "--outputdir", ".", "--fresh", *flags)
        assert line.startswith(f"{flags[0]}: ") and words in line, line
    assert {path.name for path in workdir.iterdir()} == before  # no cache
