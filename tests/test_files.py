"""Files are written whole or not at all, whatever the disk does; locks."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import re
import resource
import shutil
import signal
import stat
import tempfile
import time
from functools import partial
from pathlib import Path

import jobs
import pytest
import torch

import wikiart
from support.system import console, files, locks
from support.training import history


@pytest.mark.parametrize("fault", ["builtins.open", "os.fsync", "os.replace", "folder gone"])
def test_a_failed_write_leaves_what_was_there(fault, tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    files.write_tensors(path, torch.zeros(30_000))
    before = jobs.contents(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(console.UserError) as caught:
        if fault == "folder gone":  # taken away while the file is written
            patch.setattr(os, "fsync", lambda _: shutil.rmtree(tmp_path / "folder"))
        else:
            patch.setattr(fault, partial(jobs.fail, errno.ENOSPC))
        files.write_tensors(path, torch.ones(30_000))
    assert str(caught.value).startswith(f"{path}: cannot be written: ") and str(caught.value).isprintable()
    assert jobs.contents(tmp_path) == ({} if fault == "folder gone" else before)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_cannot_sync_folders(code, tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor: int) -> None:
        return jobs.fail(code) if stat.S_ISDIR(os.fstat(descriptor).st_mode) else real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    broken_disk = pytest.raises(console.UserError, match="cannot be written")
    with broken_disk if code == errno.EIO else contextlib.nullcontext():
        files.write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").exists()


def test_two_writers_of_the_same_file_leave_a_whole_one(tmp_path):
    def write(file) -> None:
        files.write_json(tmp_path / "file", "second")
        assert (tmp_path / "file").read_text() == '"second"\n'
        file.write(b"first")

    files.write_whole(tmp_path / "file", write)
    assert (tmp_path / "file").read_text() == "first" and os.listdir(tmp_path) == ["file"]


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

    def decode(count: int) -> set[Path]:
        paintings = jobs.paint(tmp_path / "train", {"Baroque": count})
        assert len(wikiart.WikiArtDataset(paintings, 16, cachedir=tmp_path / "cache")) == count
        return set((tmp_path / "cache").glob("*.uint8*"))

    [cache] = decode(2)
    left = cache.rename(cache.with_name(f".{cache.name}.01234567.part"))
    if not removable:
        monkeypatch.setattr(Path, "unlink", partial(jobs.fail, errno.EACCES))
    decode(3)
    assert left.exists() == (not removable)


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


def test_devices_and_pipes_are_written_to_and_a_loop_of_links_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, target in ("null", os.devnull), ("loop", "loop"):  # as links, which root could not harm
        (tmp_path / name).symlink_to(target)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name in "pipe", "null":
        files.write_rows(tmp_path / name, [["a", "b"]])
    assert os.read(reader, 99) == b"a,b\r\n" and (tmp_path / "null").is_symlink()
    os.close(reader)
    with pytest.raises(console.UserError, match="loop: cannot be written: "):
        files.write_json(tmp_path / "loop", {})


def test_a_folder_is_checked_by_a_file_that_does_not_stay(tmp_path, monkeypatch):
    files.check_folder(tmp_path / "new" / "folder")
    assert not os.listdir(tmp_path)
    monkeypatch.setattr(Path, "touch", partial(jobs.fail, errno.EROFS))  # os.access says yes to root
    with pytest.raises(console.UserError, match=f'^"{tmp_path}" cannot be written: Read-only file system$'):
        files.check_folder(tmp_path / "new")


def test_a_lock_names_its_holder_to_who_is_refused_and_to_who_waits(tmp_path, capsys, monkeypatch):
    path, holder = tmp_path / "new" / "lock", contextlib.ExitStack()
    holder.enter_context(locks.locked(path, wait=False))
    words = rf"new: process {os.getpid()} on .+, started \d.+, is writing there"
    with pytest.raises(console.UserError, match=words):
        locks.locked(path, wait=False).__enter__()
    monkeypatch.setattr(locks.time, "sleep", lambda _: holder.close())
    with locks.locked(path, wait=True):
        assert re.fullmatch(f".*{words}; waiting for it to end\n", capsys.readouterr().out)
    assert path.read_text() == ""


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fcntl, "flock", partial(jobs.fail, errno.ENOLCK))
    with locks.locked(tmp_path / "lock", wait=False):
        err = capsys.readouterr().err
    assert jobs.one_line(err) and err.startswith("warning: ") and os.strerror(errno.ENOLCK) in err


def _other_user(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # where this is root, who could open anything
        os.setgid(65534)
        os.setuid(65534)
    with locks.locked(path, wait=False):
        assert bool(path.read_text()) == os.access(path, os.W_OK)


def test_users_of_a_folder_hold_its_lock_in_turn():
    """With any umask, and in a folder as /tmp is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a TMPDIR may be closed to others
        os.chmod(folder, 0o1777)
        path, mask = Path(folder) / "lock", os.umask(0o077)
        with locks.locked(path, wait=False):
            os.umask(mask)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        for mode in 0o666, 0o444:  # that of an earlier version
            path.chmod(mode)
            process = multiprocessing.get_context("fork").Process(target=_other_user, args=(path,))
            process.start()
            process.join()
            assert process.exitcode == 0


def test_a_lock_on_a_full_disk_is_no_traceback(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit_files(0)
    try:
        with locks.locked(tmp_path / "lock", wait=False), pytest.raises(console.UserError, match="cannot be written"):
            files.write_json(tmp_path / "a.json", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["lock"]


def test_a_history_that_cannot_be_appended_to_is_replaced(tmp_path, monkeypatch):
    """Such as another user's."""
    path, rows, times = tmp_path / "history.csv", [{"epoch": 1}, {"epoch": 2}], [{"seconds": 3}] * 2
    history.write_csv(path, rows[:1], times[:1], tmp_path / "curves.png")
    before = path.stat().st_ino
    monkeypatch.setattr(os, "access", lambda *_: False)
    history.write_csv(path, rows, times, tmp_path / "curves.png")
    assert path.read_text() == "epoch,seconds\n1,3\n2,3\n" and path.stat().st_ino != before


def limit_files(size: int) -> None:
    """No file may grow beyond `size` bytes: a full disk, as a process can have it for itself."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("size, words", [(5000, ".uint8"), (9_000_000, "wikiart.resume.pth")])
def test_a_full_disk_stops_a_training_with_a_line(size, words, paintings, tmp_path):
    """Real limits: on the cache and the resume file, which comes before the checkpoint. What was there stays."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    command = jobs.flags(paintings, out, "--architecture", "three_conv", "--fresh")
    assert jobs.call("trainpart1", *command).status == 0
    before, plant = jobs.contents(out), partial(limit_files, size)
    done = jobs.start(tmp_path / "log", "trainpart1", *command, "--cachedir", cache, plant=plant).wait()
    assert jobs.refused(done, f"{words}: cannot be written"), done
    assert jobs.contents(out) == before and len(list(cache.glob("*.uint8*"))) == (size > 5000)


@pytest.mark.parametrize("second", ["out", "elsewhere"])
def test_a_second_run_into_the_same_folder_or_modelfile_is_refused(second, paintings, tmp_path):
    """It says who holds the folder; the first run is not disturbed."""
    out = tmp_path / "out"
    more = ["--modelfile", out / "shared.pth"] if second == "elsewhere" else []
    command = jobs.flags(paintings, out, "--architecture", "three_conv", *more)
    first = jobs.start(tmp_path / "log", "trainpart1", *command, "--epochs", 100_000)
    first.wait_for(lambda: "epoch 1/" in first.text("out"))
    done = jobs.call("trainpart1", *command, "--outputdir", tmp_path / second, "--fresh")
    first.signal(signal.SIGTERM)
    assert first.wait().status == 143
    assert jobs.refused(done, f"{out}: process {first.processes[0].pid} on ", "is writing there"), done
