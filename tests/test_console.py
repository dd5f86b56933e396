"""Messages and exit statuses: one line for what the user can fix, whatever the terminal can print."""

import errno
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jobs
import numpy as np
import pytest
import torch

import trainpart1
from support.system import console

STYLE = "Expr\u00e9ssionnisme"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Two styles, one with an accent, and an image that is broken."""
    home = jobs.paint(tmp_path_factory.mktemp("home"), {"Baroque": 4, STYLE: 4})
    (home / STYLE / "broken.png").write_text("")
    return home


def flags(home: Path, out: Path, *more: object) -> list[object]:
    small = ["--batch_size", 4, "--architecture", "three_conv", "--imbalance", "smote", "--smote_target", 5]
    return jobs.flags(home, out, *small, *more)


def test_texts_of_messages():
    assert console.quoted('a\n\x1b[31m\udce9"\u00e9') == '"a\\n\\x1b[31m\\udce9"\u00e9"'
    assert console.shown({"a": [1, None]}) == '{"a": [1, null]}' and len(console.shown("x" * 500)) == 80
    assert console.shown(torch.ones(2)) == "Tensor"
    assert console.did_you_mean("sed", ["seed", "epochs"]) == '; did you mean "seed"?'
    many = console.did_you_mean("zzz", list("abcdefgh") * 500)
    assert many.startswith("; known: a; ") and many.endswith("; a; b; c; d; e; f and 3,970 more") and len(many) < 200
    assert console.reason(ValueError(" a \n b ")) == "a b" and console.reason(ValueError()) == "ValueError"


def raising(error: BaseException) -> None:
    raise error


GPU_MEMORY = "CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a capacity of 8 GiB."


@pytest.mark.parametrize(
    "act, line",
    [
        (partial(raising, console.DataError("no folder")), "no folder"),
        (partial(torch.empty, 2**50), "can't allocate memory: you tried to allocate 4503599627370496 bytes."),
        (partial(np.empty, 2**50), "Unable to allocate 8.00 PiB for an array"),
        (partial(raising, torch.OutOfMemoryError(GPU_MEMORY)), f"{GPU_MEMORY.split('. GPU')[0]}; a smaller batch_size"),
        (partial(raising, MemoryError()), "out of memory; a smaller batch_size"),
    ],
)
def test_what_a_user_can_fix_is_one_line(act, line, monkeypatch):
    monkeypatch.setattr(trainpart1.settings, "read", lambda *_: act())
    assert jobs.refused(jobs.call("trainpart1"), line)


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("a bug"), OSError(errno.EIO, "a bug")])
def test_what_is_unexpected_is_a_traceback(error, monkeypatch):
    monkeypatch.setattr(trainpart1.settings, "read", lambda *_: raising(error))
    with pytest.raises(type(error)):
        jobs.call("trainpart1")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_training_with_a_line_on_what_is_saved(number, status, home, tmp_path):
    running = jobs.start(tmp_path / "log", "trainpart1", *flags(home, tmp_path / "out", "--epochs", 100_000))
    running.wait_for(lambda: "epoch 2/" in running.text("out"))
    running.signal(number)
    done = running.wait()
    saved = jobs.load(tmp_path / "out" / "wikiart.resume.pth")["progress"]["rows"][-1]["epoch"]
    assert done.status == status and "Traceback" not in done.err and not list((tmp_path / "out").glob("*.part"))
    assert done.err.endswith(f"of 100000: epoch {saved} is saved; the same command goes on from there.\n")


def test_a_hangup_that_is_ignored_ends_nothing():
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    console.script(lambda _: os.kill(os.getpid(), signal.SIGHUP))([])
    assert signal.signal(signal.SIGHUP, before) is signal.SIG_IGN


@pytest.mark.parametrize("script", [*jobs.SCRIPTS, "data/sample/prepare", "data/wikiart/prepare"])
def test_ctrl_c_while_libraries_are_imported_is_no_traceback(script, tmp_path):
    (tmp_path / "numpy.py").write_text("import time; print('imported', flush=True); time.sleep(60)")
    (tmp_path / "torch.py").write_text("import numpy")
    process = subprocess.Popen(
        [sys.executable, jobs.ROOT / f"{script}.py"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stdout.readline() == b"imported\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == (b"", b"") and process.returncode == -signal.SIGINT


def test_the_command_line_of_a_notebook_is_none_of_a_scripts_flags():
    def main(argv):
        seen.append(argv)

    seen = []
    console.script(main)()
    main.__module__ = "__main__"
    console.script(main)()
    assert seen == [[], None]  # None: argparse reads sys.argv


def ascii_only() -> None:
    """What PYTHONIOENCODING=ascii makes."""
    for stream in sys.stdout, sys.stderr:
        stream.reconfigure(encoding="ascii", errors="strict")


def closed_error() -> None:
    os.close(2)
    sys.stderr = None


def no_reader(name: str) -> None:
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    setattr(sys, name, os.fdopen(writer, "w", 1))


def no_terminal() -> None:
    """A terminal whose window has been closed: writing gives EIO."""
    master, terminal = os.openpty()
    os.close(master)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(terminal), "w", 1) for _ in range(2))


@pytest.mark.parametrize(
    "plant, status",
    [(ascii_only, 0), (closed_error, 0), (partial(no_reader, "stderr"), 0), (no_terminal, 0),
     (partial(no_reader, "stdout"), 1)],  # as after `| head`
)  # fmt: skip
def test_how_a_run_ends_whose_terminal_prints_little(plant, status, home, tmp_path):
    cache = ["--cachedir", tmp_path / "cache"]
    done = jobs.start(tmp_path / "log", "trainpart1", *flags(home, tmp_path, *cache), plant=plant).wait()
    assert done.status == status and "Traceback" not in done.err, done
    assert (tmp_path / "training_part1.png").exists() == (status == 0)
    if plant is ascii_only:
        assert "Expr\\xe9ssionnisme 5" in done.out and 'Expr\\xe9ssionnisme/broken.png" is left out' in done.err


def test_a_log_that_cannot_be_written_ends_a_run(monkeypatch):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=partial(jobs.fail, errno.ENOSPC)))
    with pytest.raises(console.UserError, match="standard output cannot be written: No space left on device"):
        console.say("a line")
