"""Files written whole or not at all."""

import contextlib
import csv
import errno
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from support.system import console
from support.system.console import UserError

STALE = 3600  # seconds after which a temporary file that nobody writes to is left over from a killed run


def expand(value: object, where: str, written: bool = False) -> object:
    """A path, or every path in a list, with ~ and environment variables replaced; any other value as it is.

    A path that exists as it is written is taken as it is. Raises UserError, beginning with `where`, for a user or a
    variable that does not exist, if the path will be written; else it is not found.
    """
    if isinstance(value, list):
        return [expand(path, where, written) for path in value]
    if not isinstance(value, str) or os.path.lexists(value):
        return value
    path = os.path.expanduser(os.path.expandvars(value))
    unset = set(re.findall(r"\$\{?([A-Za-z_]\w*)", value, re.ASCII)) - os.environ.keys()
    if written and (unset or path.startswith("~")) and not os.path.lexists(path):
        problem = f"the environment variable ${min(unset)} is not set" if unset else "there is no such user"
        raise UserError(f"{where}: got {console.quoted(value)}, but {problem}")
    return path


def check_folder(path: str | os.PathLike) -> None:
    """Raise UserError where no file can be written into a folder, which need not exist; nothing stays there."""
    place = Path(path).absolute()
    place = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
    if not place.is_dir():
        raise UserError(f"{console.quoted(place)} is not a folder")
    probe = place / f".check.{secrets.token_hex(4)}.part"  # os.access says yes to root, and on some network drives
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{console.quoted(place)} cannot be written: {error.strerror}") from None


def write_whole(path: str | os.PathLike, write: Callable[[io.BufferedWriter], object]) -> None:
    """Let `write` fill a temporary file, then rename it to `path`.

    Links are followed, and a file that is replaced keeps its mode. A device or a pipe is written to as it is. Raises
    UserError when it cannot be written; a file at `path` is then untouched.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")  # unique: others may write the same
    try:
        if target.is_symlink() or (os.path.exists(path) and not os.path.isfile(path)):  # a loop of links is an error
            with open(path, "wb") as file:
                write(file)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        with open(temporary, "wb") as file:
            with contextlib.suppress(OSError):  # there may be no file yet, nor modes
                shutil.copymode(target, temporary)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise UserError(f"{console.printable(path)}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _remove_stale(folder: Path) -> None:
    """Remove what killed runs have left, under any name: those of caches hold digests that do not come again."""
    with contextlib.suppress(OSError):
        for old in folder.iterdir():
            if re.fullmatch(r"\..+\.[0-9a-f]{8}\.part", old.name) and time.time() - old.stat().st_mtime > STALE:
                old.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut. Windows and some network drives cannot sync a folder: that is no error."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC):
            raise


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=4, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def write_rows(path: str | os.PathLike, rows: list[list[object]]) -> None:
    """Write a table as CSV in UTF-8; bytes of names that are not UTF-8 are escaped as on screen: \\udce9 for E9."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_whole(path, lambda file: file.write(text.getvalue().encode(errors="backslashreplace")))


def write_tensors(path: str | os.PathLike, value: object) -> None:
    """Write tensors and plain data as torch.save does, whole or not at all."""
    archive = io.BytesIO()  # torch's own writer hides the reason of a full disk
    torch.save(value, archive)
    write_whole(path, lambda file: file.write(archive.getbuffer()))


@contextlib.contextmanager
def whole_folder(out: Path, own: str = "") -> Iterator[Path]:
    """A folder beside `out` to fill: it becomes `out` at the end, or is gone after an error.

    An earlier `out` is replaced where it is a folder that holds nothing but files whose names match the pattern `own`;
    after an error it is as it was. Raises UserError where it holds more or cannot be written.
    """
    temporary, old = (out.with_name(f".{out.name}.{ending}") for ending in ("part", "old"))
    try:
        _put_back(out, temporary, old)  # what a killed run has left
        for path in (out, *out.rglob("*")):
            is_file = os.path.lexists(path) and (path.is_symlink() or not path.is_dir())
            if is_file and not re.fullmatch(own, path.name):
                raise UserError(f"{console.quoted(path)} would be lost; expected {console.quoted(out)} new or empty")
        temporary.mkdir(parents=True)
        yield temporary
        if out.exists():
            out.rename(old)  # Windows renames to no name that is there
        temporary.rename(out)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"folder {console.quoted(out)} cannot be written: {reason}") from None
    finally:
        _put_back(out, temporary, old)


def _put_back(out: Path, temporary: Path, old: Path) -> None:
    """Rename `old` to `out` where that is not there, and remove what is left of `old` and `temporary`."""
    if old.exists() and not out.exists():
        old.rename(out)
    for folder in (temporary, old):
        shutil.rmtree(folder, ignore_errors=True)
