"""Worker processes: a function of many items, by as many processes as there are cores."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from support import console

WORKERS = min(32, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


PARALLEL_CHUNK = 32  # items that a process takes at a time


def parallel_map(function: Callable, items: Sequence) -> Iterator:
    """`function` of each item, in order, by as many processes as there are cores.

    Processes, since sixteen threads decode small images no faster than two; forked ones, since they start at once,
    take any function along and leave the GPU alone. Raises UserError when one of them is killed.
    """
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(WORKERS, context, _become_worker, (function, os.getpid())) as pool:
        try:
            yield from pool.map(_work, items, chunksize=PARALLEL_CHUNK)
        except BrokenProcessPool:
            raise console.UserError("a process that decodes images was killed; is there enough memory?") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _become_worker(function: Callable, parent: int) -> None:
    """Set a forked process up to apply `function`, to leave Ctrl-C to its parent and to end when that ends."""
    global _function
    _function = function
    torch.set_num_threads(1)  # its parent's threads are not here: to wait for them would hang
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _work(item: object) -> object:
    return _function(item)
