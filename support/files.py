"""Files written whole or not at all, and locks."""

import contextlib
import csv
import errno
import fcntl
import io
import json
import os
import platform
import secrets
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from support import console
from support.console import UserError

STALE = 3600  # seconds after which a temporary file that nobody writes to is left over from a killed run


def expand(value: object, where: str, written: bool = False) -> object:
    """A path, or every path in a list, with ~ and environment variables replaced; any other value as it is.

    A file or folder whose own name has a $ or begins with ~ is taken as it is. Raises UserError, beginning with
    `where`, for a user or a variable that does not exist, if the path will be written; else it is not found.
    """
    if isinstance(value, list):
        return [expand(path, where, written) for path in value]
    if not isinstance(value, str) or os.path.lexists(value):
        return value
    expanded = os.path.expanduser(os.path.expandvars(value))
    names = string.Template(value).get_identifiers()
    problems = [f"the environment variable ${name} is not set" for name in names if name not in os.environ]
    if expanded.startswith("~"):
        user = expanded.split(os.sep)[0][1:]
        problems.append(f"there is no user {console.quoted(user)}" if user else "there is no home folder")
    if problems and written and not os.path.lexists(expanded):
        raise UserError(f"{where}: {problems[0]}")
    return expanded


def check_folder(path: str) -> None:
    """Raise UserError where no file can be written into a folder, which need not exist; nothing is created."""
    place = Path(path).absolute()
    place = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
    if not place.is_dir() or not os.access(place, os.W_OK):
        problem = "cannot be written" if place.is_dir() else "is not a folder"
        raise UserError(f"{console.quoted(place)} {problem}")


def write_whole(path: str | os.PathLike, write: Callable[[io.BufferedWriter], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    Raises UserError when it cannot be written; a file at `path` is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # unique: others may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise UserError(f"{console.printable(path)}: cannot be written: {error.strerror or error}") from None
        raise


def _remove_stale(path: Path) -> None:
    for old in path.parent.iterdir():
        if old.name.startswith(f".{path.name}.") and old.suffix == ".part":
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > STALE:
                    old.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, on file systems that can sync a folder (SMB and others give EINVAL)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=4, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def write_rows(path: str | os.PathLike, rows: list[list[object]]) -> None:
    """Write a table as CSV, whole or not at all."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_whole(path, lambda file: file.write(text.getvalue().encode(errors="surrogateescape")))


def write_tensors(path: str | os.PathLike, value: object) -> None:
    """Write tensors and plain data as torch.save does, whole or not at all."""
    archive = io.BytesIO()  # torch's own writer hides the reason of a full disk
    torch.save(value, archive)
    write_whole(path, lambda file: file.write(archive.getbuffer()))


@contextlib.contextmanager
def locked(path: str | os.PathLike, wait: bool) -> Iterator[None]:
    """Hold the lock file `path`; a process that dies lets it go.

    Raises UserError, naming the holder, when another process holds it and `wait` is false, and when the file cannot
    be written. On a file system without locks (some NFS, Lustre and FUSE mounts) it warns and goes on without.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise UserError(f"{console.printable(path.parent)}: cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            raise UserError(f"{console.printable(path.parent)}: {holder} is writing there") from None
        except OSError as error:
            console.warn(f"{console.quoted(path)} cannot be locked ({error.strerror}): start no second run there")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}, started {time.strftime('%Y-%m-%d %H:%M:%S')},")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)  # nobody holds it now
