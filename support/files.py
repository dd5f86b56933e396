"""Files written whole or not at all."""

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch

from support import console


def write_whole(path: str | os.PathLike, write: Callable[[io.BufferedWriter], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    Raises UserError when it cannot be written; what stood at `path` before is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself survives a power cut
        finally:
            os.close(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise console.UserError(
                f"{console.quoted(path)[1:-1]}: cannot be written: {error.strerror or error}"
            ) from None
        raise


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=4, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def write_tensors(path: str | os.PathLike, value: object) -> None:
    """Write tensors and plain data as torch.save does, whole or not at all."""
    archive = io.BytesIO()  # torch's own writer would hide a full disk behind an error without a reason
    torch.save(value, archive)
    write_whole(path, lambda file: file.write(archive.getbuffer()))
