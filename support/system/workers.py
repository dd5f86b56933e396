"""Worker processes: a function of many items, by as many processes as there are cores."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from support.system import console

WORKERS = min(32, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
KILLED = "a worker process was killed; is there enough memory?"
CHUNK = 32  # items that a worker takes at a time
METHOD = next(method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods())
AHEAD = 4  # chunks per worker that may be at work or wait for the caller


def parallel_map(function: Callable, items: Sequence) -> Iterator:
    """`function`, which can be pickled, of each item, in order.

    Processes, since threads hardly decode faster than one; forked where there is fork, since they start at once and
    leave the GPU alone. Where none can be started (a full /dev/shm, a limit on processes), this process does the work
    and a warning says why. Workers are at most `AHEAD` chunks each ahead of the caller, so that results do not fill
    the memory. Raises UserError when a worker is killed.
    """
    chunks = iter([items[i : i + CHUNK] for i in range(0, len(items), CHUNK)])
    running = set(multiprocessing.active_children())
    try:
        pool = ProcessPoolExecutor(WORKERS, multiprocessing.get_context(METHOD), _start, (function,))
        waiting = deque(pool.submit(_work, chunk) for chunk in itertools.islice(chunks, AHEAD * WORKERS))
    except BrokenProcessPool:
        raise console.UserError(KILLED) from None
    except (OSError, ImportError, RuntimeError) as error:  # no semaphores, no processes or no threads
        for process in set(multiprocessing.active_children()) - running:
            process.kill()  # else exit would wait for those that did start
            process.join()
        console.warn(f"no worker processes ({console.reason(error)}): one process does the work")
        yield from map(function, items)
        return
    try:
        while waiting:
            results = waiting.popleft().result()
            waiting.extend(pool.submit(_work, chunk) for chunk in itertools.islice(chunks, 1))
            yield from results
    except BrokenProcessPool:
        raise console.UserError(KILLED) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start(function: Callable) -> None:
    """Prepare a worker: Ctrl-C and SIGTERM are the parent's to handle, and it ends when the parent ends."""
    global _function
    _function = function
    torch.set_num_threads(1)  # thread pools do not survive fork: using them would hang
    for name, action in (("SIGINT", signal.SIG_IGN), ("SIGHUP", signal.SIG_IGN), ("SIGTERM", signal.SIG_DFL)):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), action)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(chunk: Sequence) -> list[object]:
    return [_function(item) for item in chunk]
