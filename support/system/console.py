"""Messages, warnings, errors that the user can fix, and exit statuses."""

import argparse
import contextlib
import difflib
import errno
import functools
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import TextIO

from torch import distributed

from support.system import processes, signals


class UserError(Exception):
    """An error that the user can fix: printed as one line, exit status 2."""


class DataError(UserError):
    """A folder of paintings that cannot be used."""


class ImageError(UserError):
    """An image that cannot be decoded."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors."""

    def error(self, message: str) -> None:
        raise UserError(f"{self.prog}: {message}")


def printable(text: object) -> str:
    """`text` on one line: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def quoted(text: object) -> str:
    """`text` in double quotes and on one line."""
    return f'"{printable(text)}"'


def shown(value: object) -> str:
    """`value` as JSON, at most 80 characters; the name of its type where JSON cannot hold it."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def first_few(texts: list[str], most: int = 5) -> str:
    """The first `most` of some texts, and how many more there are."""
    return "; ".join(texts[:most]) + (f" and {len(texts) - most:,} more" if len(texts) > most else "")


def names(texts: list[object], most: int = 5) -> str:
    """`first_few` of the texts, quoted."""
    return first_few([quoted(text) for text in texts], most)


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 image", "2,000 images"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint for an unknown name: the nearest known one, else the first thirty of all."""
    near = {text.casefold().strip(): text for text in known}
    close = difflib.get_close_matches(name.casefold().strip(), near, n=1)
    return f"; did you mean {quoted(near[close[0]])}?" if close else f"; known: {first_few(known, 30)}"


def looked_in(path: str | os.PathLike) -> str:
    """Where a relative path was looked for, to follow it in an error; empty for an absolute one."""
    return "" if os.path.isabs(path) else f" in {quoted(os.getcwd())}"


def reason(error: BaseException) -> str:
    """An exception's message on one line, at most 200 characters; its type where it has none."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return printable(text)[:200]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is lacking, on a GPU or the CPU."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))


def say(text: str) -> None:
    """Print a line, from the first process only."""
    if processes.rank() == 0:
        try:
            print(printable(text), flush=True)
        except OSError as error:
            _discard(sys.stdout)
            if error.errno == errno.EPIPE:  # the reader of the output has ended, as `head` does
                sys.exit(1)
            if error.errno != errno.EIO:  # the terminal is gone, which `nohup` and `disown` are to survive
                raise UserError(f"standard output cannot be written: {error.strerror}") from None


def warn(text: str) -> None:
    """Print a warning on standard error, from the first process only."""
    if processes.rank() == 0:
        _complain(f"warning: {text}")


def _complain(text: str) -> None:
    try:
        print("\n" * text.startswith("\n") + printable(text.strip()), file=sys.stderr, flush=True)
    except (OSError, ValueError):  # a standard error that cannot be written is no reason to stop
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Let nothing more be printed on a standard stream, nor what is still in its buffer at exit (status 120)."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a notebook's has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def script(main: Callable[[list[str] | None], None]) -> Callable[[list[str] | None], None]:
    """Give a script's `main` its exit statuses, each with one line on standard error; all else is a traceback.

    2: UserError, or lack of memory; 130, 143, 129: Ctrl-C, SIGTERM, SIGHUP; 1: another process of a training failed.
    Without `argv`, an imported `main` reads no flags: the command line, as of a notebook's kernel, is not its own.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> None:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # what cannot be read is named, with its reason
        logging.getLogger("PIL").setLevel(logging.CRITICAL)
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - None where it is closed
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a terminal or log that is not UTF-8
        try:
            with signals.raised():
                main([] if argv is None and main.__module__ != "__main__" else argv)
                if processes.world_size() > 1 and distributed.is_initialized():
                    distributed.destroy_process_group()  # not after an error: it would hang
            return
        except UserError as error:
            status, line = 2, str(error)
        except KeyboardInterrupt as stop:
            status, line = getattr(stop, "status", 130), str(stop) or "Stopped."
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                told = ". ".join(str(error).split("DefaultCPUAllocator: ")[-1].split(". ")[:2]).rstrip(".")
                advice = "a smaller batch_size or image_size (in part 2 also latent_dim) needs less"
                status, line = 2, f"{told or 'out of memory'}; {advice}"
            elif processes.world_size() > 1 and ("gloo" in str(error) or isinstance(error, distributed.DistError)):
                line = f"process {processes.rank()}: another process has ended or cannot be reached; see its own error"
                status, line = 1, f"{line} ({reason(error)})"
            else:
                raise
        if status < 128 or processes.rank() == 0:  # a signal ends all processes
            _complain(line)
        sys.exit(status)

    return wrapped
