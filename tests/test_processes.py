"""Several processes share the work: what they say, write and measure, and how they end when one of them fails."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import jobs
import psutil
import pytest
import torch

import wikiart
from support import balance, batches, checkpoints, console, processes, training, workers


@pytest.fixture(scope="module")
def paintings(tmp_path_factory) -> Path:
    return jobs.paint(tmp_path_factory.mktemp("paintings") / "train")


def flags(paintings: Path, out: Path, *more: object) -> list[object]:
    folders = ["--trainingdir", paintings, "--outputdir", out, "--cachedir", out / "cache"]
    size = ["--image_size", 16, "--batch_size", 8, "--epochs", 2, "--validation", 0.4]
    return [*folders, *size, "--device", "cpu", *more]


def torchrun(script: str, command: list[object], timeout: float = 90) -> subprocess.CompletedProcess:
    """Run a script as the README says, in two processes; nothing of it outlives the call."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    launcher += [jobs.ROOT / f"{script}.py", *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [str(word) for word in launcher], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    started = []
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        started = psutil.Process(process.pid).children(recursive=True)
        raise
    finally:
        for child in [process, *started]:
            child.kill()
    return subprocess.CompletedProcess(launcher, process.returncode, out, err)


@pytest.mark.parametrize("script", ["trainpart1", pytest.param("trainauto", marks=pytest.mark.slow)])
def test_torchrun_trains(script, paintings, tmp_path):
    done = torchrun(script, flags(paintings, tmp_path))
    assert done.returncode == 0, done.stderr
    assert not re.search("Warning|Error|Traceback", done.stderr), done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("2 processes share the work, on cpu")
    assert [line.split("  ")[0] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert sum(line.startswith("decoded") for line in lines) <= 1
    names = sorted(path.suffix for path in tmp_path.iterdir() if path.is_file())
    assert names == [".png", ".pth"]
    if script == "trainauto":  # its linear part is one process's and has reached the other
        model = checkpoints.read(tmp_path / "autoencoder.pth", 2)["model"]
        lengths = model["components"].norm(dim=1)
        assert torch.allclose(lengths[lengths > 0], torch.ones(()), atol=1e-4) and (lengths > 0).sum() > 1


def test_part_2_in_two_processes_ends_where_one_does(paintings, tmp_path):
    """What is measured is summed over both; the crops that each draws differ."""
    rows = {}
    for number in 1, 2:
        command = flags(paintings, tmp_path / str(number), "--latent_dim", 4, "--epochs", 1, "--learning_rate", 1e-5)
        done = jobs.start(tmp_path / "log", "trainauto", *command, processes=number).wait()
        assert done.status == 0, done.err
        (rows[number],) = jobs.load(tmp_path / str(number) / "autoencoder.pth")["history"]
    for name, tolerance in ("training_mse", 0.15), ("validation_mse", 0.03):
        assert rows[2][name] == pytest.approx(rows[1][name], rel=tolerance)


@pytest.mark.parametrize("script, train", [("testtrainpart1", "trainpart1"), ("testtrainauto", "trainauto")])
def test_measuring_is_for_one_process(script, train, paintings, tmp_path):
    assert jobs.call(train, *flags(paintings, tmp_path, "--epochs", 1)).status == 0
    command = ["--outputdir", tmp_path, "--testingdir", paintings, "--device", "cpu"]
    done = jobs.start(tmp_path / "log", script, *command, processes=2).wait()
    assert done.status == 2 and set(done.err.splitlines()) == {
        "this script works in one process; start it without torchrun"
    }


def test_bad_batch_and_bad_folder(paintings, tmp_path):
    """An error that each process sees ends them all, with its line and nothing else from us."""
    for flag, value in [("--batch_size", 9), ("--batch_size", 2), ("--trainingdir", tmp_path / "nothing")]:
        done = jobs.start(tmp_path / "log", "trainpart1", *flags(paintings, tmp_path, flag, value), processes=2).wait()
        assert done.status == 2
        lines = set(done.err.splitlines())
        assert len(lines) == 1 and lines.pop().startswith(f"{flag}: ")


class Saw:
    """Notes in a file what a process has decoded, and which order and validation figures it had."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> None:
        notes = {"decoded": 0, "orders": [], "shares": [], "rows": []}
        parallel, fetch, say = workers.parallel_map, batches.Paintings._fetch, training.say_epoch
        order, target = balance.index_order, f"{self.path}.{processes.rank()}"

        def save() -> None:
            Path(target).write_text(json.dumps(notes))

        def _parallel(function, items):
            notes["decoded"] += len(items)
            return parallel(function, items)

        def index_order(*arguments):
            notes["orders"].append(order(*arguments).tolist())
            save()
            return order(*arguments)

        def _fetch(self, parts):
            notes["shares"].append([part.tolist() for part in parts])
            save()
            return fetch(self, parts)

        def _say_epoch(row, *rest):
            notes["rows"].append(row)
            save()
            say(row, *rest)

        workers.parallel_map, balance.index_order = _parallel, index_order
        batches.Paintings._fetch, training.say_epoch = _fetch, _say_epoch


def test_shares_make_up_the_whole(paintings, tmp_path):
    """One process and two: the same index order, each batch and the validation share divided, decoded once."""
    notes = {}
    for number in 1, 2:
        out = tmp_path / str(number)
        command = flags(paintings, out, "--imbalance", "smote", "--smote_target", 11)
        saw = Saw(tmp_path / f"n{number}")
        running = jobs.start(tmp_path / "log", "trainpart1", *command, processes=number, plant=saw)
        assert running.wait().status == 0
        notes[number] = [json.loads((tmp_path / f"n{number}.{rank}").read_text()) for rank in range(number)]
    (one,), (first, second) = notes[1], notes[2]
    assert one["orders"] == first["orders"] == second["orders"] and one["orders"][0] != one["orders"][1]
    assert len(one["shares"]) == 4  # training and validation of two epochs
    for whole, a, b in zip(one["shares"], first["shares"], second["shares"], strict=True):
        assert len(whole) == len(a) == len(b) > 0
        for batch, left, right in zip(whole, a, b, strict=True):
            assert (batch[::2], batch[1::2]) == (left, right)
    files = sum(jobs.COUNTS.values())
    assert one["decoded"] == files and sorted([first["decoded"], second["decoded"]]) == [0, files]
    assert one["rows"][0].keys() == first["rows"][0].keys() == second["rows"][0].keys()
    assert first["rows"] == second["rows"]


def test_validation_is_that_of_the_whole_share(paintings, tmp_path):
    """What two processes report is what one process measures with the same weights on the whole validation share."""
    assert jobs.start(tmp_path / "log", "trainpart1", *flags(paintings, tmp_path), processes=2).wait().status == 0
    checkpoint = checkpoints.read(tmp_path / "wikiart.pth", 1)
    dataset = wikiart.WikiArtDataset(paintings, 16, cachedir=tmp_path / "cache")
    _, held_out = balance.split(dataset.labels, 0.4, checkpoint["settings"]["seed"])
    assert len(held_out) % 2 == 0 or len(held_out) > 8
    model = wikiart.load_model(checkpoint, tmp_path, torch.device("cpu"))
    everything = batches.Paintings(dataset, torch.device("cpu"))
    ((images, labels),) = everything.batches(held_out, len(held_out))
    logits = wikiart.classify(model, images, checkpoint["mean"], checkpoint["std"])
    row = checkpoint["history"][checkpoint["epoch"] - 1]
    right = (logits.argmax(1) == labels).double().mean().item()
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert math.isclose(row["accuracy"], right, abs_tol=1e-6)
    assert math.isclose(row["validation_loss"], loss, rel_tol=0.02)  # sums in another order, bfloat16 in places


def fail_in_training(rank: int, how: str) -> None:
    """Plant an end into the fifth step of one process."""
    real, calls = training.train_step, iter(range(1, 1000))

    def planted(*arguments):
        if next(calls) == 5 and processes.rank() == rank:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise console.UserError("a planted problem") if how == "error" else ValueError("a planted bug")
        return real(*arguments)

    training.train_step = planted


@pytest.mark.parametrize(("rank", "how"), [(0, "error"), (1, "bug"), (1, "kill")])
def test_one_that_fails_ends_them_all(rank, how, paintings, tmp_path):
    """No process waits for one that is gone, and the only traceback, if any, is that of the one that failed."""
    command = flags(paintings, tmp_path / "out", "--epochs", 50)
    plant = partial(fail_in_training, rank, how)
    running = jobs.start(tmp_path / "log", "trainpart1", *command, processes=2, plant=plant)
    done = running.wait(60)
    statuses = [process.exitcode for process in running.processes]
    assert statuses[rank] == {"error": 2, "bug": 1, "kill": -signal.SIGKILL}[how] and statuses[1 - rank] == 1
    other = (tmp_path / f"log.{1 - rank}.err").read_text()
    assert jobs.one_line(other) and other.startswith(f"process {1 - rank}: another process has ended or cannot be")
    assert re.search(r"see its own error \(.+\)$", other), other  # with what torch says of it
    own = (tmp_path / f"log.{rank}.err").read_text()
    assert {"error": own == "a planted problem\n", "bug": "a planted bug" in own, "kill": own == ""}[how], own
    assert not list((tmp_path / "out").glob(".*"))
    assert done.status != 0


@pytest.mark.slow
def test_torchrun_ends_with_the_error(paintings, tmp_path):
    done = torchrun("trainpart1", flags(paintings, tmp_path, "--trainingdir", tmp_path / "nothing"))
    assert done.returncode != 0
    assert re.search(r'^--trainingdir: folder ".*nothing" cannot be read', done.stderr, re.MULTILINE)
