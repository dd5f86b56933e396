"""Disks that are full, folders that are gone, files that lie, numbers that explode: one line each, and nothing lost."""

import io
import math
import os
import pickle
import re
import resource
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import jobs
import matplotlib.figure
import pytest
import torch

import trainpart1
import wikiart
from support import checkpoints, console, figures, files, training

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


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_code_in_a_file_of_weights_never_runs(home, tmp_path):
    planted = tmp_path / "planted"
    good = jobs.load(home / "out" / "wikiart.pth")
    for name, write in {
        "torch": lambda value, path: torch.save(value, path),
        "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
        "pickle": lambda value, path: path.write_bytes(pickle.dumps(value)),
    }.items():
        for value in [Hostile(planted), good | {"history": Hostile(planted)}, {"model": Hostile(planted)}]:
            out = tmp_path / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            write(value, out / "evil.pth")
            shutil.copy(out / "evil.pth", out / "wikiart.pth")
            shutil.copy(out / "evil.pth", out / "wikiart.resume.pth")
            words = "is no file of weights"
            assert refused(jobs.call("testtrainpart1", *measuring(home, out)), words), name
            assert refused(jobs.call("trainpart1", *flags(home, out)), words, "--fresh")
            evil = flags(home, out, "--fresh", "--pretrained", out / "evil.pth")
            assert refused(jobs.call("trainpart1", *evil), words)
            assert not planted.exists()
            trust = pickle.loads if name == "pickle" else lambda data: torch.load(io.BytesIO(data), weights_only=False)
            trust((out / "evil.pth").read_bytes())  # it does work on those who trust it
            assert planted.exists()
            planted.unlink()


def lies(good: dict[str, object]) -> dict[str, dict[str, object]]:
    """Checkpoints that are not what they seem."""
    model = good["model"]
    name = next(name for name, value in model.items() if value.ndim == 4)
    huge = [torch.zeros(1).expand(2**20, 2**20), torch.zeros(1).expand(2**14, 2**15)]  # 4 TiB and 2 GiB out of 4 bytes

    def with_weights(value: object) -> dict[str, object]:
        return good | {"model": model | {name: value}}

    changes = {
        "part": [2, 3, True, "1", None, torch.ones(2)],
        "classes": [[], ["b", "a", "c"], ["a", "a", "b"], [1, 2, 3], ["a"] * 10**6, "abc", ["Baroque", "Cubism"]],
        "counts": [{}, {"a": 1}, {name: -1 for name in good["counts"]}, {name: 1.5 for name in good["counts"]}, []],
        "image_size": [0, -16, 10**9, 16.0, True, "16", torch.tensor(16)],
        "architecture": ["", "three_conv", "resnet18", "vit_h_14", "no_such", 5, "../x", "residual\n"],
        "mean": [[0.5], [math.nan] * 3, [0.5, 0.5, "x"], torch.zeros(3), [10**400] * 3, [1e300] * 3, [-0.1, 0.5, 0.5]],
        "std": [[0.0] * 3, [1e-300] * 3, [-1.0] * 3, [math.inf] * 3, [0.5] * 4],
        "fingerprints": [torch.zeros(1, dtype=torch.int64).expand(2**40), torch.zeros(3), [1]],
        "model": [{}, [], {name: model[name]}, {1: torch.zeros(1)}, model | {"more": torch.zeros(1)}, model | {7: 7}],
        "epoch": [None, "1", 1.5],
        "history": [None, {}],
        "settings": [None],
    }
    result = {f"{key} {i}": good | {key: value} for key, values in changes.items() for i, value in enumerate(values)}
    result |= {f"without {key}": {k: v for k, v in good.items() if k != key} for key in good}
    weights = model[name]
    odd = [
        weights.double(), weights.half(), weights.long(), weights.to(torch.complex64), weights.to_sparse(),
        weights.flatten(), weights[:1], *huge, weights.to("meta"), weights * math.nan, weights + math.inf,
        torch.quantize_per_tensor(weights, 0.1, 0, torch.qint8), None, 5, [1.0], "text", torch.zeros(0),
        torch.zeros(weights.shape, dtype=torch.float8_e5m2), torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ]  # fmt: skip
    result |= {f"weights {i}": with_weights(value) for i, value in enumerate(odd)}
    others = [None, 5, [good], model[name], "text", {}]
    return result | {f"no checkpoint {i}": value for i, value in enumerate(others)}


def test_a_checkpoint_that_lies_is_refused(home, tmp_path, monkeypatch):
    """Wrong keys, kinds, shapes and numbers, and claims that would take terabytes: a line, and no memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(wikiart, "WikiArtDataset", partial(pytest.fail, "it has gone on"))
    good = jobs.load(home / "out" / "wikiart.pth")
    for name, value in lies(good).items():
        torch.save(value, tmp_path / "wikiart.pth")
        done = jobs.call("testtrainpart1", *measuring(home, tmp_path))
        assert refused(done, "wikiart.pth"), (name, done)
    whole = (home / "out" / "wikiart.pth").read_bytes()
    for end in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "wikiart.pth").write_bytes(whole[:end])
        assert refused(jobs.call("testtrainpart1", *measuring(home, tmp_path)), "is no file of weights"), end
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB


def test_a_resume_file_that_lies_is_refused(home, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(training, "say_epoch", partial(fail, 5))
        with pytest.raises(OSError, match="error"):
            jobs.call("trainpart1", *flags(home, out))
    file = out / "wikiart.resume.pth"
    good = jobs.load(file)
    row, moments = good["history"][0], good["moments"]
    odd = {
        "run": [None, {}, good["run"] | {"seed": torch.zeros(3)}, good["run"] | {"seed": "2326"}],
        "model": [{}, [], {1: 2}, good["model"] | {1: torch.zeros(1)}, good["model"] | {"head.bias": torch.ones(3) / 0},
                  {name: value[:0] for name, value in good["model"].items() if value.ndim}],
        "moments": [
            [], {"x": 1}, {0: 1}, {0: {}}, {99999: moments[0]}, {0: moments[1]}, {0: moments[0] | {"step": 5}},
            {0: moments[0] | {"exp_avg": torch.zeros(1)}},
            {0: moments[0] | {"exp_avg": moments[0]["exp_avg"] * math.nan}},
        ],
        "history": [
            {}, [1], [[]], [row, row], [{}], [row | {"macro_f1": "x"}], [row | {"macro_f1": math.nan}],
            [row | {"epoch": 2}], [row | {"epoch": i} for i in range(1, 9)], [row | {"epoch": torch.ones(2)}],
        ],
    }  # fmt: skip
    values = [good | {key: value} for key, options in odd.items() for value in options]
    values += [{k: v for k, v in good.items() if k != key} for key in good] + [None, [], "text", torch.ones(2)]
    for value in values:
        torch.save(value, file)
        done = jobs.call("trainpart1", *flags(home, out))
        assert refused(done, "wikiart.resume.pth", "--fresh"), (value, done)
    torch.save(good | {"history": [{"epoch": 1}]}, file)  # other columns, as another version might write them
    assert jobs.call("trainpart1", *flags(home, out)).status == 0


def test_an_autoencoder_that_lies_is_refused(home, tmp_path):
    assert jobs.call("trainauto", *flags(home, tmp_path, "--latent_dim", 8, "--epochs", 1)).status == 0
    good = jobs.load(tmp_path / "autoencoder.pth")
    for value in (0, -8, 9, 10**18, 2**70, 8.0, True, "8", None, torch.tensor(8)):
        torch.save(good | {"latent_dim": value}, tmp_path / "autoencoder.pth")
        assert refused(jobs.call("testtrainauto", *measuring(home, tmp_path)), "autoencoder.pth"), value
    for value in (32, 24, 17, 1024):
        torch.save(good | {"image_size": value}, tmp_path / "autoencoder.pth")
        assert refused(jobs.call("testtrainauto", *measuring(home, tmp_path)), "autoencoder.pth"), value
    shutil.copy(home / "out" / "wikiart.pth", tmp_path / "autoencoder.pth")
    assert refused(jobs.call("testtrainauto", *measuring(home, tmp_path)), "style classifier", "meant an autoencoder")


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


def test_pretrained_weights_that_do_not_fit_are_refused(home, tmp_path):
    model = jobs.load(home / "out" / "wikiart.pth")["model"]
    name = next(iter(model))
    odd = [None, [], 5, {}, {1: 2}, model | {1: 2}, {name: model[name]}, model | {name: "text"}, model | {name: None}]
    odd += [model | {name: value} for value in (model[name] * math.nan, model[name][:1], model[name].to_sparse())]
    odd += [model | {name: model[name].to("meta")}, {"model": 5}, {"model": {"model": model}}]
    for value in odd:
        torch.save(value, tmp_path / "weights.pth")
        done = jobs.call("trainpart1", *flags(home, tmp_path, "--pretrained", tmp_path / "weights.pth"))
        assert refused(done, "--pretrained: "), (value, done)
    done = jobs.call("trainpart1", *flags(home, tmp_path / "out", "--pretrained", home / "out" / "wikiart.pth"))
    assert done.status == 0, done.err


# Numbers gone wrong


@pytest.mark.parametrize("processes", [1, 2])
def test_a_loss_that_is_not_finite_stops(processes, home, tmp_path):
    """Planted into epoch 2: where, at which learning rate; the first epoch stays, and nothing else is saved."""
    running = jobs.start(tmp_path / "log", "trainpart1", *flags(home, tmp_path), processes=processes, plant=plant_nan)
    running.wait()
    errors = [(tmp_path / f"log.{rank}.err").read_text() for rank in range(processes)]
    own = [text for text in errors if "not finite" in text]
    assert own and all(jobs.one_line(text) for text in errors), errors
    assert re.search(r"in epoch 2, between steps 1 and \d of \d, at learning rate \S+ \(peak 0.002\); ", own[0])
    for name in "wikiart.pth", "wikiart.resume.pth":
        content = jobs.load(tmp_path / name)
        assert len(content["history"]) == 1
        assert all(value.isfinite().all() for value in content["model"].values())
    assert {path.suffix for path in tmp_path.iterdir()} <= {".pth", ".out", ".err"}


def plant_nan() -> None:
    real, planted = training.train_epoch, training.train_step

    def train_epoch(*arguments):
        training.train_step = planted_step if arguments[-1] == 2 else planted
        return real(*arguments)

    def planted_step(model, optimizer, loss_of, images, labels):
        return planted(model, optimizer, lambda *batch: loss_of(*batch) * math.nan, images, labels)

    training.train_epoch = train_epoch


def test_weights_that_explode_after_the_last_loss_are_not_saved(home, tmp_path, monkeypatch):
    """The last step's loss is finite, what the step makes of the weights is not."""
    real = training.share_buffers

    def explode(model: torch.nn.Module) -> None:
        real(model)
        with torch.no_grad():
            next(model.parameters()).mul_(math.inf)

    monkeypatch.setattr(training, "share_buffers", explode)
    for validation in 0.3, 0:
        done = jobs.call("trainpart1", *flags(home, tmp_path / "out", "--validation", validation))
        assert refused(done, "not finite in epoch 1", "learning rate")
        assert not (tmp_path / "out").exists()


def test_training_that_diverges(home, tmp_path):
    command = flags(home, tmp_path, "--learning_rate", 10, "--epochs", 6, "--imbalance", "none")
    done = jobs.call("trainpart1", *command)
    assert done.status == 0 or refused(done, "not finite in epoch", "learning rate")
    for path in tmp_path.glob("*.pth"):
        assert all(value.isfinite().all() for value in jobs.load(path)["model"].values())


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
