"""Interrupted and finished runs: the same command goes on, and ends where a run that was never interrupted ends."""

import csv
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jobs
import pytest
import torch
from PIL import Image

import trainpart1
from support.networks import description
from support.system import console, files, processes
from support.training import batches, checkpoints, history
from support.training.epochs import Epoch

EPOCHS = 3
CASES = {  # where nothing is held out, the checkpoint is that of the last epoch
    "weighted": ("trainpart1", "--imbalance", "weighted_sampler", "--validation", "0.3"),
    "smote": ("trainpart1", "--imbalance", "smote", "--smote_target", "12", "--validation", "0", "--architecture",
              "three_conv"),  # has dropout, which draws random numbers
    "auto": ("trainauto", "--latent_dim", "8", "--validation", "0"),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick():
    """No waiting for the disk in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def flags(paintings: Path, out: Path, *more: object) -> list[object]:
    return jobs.flags(paintings, out, "--epochs", EPOCHS, *more)


def part1(paintings: Path, out: Path, *more: object) -> jobs.Done:
    return jobs.call("trainpart1", *flags(paintings, out, *CASES["weighted"][1:], *more))


def refused(done: jobs.Done, *words: str) -> bool:
    return jobs.refused(done, *words, "--fresh")


def saved_epochs(out: Path) -> int:
    """How many epochs the resume file holds."""
    return sum(jobs.load(path)["progress"]["rows"][-1]["epoch"] for path in out.glob("*.resume.pth"))


def csv_rows(out: Path) -> list[dict[str, str]]:
    with open(next(out.glob("history_*.csv")), newline="") as file:
        return list(csv.DictReader(file))


def ending(done: jobs.Done, out: Path) -> tuple[dict[str, object], list[str]]:
    """A whole run's checkpoint, and each epoch's printed figures without the clock's; the CSV file has all epochs."""
    assert (done.status, done.err) == (0, "")
    assert {path.suffix for path in out.iterdir()} <= {".pth", ".csv", ".lock", ".png"}
    rows = [row for row in csv_rows(out) if row["kind"] == "epoch"]
    assert [int(row["epoch"]) for row in rows] == list(range(1, saved_epochs(out) + 1))
    assert all(value for row in rows for value in row.values())
    (file,) = (path for path in out.glob("*.pth") if "resume" not in path.name)
    pattern = r"^(epoch .*?|fitted the head.*?)(?:  [\d,]+ paintings/s.*)?$"
    return jobs.load(file), re.findall(pattern, done.out, re.MULTILINE)


def check_ending(done: jobs.Done, out: Path, before: int, expected: tuple[dict[str, object], list[str]]) -> None:
    """The resumed run said where it goes on, trained the missing epochs alone and ended as the `expected` run did."""
    checkpoint, figures = ending(done, out)
    said = re.findall(rf"going on after epoch (\d+) of {EPOCHS}", done.out)
    assert said == ([str(before)] if 0 < before < EPOCHS else []) or said == ["0"] * (checkpoint["part"] - 1)
    assert figures == expected[1][before:] and jobs.same(checkpoint, expected[0])


PIECES = {"step": Epoch, "average_statistics": processes, "write_tensors": files, "write_csv": history,
          "clock": history}  # fmt: skip


def stop_at(monkeypatch, name: str, count: int, run: Callable[[], jobs.Done]) -> jobs.Done:
    """Let the `count`-th call of one of the `PIECES` stop a run, as Ctrl-C there would."""
    real, calls = getattr(PIECES[name], name), iter(range(1, 10_000))

    def planted(*arguments, **more):
        if next(calls) == count:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(PIECES[name], name, planted)
        done = run()
    assert done.status == 130 and jobs.one_line(done.err.removeprefix("\n")), done
    return done


# Four or more steps an epoch, which ends with the resume file, the checkpoint where it is the best, and the CSV file.
MOMENTS = [
    ("step", 2, 0),  # in the first epoch
    ("write_tensors", 1, 0),  # before the first file
    ("write_tensors", 2, 1),  # between resume file and checkpoint
    ("write_csv", 1, 1),  # before the row
    ("average_statistics", 2, 1),  # between training and validation
    ("average_statistics", 3, 2),
]


@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_uninterrupted(case, paintings, tmp_path, monkeypatch):
    script, *more = CASES[case]
    expected = ending(jobs.call(script, *flags(paintings, tmp_path / "whole", *more)), tmp_path / "whole")
    assert len(expected[1]) == EPOCHS + (case == "weighted")  # three_conv and the autoencoder fit no head
    moments = {"weighted": MOMENTS, "smote": MOMENTS[2::2], "auto": MOMENTS[::2]}
    for number, (name, count, before) in enumerate(moments[case]):
        command = flags(paintings, tmp_path / str(number), *more)
        count += 2 * (script == "trainauto" and name == "write_tensors")  # it saves before the first epoch, too
        done = stop_at(monkeypatch, name, count, partial(jobs.call, script, *command))
        assert saved_epochs(tmp_path / str(number)) == before
        start = "what was fitted before it is saved" if script == "trainauto" else "no epoch is saved."
        assert (f"epoch {before} is saved; the same command goes" if before else start) in done.err
        check_ending(jobs.call(script, *command), tmp_path / str(number), before, expected)


@pytest.mark.parametrize("case", ["weighted", "auto"])
def test_a_finished_run_says_so_and_changes_nothing(case, paintings, tmp_path, monkeypatch):
    script, *more = CASES[case]
    ending(jobs.call(script, *flags(paintings, tmp_path, *more)), tmp_path)
    name = {"weighted": "wikiart.pth", "auto": "autoencoder.pth"}[case]
    before = jobs.contents(tmp_path)
    for epochs in EPOCHS, EPOCHS - 1:
        with monkeypatch.context() as patch:
            patch.setattr(description.Normalize, "fit", None)  # nothing is prepared that is not needed
            patch.setattr(batches, "Batches", None)
            done = jobs.call(script, *flags(paintings, tmp_path, *more, "--epochs", epochs))
        assert (done.status, done.err) == (0, "") and "epoch 1/" not in done.out
        assert f"finished: {EPOCHS} epochs trained; {name} holds " in done.out
        assert "nothing is changed; a larger --epochs trains further, --fresh starts a new run" in done.out
        assert jobs.contents(tmp_path) == before


def test_a_run_killed_before_its_figure_draws_it_afterwards(paintings, tmp_path, monkeypatch):
    """Also where there is a figure of fewer epochs, whatever the files' times are."""
    drawn = []
    monkeypatch.setattr(history, "draw", lambda rows, *_: drawn.append(rows[-1]["epoch"]))
    for epochs, moment, count in (1, "clock", 1), (2, "clock", 1), (3, "write_csv", 2):  # 2: not the row of 3
        command = partial(part1, paintings, tmp_path, "--epochs", epochs)
        stop_at(monkeypatch, moment, count, command)
        assert drawn == list(range(1, epochs))
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        for _ in range(2):
            done = command()
            assert (done.status, drawn[-1], len(drawn)) == (0, epochs, epochs), done


@pytest.fixture
def scripted(monkeypatch):
    """scripted(*values): validation finds these, epoch by epoch, whichever figure it is that chooses the best."""

    def scripted(*values: float) -> None:
        names = "validation_accuracy", "validation_macro_f1"
        rows = iter([{"validation_loss": 1 - value} | dict.fromkeys(names, value) for value in values])
        monkeypatch.setattr(trainpart1, "validate", lambda *_: next(rows))

    return scripted


@pytest.mark.parametrize("values, kept", [((0.5, 0.4, 0.2, 0.4, 0.3), (2, 2)), ((0.5, 0.4, 0.7, 0.6, 0.6), (4, 3))])
def test_more_epochs_train_further_and_keep_the_best(values, kept, paintings, tmp_path, scripted):
    scripted(0.3, *values)  # of epoch 1, 2, the head fitted after it, 3, 4, the head fitted after it
    assert part1(paintings, tmp_path, "--epochs", 2).status == 0
    done = part1(paintings, tmp_path, "--epochs", 4)
    assert "2 more epochs after the last one planned: the learning rate goes on as in a run of 4" in done.out
    assert re.findall(r"^epoch (\d)/4", done.out, re.MULTILINE) == ["3", "4"]
    rates = [float(row["learning_rate"]) for row in csv_rows(tmp_path) if row["kind"] == "epoch"]
    assert len(rates) == 4 and 0 < rates[1] < rates[2] < rates[0] and 0 < rates[3] < rates[2]
    checkpoint, state = [jobs.load(tmp_path / name) for name in ("wikiart.pth", "wikiart.resume.pth")]
    rows = state["progress"]["rows"]
    assert [row["epoch"] for row in rows] == [1, 2, 2, 3, 4, 4]
    assert (checkpoint["history"], checkpoint["epoch"]) == (rows[: kept[0]], kept[1])


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("case", ["weighted", "auto"])
def test_an_interrupted_run_may_end_before_the_last_epoch_planned(case, more, paintings, tmp_path, monkeypatch):
    """With the next epoch, or at once, after the one that is saved; both fit the head, and can be interrupted."""
    script, *settings = CASES[case]
    fits = case == "weighted"  # the autoencoder has no head to fit

    def call(epochs: int) -> jobs.Done:
        return jobs.call(script, *flags(paintings, tmp_path, *settings, "--epochs", epochs))

    stop_at(monkeypatch, "clock", 2, partial(call, 4))
    assert refused(call(1), "planned for 4 epochs and has finished 2: epochs is 1, expected 2 or more")
    (saved,) = tmp_path.glob("*.resume.pth")
    before, planned = jobs.load(saved), csv_rows(tmp_path)
    if more or fits:
        stop_at(monkeypatch, "write_tensors", 1, partial(call, 2 + more))
        assert jobs.same(jobs.load(saved), before)
    done = call(2 + more)
    assert "the run ends before epoch 4, which was planned: the learning rate does not fall to zero" in done.out
    assert len(ending(done, tmp_path)[1]) == more + fits and csv_rows(tmp_path)[: len(planned)] == planned
    state, written = jobs.load(saved), jobs.contents(tmp_path)
    assert more or all(torch.equal(value, state["model"][name]) for name, value in before["model"].items())
    assert "finished: " in call(2 + more).out and jobs.contents(tmp_path) == written
    if more or fits:  # else nothing is written, and the run is still one that was planned for 4
        assert state["progress"]["ends"] == [2 + more]
        assert "the learning rate goes on as in a run of 4" in call(4).out


def test_two_modelfiles_in_one_folder_share_no_file(paintings, tmp_path):
    for model, stem in ("wikiart", ""), ("other", "_other"):
        before = jobs.contents(tmp_path)
        assert part1(paintings, tmp_path, "--epochs", 1, "--modelfile", f"{model}.pth").status == 0
        after = jobs.contents(tmp_path)
        names = {f"{model}.pth", f"{model}.resume.pth", f"history_part1{stem}.csv", f"training_part1{stem}.png"}
        assert {name for name in after.keys() - before.keys() if not name.startswith(".")} == names
        assert before.items() <= after.items()


def test_fresh_starts_anew_and_loses_nothing_before_its_first_epoch(paintings, tmp_path, scripted, monkeypatch):
    scripted(0.9, 0.8, 0.7, 0.6)
    assert part1(paintings, tmp_path, "--seed", 7).status == 0
    before = jobs.contents(tmp_path)
    done = stop_at(monkeypatch, "average_statistics", 1, partial(part1, paintings, tmp_path, "--fresh"))
    assert "no epoch is saved" in done.err and jobs.contents(tmp_path) == before
    scripted(0.1)  # worse than what the old run reached
    done = stop_at(monkeypatch, "clock", 1, partial(part1, paintings, tmp_path, "--fresh"))
    assert "epoch 1 is saved; the same command without --fresh goes on from there" in done.err
    checkpoint = jobs.load(tmp_path / "wikiart.pth")
    assert (checkpoint["settings"]["seed"], checkpoint["epoch"], len(csv_rows(tmp_path))) == (2326, 1, 1)


def interrupted(paintings: Path, out: Path, monkeypatch) -> Path:
    """A run of part 1 that was stopped after its second epoch; returns its resume file."""
    stop_at(monkeypatch, "clock", 2, partial(part1, paintings, out))
    return out / "wikiart.resume.pth"


def test_another_run_is_refused(paintings, tmp_path, monkeypatch):
    out, other = tmp_path / "out", tmp_path / "other"
    resume_file = interrupted(paintings, out, monkeypatch)
    before = jobs.contents(out)
    changes = {"seed": 7, "image_size": 32, "architecture": "three_conv", "batch_size": 4, "learning_rate": 0.001,
               "imbalance": "none", "validation": 0.4, "smote_target": 9}  # fmt: skip
    everything = [text for name, value in changes.items() for text in (f"--{name}", value)]
    done = part1(paintings, out, *everything)
    for name, value in changes.items():
        assert refused(done, str(resume_file), f"{name} was ", f" and is {console.shown(value)}")
    shutil.copytree(paintings, other)
    Image.new("RGB", (9, 9)).save(other / "Cubism" / "0.png")
    assert refused(part1(other, out), "belongs to another run: paintings was ")
    assert before == jobs.contents(out)
    shutil.copytree(paintings, tmp_path / "moved")  # the same paintings elsewhere are the same run
    assert "going on after epoch 2" in part1(tmp_path / "moved", out).out


def spoilt(good: dict, *path: str, value: object) -> dict:
    """A state with one value, that at the end of a path of keys, replaced."""
    name, *rest = path
    return good | {name: spoilt(good[name], *rest, value=value) if rest else value}


DAMAGE = {
    "text": (lambda good: "text", "is not a resume file"),
    "version 1": (lambda good: {"run": good["run"], "model": good["model"]},
                  f"written by another version of this project (1, expected {checkpoints.VERSION})"),
    "rows": (lambda good: spoilt(good, "progress", "rows", value=[1, 2]), "is damaged"),
    "moments": (lambda good: spoilt(good, "optimizer", "moments", value={0: "text"}), "is damaged: "),
    "shapes": (lambda good: good | {"model": {k: v[:1] if v.ndim else v for k, v in good["model"].items()}},
               "is damaged"),
    "setting": (lambda good: spoilt(good, "run", "seed", value=torch.zeros(3)), "another run: seed was Tensor"),
}  # fmt: skip


def test_files_that_are_damaged_or_missing_are_one_line(paintings, tmp_path, scripted, monkeypatch):
    scripted(0.9, 0.8)
    resume_file = interrupted(paintings, tmp_path, monkeypatch)
    good, whole, checkpoint = jobs.load(resume_file), resume_file.read_bytes(), jobs.load(tmp_path / "wikiart.pth")
    for name, (spoil, words) in DAMAGE.items():
        torch.save(spoil(good), resume_file)
        done = part1(paintings, tmp_path)
        assert refused(done, "wikiart.resume.pth: ", words), (name, done)
    resume_file.write_bytes(whole[: len(whole) // 2])
    assert refused(part1(paintings, tmp_path), "wikiart.resume.pth: ")
    resume_file.unlink()
    assert refused(part1(paintings, tmp_path), "wikiart.pth: exists, but no resume file")
    resume_file.write_bytes(whole)
    checkpoint["history"][0]["training_loss"] += 1
    torch.save(checkpoint, tmp_path / "wikiart.pth")
    assert refused(part1(paintings, tmp_path), "wikiart.pth: is not epoch 1 of the run, its best")


@pytest.mark.parametrize("kills, processes", [(3, 1), (2, 2), pytest.param(24, 1, marks=pytest.mark.slow)])
def test_kills_at_random_moments(kills, processes, tmp_path):
    """Kill runs while they decode, train and write, resume each and compare."""
    chance = random.Random(kills)
    paintings = jobs.paint(tmp_path / "train", {"Baroque": 30, "Cubism": 20, "Ukiyo_e": 10}, side=100)

    def begin(out: Path) -> jobs.Running:
        command = flags(paintings, out, "--cachedir", tmp_path / f"cache {out.name}", "--validation", 0)
        return jobs.start(tmp_path / f"{out.name}.log", "trainpart1", *command, processes=processes)

    expected, late = ending(begin(tmp_path / "whole").wait(300), tmp_path / "whole"), 0
    for number in range(kills):
        out = tmp_path / str(number)
        running = begin(out)
        seen = f"epoch {chance.randint(1, EPOCHS - 1)}/" if number % 3 else ""
        running.wait_for(lambda seen=seen: seen in running.text("out"))  # noqa: B023
        if number % 3 == 2:  # while a file is written
            running.wait_for(lambda out=out: list(out.glob(".*.part")))
        time.sleep(chance.uniform(0, [1, 0.1, 0.01][number % 3]))
        running.signal(signal.SIGKILL)
        status, before = running.wait(300).status, saved_epochs(out)
        assert status in (0, -signal.SIGKILL), running.text("err")
        late += status == 0
        for path in out.glob("*.pth"):
            jobs.load(path)  # whole, whenever the kill came
        for path in out.glob(".*.part"):
            path.unlink()
        if before < EPOCHS:
            check_ending(begin(out).wait(300), out, before, expected)
    assert late < kills
