"""The pieces of a training: schedule, full batches, the epoch that is kept, figures as CSV, numbers gone wrong."""

import csv
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from support.system import console, devices, processes, settings
from support.training import batches, history, optimizer, resume, runs


@pytest.fixture
def begin(tmp_path):
    """begin(count, score, *flags): a run of a tiny network, the batches of `count` paintings, and its indices."""

    def begin(count=12, score="accuracy", *flags):
        flags = ["--outputdir", str(tmp_path), "--epochs", "4", "--batch_size", "4", *flags]
        options = settings.read("classifier", "", flags, settings.FRESH)
        images, labels = torch.full((count, 3, 2, 2), 99, dtype=torch.uint8), torch.arange(count) % 2
        contents = {"part": 1, "fingerprints": labels, "counts": {}}
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        run = runs.Run(options, model, torch.device("cpu"), contents, score)
        return run, batches.Batches(images, labels, torch.device("cpu")), torch.arange(count)

    return begin


def train(run, loader, order, figures, factor=1.0):
    """The scripts' loop; yields after each epoch. `figures`: what validation finds, epoch by epoch."""
    with run:
        for epoch in run.epochs():
            seen = 0
            for images, labels in run.batches(loader, order):
                run.step(factor * nn.functional.cross_entropy(run.network(images), labels))
                seen += len(images)
            run.end_epoch(figures[epoch - 1])
            yield SimpleNamespace(epoch=epoch, seen=seen)


def test_the_learning_rate_rises_linearly_and_falls_to_zero_as_half_a_cosine():
    factor = optimizer.learning_rate_factor
    assert [factor(0), factor(0.075), factor(0.15), factor(1)] == pytest.approx([0, 0.5, 1, 0])
    assert factor(0.15 + 0.85 / 2) == pytest.approx(0.5)
    assert factor(0.15 + 0.85 / 3) == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))


def test_every_step_moves_the_weights(begin):
    """A step's learning rate is that of its middle: neither 0 at the first nor at the last, even of a single one."""
    for flags in ["--epochs", "1"], ["--epochs", "2"]:
        run, loader, order = begin(4, "accuracy", *flags, "--fresh")
        before = [value.clone() for value in run.model.parameters()]
        for epoch in train(run, loader, order, [{}, {}]):
            progress = (epoch.epoch - 0.5) / int(flags[1])
            assert run.history[-1]["learning_rate"] == run.peak * optimizer.learning_rate_factor(progress) > 0
            assert not any(map(torch.equal, before, run.model.parameters()))
            before = [value.clone() for value in run.model.parameters()]


@pytest.mark.parametrize(
    "ends, done, epochs, expected, words",
    [
        ([20], 7, 20, [20], ""),
        ([20], 7, 8, [20], "ends before epoch 20"),
        ([20], 7, 30, [20, 30], "10 more epochs"),
        ([20, 30], 7, 20, [20], ""),  # the second schedule has not begun
        ([20, 30], 7, 40, [20, 40], "20 more epochs"),
        ([20, 30], 20, 20, [20], ""),
        ([20], 20, 8, [20], ""),
        ([20], 0, 8, [8], ""),
        ([0], 0, 8, [8], ""),
    ],
)
def test_schedules_that_have_begun_stay(ends, done, epochs, expected, words, capsys):
    assert resume.plan(ends, done, epochs) == expected
    out = capsys.readouterr().out
    assert words in out and len(out.splitlines()) == bool(words)


def test_the_last_epoch_of_a_schedule_need_not_be_the_runs(begin):
    """A run that was to go on and is stopped there still lacks what follows the last epoch."""
    for planned, stop in ("2", 1), ("3", 2):
        epochs = train(*begin(12, "accuracy", "--epochs", planned), [{}] * 3)
        assert next(epochs).epoch == stop
        with pytest.raises(KeyboardInterrupt):
            epochs.throw(KeyboardInterrupt)
    run, loader, order = begin(12, "accuracy", "--epochs", "2")
    (last,) = train(run, loader, order, [{}, {"accuracy": 0.5}])
    assert (last.epoch, last.seen, run.ends) == (2, 0, [2]) and run.history[-1]["accuracy"] == 0.5
    with begin(12, "accuracy", "--epochs", "2")[0] as again:
        assert again.history == run.history and list(again.epochs()) == []


@pytest.mark.parametrize("count, world_size, steps, cut", [(36, 1, 36, 36), (37, 2, 38, 38), (1, 1, 2, 2)])
def test_a_batch_larger_than_the_data_is_cut(count, world_size, steps, cut, begin, capsys, monkeypatch):
    run, loader, order = begin(count, "accuracy", "--batch_size", "4096", "--epochs", "2")
    monkeypatch.setattr(processes, "world_size", lambda: world_size)
    monkeypatch.setattr(processes, "share_model", lambda model, device: model)
    for name in "total", "from_first":
        monkeypatch.setattr(processes, name, lambda value: value)
    passes = [epoch.seen * world_size for epoch in train(run, loader, order, [{}, {}])]
    assert passes == [steps, steps]
    assert capsys.readouterr().err == f"warning: batch_size is 4096, but an epoch has {count}: cut to {cut}\n"


def test_the_gradients_scale_of_float16_goes_on_with_the_run(begin, monkeypatch):
    monkeypatch.setattr(devices, "precision", lambda device: torch.float16)
    run, loader, order = begin()
    epochs = train(run, loader, order, [{}] * 4)
    next(epochs), next(epochs)
    assert run.scaler.state_dict()["_growth_tracker"] == 6  # steps, three per epoch
    run.scaler.update(1024.0)
    next(epochs)
    with pytest.raises(KeyboardInterrupt):
        epochs.throw(KeyboardInterrupt)
    again, loader, order = begin()
    with again:
        assert again.saved == 3 and again.scaler.state_dict() == run.scaler.state_dict()
    assert again.scaler.get_scale() == 1024


def test_gradients_of_float16_that_are_never_finite_stop_the_run(begin, monkeypatch):
    monkeypatch.setattr(devices, "precision", lambda device: torch.float16)
    run, loader, order = begin()
    run.model[1].weight.register_hook(lambda gradient: gradient * math.nan)
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0})
    with pytest.raises(console.UserError, match="not finite in epoch 1"):
        next(train(run, loader, order, [{}]))


@pytest.mark.parametrize(
    "score, values, kept",
    [
        ("validation_loss", [0.5, 0.3, 0.4, 0.3], [1, 2, 2, 2]),
        ("validation_mse", [0.3, 0.1, 0.2, 0.05], [1, 2, 2, 4]),
        (None, [1, 2, 3, 4], [1, 2, 3, 4]),
    ],
)
def test_modelfile_holds_the_best_epoch_so_far(score, values, kept, begin, tmp_path, capsys):
    run, loader, order = begin(12, score or "accuracy")
    figures = [{score: value} if score else {} for value in values]
    for epoch in train(run, loader, order, figures):
        checkpoint = torch.load(tmp_path / "wikiart.pth", weights_only=True)
        assert checkpoint["epoch"] == len(checkpoint["history"]) == kept[epoch.epoch - 1]
        same = torch.equal(checkpoint["model"]["1.weight"], run.model[1].weight)
        assert same == (kept[epoch.epoch - 1] == epoch.epoch)
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.endswith("  -> wikiart.pth") for line in lines] == [n == epoch for epoch, n in enumerate(kept, 1)]
    reached = f", {score.replace('_', ' ')} {values[kept[-1] - 1]:.4g}" if score else ""
    assert last == f"finished: 4 epochs trained, wikiart.pth is epoch {kept[-1]}{reached}"


def test_the_csv_file_gets_a_row_per_epoch_as_it_ends(begin, tmp_path):
    (tmp_path / "history_part1.csv").write_text("of,an,earlier,run\n1,2,3,4\n")
    run, loader, order = begin()
    columns = ["epoch", "learning_rate", "training_loss", "accuracy", "images_per_second", "seconds"]
    inodes = set()
    for epoch in train(run, loader, order, [{"accuracy": 0.25 * i} for i in range(4)]):
        with open(tmp_path / "history_part1.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == columns and len(rows) == epoch.epoch
        last = {name: float(value) for name, value in rows[-1].items()}
        assert {name: last[name] for name in columns[:4]} == run.history[-1] and last["seconds"] >= 0
        inodes.add((tmp_path / "history_part1.csv").stat().st_ino)
    assert len(inodes) == 1  # `tail -f` goes on reading


def test_a_torn_or_foreign_csv_file_is_repaired(tmp_path):
    path, rows = tmp_path / "h.csv", [{"epoch": i, "loss": i / 7} for i in (1, 2, 3)]
    times = [{"seconds": 1.5}] * 3
    history.write_csv(path, rows, times)
    whole = path.read_bytes()
    for start in whole[:-1], whole[:20], b"", whole + b"4,1,1\n", b"other\n":
        path.write_bytes(start)
        history.write_csv(path, rows, times)
        assert path.read_bytes() == whole


def test_a_loss_that_is_not_finite_stops_and_what_was_saved_stays(begin, tmp_path):
    run, loader, order = begin()
    epochs = train(run, loader, order, [{}] * 4)
    next(epochs)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")}
    run.step = lambda loss: runs.Run.step(run, loss * math.nan)
    with pytest.raises(console.UserError, match=r"in epoch 2, between steps 1 and 3 of 3, at learning rate \S+ \(peak"):
        next(epochs)
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")}


def test_weights_that_explode_after_the_last_loss_are_not_saved(begin, tmp_path, monkeypatch):
    run, loader, order = begin()
    monkeypatch.setattr(processes, "average_statistics", lambda model: nn.init.constant_(model[1].bias, math.inf))
    with pytest.raises(console.UserError, match="not finite in epoch 1, after its last step"):
        next(train(run, loader, order, [{}]))
    assert not list(tmp_path.glob("*.pth"))
