"""Talking to the user: messages, warnings, errors and exit statuses."""

import difflib
import functools
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable

import torch

from support import processes


class UserError(Exception):
    """Something that the person at the keyboard can mend: shown as one line, exit status 2."""


def printable(text: object) -> str:
    """`text` on one line, whatever it holds: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def quoted(text: object) -> str:
    """`text` in double quotes and on one line."""
    return f'"{printable(text)}"'


def say(text: str) -> None:
    """Print a line, from the first process only."""
    if processes.rank() == 0:
        try:
            print(printable(text), flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"standard output cannot be written: {error.strerror}") from None


def warn(text: str) -> None:
    """Print a warning on standard error, from the first process only."""
    if processes.rank() == 0:
        print(f"warning: {printable(text)}", file=sys.stderr, flush=True)


def script(main: Callable[[list[str] | None], None]) -> Callable[[list[str] | None], None]:
    """Give a script's `main` its ending: a `UserError` is one line and status 2, Ctrl-C one line and status 130."""

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> None:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # we name what cannot be read, and why
        logging.getLogger("PIL").setLevel(logging.CRITICAL)
        try:
            main(argv)
            if torch.distributed.is_initialized():  # after an error, to take leave of peers that are stuck would hang
                torch.distributed.destroy_process_group()
        except UserError as error:
            print(printable(error), file=sys.stderr, flush=True)
            sys.exit(2)
        except KeyboardInterrupt as stop:
            if processes.rank() == 0:
                print(*stop.args or ["Stopped."], file=sys.stderr, flush=True)
            sys.exit(130)
        except BrokenPipeError:  # the reader of our output has left, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except torch.OutOfMemoryError as error:
            reason = str(error).split(". ")[0]
            print(f"{reason}; a smaller batch_size or image_size needs less", file=sys.stderr, flush=True)
            sys.exit(2)
        except RuntimeError as error:
            if processes.world_size() == 1 or not (
                "gloo" in str(error) or isinstance(error, torch.distributed.DistError)
            ):
                raise
            reason = printable((str(error).splitlines() or [type(error).__name__])[0])
            line = f"process {processes.rank()}: another process has ended or cannot be reached; see its own error"
            print(f"{line} ({reason})", file=sys.stderr, flush=True)
            sys.exit(1)

    return wrapped


def did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {quoted(close[0])}?" if close else f"; known: {', '.join(known)}"


def shown(value: object) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # what a damaged file holds
        text = type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."
