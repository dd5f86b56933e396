"""The pieces of a training: schedule, full batches, the epoch that is kept, figures as CSV, numbers gone wrong."""

import csv
import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from support.system import console, devices, processes, settings
from support.training import batches, history, resume, runs
from support.training.epochs import learning_rate


@pytest.fixture
def begin(tmp_path):
    """begin(count, *flags): a run of a tiny network, the batches of `count` paintings, and their indices."""

    def begin(count=12, *flags):
        flags = ["--outputdir", str(tmp_path), "--epochs", "4", "--batch_size", "4", *flags]
        options = settings.read("classifier", "", flags, settings.FRESH)
        images, labels = torch.full((count, 3, 2, 2), 99, dtype=torch.uint8), torch.arange(count) % 2
        header = {"part": 1, "fingerprints": labels, "counts": {}}
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        run = runs.Run(options, model, torch.device("cpu"), header, "loss")
        return run, batches.Batches(images, labels, torch.device("cpu")), torch.arange(count)

    return begin


def train(run, loader, order, metrics, factor=1.0):
    """The scripts' loop; yields how many paintings each epoch has seen. `metrics`: what validation measures then."""
    with run:
        for epoch in run.epochs():
            seen = 0
            for images, labels in epoch.batches(loader, order, run.options.batch_size):
                epoch.step(factor * nn.functional.cross_entropy(epoch.network(images), labels))
                seen += len(images)
            run.end_epoch(epoch, metrics[epoch.number - 1])
            yield seen


def stop(steps):
    """Let Ctrl-C end a training where it is."""
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt)


def test_the_learning_rate_rises_linearly_and_falls_to_zero_as_half_a_cosine():
    """As torch's own pieces have it; after the end of one schedule it goes on in the middle of the next."""
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.5)
    pieces = [LinearLR(optimizer, 1e-9, total_iters=15), CosineAnnealingLR(optimizer, 85)]
    schedule = SequentialLR(optimizer, pieces, [15])
    for step in range(100):
        expected = pytest.approx(schedule.get_last_lr()[0], abs=1e-6)
        assert learning_rate(0.5, step / 10, [10]) == expected
        ends = [10] if step >= 50 else [5]
        assert learning_rate(0.5, step / 10, [5, 10]) == learning_rate(0.5, step / 10, ends)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    "ends, done, epochs, expected, words",
    [([20], 7, 20, [20], ""), ([20], 7, 8, [20], "ends before epoch 20"), ([20], 7, 7, [7], "ends before epoch 20"),
     ([20], 7, 30, [20, 30], "10 more epochs"), ([20, 30], 7, 20, [20], ""),  # the second one has not begun
     ([20], 20, 8, [20], ""), ([20], 0, 8, [8], "")],
)  # fmt: skip
def test_schedules_that_have_begun_stay(ends, done, epochs, expected, words, capsys):
    assert resume.plan(ends, done, epochs) == expected
    out = capsys.readouterr().out
    assert words in out and len(out.splitlines()) == bool(words)


@pytest.mark.parametrize("count, world_size, cut", [(36, 1, 36), (37, 2, 38), (1, 1, 2)])
def test_a_batch_larger_than_the_data_is_cut(count, world_size, cut, begin, capsys, monkeypatch):
    run, loader, order = begin(count, "--batch_size", "4096", "--epochs", "2")
    monkeypatch.setattr(processes, "world_size", lambda: world_size)
    monkeypatch.setattr(processes, "share_model", lambda model, device: model)
    for name in "total", "from_first":
        monkeypatch.setattr(processes, name, lambda value: value)
    assert [seen * world_size for seen in train(run, loader, order, [{}, {}])] == [cut, cut]
    assert capsys.readouterr().err == f"warning: batch_size is 4096, but an epoch has {count}: cut to {cut}\n"


def test_the_gradients_scale_of_float16_goes_on_with_the_run(begin, monkeypatch):
    monkeypatch.setattr(devices, "precision", lambda device: torch.float16)
    run, loader, order = begin()
    epochs = train(run, loader, order, [{}] * 4)
    next(epochs), next(epochs)
    scaler = run.optimizer.scaler
    assert scaler.state_dict()["_growth_tracker"] == 6  # steps, three per epoch
    scaler.update(1024.0)
    next(epochs)
    stop(epochs)
    again, _, _ = begin()
    with again:
        assert again.progress.done() == 3 and again.optimizer.scaler.state_dict() == scaler.state_dict()
    assert again.optimizer.scaler.get_scale() == 1024


def test_gradients_of_float16_that_are_never_finite_stop_the_run(begin, monkeypatch):
    monkeypatch.setattr(devices, "precision", lambda device: torch.float16)
    run, loader, order = begin()
    run.model[1].weight.register_hook(lambda gradient: gradient * math.nan)
    run.optimizer.scaler.load_state_dict(run.optimizer.scaler.state_dict() | {"scale": 2.0})
    with pytest.raises(console.UserError, match="not finite in epoch 1"):
        next(train(run, loader, order, [{}]))


@pytest.mark.parametrize("values, kept", [([0.3, 0.1, 0.2, 0.05], [1, 2, 2, 4]), (None, [1, 2, 3, 4])])
def test_modelfile_holds_the_best_epoch_so_far(values, kept, begin, tmp_path, capsys):
    run, loader, order = begin()
    for number, _ in enumerate(train(run, loader, order, [{"loss": value} for value in values or ()] or [{}] * 4)):
        checkpoint = torch.load(tmp_path / "wikiart.pth", weights_only=True)
        assert checkpoint["epoch"] == len(checkpoint["history"]) == kept[number]
        same = torch.equal(checkpoint["model"]["1.weight"], run.model[1].weight)
        assert same == (kept[number] == number + 1)
    run.finish({"loss": {"training_loss": "training"}}, "title")
    *lines, result, last = capsys.readouterr().out.splitlines()
    assert [line.endswith("  -> wikiart.pth") for line in lines] == [n == epoch for epoch, n in enumerate(kept, 1)]
    reached = f" (loss {min(values):.4g})" if values else ""
    assert result == f"finished: 4 epochs trained; wikiart.pth holds epoch {kept[-1]}{reached}"
    for words in "0:0", "paintings/s", "GiB", "resume.pth, history_part1.csv", "next: python testtrainpart1.py":
        assert words in last


@pytest.mark.parametrize(
    "start, fitted, kept, words",
    [(0.2, 0.1, 4, "the head fitted after epoch 2"), (0.1, 0.2, 1, "the head fitted before training"),
     (0.5, 0.4, 3, "epoch 2")],
)  # fmt: skip
def test_what_is_fitted_is_chosen_among_with_the_epochs(start, fitted, kept, words, begin, tmp_path, capsys):
    run, loader, order = begin(12, "--epochs", "2")
    run.fits_head = True
    with run:
        run.add("fitted", {"loss": start}, "fitted")
    list(train(run, loader, order, [{"loss": 0.6}, {"loss": 0.3}]))
    assert run.is_fit_due() and not run.is_finished()
    run.add("fitted", {"loss": fitted}, "fitted again")
    run.finish({"loss": {"training_loss": "training"}}, "title")
    checkpoint = torch.load(tmp_path / "wikiart.pth", weights_only=True)
    kinds = [(row["epoch"], row["kind"]) for row in checkpoint["history"]]
    assert kinds == [(0, "fitted"), (1, "epoch"), (2, "epoch"), (2, "fitted")][:kept]
    out = capsys.readouterr().out
    assert f"wikiart.pth holds {words} (loss" in out
    assert ("fitted again  loss 0.1  -> wikiart.pth" in out) == (kept == 4)


def test_the_csv_file_gets_a_row_per_epoch_as_it_ends(begin, tmp_path):
    (tmp_path / "history_part1.csv").write_text("of,an,earlier,run\n1,2,3,4\n")
    run, loader, order = begin()
    columns = ["epoch", "kind", "learning_rate", "training_loss", "loss", "images_per_second", "seconds"]
    inodes = set()
    for number, _ in enumerate(train(run, loader, order, [{"loss": 0.25 * i} for i in range(4)]), 1):
        with open(tmp_path / "history_part1.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == columns and len(rows) == number
        last = {name: value if name == "kind" else float(value) for name, value in rows[-1].items()}
        assert {name: last[name] for name in columns[:5]} == run.progress.rows[-1] and last["seconds"] >= 0
        assert last["learning_rate"] == learning_rate(run.peak, number - 0.5 / 3, [4]) > 0  # of the last step's middle
        inodes.add((tmp_path / "history_part1.csv").stat().st_ino)
    assert len(inodes) == 1  # `tail -f` goes on reading


def test_a_torn_or_foreign_csv_file_is_repaired(tmp_path):
    path, curves = tmp_path / "h.csv", tmp_path / "curves.png"
    rows = [{"epoch": i, "loss": i / 7} for i in (1, 2, 3)]
    history.write_csv(path, rows, [{"seconds": 1.5}] * 3, curves)
    whole = path.read_bytes()
    for start in whole[:-1], whole[:20], b"", whole + b"4,1,1\n", b"other\n":
        path.write_bytes(start)
        history.write_csv(path, rows, [{"seconds": 1.5}] * 3, curves)
        assert path.read_bytes() == whole


def test_a_loss_that_is_not_finite_stops_and_what_was_saved_stays(begin, tmp_path):
    for path in train(*begin(12, "--epochs", "1"), [{}]):
        before = {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")}
    with pytest.raises(console.UserError, match=r"in epoch 2, between steps 1 and 3 of 3, at learning rate \S+ \(peak"):
        next(train(*begin(), [{}] * 4, math.nan))
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")}


def test_weights_that_explode_after_the_last_loss_are_not_saved(begin, tmp_path, monkeypatch):
    run, loader, order = begin()
    monkeypatch.setattr(processes, "average_statistics", lambda model: nn.init.constant_(model[1].bias, math.inf))
    with pytest.raises(console.UserError, match="not finite in epoch 1, after its last step"):
        next(train(run, loader, order, [{}]))
    assert not list(tmp_path.glob("*.pth"))
