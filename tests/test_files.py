"""Files are written whole or not at all, whatever the disk does; locks."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jobs
import pytest
import torch

import wikiart
from support.system import console, files, locks
from support.training import history


def write_tensors(path: Path) -> None:
    files.write_tensors(path, {"weights": torch.zeros(30_000)})


@pytest.mark.parametrize("fault", ["builtins.open", "os.fsync", "os.replace", "folder gone"])
def test_a_failed_write_leaves_what_was_there(fault, tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    write_tensors(path)
    before = jobs.contents(tmp_path)
    with monkeypatch.context() as patch:
        if fault == "folder gone":  # taken away while the file is written
            patch.setattr(os, "fsync", lambda _: shutil.rmtree(tmp_path / "folder"))
        else:
            patch.setattr(fault, partial(jobs.fail, errno.ENOSPC))
        with pytest.raises(console.UserError) as caught:
            write_tensors(path)
    assert str(caught.value).startswith(f"{path}: cannot be written: ") and str(caught.value).isprintable()
    assert jobs.contents(tmp_path) == ({} if fault == "folder gone" else before)


def test_a_file_system_that_cannot_sync_folders(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            jobs.fail(code)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for code in errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP:
        files.write_json(tmp_path / "a.json", {"code": code})
        assert str(code) in (tmp_path / "a.json").read_text()
    code = errno.EIO  # a broken disk is an error
    with pytest.raises(console.UserError, match="cannot be written"):
        files.write_json(tmp_path / "a.json", {})


def _write_often(path: Path, letter: str) -> None:
    for _ in range(30):
        files.write_whole(path, lambda file: [file.write(letter.encode() * 50) for _ in range(20)])


def test_two_writers_of_the_same_file_leave_a_whole_one(tmp_path):
    path = tmp_path / "file"
    writers = [multiprocessing.get_context("fork").Process(target=_write_often, args=(path, c)) for c in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert path.read_bytes() in (b"a" * 1000, b"b" * 1000)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ["file"]


def test_only_old_temporary_files_are_removed(tmp_path):
    names = {".a.json.00000001.part": 2, ".a.json.00000002.part": 0, ".b.00000001.part": 2, ".b.part": 2}
    for name, age in names.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age * files.STALE,) * 2)
    files.write_json(tmp_path / "a.json", {})
    assert sorted(os.listdir(tmp_path)) == [".a.json.00000002.part", ".b.part", "a.json"]


@pytest.mark.parametrize("removable", [True, False])
def test_an_interrupted_decoding_leaves_nothing_to_the_next_one(removable, tmp_path, monkeypatch):
    """Not even when a painting has been added, which gives the cache another name; Windows keeps what is mapped."""
    paintings = jobs.paint(tmp_path / "train", {"Baroque": 2})
    wikiart.WikiArtDataset(paintings, 16, cachedir=tmp_path / "cache")
    [cache] = (tmp_path / "cache").glob("*.uint8")
    cache.rename(cache.with_name(f".{cache.name}.01234567.part"))
    jobs.paint(tmp_path / "train", {"Baroque": 3})
    if not removable:
        monkeypatch.setattr(Path, "unlink", partial(jobs.fail, errno.EACCES))
        assert len(wikiart.WikiArtDataset(paintings, 16, cachedir=tmp_path / "cache")) == 3
        return
    wikiart.WikiArtDataset(paintings, 16, cachedir=tmp_path / "cache")
    [new] = (tmp_path / "cache").glob("*.uint8")
    assert {path.stem for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"} == {new.stem}


@pytest.mark.parametrize("name", ["file", "link", "dangling"])
def test_links_are_followed_and_a_file_keeps_its_mode(name, tmp_path):
    path, target = tmp_path / name, tmp_path / "disk" / "target"
    if name != "file":
        path.symlink_to(target)
    if name != "dangling":
        files.write_json(path, 1)
        path.chmod(0o640)
    files.write_json(path, 2)
    (tmp_path / "new").touch()  # with the mode that open() gives
    mode = 0o640 if name != "dangling" else stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert path.read_text() == "2\n" and path.is_symlink() == (name != "file")
    assert stat.S_IMODE(path.stat().st_mode) == mode and not list(tmp_path.rglob("*.part"))


def test_what_is_no_regular_file_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    links = {"null": os.devnull, "full": "/dev/full", "loop": "loop"}  # as links, which root could not harm
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name in "pipe", "null":
        files.write_rows(tmp_path / name, [["a", "b"]])
    assert os.read(reader, 99) == b"a,b\r\n" and Path(os.devnull).is_char_device()
    os.close(reader)
    for path in tmp_path / "loop", tmp_path / "full", tmp_path:
        with pytest.raises(console.UserError, match=f"^{path}: cannot be written: "):
            files.write_json(path, {})
    assert sorted(os.listdir(tmp_path)) == ["full", "loop", "null", "pipe"]
    assert all((tmp_path / name).is_symlink() for name in links)


def test_a_folder_is_checked_by_a_file_that_does_not_stay(tmp_path, monkeypatch):
    files.check_folder(tmp_path / "new" / "folder")
    assert not os.listdir(tmp_path)
    monkeypatch.setattr(Path, "touch", partial(jobs.fail, errno.EROFS))  # os.access says yes to root
    with pytest.raises(console.UserError, match=f'^"{tmp_path}" cannot be written: Read-only file system$'):
        files.check_folder(tmp_path / "new")


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    path = tmp_path / "new" / "lock"
    holder = rf"new: process {os.getpid()} on .+, started \d.+, is writing there"
    with locks.locked(path, wait=False), pytest.raises(console.UserError, match=holder):
        locks.locked(path, wait=False).__enter__()
    with locks.locked(path, wait=False):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    assert path.read_text() == ""  # it has been let go
    with pytest.raises(console.UserError, match="lock: cannot be written: "):
        locks.locked(path / "lock", wait=True).__enter__()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fcntl, "flock", partial(jobs.fail, code))
    with locks.locked(tmp_path / "lock", wait=False):
        err = capsys.readouterr().err
    assert jobs.one_line(err) and err.startswith("warning: ") and os.strerror(code) in err


def _other_user(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # where this is root, who could open anything
        os.setgid(65534)
        os.setuid(65534)
    with locks.locked(path, wait=False):
        assert bool(path.read_text()) == os.access(path, os.W_OK)


def _on_a_full_disk(path: Path) -> None:
    limit_files(0)
    with locks.locked(path, wait=False), pytest.raises(console.UserError, match="cannot be written"):
        files.write_json(path.with_name("a.json"), {})


def _holding(path: Path) -> None:
    with locks.locked(path, wait=True):
        path.with_name("held").touch()
        time.sleep(60)


def fork(function: Callable, path: Path) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=function, args=(path,))
    process.start()
    return process


def test_users_of_a_folder_hold_its_lock_in_turn():
    """With any umask, and in a folder as /tmp is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a TMPDIR may be closed to others
        os.chmod(folder, 0o1777)
        path, mask = Path(folder) / "lock", os.umask(0o077)
        try:
            with locks.locked(path, wait=False):
                pass
        finally:
            os.umask(mask)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        for mode in 0o666, 0o444:  # that of an earlier version
            path.chmod(mode)
            other = fork(_other_user, path)
            other.join()
            assert other.exitcode == 0


def test_a_lock_on_a_full_disk_is_no_traceback(tmp_path):
    process = fork(_on_a_full_disk, tmp_path / "lock")
    process.join()
    assert process.exitcode == 0 and os.listdir(tmp_path) == ["lock"]


def test_who_waits_says_for_whom_and_goes_on_when_it_is_killed(tmp_path, capsys, monkeypatch):
    holder = fork(_holding, tmp_path / "lock")
    while not (tmp_path / "held").exists():
        time.sleep(0.001)
    monkeypatch.setattr(locks.time, "sleep", lambda _: holder.kill())
    with locks.locked(tmp_path / "lock", wait=True):
        out = capsys.readouterr().out
    holder.join()
    assert out.startswith(f"{tmp_path}: process {holder.pid} on ") and out.count("\n") == 1
    assert out.endswith(", is writing there; waiting for it to end\n")


def test_a_history_that_cannot_be_appended_to_is_replaced(tmp_path, monkeypatch):
    """Such as another user's."""
    path, rows, times = tmp_path / "history.csv", [{"epoch": 1}, {"epoch": 2}], [{"seconds": 3}] * 2
    history.write_csv(path, rows[:1], times[:1], tmp_path / "curves.png")
    before = path.stat().st_ino
    monkeypatch.setattr(os, "access", lambda *_: False)
    history.write_csv(path, rows, times, tmp_path / "curves.png")
    assert path.read_text() == "epoch,seconds\n1,3\n2,3\n" and path.stat().st_ino != before


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    jobs.paint(home / "train")
    done = jobs.call("trainpart1", *flags(home, home / "out"))
    assert done.status == 0, done.err
    return home


def flags(home: Path, out: Path, *more: object) -> list[object]:
    return jobs.flags(home / "train", out, "--architecture", "three_conv", *more)


def limit_files(size: int) -> None:
    """No file may grow beyond `size` bytes: a full disk, as a process can have it for itself."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("size, words", [(5000, ".uint8"), (9_000_000, "wikiart.resume.pth")])
def test_a_full_disk_stops_a_training_with_a_line(size, words, home, tmp_path):
    """Real limits: on the cache and the resume file, which comes before the checkpoint. What was there stays."""
    out = tmp_path / "out"
    shutil.copytree(home / "out", out)
    before = jobs.contents(out)
    command = flags(home, out, "--fresh", "--cachedir", tmp_path / "cache" if size == 5000 else home / "cache")
    done = jobs.start(tmp_path / "log", "trainpart1", *command, plant=partial(limit_files, size)).wait()
    assert done.status == 2 and jobs.one_line(done.err) and f"{words}: cannot be written" in done.err, done
    assert jobs.contents(out) == before and not list((tmp_path / "cache").glob("*.uint8*"))


@pytest.mark.parametrize("second", ["out", "elsewhere"])
def test_a_second_run_into_the_same_folder_or_modelfile_is_refused(second, home, tmp_path):
    """It says who holds the folder; the first run is not disturbed."""
    out = tmp_path / "out"
    more = ["--modelfile", out / "shared.pth"] if second == "elsewhere" else []
    first = jobs.start(tmp_path / "log", "trainpart1", *flags(home, out, "--epochs", 100_000, *more))
    try:
        first.wait_for(lambda: "epoch 1/" in first.text("out"))
        done = jobs.call("trainpart1", *flags(home, tmp_path / second, "--fresh", *more))
        assert done.status == 2 and jobs.one_line(done.err), done
        assert f"{out}: process {first.processes[0].pid} on " in done.err and "is writing there" in done.err
        assert first.processes[0].is_alive()
    finally:
        first.signal(signal.SIGTERM)
    assert first.wait().status == 143
