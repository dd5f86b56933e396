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
import wikiart
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
    rows = csv_rows(out)
    rows = [row for row in rows if row["kind"] == "epoch"]
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


@pytest.fixture(scope="module")
def uninterrupted(paintings, tmp_path_factory):
    """uninterrupted(case): the ending of a case's run that nothing disturbed, made once."""
    made = {}

    def uninterrupted(case: str) -> tuple[dict[str, object], list[str]]:
        if case not in made:
            out = tmp_path_factory.mktemp(case)
            made[case] = ending(jobs.call(CASES[case][0], *flags(paintings, out, *CASES[case][1:])), out)
            assert len(made[case][1]) == EPOCHS + (case == "weighted")  # three_conv and the autoencoder fit no head
        return made[case]

    return uninterrupted


PIECES = {
    "step": Epoch, "average_statistics": processes, "write_tensors": files, "write_csv": history,
    "clock": history,
}  # fmt: skip


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
def test_resumed_equals_uninterrupted(case, paintings, uninterrupted, tmp_path, monkeypatch):
    script, *more = CASES[case]
    moments = {"weighted": MOMENTS, "smote": MOMENTS[2::2], "auto": MOMENTS[::2]}
    for number, (name, count, before) in enumerate(moments[case]):
        command = flags(paintings, tmp_path / str(number), *more)
        count += 2 * (script == "trainauto" and name == "write_tensors")  # it saves before the first epoch, too
        done = stop_at(monkeypatch, name, count, partial(jobs.call, script, *command))
        assert saved_epochs(tmp_path / str(number)) == before
        start = "what was fitted before it is saved" if script == "trainauto" else "no epoch is saved."
        assert (f"epoch {before} is saved; the same command goes" if before else start) in done.err
        check_ending(jobs.call(script, *command), tmp_path / str(number), before, uninterrupted(case))


# After the end


@pytest.mark.parametrize("case", ["weighted", "auto"])
def test_a_finished_run_says_so_and_changes_nothing(case, paintings, tmp_path, monkeypatch):
    script, *more = CASES[case]
    ending(jobs.call(script, *flags(paintings, tmp_path, *more)), tmp_path)
    name = {"weighted": "wikiart.pth", "auto": "autoencoder.pth"}[case]
    before = jobs.contents(tmp_path)
    for epochs in EPOCHS, EPOCHS - 1:
        with monkeypatch.context() as patch:
            patch.setattr(wikiart.Normalize, "fit", None)  # nothing is prepared that is not needed
            patch.setattr(batches, "Batches", None)
            done = jobs.call(script, *flags(paintings, tmp_path, *more, "--epochs", epochs))
        assert (done.status, done.err) == (0, "") and "epoch 1/" not in done.out
        assert f"finished: {EPOCHS} epochs trained; {name} holds " in done.out
        assert "nothing is changed; a larger --epochs trains further, --fresh starts a new run" in done.out
        assert jobs.contents(tmp_path) == before


@pytest.mark.parametrize("case", ["weighted", "auto"])
def test_a_run_killed_before_its_figure_draws_it_afterwards(case, paintings, tmp_path, monkeypatch):
    """Also where there is a figure of fewer epochs, whatever the files' times are."""
    script, *more = CASES[case]
    drawn = []

    monkeypatch.setattr(history, "draw", lambda rows, *_: drawn.append(rows[-1]["epoch"]))
    for epochs, moment, count in (1, "clock", 1), (2, "clock", 1), (3, "write_csv", 2):  # 2: not the row of 3
        command = flags(paintings, tmp_path, *more, "--epochs", epochs)
        stop_at(monkeypatch, moment, count, partial(jobs.call, script, *command))
        assert drawn == list(range(1, epochs))
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        for _ in range(2):
            done = jobs.call(script, *command)
            assert (done.status, drawn[-1], len(drawn)) == (0, epochs, epochs), done
            assert f"finished: {console.count(epochs, 'epoch')} trained" in done.out


@pytest.fixture
def scripted(monkeypatch):
    """scripted(*values): validation finds these, epoch by epoch, whichever figure it is that chooses the best."""

    def scripted(*values: float) -> None:
        found = iter(values)

        def validate(*_: object) -> dict[str, float]:
            value = next(found)
            return {"validation_loss": 1 - value, "validation_accuracy": value, "validation_macro_f1": value}

        monkeypatch.setattr(trainpart1, "validate", validate)

    return scripted


@pytest.mark.parametrize("values, kept", [((0.5, 0.4, 0.2, 0.4, 0.3), (2, 2)), ((0.5, 0.4, 0.7, 0.6, 0.6), (4, 3))])
def test_more_epochs_train_further_from_the_trained_head_and_keep_the_best(
    values, kept, paintings, tmp_path, scripted, monkeypatch
):
    scripted(0.3, *values)  # of epoch 1, 2, the head fitted after it, 3, 4, the head fitted after it
    resume_file, heads, step = tmp_path / "wikiart.resume.pth", [], Epoch.step
    assert part1(paintings, tmp_path, "--epochs", 2).status == 0
    first, before = jobs.load(tmp_path / "wikiart.pth"), jobs.load(resume_file)
    note = lambda epoch, loss: heads.append(epoch.network.head.linear.weight.clone()) or step(epoch, loss)  # noqa: E731
    monkeypatch.setattr(Epoch, "step", note)
    done = part1(paintings, tmp_path, "--epochs", 4)
    assert torch.equal(heads[0], before["model"]["head.linear.weight"])
    assert not torch.equal(heads[0], before["model"]["fitted.linear.weight"][:, : heads[0].shape[1]])
    assert done.status == 0 and "going on after epoch 2 of 4" in done.out
    assert "2 more epochs after the last one planned: the learning rate rises again and falls to zero" in done.out
    assert re.findall(r"^epoch (\d)/4", done.out, re.MULTILINE) == ["3", "4"]
    rates = [float(row["learning_rate"]) for row in csv_rows(tmp_path) if row["kind"] == "epoch"]
    assert len(rates) == 4 and 0 < rates[1] == rates[3] < rates[0] == rates[2]
    checkpoint, rows = jobs.load(tmp_path / "wikiart.pth"), jobs.load(resume_file)["progress"]["rows"]
    assert [row["epoch"] for row in rows] == [1, 2, 2, 3, 4, 4]
    assert (checkpoint["history"], checkpoint["epoch"]) == (rows[: kept[0]], kept[1])
    assert kept[1] > 2 or jobs.same(checkpoint, first)


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_run_may_end_before_the_last_epoch_planned(case, more, paintings, tmp_path, monkeypatch):
    """With the next epoch, or at once, after the one that is saved; both fit the head, and can be interrupted."""
    script, *settings = CASES[case]
    fits = case == "weighted"  # three_conv and the autoencoder have no head to fit

    def call(epochs: int) -> jobs.Done:
        return jobs.call(script, *flags(paintings, tmp_path, *settings, "--epochs", epochs))

    stop_at(monkeypatch, "clock", 2, partial(call, 4))
    planned = csv_rows(tmp_path)
    assert refused(call(1), "planned for 4 epochs and has finished 2: epochs is 1, expected 2 or more")
    (saved,) = tmp_path.glob("*.resume.pth")
    before = jobs.load(saved)
    if more or fits:
        stop_at(monkeypatch, "write_tensors", 1, partial(call, 2 + more))
        assert jobs.same(jobs.load(saved), before)
    done = call(2 + more)
    assert "the run ends before epoch 4, which was planned: the learning rate does not fall to zero" in done.out
    checkpoint, said = ending(done, tmp_path)
    rows, state = csv_rows(tmp_path), jobs.load(saved)
    assert len(said) == more + fits and rows[: len(planned)] == planned
    assert float([row for row in rows if row["kind"] == "epoch"][-1]["learning_rate"]) > 1e-4
    changed = {name.split(".")[0] for name, value in state["model"].items() if name not in before["model"]}
    assert changed == ({"fitted"} if fits else set())
    assert more or all(torch.equal(value, state["model"][name]) for name, value in before["model"].items())
    assert checkpoint["epoch"] < 2 + more or jobs.same(checkpoint["model"], state["model"])
    files = jobs.contents(tmp_path)
    assert "finished: " in call(2 + more).out and jobs.contents(tmp_path) == files
    if more or fits:  # else nothing is written, and the run is still one that was planned for 4
        assert state["progress"]["ends"] == [2 + more] and "finished: " in call(1).out
        assert "the learning rate rises again" in call(4).out
        assert jobs.load(saved)["progress"]["ends"] == [2 + more, 4]


def test_a_run_stopped_before_its_first_epoch_can_be_planned_anew(paintings, tmp_path, monkeypatch):
    script, *more = CASES["auto"]
    whole, stopped = (flags(paintings, tmp_path / name, *more) for name in ("whole", "stopped"))
    stop_at(monkeypatch, "step", 1, partial(jobs.call, script, *stopped))
    assert jobs.call(script, *whole, "--epochs", 2).status == 0
    done = jobs.call(script, *stopped, "--epochs", 2)
    assert done.status == 0 and "planned" not in done.out
    one, other = (jobs.load(tmp_path / name / "autoencoder.pth") for name in ("whole", "stopped"))
    assert jobs.same(one, other)


def test_two_modelfiles_in_one_folder_share_no_file(paintings, tmp_path):
    for name, stem in ("wikiart.pth", ""), ("other.pth", "_other"), (tmp_path / "sub" / "wikiart.pth", ""):
        before, old = jobs.contents(tmp_path), {path for path in tmp_path.rglob("*") if path.is_file()}
        done = part1(paintings, tmp_path, "--epochs", 1, "--modelfile", name, "--seed", len(old))
        assert (done.status, done.err) == (0, "")
        assert {name: jobs.contents(tmp_path)[name] for name in before} == before
        new = {path for path in tmp_path.rglob("[!.]*.*") if path.is_file()} - old
        (folder,), names = {path.parent for path in new}, {path.name for path in new}
        model = Path(name).stem
        written = {f"{model}.pth", f"{model}.resume.pth", f"history_part1{stem}.csv", f"training_part1{stem}.png"}
        assert folder == (tmp_path / name).parent and names == written


def test_killed_in_an_added_epoch(paintings, tmp_path, monkeypatch):
    for name in "whole", "parts":
        assert part1(paintings, tmp_path / name, "--epochs", 2).status == 0
    whole = ending(part1(paintings, tmp_path / "whole", "--epochs", 4), tmp_path / "whole")
    stop_at(monkeypatch, "average_statistics", 2, partial(part1, paintings, tmp_path / "parts", "--epochs", 4))
    parts = ending(part1(paintings, tmp_path / "parts", "--epochs", 4), tmp_path / "parts")
    assert jobs.same(parts[0], whole[0]) and parts[1] == whole[1][1:]
    states = [jobs.load(tmp_path / name / "wikiart.resume.pth") for name in ("whole", "parts")]
    assert jobs.same(*(spoilt(state, "progress", "times", value=None) for state in states))


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


def test_fresh_killed_between_its_two_files(paintings, uninterrupted, tmp_path, monkeypatch):
    """The old run's checkpoint is then beside the new run's resume file: it is made anew from that."""
    assert part1(paintings, tmp_path, "--seed", 7).status == 0
    stop_at(monkeypatch, "write_tensors", 2, partial(part1, paintings, tmp_path, "--fresh"))
    assert jobs.load(tmp_path / "wikiart.pth")["settings"]["seed"] == 7
    check_ending(part1(paintings, tmp_path), tmp_path, 1, uninterrupted("weighted"))


# Files that do not belong together


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
    shutil.copytree(paintings, tmp_path / "renamed")
    (tmp_path / "renamed" / "Cubism").rename(tmp_path / "renamed" / "Cubist")
    assert refused(part1(tmp_path / "renamed", out), "belongs to another run: paintings was ")
    assert before == jobs.contents(out)
    shutil.copytree(paintings, tmp_path / "moved")  # the same paintings elsewhere are the same run
    assert "going on after epoch 2" in part1(tmp_path / "moved", out).out


def spoilt(good: dict, *path: str, value: object) -> dict:
    """A state with one value, that at the end of a path of keys, replaced."""
    name, *rest = path
    return good | {name: spoilt(good[name], *rest, value=value) if rest else value}


def reversed_moments(good: dict) -> dict[int, object]:
    return dict(enumerate(reversed(good["optimizer"]["moments"].values())))


DAMAGE = {
    "text": (lambda good: "text", "is not a resume file"),
    "version 1": (lambda good: {"run": good["run"], "model": good["model"]},
                  f"written by another version of this project (1, expected {checkpoints.VERSION})"),
    "no model": (lambda good: spoilt(good, "model", value={}), "is damaged"),
    "rows": (lambda good: spoilt(good, "progress", "rows", value=[1, 2]), "is damaged"),
    "times": (lambda good: spoilt(good, "progress", "times", value=[1, 2]), "is damaged"),
    "texts": (lambda good: spoilt(good, "progress", "ends", value=["3"]), "is damaged"),
    "more": (lambda good: spoilt(good, "progress", "more", value=1), "is damaged"),
    "moments": (lambda good: spoilt(good, "optimizer", "moments", value={0: "text"}), "is damaged: "),
    "shapes of moments": (lambda good: spoilt(good, "optimizer", "moments", value=reversed_moments(good)),
                          "is damaged: "),
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
    (tmp_path / "wikiart.pth").unlink()
    assert refused(part1(paintings, tmp_path), "wikiart.pth: is not epoch 1 of the run, its best")


def test_memory_and_bugs_are_no_damage(paintings, tmp_path, monkeypatch):
    interrupted(paintings, tmp_path, monkeypatch)
    error = torch.OutOfMemoryError("too large")
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda *_: (_ for _ in ()).throw(error))
    assert jobs.refused(part1(paintings, tmp_path), "too large; a smaller batch_size")
    error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        part1(paintings, tmp_path)


# Kills


@pytest.mark.parametrize(
    "kills, processes", [(3, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(24, 1), (6, 2)])]
)
def test_kills_at_random_moments(kills, processes, tmp_path):
    """Kill runs while they decode, train and write, resume each and compare."""
    chance = random.Random(kills)
    paintings = jobs.paint(tmp_path / "train", {"Baroque": 30, "Cubism": 20, "Ukiyo_e": 10}, side=100)

    def begin(name: str) -> jobs.Running:
        command = flags(paintings, tmp_path / name, "--cachedir", tmp_path / name / "cache", "--validation", 0)
        return jobs.start(tmp_path / f"{name}.log", "trainpart1", *command, processes=processes)

    def end(running: jobs.Running, out: Path) -> jobs.Done:
        done = running.wait(300)
        shutil.rmtree(out / "cache")
        return done

    expected, late = ending(end(begin("whole"), tmp_path / "whole"), tmp_path / "whole"), 0
    for number in range(kills):
        out, running = tmp_path / str(number), begin(str(number))
        seen = f"epoch {chance.randint(1, EPOCHS - 1)}/" if number % 3 else ""
        running.wait_for(lambda seen=seen: seen in running.text("out"))  # noqa: B023
        if number % 3 == 2:  # while a file is written
            running.wait_for(lambda out=out: list(out.glob(".*.part")))
        time.sleep(chance.uniform(0, [1, 0.1, 0.01][number % 3]))
        running.signal(signal.SIGKILL)
        status = running.wait(300).status
        assert status in (0, -signal.SIGKILL), running.text("err")
        late += status == 0
        before = saved_epochs(out)
        for path in out.glob("*.pth"):
            jobs.load(path)  # whole, whenever the kill came
        for path in out.glob(".*.part"):
            path.unlink()
        check_ending(end(begin(str(number)), out), out, before, expected) if before < EPOCHS else None
    assert late < kills


def kill_in_second_epoch() -> None:
    real, calls = processes.average_statistics, iter([False, True])

    def planted(model: torch.nn.Module) -> None:
        if next(calls):
            os.kill(os.getpid(), signal.SIGKILL)
        real(model)

    processes.average_statistics = planted


def test_two_processes_resume(paintings, tmp_path):
    start = partial(jobs.start, tmp_path / "log", "trainpart1", processes=2)
    command = {name: flags(paintings, tmp_path / name, *CASES["weighted"][1:]) for name in ("whole", "parts")}
    expected = ending(start(*command["whole"]).wait(300), tmp_path / "whole")
    killed = start(*command["parts"], plant=kill_in_second_epoch).wait(300)
    assert killed.status == -signal.SIGKILL and saved_epochs(tmp_path / "parts") == 1
    check_ending(start(*command["parts"]).wait(300), tmp_path / "parts", 1, expected)
