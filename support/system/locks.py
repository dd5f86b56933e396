"""Locks: one process at a time writes to a folder, or decodes into a cache."""

import contextlib
import io
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from support.system import console

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


@contextlib.contextmanager
def locked(path: str | os.PathLike, wait: bool) -> Iterator[None]:
    """Hold the lock file `path`; a process that dies lets it go.

    While another process holds it: with `wait`, says so and waits; else raises UserError, which names the holder. Also
    raises UserError when the file cannot be written. On a file system without locks it warns and goes on.
    """
    path, told = Path(path), False
    folder = console.printable(path.parent)
    try:
        file = _open_lock(path)
    except OSError as error:
        raise console.UserError(f"{folder}: cannot be written: {error.strerror}") from None
    with file:
        while not _try_lock(file, path):
            file.seek(0)
            holder = file.read().decode(errors="replace") or "another process"
            problem = f"{folder}: {holder} is writing there"
            if not wait:
                raise console.UserError(problem)
            if not told:
                console.say(f"{problem}; waiting for it to end")
            told = True
            time.sleep(0.05)
        with contextlib.suppress(OSError):  # on a full disk nobody learns who holds it
            file.truncate(0)
            file.seek(0)
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"process {os.getpid()} on {platform.node()}, started {started},".encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)  # nobody holds it now


def _open_lock(path: Path) -> io.FileIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch()
        with contextlib.suppress(OSError):
            path.chmod(0o666)  # all users of the folder hold it in turn
    try:
        return open(path, "r+b", buffering=0)
    except PermissionError:  # enough to lock it
        return open(path, "rb", buffering=0)


def _try_lock(file: io.FileIO, path: Path) -> bool:
    """Lock a file unless another process holds it; not with filelock: on Windows nobody could read who holds it."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(2**30)  # a byte beyond the text
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # some NFS, Lustre and FUSE mounts
        console.warn(f"{console.quoted(path)} cannot be locked ({error.strerror}): start no second run there")
    return True
