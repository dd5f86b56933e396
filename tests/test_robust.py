"""Disks that are full, folders that are gone, files that lie, numbers that explode: one line each, and nothing lost."""

import csv
import io
import json
import math
import os
import pickle
import re
import resource
import shutil
import struct
import tempfile
import time
import warnings
import zlib
from functools import partial
from pathlib import Path

import jobs
import pytest
import torch
from PIL import Image

import wikiart
from support import images, training

pytestmark = pytest.mark.filterwarnings("ignore:.*(pickle protocol|sparse tensor|quantiz|nested tensors|TypedStorage)")


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


def fail(error: int, *_: object) -> None:
    raise OSError(error, os.strerror(error))


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
