"""Signals that end a script early: Ctrl-C, SIGTERM and SIGHUP."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM, as SLURM, Docker and `timeout` send it: ends a script as Ctrl-C does, with exit status 143."""

    status = 143


class HungUp(Terminated):
    """SIGHUP: the terminal was closed or the SSH session has ended; exit status 129."""

    status = 129


def quiet_ctrl_c() -> None:
    """Let Ctrl-C end the process without a traceback while libraries are imported, until signals are `raised`.

    Not where it is ignored, as in the background, nor in an interactive interpreter, which would end later.
    """
    interactive = sys.flags.interactive or "IPython" in sys.modules
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and not interactive:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Let signals that would end the process raise KeyboardInterrupt; `nohup` and a notebook handle them otherwise."""
    is_main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    chosen = [number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGHUP") and is_main]
    numbers = [number for number in chosen if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _raise(number: int, _: object) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_IGN)  # a shell that ends sends SIGHUP twice
    raise Terminated if number == signal.SIGTERM else HungUp
