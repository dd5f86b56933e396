"""Several processes share a training: what they say, write and measure, and how they end when one of them fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import jobs
import pytest
import torch

import wikiart
from support.system import console, processes
from support.training import batches, epochs


def flags(paintings: Path, out: Path, *more: object) -> list[object]:
    return jobs.flags(paintings, out, "--cachedir", out / "cache", "--epochs", 2, "--validation", 0.4, *more)


def test_torchrun_trains(paintings, tmp_path):
    """As users start it, in a shell of one whose matplotlib has a notebook's backend and no writable home."""
    out = tmp_path / "out"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, jobs.ROOT / "trainpart1.py", *flags(paintings, out, "--architecture", "three_conv")]
    (tmp_path / "home").write_text("")
    matplotlib = {"MPLBACKEND": "module://no_such_package.backend_inline", "HOME": str(tmp_path / "home")}
    environment = os.environ | matplotlib | {"OMP_NUM_THREADS": str(jobs.THREADS)}
    for name in "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME":
        environment.pop(name, None)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0 and not re.search("Warning|Error|Traceback", done.stderr), done.stderr
    assert "2 processes on cpu" in done.stdout  # torch 2.8 prints lines of its own before it
    assert re.findall("^epoch ./.", done.stdout, re.MULTILINE) == ["epoch 1/2", "epoch 2/2"]
    assert {"wikiart.pth", "history_part1.csv", "training_part1.png"} <= {path.name for path in out.iterdir()}


WHOLE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    "environment, words",
    [
        ({"RANK": "1"}, 'got RANK="1", no WORLD_SIZE, no LOCAL_RANK, no MASTER_PORT, no MASTER_ADDR'),
        (WHOLE | {"WORLD_SIZE": "0"}, 'got RANK="0", WORLD_SIZE="0", LOCAL_RANK="0"'),
        (WHOLE | {"MASTER_PORT": "99999"}, 'MASTER_PORT="99999"'),
        (WHOLE | {"MASTER_ADDR": ""}, 'MASTER_ADDR=""'),
    ],
)
def test_half_an_environment_is_one_clear_line(environment, words, paintings, tmp_path, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = jobs.call("trainpart1", *flags(paintings, tmp_path))
    assert jobs.refused(done, words, "start with torchrun, or unset these variables") and not os.listdir(tmp_path)


def test_part_2_in_two_processes_ends_where_one_does(paintings, tmp_path):
    """What is measured is summed over both; the flips that each draws differ."""
    rows = {}
    for number in 1, 2:
        command = flags(paintings, tmp_path / str(number), "--latent_dim", 4, "--epochs", 1, "--learning_rate", 1e-5)
        done = jobs.start(tmp_path / "log", "trainauto", *command, processes=number).wait()
        assert done.status == 0, done.err
        start, row = jobs.load(tmp_path / str(number) / "autoencoder.resume.pth")["progress"]["rows"]
        rows[number] = row | {"start": start["validation_mse"]}
    for name, tolerance in ("training_loss", 0.15), ("validation_mse", 0.03), ("start", 1e-3):
        assert rows[2][name] == pytest.approx(rows[1][name], rel=tolerance)


def test_a_head_fitted_and_validated_by_two_processes_is_that_of_one(paintings, tmp_path):
    name, heads, losses = "shufflenet_v2_x0_5", [], []
    torch.save(wikiart.make_classifier(name, 3, 32).trunk.state_dict(), tmp_path / "w.pth")
    for number in 1, 2:
        more = ["--architecture", name, "--pretrained", tmp_path / "w.pth", "--image_size", 32, "--epochs", number - 1]
        command = flags(paintings, tmp_path / str(number), *more, "--learning_rate", 1e-8)
        done = jobs.start(tmp_path / "log", "trainpart1", *command, processes=number).wait()
        assert done.status == 0, done.err
        state = jobs.load(tmp_path / str(number) / "wikiart.resume.pth")
        heads.append(state["model"]["fitted.linear.weight"])
        losses.append(state["progress"]["rows"][0]["validation_loss"])  # of the head that is fitted before training
    assert heads[0].abs().max() > 0 and torch.allclose(*heads, atol=1e-4)  # the second has also learned for an epoch
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.fixture
def machines(paintings, tmp_path):
    """machines(*flags): two processes train, each with an output folder and a file of weights of its own; its end."""
    torch.manual_seed(0)
    weights = wikiart.make_classifier("residual", 3, 16).trunk.state_dict()
    for rank in "01":
        (tmp_path / rank / "out").mkdir(parents=True)
        torch.save(weights, tmp_path / rank / "w.pth")

    def machines(*more: object) -> jobs.Done:
        command = flags(paintings, tmp_path / "{rank}" / "out", "--pretrained", tmp_path / "{rank}" / "w.pth", *more)
        return jobs.start(tmp_path / "log", "trainpart1", *command, processes=2).wait()

    return machines


def test_the_first_machines_disk_decides_and_is_written_to(machines, tmp_path):
    done = machines("--epochs", 1)
    assert (done.status, done.err) == (0, ""), done
    both = [jobs.contents(tmp_path / rank) for rank in "01"]
    assert os.listdir(tmp_path / "1" / "out") == ["cache"]
    done = machines("--epochs", 1)
    assert done.status == 0 and "finished: 1 epoch trained" in done.out
    assert [jobs.contents(tmp_path / rank) for rank in "01"] == both


def test_machines_that_differ_are_one_line(machines, paintings, tmp_path):
    for rank in "01":
        shutil.copytree(paintings, tmp_path / rank / "train")
    (tmp_path / "1" / "train" / "Cubism" / "0.png").unlink()
    torch.save(wikiart.make_classifier("residual", 3, 16).trunk.state_dict(), tmp_path / "1" / "w.pth")
    machines("--epochs", "1{rank}", "--seed", "{rank}", "--trainingdir", tmp_path / "{rank}" / "train")
    line = (tmp_path / "log.1.err").read_text()
    assert jobs.one_line(line) and line.startswith("process 1 on ") and "seed is 0 in the first process and 1" in line
    assert all(f"{name} is " in line for name in ("epochs", "paintings", "pretrained")), line
    (tmp_path / "1" / "w.pth").unlink()
    done = machines()
    assert (tmp_path / "log.1.err").read_text() == f"--pretrained: {tmp_path}/1/w.pth: no such file\n"
    assert (tmp_path / "log.0.err").read_text().splitlines()[-1].startswith("process 0: another process has ended")
    assert done.status and not list((tmp_path / "0" / "out").glob("*.pth"))


def test_an_error_that_all_see_is_their_only_line(paintings, tmp_path):
    assert jobs.call("trainpart1", *flags(paintings, tmp_path, "--epochs", 1)).status == 0
    cases = [("trainpart1", flags(paintings, tmp_path, "--batch_size", 9), "--batch_size: "),
             ("testtrainpart1", ["--outputdir", tmp_path, "--device", "cpu"], "this script works in one")]  # fmt: skip
    for script, command, words in cases:
        done = jobs.start(tmp_path / "log", script, *command, processes=2).wait()
        lines = set(done.err.splitlines())
        assert done.status == 2 and len(lines) == 1 and lines.pop().startswith(words), done


def take_notes(path: Path) -> None:
    """Write into a file which batches a process had."""
    make, means = batches.Batches.batches, []

    def noted(self, *arguments):
        for images, labels in make(self, *arguments):
            means.append(images.double().mean((1, 2, 3)).tolist())
            Path(f"{path}.{processes.rank()}").write_text(json.dumps(means))
            yield images, labels

    batches.Batches.batches = noted


def test_shares_make_up_the_whole(paintings, tmp_path):
    """One process and two: the same order, each batch divided."""
    notes = {}
    for number in 1, 2:
        command = flags(paintings, tmp_path / str(number), "--imbalance", "smote", "--smote_target", 11)
        plant = partial(take_notes, tmp_path / f"n{number}")
        done = jobs.start(tmp_path / "log", "trainpart1", *command, processes=number, plant=plant).wait()
        assert done.status == 0, done.err
        notes[number] = [json.loads((tmp_path / f"n{number}.{rank}").read_text()) for rank in range(number)]
    for rank, share in enumerate(notes[2]):
        expected = [value for whole in notes[1][0] for value in whole[rank::2]]  # a batch of one leaves none for two
        assert expected == pytest.approx([value for part in share for value in part])


def fail_in_training(rank: int, how: str) -> None:
    """Plant an end into the fifth step of one process."""
    real, calls = epochs.Epoch.step, iter(range(1, 1000))

    def step(*arguments):
        if next(calls) == 5 and processes.rank() == rank:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise console.UserError("a planted problem") if how == "error" else ValueError("a planted bug")
        return real(*arguments)

    epochs.Epoch.step = step


@pytest.mark.parametrize(("rank", "how"), [(0, "error"), (1, "bug"), (1, "kill")])
def test_one_that_fails_ends_them_all(rank, how, paintings, tmp_path):
    """No process waits for one that is gone, and the only traceback, if any, is that of the one that failed."""
    command = flags(paintings, tmp_path / "out", "--epochs", 50)
    plant = partial(fail_in_training, rank, how)
    running = jobs.start(tmp_path / "log", "trainpart1", *command, processes=2, plant=plant)
    running.wait()
    statuses = [process.exitcode for process in running.processes]
    assert statuses[rank] == {"error": 2, "bug": 1, "kill": -signal.SIGKILL}[how] and statuses[1 - rank] == 1
    other = (tmp_path / f"log.{1 - rank}.err").read_text()
    assert jobs.one_line(other) and other.startswith(f"process {1 - rank}: another process has ended or cannot be")
    own = (tmp_path / f"log.{rank}.err").read_text()
    assert {"error": own == "a planted problem\n", "bug": "a planted bug" in own, "kill": own == ""}[how], own
