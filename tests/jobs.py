"""What tests of whole runs share: tiny paintings, and the scripts run in this process or in processes of their own.

`start` forks from a server that has imported torch once, so that a run begins in milliseconds instead of seconds.
"""

import contextlib
import importlib
import io
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import wikiart
from support.system import devices, plotting, settings

ROOT = Path(__file__).resolve().parents[1]
COUNTS = {"Baroque": 13, "Cubism": 8, "Ukiyo_e": 5}
THREADS = int(os.environ.get("TEST_THREADS", 1))
SCRIPTS = ["trainpart1", "testtrainpart1", "trainauto", "testtrainauto"]


def paint(
    folder: str | os.PathLike, counts: dict[str, int] = COUNTS, seed: int = 0, side: object = 24, name: str = "{}.png"
) -> Path:
    """A folder of noise paintings, each style with a brightness of its own; side: pixels, or height and width."""
    random = np.random.default_rng(seed)
    for number, (style, count) in enumerate(counts.items()):
        (Path(folder) / style).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = random.normal(60 + 130 * number / len(counts), 40, (*np.broadcast_to(side, 2), 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(Path(folder) / style / name.format(i), quality=92)
    return Path(folder)


def flags(paintings: str | os.PathLike, out: str | os.PathLike, *more: object) -> list[object]:
    """Flags of a small run of one epoch on the CPU; of two that are equal the later one counts."""
    folders = ["--trainingdir", paintings, "--outputdir", out, "--cachedir", Path(paintings).parent / "cache"]
    return [*folders, "--device", "cpu", "--image_size", 16, "--batch_size", 8, "--epochs", 1, *more]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(done: "Done", *words: str) -> bool:
    """Whether a run ended with status 2 and one line on standard error that holds the words."""
    return done.status == 2 and one_line(done.err) and all(word in done.err for word in words)


class Done(NamedTuple):
    """How a run ended: its exit status (negative: the signal that killed it), what it printed and its error lines."""

    status: int
    out: str
    err: str


def call(script: str | ModuleType, *flags: object) -> Done:
    """Run the `main` of a script (its name or module) in this process; an exception that is no exit is raised."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            module = importlib.import_module(script) if isinstance(script, str) else script
            module.main(arguments_of(module.__name__, flags))
        except SystemExit as end:
            status = end.code or 0
    return Done(status, out.getvalue(), err.getvalue())


def arguments_of(script: str, flags: Sequence[object]) -> list[str]:
    """The flags as texts; a test script is not given those of training alone (`--name value`), which it refuses."""
    texts, given = [str(flag) for flag in flags], []
    while texts:
        is_refused = script.startswith("test") and texts[0] in {f"--{name}" for name in settings.TRAINING}
        given += [] if is_refused else texts[:1]
        del texts[: 1 + is_refused]
    return given


class Running:
    """One or more processes that run a script together."""

    def __init__(self, processes: list, output: Path) -> None:
        self.processes, self.output = processes, output

    def text(self, name: str) -> str:
        """What has been printed so far: `name` is "out" or "err"."""
        texts = [self.output.with_name(f"{self.output.name}.{rank}.{name}") for rank in range(len(self.processes))]
        return "".join(path.read_text(errors="backslashreplace") for path in texts if path.exists())

    def wait_for(self, happened: Callable[[], object], timeout: float = 60) -> bool:
        """Wait until something has happened (True) or the processes have ended (False)."""
        end = time.monotonic() + timeout
        while not happened():
            if not any(process.is_alive() for process in self.processes):
                return bool(happened())
            assert time.monotonic() < end, f"nothing happened in {timeout} s:\n{self.text('out')}{self.text('err')}"
            time.sleep(0.001)
        return True

    def signal(self, number: int) -> None:
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    def wait(self, timeout: float = 60) -> Done:
        """The first process's end; all are given `timeout` seconds, and the status is the first that is not 0."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        hang = any(process.is_alive() for process in self.processes)
        for process in self.processes:
            process.kill()
            process.join()
        assert not hang, f"still running after {timeout} s:\n{self.text('out')}{self.text('err')}"
        return Done(next((p.exitcode for p in self.processes if p.exitcode), 0), self.text("out"), self.text("err"))


def fork_server() -> multiprocessing.context.ForkServerContext:
    """The context of the one fork server of these tests, which has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "sklearn.neighbors", "matplotlib.figure", "jobs", *SCRIPTS])
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    os.environ.update(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]), OMP_NUM_THREADS=str(THREADS))
    from multiprocessing import forkserver

    forkserver.ensure_running()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    return context


def _child(
    script: str, flags: list[str], environment: dict[str, str], output: str, kind: torch.dtype, plant: Callable | None
) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{environment.get('RANK', 0)}.{name}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    sys.stdout, sys.stderr = (os.fdopen(i, "w", 1, encoding="utf-8", errors="backslashreplace") for i in (1, 2))
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` ignores it
    torch.set_num_threads(THREADS)
    compute_in(kind)
    plotting.write = write_nothing
    narrow()
    devices.SMALLEST_SHARE = 0  # the tests' batches are small on purpose
    if plant:
        plant()
    importlib.import_module(script).main(flags)


def start(output: Path, script: str, *flags: object, processes: int = 1, plant: Callable | None = None) -> Running:
    """Start a script; with several processes, they share the work as under torchrun. `plant` runs in each before it.

    What they print goes into files whose names begin with `output`. A process's number replaces {rank} in flags. They
    have this process's precision on the CPU.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context, started, kind = fork_server(), [], devices.precision(torch.device("cpu"))
    for rank in range(processes):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        own = [text.replace("{rank}", str(rank)) for text in arguments_of(script, flags)]
        arguments = (script, own, environment, str(output), kind, plant)
        started.append(context.Process(target=_child, args=arguments))
        started[-1].start()
    return Running(started, output)


def compute_in(kind: torch.dtype) -> None:
    """Let the CPU's precision be this one."""
    real = devices.precision
    devices.precision = lambda device: kind if device.type == "cpu" else real(device)


def narrow() -> None:
    """Let our networks have few channels: a small run takes a third of the time."""
    wikiart.OWN_TRUNKS = wikiart.OWN_TRUNKS | {"residual": partial(wikiart.Residual, width=4)}
    wikiart.Correction = partial(wikiart.Correction, width=4)


def write_nothing(path: Path, _figure: object) -> None:
    """Write an empty file instead of a figure."""
    path.write_bytes(b"")


def fail(code: int, *_: object, **__: object) -> None:
    """Raise the OSError of an error number: what a patched function does."""
    raise OSError(code, os.strerror(code))


def one_line(err: str) -> bool:
    """Whether an error is exactly one line that can be printed."""
    return err.endswith("\n") and err.count("\n") == 1 and err[:-1].isprintable() and err != "\n"


def load(path: str | os.PathLike) -> dict[str, object]:
    """A checkpoint's plain content."""
    return torch.load(path, weights_only=True)


def same(one: object, other: object) -> bool:
    """Whether two checkpoints' contents are equal, tensors bit by bit."""
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other
