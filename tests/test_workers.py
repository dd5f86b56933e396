"""Worker processes: the same results as in one process, and what happens where there are none or one dies."""

import errno
import multiprocessing
import os
import signal
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


def test_workers_end_when_their_parent_is_killed():
    reader, writer = os.pipe()

    def work(_) -> None:
        os.write(writer, b"1")
        time.sleep(60)

    target = lambda: list(workers.parallel_map(work, ITEMS))  # noqa: E731
    parent = multiprocessing.get_context("fork").Process(target=target)
    parent.start()
    os.close(writer)
    assert os.read(reader, 1)
    parent.kill()
    parent.join()
    while os.read(reader, 9):  # until nobody holds the other end
        pass
    os.close(reader)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EAGAIN])
def test_where_there_are_no_workers_this_process_does_the_work(code, monkeypatch, capsys):
    real, calls = os.fork, iter([True, False])
    if code == errno.ENOSPC:  # /dev/shm is full
        monkeypatch.setattr(workers, "ProcessPoolExecutor", partial(jobs.fail, code))
    else:  # one process alone, which must not stay behind
        monkeypatch.setattr(os, "fork", lambda: real() if next(calls) else jobs.fail(code))
    results = list(workers.parallel_map(square, ITEMS))
    assert results == [(number**2, os.getpid()) for number in ITEMS]
    err = capsys.readouterr().err
    assert jobs.one_line(err) and err.startswith("warning: no worker processes") and os.strerror(code) in err
