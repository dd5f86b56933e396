"""Disks that are full, folders that are gone, files that lie, numbers that explode: one line each, and nothing lost."""

import csv
import io
import json
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
import zlib
from functools import partial
from pathlib import Path

import fuzz
import jobs
import matplotlib.figure
import pytest
import torch
from PIL import Image

import trainpart1
import wikiart
from support import checkpoints, console, figures, files, images, training

pytestmark = pytest.mark.filterwarnings("ignore:.*(pickle protocol|sparse tensor|quantiz|nested tensors|TypedStorage)")
FAULTS = ["full at once", "full midway", "full at the end", "read-only", "rename", "folder gone"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Paintings, their decoded cache and a trained part 1, to be copied or read."""
    home = tmp_path_factory.mktemp("home")
    jobs.paint(home / "train")
    jobs.paint(home / "test", seed=1)
    assert jobs.call("trainpart1", *flags(home, home / "out")).status == 0
    assert jobs.call("testtrainpart1", *flags(home, home / "out")[:8]).status == 0
    return home


def flags(home: Path, out: Path, *more: object) -> list[object]:
    folders = ["--trainingdir", home / "train", "--testingdir", home / "test", "--outputdir", out]
    folders += ["--cachedir", home / "cache"]
    return [*folders, "--image_size", 16, "--device", "cpu", "--batch_size", 8, "--epochs", 2, *more]


def measuring(home: Path, out: Path, *more: object) -> list[object]:
    """Flags of the test scripts, which take the size from the checkpoint."""
    return [*flags(home, out)[:8], "--device", "cpu", *more]


def refused(done: jobs.Done, *words: str) -> bool:
    return done.status == 2 and jobs.one_line(done.err) and all(word in done.err for word in words)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Files are written whole or not at all


def write_pixels(path: Path) -> None:
    files.write_whole(path, lambda file: [file.write(bytes(1000)) for _ in range(100)])


def write_figure(path: Path) -> None:
    figure = matplotlib.figure.Figure()
    figure.subplots().plot([1, 2])
    figures.write_figure(path, figure)


WRITERS = {
    "checkpoint": lambda path: files.write_tensors(path, {"weights": torch.zeros(30_000)}),
    "metrics": lambda path: files.write_json(path, {"numbers": list(range(9000))}),
    "figure": write_figure,
    "cache": write_pixels,
}


class FullDisk:
    """A file on which only so many bytes find room."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *end) -> None:
        self.file.close()

    def write(self, data) -> int:
        if self.file.tell() + memoryview(data).nbytes > self.room:
            self.file.write(bytes(max(0, self.room - self.file.tell())))
            raise OSError(28, "No space left on device")
        return self.file.write(data)


def fail(error: int, *_: object) -> None:
    raise OSError(error, os.strerror(error))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_write_leaves_what_was_there(kind, fault, tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    WRITERS[kind](path)
    before, real_open = contents(tmp_path), open
    room = {"full at once": 0, "full midway": 5000}.get(fault)
    with monkeypatch.context() as patch:
        if room is not None:
            patch.setattr("builtins.open", lambda name, mode: FullDisk(real_open(name, mode), room))
        elif fault == "full at the end":
            patch.setattr(os, "fsync", partial(fail, 28))
        elif fault == "read-only":
            patch.setattr("builtins.open", partial(fail, 13))
        elif fault == "rename":
            patch.setattr(os, "replace", partial(fail, 5))
        else:  # taken away while the file is written; nobody makes it anew behind the writer's back
            patch.setattr(os, "fsync", lambda _: shutil.rmtree(tmp_path / "folder"))
        with pytest.raises(console.UserError) as caught:
            WRITERS[kind](path)
    assert str(caught.value).startswith(f"{path}: cannot be written: ") and str(caught.value).isprintable()
    assert contents(tmp_path) == ({} if fault == "folder gone" else before)


def limit_files(size: int) -> None:
    """No file may grow beyond `size` bytes: a full disk, as a process can have it for itself."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def limit_metrics() -> None:
    """As above, but only while the metrics are written: they are smaller than what is printed."""
    real = files.write_json

    def write_json(*arguments) -> None:
        limit_files(100)
        try:
            real(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)

    files.write_json = write_json


def limit_pixels() -> None:
    """As above, on a system that cannot ask for room beforehand: the disk is full in the midst of an image."""
    del os.posix_fallocate
    limit_files(5000)


def test_a_full_disk_stops_each_script_with_a_line(home, tmp_path):
    """The same with real limits: cache, checkpoint, resume file and figures; what stood there before still loads."""
    cases = [
        ("trainpart1", partial(limit_files, 5000), ".uint8: cannot be written", "cache"),
        ("trainpart1", limit_pixels, ".uint8: cannot be written", "cache"),
        ("trainpart1", partial(limit_files, 2_000_000), "wikiart.pth: cannot be written", "out"),
        ("trainpart1", partial(limit_files, 16_000_000), "wikiart.resume.pth: cannot be written", "out"),
        ("testtrainpart1", limit_metrics, "metrics_part1.json: cannot be written", "out"),
        ("testtrainpart1", partial(limit_files, 15_000), "confusion_matrix.png: cannot be written", "out"),
    ]
    for number, (script, plant, words, kind) in enumerate(cases):
        out = tmp_path / f"out{number}"
        shutil.copytree(home / "out", out)
        before = contents(out)
        command = flags(home, out, "--seed", 5) if script == "trainpart1" else measuring(home, out)
        command += ["--cachedir", tmp_path / "cache"] if kind == "cache" else []
        done = jobs.start(tmp_path / "log", script, *command, plant=plant).wait()
        assert refused(done, words), done
        after = contents(out)
        assert after.keys() == before.keys()
        changed = {name for name in before if after[name] != before[name]}
        assert changed == ({"wikiart.pth"} if "resume" in words else set())  # that epoch's best is whole
        checkpoints.read(out / "wikiart.pth", 1)
        assert not [path for path in (tmp_path / "cache").glob("*") if path.suffix != ".lock"]


class FullOutput(io.StringIO):
    """Standard output that goes into a file on a full disk."""

    def write(self, text: str) -> int:
        fail(28)


def test_a_log_on_a_full_disk(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", FullOutput())
    with pytest.raises(SystemExit) as end:
        trainpart1.main([str(flag) for flag in flags(home, tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err == "standard output cannot be written: No space left on device\n"


def test_places_that_cannot_be_written(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    blocked = tmp_path / "file" / "out"
    assert refused(jobs.call("trainpart1", *flags(home, blocked)), f"{blocked}/wikiart.pth: cannot be written")
    assert refused(jobs.call("trainpart1", *flags(home, tmp_path, "--cachedir", blocked)), "cannot be written")
    assert refused(jobs.call("trainpart1", *flags(home, tmp_path, "--modelfile", "x" * 300)), "cannot be written")
    assert refused(jobs.call("trainpart1", *flags(home, tmp_path, "--modelfile", ".")), "--modelfile")
    (tmp_path / "model").mkdir()
    assert refused(jobs.call("trainpart1", *flags(home, tmp_path, "--modelfile", "model")), "cannot be written")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]
    real = training.train_epoch

    def take_away(*arguments):
        shutil.rmtree(tmp_path / "gone", ignore_errors=True)
        (tmp_path / "gone").write_text("")
        return real(*arguments)

    monkeypatch.setattr(training, "train_epoch", take_away)
    assert refused(jobs.call("trainpart1", *flags(home, tmp_path / "gone")), "gone/wikiart.pth: cannot be written")


# What is read is not trusted


@pytest.mark.parametrize("kind", ["clusters.csv", "metrics_auto.json", "clusters.png", "reconstruction.png"])
def test_a_full_disk_under_part_two(kind, home, tmp_path, monkeypatch):
    assert jobs.call("trainauto", *flags(home, tmp_path, "--latent_dim", 8, "--epochs", 1)).status == 0
    (tmp_path / kind).write_text("of before")
    real_open = open

    def full(name, mode="r", *more, **options):
        file = real_open(name, mode, *more, **options)
        return FullDisk(file, 100) if str(name).endswith(f".{kind}.part") else file

    monkeypatch.setattr("builtins.open", full)
    assert refused(jobs.call("testtrainauto", *measuring(home, tmp_path)), f"{kind}: cannot be written: No space left")
    assert (tmp_path / kind).read_text() == "of before" and not list(tmp_path.glob(".*"))


# Numbers gone wrong


# Junk in


def test_too_little_memory_on_the_device_is_one_line(home, tmp_path, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity of 8 GiB."
        )

    monkeypatch.setattr(training, "train_step", full)
    done = jobs.call("trainpart1", *flags(home, tmp_path))
    assert refused(done, "CUDA out of memory", "a smaller batch_size")
    assert not list(tmp_path.glob("*.pth"))


def test_an_enormous_image_is_left_out(tmp_path):
    jobs.paint(tmp_path / "train")
    Image.new("1", (9, 9)).save(tmp_path / "small.png")
    data = (tmp_path / "small.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + data[24:29]
    data = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    (tmp_path / "train" / "Cubism" / "bomb.png").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begun = time.monotonic()
        done = jobs.call("trainpart1", *flags(tmp_path, tmp_path / "out"))
    assert done.status == 0 and time.monotonic() - begun < 10
    assert jobs.one_line(done.err) and 'Cubism/bomb.png" is left out: Image size (900000000 pixels) exceeds' in done.err


NAMES = [
    "two words", "it's", 'a "quoted" one', "new\nline", "tab\tand\x1b[31mred", "Ναΐφ", "浮世絵", "لوحة", "é", "e\u0301",
    "🎨", "$a_b^c$", "%s %d {0}", "-rf", "a\\b", "<b>&amp;", os.fsdecode(b"latin\xe9"), os.fsdecode(b"\xff\xfe"),
    "x" * 200,
]  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_any_name_goes_through_a_whole_run(tmp_path):
    """Styles and paintings of any name: each line stays a line, every figure is drawn, the metrics name the styles."""
    for part, seed in ("train", 0), ("test", 1):
        jobs.paint(tmp_path / part, dict.fromkeys(NAMES, 4), seed)
        for number, name in enumerate(NAMES):
            folder = tmp_path / part / NAMES[-1 - number]
            (folder / "0.png").rename(folder / f"{name}.PNG")
            (folder / f"broken {name}.jpg").write_bytes(b"junk")
    out = tmp_path / "out"
    for script in jobs.SCRIPTS:
        more = flags(tmp_path, out) if script.startswith("train") else measuring(tmp_path, out)
        done = jobs.call(script, *more, *(["--latent_dim", 8] if script == "trainauto" else []))
        assert done.status == 0, done.err
        for line in [*done.out.splitlines(), *done.err.splitlines()]:
            assert line.isprintable()
            line.encode()
        warned = [line for line in done.err.splitlines() if "left out" in line]
        folders = 2 if script == "testtrainauto" else 1  # it fits its yardstick on the training paintings
        assert len(warned) == folders * len(NAMES)
        assert all(line.startswith("warning: ") for line in done.err.splitlines())
    for picture in out.glob("*.png"):
        with Image.open(picture) as image:
            image.load()
    assert {"confusion_matrix.png", "mistakes.png", "training_part1.png"} <= {path.name for path in out.glob("*.png")}
    assert sorted(json.loads((out / "metrics_part1.json").read_text())["per_class"]) == sorted(NAMES)
    with open(out / "clusters.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert len(list(csv.reader(file))) == 1 + len(NAMES) * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, whom a closed folder holds back")
def test_an_unreadable_folder_is_named(home):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        jobs.paint(folder / "train")
        shutil.copytree(folder / "train" / "Cubism", folder / "train" / "Baroque" / "closed")
        (folder / "train" / "Baroque" / "closed").chmod(0)
        (folder / "train" / "Ukiyo_e" / "0.png").chmod(0)
        command = flags(folder, folder / "out", "--cachedir", folder / "out" / "cache")
        folder.chmod(0o777)
        os.seteuid(65534)
        try:
            done = jobs.call("trainpart1", *command)
        finally:
            os.seteuid(0)
        assert done.status == 0, done.err
        first, second = done.err.splitlines()
        assert first.endswith('Baroque/closed" is left out: Permission denied')
        assert "Ukiyo_e/0.png" in second and second.endswith("is left out: Permission denied")


def test_a_refusal_to_read_is_not_remembered(tmp_path, monkeypatch):
    jobs.paint(tmp_path / "train")
    real = Image.open

    def closed(path, **more):
        if str(path).endswith("Ukiyo_e/0.png"):
            fail(13)
        return real(path, **more)

    for patched, count in (True, 25), (True, 25), (False, 26), (False, 26):
        with monkeypatch.context() as patch:
            if patched:
                patch.setattr(Image, "open", closed)
            dataset = wikiart.WikiArtDataset(tmp_path / "train", 16, cachedir=tmp_path / "cache")
        assert len(dataset) == count


def many(folder: Path, count: int) -> Path:
    """That many tiny paintings, hard links to a few files."""
    jobs.paint(folder, {"Cubism": 1, "Rococo": 1}, side=4)
    for style in "Cubism", "Rococo":
        for i in range(count // 2 - 1):
            os.link(folder / style / "0.png", folder / style / f"painting-{i}.png")
    return folder


def test_finding_files_costs_the_same_for_each(tmp_path):
    folder = many(tmp_path / "train", 20_000)
    begun = time.monotonic()
    found = images.find_images(str(folder))
    assert sum(map(len, found.values())) == 20_000 and time.monotonic() - begun < 4
    assert [file.path for file in found["Cubism"]] == sorted(file.path for file in found["Cubism"])


@pytest.mark.slow
def test_a_folder_of_100_000_files(tmp_path):
    folder = many(tmp_path / "train", 100_000)
    begun = time.monotonic()
    assert sum(map(len, images.find_images(str(folder)).values())) == 100_000
    found = time.monotonic() - begun
    dataset = wikiart.WikiArtDataset(folder, 16, cachedir=tmp_path / "cache")
    decoded = time.monotonic() - begun - found
    assert len(wikiart.WikiArtDataset(folder, 16, cachedir=tmp_path / "cache")) == len(dataset) == 100_000
    again = time.monotonic() - begun - found - decoded
    print(f"100,000 files: found in {found:.1f} s, decoded in {decoded:.1f} s, opened again in {again:.1f} s")
    assert found < 10 and again < 20


# Anything in


@pytest.mark.filterwarnings("ignore")
def test_fuzz(tmp_path):
    """A small share of `python tests/fuzz.py`."""
    report = fuzz.fuzz(images=500, settings=500, scripts=4, seed=1, folder=tmp_path)
    assert not report.failures, report.failures[0]
    for kind in "image", "settings file", "settings and flags":
        assert report.counts[f"{kind} accepted"] > 10 and report.counts[f"{kind} refused"] > 10, report.counts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_fuzz_in_full(tmp_path):
    report = fuzz.fuzz(images=2000, settings=2000, scripts=36, seed=0, folder=tmp_path)
    assert not report.failures, report.failures[0]
