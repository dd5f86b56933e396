"""What Windows lacks is needed nowhere: both parts run without it. Windows itself has not been tried."""

import errno
import fcntl
import importlib
import multiprocessing
import os
import signal
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jobs

NAMES = {
    os: ["fork", "forkpty", "posix_fallocate", "sched_getaffinity", "getuid", "geteuid", "mkfifo", "uname", "fchmod"],
    signal: ["SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1"],
}


def lock(descriptor: int, _mode: int, count: int) -> None:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, count, 0, os.SEEK_CUR)


def is_open(path: str | os.PathLike) -> bool:
    """Whether this process has a file open or mapped."""
    path, maps = os.path.realpath(path), Path("/proc/self/maps").read_text()
    return f" {path}\n" in maps or path in map(os.path.realpath, Path("/proc/self/fd").iterdir())


def without_posix() -> None:
    """Take away names and forks; folders cannot be opened, nor files that are open replaced or removed."""

    def limited(name: str, real: object, path: str | os.PathLike, *more: object, **options: object) -> object:
        if os.path.isdir(path) if name == "open" else any(map(is_open, [path, *more])):
            jobs.fail(errno.EACCES)
        return real(path, *more, **options)

    for module, names in NAMES.items():
        for name in names:
            delattr(module, name)
    for name in "open", "replace", "rename", "unlink", "remove":
        setattr(os, name, partial(limited, name, getattr(os, name)))
    multiprocessing.get_all_start_methods = lambda: ["spawn"]
    sys.modules |= {"fcntl": None, "resource": None, "pwd": None, "grp": None, "termios": None}
    sys.modules["msvcrt"] = SimpleNamespace(locking=lock, LK_NBLCK=2)
    for name in [name for name in sys.modules if name.split(".")[0] in ("support", "wikiart", *jobs.SCRIPTS)]:
        del sys.modules[name]
    importlib.reload(jobs).narrow()
    jobs.plotting.write, jobs.devices.SMALLEST_SHARE = jobs.write_nothing, 0


def test_both_parts_run_without_what_posix_alone_has(tmp_path):
    paintings, out = jobs.paint(tmp_path / "train"), tmp_path / "out"
    more = ["--testingdir", paintings, "--latent_dim", 4]

    def start(script: str, *flags: object) -> jobs.Running:
        part2 = more if "auto" in script else more[:2]
        return jobs.start(tmp_path / script, script, *jobs.flags(paintings, out, *part2, *flags), plant=without_posix)

    first = start("trainpart1", "--epochs", 100_000)
    assert first.wait_for(lambda: "epoch 1/" in first.text("out")), first.text("err")
    holder = f"{out}: process {first.processes[0].pid} on "
    assert jobs.refused(start("trainpart1", "--fresh").wait(), holder, "is writing there")
    first.signal(signal.SIGTERM)
    assert first.wait().status == 143
    for script, *flags in ("trainpart1", "--fresh"), ("testtrainpart1",), ("trainauto",), ("testtrainauto",):
        done = start(script, *flags).wait()
        assert done.status == 0 and done.err.count("warning: ") == ("test" in script), done  # known test paintings
