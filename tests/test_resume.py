"""Interrupted runs: the same command goes on, and ends where a run that was never interrupted ends."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jobs
import psutil
import pytest
import torch
from PIL import Image

from support import console, figures, files, training

EPOCHS = 3
THREE_CONV = ("--architecture", "three_conv")  # has dropout, which draws random numbers
CASES = {  # where nothing is held out, the checkpoint is that of the last epoch
    "none": ("trainpart1", "--imbalance", "none", "--validation", "0"),
    "weighted": ("trainpart1", "--imbalance", "weighted_sampler", "--validation", "0.3"),
    "smote": ("trainpart1", "--imbalance", "smote", "--smote_target", "12", "--validation", "0", *THREE_CONV),
    "auto": ("trainauto", "--latent_dim", "8", "--validation", "0.3"),
}
cases = pytest.mark.parametrize("case", CASES)


class Killed(BaseException):
    """Ends a run at once, as a kill would: nothing in the program catches it."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """In this process: no figures, and no waiting for the disk. (A power cut is not among what is tested here.)"""
    monkeypatch.setattr(figures, "draw_history", lambda *_: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def paintings(tmp_path_factory) -> Path:
    return jobs.paint(tmp_path_factory.mktemp("paintings") / "train")


def flags(paintings: Path, out: Path, *more: object) -> list[object]:
    folders = ["--trainingdir", paintings, "--outputdir", out, "--cachedir", paintings.parent / "cache"]
    return [*folders, "--device", "cpu", "--image_size", 16, "--batch_size", 8, "--epochs", EPOCHS, *more]


class Ending(NamedTuple):
    """What a run leaves: its checkpoint, and each epoch's printed figures without the clock's."""

    checkpoint: dict[str, object]
    figures: list[str]


def ending(done: jobs.Done, out: Path) -> Ending:
    """The end of a run that wrote into `out`; its settings, which name that folder, are left out."""
    assert (done.status, done.err) == (0, "")
    checkpoint = jobs.load(next(out.glob("*.pth")))
    figures = re.findall(r"^(epoch .*)  [\d,]+ paintings/s", done.out, re.MULTILINE)
    return Ending(checkpoint | {"settings": None}, figures)


@pytest.fixture(scope="module")
def uninterrupted(paintings, tmp_path_factory):
    """uninterrupted(case): the ending of a case's run that nothing disturbed, made once."""
    made = {}

    def uninterrupted(case: str) -> Ending:
        if case not in made:
            out = tmp_path_factory.mktemp(case)
            script, *more = CASES[case]
            made[case] = ending(jobs.call(script, *flags(paintings, out, *more)), out)
            assert len(made[case].figures) == EPOCHS
        return made[case]

    return uninterrupted


def saved_epochs(out: Path) -> int:
    """How many epochs the resume file holds."""
    files = list(out.glob("*.resume.pth"))
    return len(jobs.load(files[0])["history"]) if files else 0


def check_ending(done: jobs.Done, out: Path, before: int, expected: Ending) -> None:
    """The resumed run said where it goes on, trained the missing epochs alone and ended as the `expected` run did."""
    found = ending(done, out)
    said = re.findall(rf"going on after epoch (\d+) of {EPOCHS}", done.out)
    assert said == ([str(before)] if before else [])
    assert found.figures == expected.figures[before:]
    assert jobs.same(found.checkpoint, expected.checkpoint)
    assert not [path.name for path in out.iterdir() if path.suffix not in (".png", ".pth") or "resume" in path.name]


def raise_at(monkeypatch, name: str, count: int, error: BaseException) -> None:
    """Let the `count`-th call of a function of training or files raise."""
    room = files if hasattr(files, name) else training
    real, calls = getattr(room, name), iter(range(1, 10_000))

    def planted(*arguments, **more):
        if next(calls) == count:
            raise error
        return real(*arguments, **more)

    monkeypatch.setattr(room, name, planted)


# Four or more steps an epoch; an epoch that is the best writes the checkpoint, then the resume file.
MOMENTS = [
    ("train_step", 2, 0),  # in the first epoch
    ("share_buffers", 1, 0),  # between training and validation
    ("write_tensors", 1, 0),  # before the first file
    ("write_tensors", 2, 0),  # between checkpoint and resume file
    ("say_epoch", 1, 1),  # after the first resume file
    ("share_buffers", 2, 1),
    ("share_buffers", 3, 2),
    ("say_epoch", 3, 3),  # all is trained, and nothing more
]


@cases
def test_resumed_equals_uninterrupted(case, paintings, uninterrupted, tmp_path, monkeypatch):
    script, *more = CASES[case]
    expected = uninterrupted(case)
    for number, (name, count, before) in enumerate(MOMENTS if case == "weighted" else MOMENTS[3:6]):
        command = flags(paintings, tmp_path / str(number), *more)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            raise_at(patch, name, count, Killed())
            jobs.call(script, *command)
        assert saved_epochs(tmp_path / str(number)) == before
        check_ending(jobs.call(script, *command), tmp_path / str(number), before, expected)


def test_killed_several_times(paintings, uninterrupted, tmp_path, monkeypatch):
    """Killed in every epoch, the random states and the schedule still go on as if nothing had been."""
    script, *more = CASES["weighted"]
    for _ in range(EPOCHS - 1):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            raise_at(patch, "share_buffers", 2, Killed())
            jobs.call(script, *flags(paintings, tmp_path, *more))
    check_ending(jobs.call(script, *flags(paintings, tmp_path, *more)), tmp_path, 2, uninterrupted("weighted"))


def interrupted(paintings: Path, out: Path, monkeypatch, *more: object) -> Path:
    """A run of part 1 that was killed in its second epoch; returns its resume file."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        raise_at(patch, "share_buffers", 2, Killed())
        jobs.call("trainpart1", *flags(paintings, out, *CASES["weighted"][1:], *more))
    return out / "wikiart.resume.pth"


def test_fresh_starts_anew_and_so_does_a_complete_run(paintings, uninterrupted, tmp_path, monkeypatch):
    interrupted(paintings, tmp_path, monkeypatch)
    for more in ["--fresh"], []:
        done = jobs.call("trainpart1", *flags(paintings, tmp_path, *CASES["weighted"][1:], *more))
        check_ending(done, tmp_path, 0, uninterrupted("weighted"))


def test_another_run_is_refused(paintings, tmp_path, monkeypatch):
    resume_file = interrupted(paintings, tmp_path, monkeypatch)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changes = {
        "seed": 7,
        "image_size": 32,
        "architecture": "three_conv",
        "batch_size": 4,
        "learning_rate": 0.001,
        "epochs": 5,
        "imbalance": "none",
        "validation": 0.4,
        "smote_target": 9,
    }
    for name, value in changes.items():
        done = jobs.call("trainpart1", *flags(paintings, tmp_path, *CASES["weighted"][1:], f"--{name}", value))
        assert done.status == 2 and jobs.one_line(done.err), done
        assert f"{name} was " in done.err and f" and is {console.shown(value)}" in done.err and "--fresh" in done.err
        assert str(resume_file) in done.err
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_other_paintings_are_refused(paintings, tmp_path, monkeypatch):
    out, other = tmp_path / "out", tmp_path / "other"
    interrupted(paintings, out, monkeypatch)

    def refused() -> bool:
        done = jobs.call("trainpart1", *flags(other, out, *CASES["weighted"][1:]))
        return done.status == 2 and jobs.one_line(done.err) and "paintings was" in done.err

    def changed(change) -> bool:
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(paintings, other)
        change()
        return refused()

    assert changed(lambda: (other / "Cubism" / "0.png").unlink())
    assert changed(lambda: Image.new("RGB", (9, 9)).save(other / "Cubism" / "0.png"))
    assert changed(lambda: (other / "Cubism").rename(other / "Cubist"))
    assert changed(lambda: (other / "Cubism" / "7.png").rename(other / "Ukiyo_e" / "-.png"))
    shutil.rmtree(other)
    shutil.copytree(paintings, other)  # the same paintings elsewhere are the same run
    assert "going on after epoch 1" in jobs.call("trainpart1", *flags(other, out, *CASES["weighted"][1:])).out


def test_the_best_epoch_must_still_be_there(paintings, tmp_path, monkeypatch):
    interrupted(paintings, tmp_path, monkeypatch)
    (tmp_path / "wikiart.pth").unlink()
    done = jobs.call("trainpart1", *flags(paintings, tmp_path))
    assert done.status == 2 and jobs.one_line(done.err) and "--fresh" in done.err


def test_the_best_epoch_of_before_counts(paintings, tmp_path, monkeypatch):
    """An epoch of before the interruption that no later one reaches stays in the checkpoint."""
    resume_file = interrupted(paintings, tmp_path, monkeypatch)
    state = jobs.load(resume_file)
    state["history"][0]["macro_f1"] = 1.5
    torch.save(state, resume_file)
    done = jobs.call("trainpart1", *flags(paintings, tmp_path, *CASES["weighted"][1:]))
    assert done.status == 0 and "-> wikiart.pth" not in done.out
    assert jobs.load(tmp_path / "wikiart.pth")["epoch"] == 1


def test_ctrl_c_says_what_is_saved(paintings, uninterrupted, tmp_path, monkeypatch):
    moments = [("train_step", 2, 0), ("write_tensors", 2, 0), ("say_epoch", 1, 1), ("share_buffers", 2, 1)]
    for number, (name, count, saved) in enumerate(moments):
        out = tmp_path / str(number)
        with monkeypatch.context() as patch:
            raise_at(patch, name, count, KeyboardInterrupt())
            done = jobs.call("trainpart1", *flags(paintings, out, *CASES["weighted"][1:]))
        assert done.status == 130 and jobs.one_line(done.err.removeprefix("\n")), done.err
        expected = "epoch 1 is saved; the same command goes on from there" if saved else "no epoch is saved yet"
        assert expected in done.err and saved_epochs(out) == saved
        resumed = jobs.call("trainpart1", *flags(paintings, out, *CASES["weighted"][1:]))
        check_ending(resumed, out, saved, uninterrupted("weighted"))


def test_ctrl_c_in_a_real_process(paintings, tmp_path):
    command = flags(paintings, tmp_path, "--epochs", 1000)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, jobs.ROOT / "trainpart1.py", *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert any(line.startswith("epoch 2/1000") for line in process.stdout)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.fullmatch(
        r"\nStopped in epoch \d+ of 1000: epoch \d+ is saved; the same command goes on from there.\n", err
    )
    assert not [child for child in children if child.is_running()]
    assert saved_epochs(tmp_path) == int(re.search(r"epoch (\d+) is saved", err)[1])
    assert not list(tmp_path.glob(".*"))


def kill_when(running: jobs.Running, phase: str, out: Path, cache: Path, chance: random.Random) -> None:
    """Kill a run in a phase: while it decodes, trains or writes a file, or at any time."""
    if phase == "decode":
        running.wait_for(lambda: list(cache.glob(".*.uint8.part")) or list(cache.glob("*.uint8")))
        time.sleep(chance.uniform(0, 0.05))
    elif phase == "writing":
        seen = chance.choice(["", "epoch 1/", "epoch 2/"])
        running.wait_for(lambda: seen in running.text("out") and list(out.glob(".*.part")))
        time.sleep(chance.uniform(0, 0.01))
    elif phase == "training":
        seen = f"epoch {chance.randint(1, EPOCHS - 1)}/"
        running.wait_for(lambda: seen in running.text("out"))
        time.sleep(chance.uniform(0, 0.2))
    else:
        time.sleep(chance.uniform(0.05, 1.5))
    running.signal(signal.SIGKILL)


def killed_and_resumed(tmp_path: Path, kills: int, seed: int, processes: int = 1) -> dict[str, int]:
    """Kill `kills` runs at random moments, resume each, compare; returns how many had so many epochs saved."""
    chance = random.Random(seed)
    paintings = jobs.paint(tmp_path / "train", {"Baroque": 60, "Cubism": 40, "Ukiyo_e": 20}, side=200)

    def begin(name: str) -> jobs.Running:
        command = flags(paintings, tmp_path / name, "--cachedir", tmp_path / name / "cache", "--validation", 0)
        return jobs.start(tmp_path / f"{name}.log", "trainpart1", *command, processes=processes)

    expected = ending(begin("whole").wait(120), tmp_path / "whole")
    seen = {}
    for number in range(kills):
        phase, out = ["decode", "training", "writing", "any"][number % 4], tmp_path / str(number)
        running = begin(str(number))
        kill_when(running, phase, out, out / "cache", chance)
        status = running.wait().status
        assert status in (0, -signal.SIGKILL), running.text("err")
        before = saved_epochs(out)
        for path in out.glob("*.pth"):
            jobs.load(path)  # whole, whenever the kill came
        done = begin(str(number)).wait(120)
        shutil.rmtree(out / "cache")
        check_ending(done, out, before, expected)
        key = f"{phase}, {before} epochs saved" if status else f"{phase}, too late"
        seen[key] = seen.get(key, 0) + 1
        shutil.rmtree(out)
    print(seen)
    return seen


def test_kills_at_random_moments(tmp_path):
    seen = killed_and_resumed(tmp_path, 4, seed=1)
    assert any(not key.endswith("too late") for key in seen)


@pytest.mark.slow
def test_many_kills_at_random_moments(tmp_path):
    seen = killed_and_resumed(tmp_path, 32, seed=int(time.time()))
    assert sum(count for key, count in seen.items() if not key.endswith("too late")) >= 20
    assert {key.split(",")[0] for key in seen if "too late" not in key} >= {"decode", "training", "writing"}


@pytest.mark.slow
def test_many_kills_of_two_processes(tmp_path):
    killed_and_resumed(tmp_path, 8, seed=int(time.time()), processes=2)


def kill_in_second_epoch() -> None:
    real, calls = training.share_buffers, iter([False, True])

    def planted(model: torch.nn.Module) -> None:
        if next(calls):
            os.kill(os.getpid(), signal.SIGKILL)
        real(model)

    training.share_buffers = planted


@pytest.mark.parametrize("case", ["none", pytest.param("auto", marks=pytest.mark.slow)])
def test_two_processes_resume(case, paintings, tmp_path):
    script, *more = CASES[case]
    for name in "whole", "parts":
        if name == "parts":
            command = flags(paintings, tmp_path / name, *more)
            killed = jobs.start(tmp_path / "killed", script, *command, processes=2, plant=kill_in_second_epoch).wait()
            assert killed.status == -signal.SIGKILL and saved_epochs(tmp_path / name) == 1
        done = jobs.start(tmp_path / name, script, *flags(paintings, tmp_path / name, *more), processes=2).wait()
        if name == "whole":
            expected = ending(done, tmp_path / name)
    check_ending(done, tmp_path / "parts", 1, expected)
