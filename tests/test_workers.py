"""Worker processes: the same results as in one process, and what happens where there are none or one dies."""

import errno
import multiprocessing
import os
import signal
import threading
import time
from functools import partial

import jobs
import pytest

from support.system import console, workers

ITEMS = list(range(3 * workers.CHUNK + 1))


@pytest.fixture(autouse=True)
def two_workers(monkeypatch):
    monkeypatch.setattr(workers, "WORKERS", 2)
    yield
    assert not multiprocessing.active_children()


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def test_results_come_in_order_from_other_processes():
    results = list(workers.parallel_map(square, ITEMS))
    assert [value for value, _ in results] == [number**2 for number in ITEMS]
    assert os.getpid() not in {pid for _, pid in results}
    assert list(workers.parallel_map(square, [])) == []


def test_nobody_works_on_when_the_caller_stops():
    results = workers.parallel_map(square, ITEMS * 20)
    next(results)
    results.close()  # the fixture looks for what is left


def test_a_killed_worker_is_one_line():
    with pytest.raises(console.UserError, match="a worker process was killed; is there enough memory"):
        list(workers.parallel_map(lambda number: os.kill(os.getpid(), signal.SIGKILL), ITEMS))


def wait_there(writer: int) -> None:
    def work(_) -> None:
        os.write(writer, b"1")
        time.sleep(60)

    list(workers.parallel_map(work, ITEMS))


def test_workers_end_when_their_parent_is_killed():
    reader, writer = os.pipe()
    parent = multiprocessing.get_context("fork").Process(target=wait_there, args=(writer,))
    parent.start()
    os.close(writer)
    assert os.read(reader, 1)
    parent.kill()
    parent.join()
    while os.read(reader, 9):  # until nobody holds the other end
        pass
    os.close(reader)


def no_pool(monkeypatch) -> str:  # /dev/shm is full
    monkeypatch.setattr(workers, "ProcessPoolExecutor", partial(jobs.fail, errno.ENOSPC))
    return "No space left on device"


def one_process(monkeypatch) -> str:  # the first one must not stay behind
    real, calls = os.fork, iter([True, False])
    monkeypatch.setattr(os, "fork", lambda: real() if next(calls) else jobs.fail(errno.EAGAIN))
    return "Resource temporarily unavailable"


def no_thread(monkeypatch) -> str:  # the pool has one of its own
    monkeypatch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("no new thread")))
    return "no new thread"


@pytest.mark.parametrize("limit", [no_pool, one_process, no_thread])
def test_where_there_are_no_workers_this_process_does_the_work(limit, monkeypatch, capsys):
    cause = limit(monkeypatch)
    results = list(workers.parallel_map(square, ITEMS))
    assert results == [(number**2, os.getpid()) for number in ITEMS]
    err = capsys.readouterr().err
    assert jobs.one_line(err) and err.startswith("warning: no worker processes") and cause in err
