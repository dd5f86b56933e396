"""Messages, warnings, errors that the user can fix, and exit statuses."""

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

import torch

from support.system import processes, signals


class UserError(Exception):
    """An error that the user can fix: printed as one line, exit status 2."""


class DataError(UserError):
    """A folder of paintings that cannot be used."""


class ImageError(UserError):
    """An image that cannot be decoded."""


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
    return "; ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def names(texts: list[object], most: int = 5) -> str:
    """The first `most` of some texts, quoted, and how many more there are."""
    return first_few([quoted(text) for text in texts], most)


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 image", "2,000 images"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint for an unknown name: the nearest known one, else all of them, or the first thirty."""
    near = {text.casefold().strip(): text for text in known}
    close = difflib.get_close_matches(name.casefold().strip(), near, n=1)
    more = f" and {len(known) - 30:,} more" if len(known) > 30 else ""
    return f"; did you mean {quoted(near[close[0]])}?" if close else f"; known: {', '.join(known[:30])}{more}"


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
    told = isinstance(error, RuntimeError) and any(text in str(error) for text in words)
    return told or isinstance(error, torch.OutOfMemoryError | MemoryError)


def say(text: str) -> None:
    """Print a line, from the first process only."""
    if processes.rank() == 0:
        try:
            print(printable(text), flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            _discard("stdout")
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
        _discard("stderr")


def _discard(name: str) -> None:
    """Let nothing more be printed on a standard stream, nor what is still in its buffer at exit (status 120)."""
    null = open(os.devnull, "w")  # noqa: SIM115
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a notebook's has no descriptor
        os.dup2(null.fileno(), getattr(sys, name).fileno())
    setattr(sys, name, null)


def _explain(error: RuntimeError | MemoryError) -> tuple[str, int] | None:
    """The line and the exit status for an error of memory or of another process; None for anything else."""
    text = str(error)
    if is_out_of_memory(error):
        why = ". ".join(text.split("DefaultCPUAllocator: ")[-1].split(". ")[:2]).rstrip(".") or "out of memory"
        return f"{why}; a smaller batch_size or image_size (in part 2 also latent_dim) needs less", 2
    if processes.world_size() > 1 and ("gloo" in text or isinstance(error, torch.distributed.DistError)):
        line = f"process {processes.rank()}: another process has ended or cannot be reached; see its own error"
        return f"{line} ({reason(error)})", 1
    return None


def script(main: Callable[[list[str] | None], None]) -> Callable[[list[str] | None], None]:
    """Give a script's `main` its exit statuses, each with one line on standard error.

    2: a UserError; 130: Ctrl-C; 143: SIGTERM; 129: SIGHUP; 1: another process of the same training failed. Anything
    else is a traceback. Without `argv`, the command line counts for a script alone; an importer's, such as that of a
    notebook's kernel, is none of its flags.
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
                # Not after an error: destroying the process group would hang. Some builds of torch lack all of this.
                if processes.world_size() > 1 and torch.distributed.is_initialized():
                    torch.distributed.destroy_process_group()
        except UserError as error:
            _complain(str(error))
            sys.exit(2)
        except KeyboardInterrupt as stop:
            if processes.rank() == 0:
                _complain(*stop.args or ["Stopped."])
            sys.exit(stop.status if isinstance(stop, signals.Terminated) else 130)
        except BrokenPipeError:  # the reader of the output has ended, as `head` does
            _discard("stdout")
            sys.exit(1)
        except (RuntimeError, MemoryError) as error:
            explained = _explain(error)
            if explained is None:
                raise
            _complain(explained[0])
            sys.exit(explained[1])

    return wrapped
