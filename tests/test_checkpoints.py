"""Checkpoints: what they hold, and files that are damaged, of another version or hostile."""

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import jobs
import numpy as np
import pytest
import torch
from torchvision import models

import wikiart
from support.system import console, settings
from support.training import checkpoints

NETWORK, LEGACY = torch.nn.Sequential(torch.nn.Linear(99, 99)), {"_use_new_zipfile_serialization": False}


def written(write: Callable, *more: object, **options: object) -> bytes:
    """What a function writes into a file."""
    file = io.BytesIO()
    write(*more, file, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Paintings, their cache, and a trained part 1 in out/."""
    home = tmp_path_factory.mktemp("home")
    jobs.paint(home / "train")
    assert jobs.call("trainpart1", *flags(home, home / "out")).status == 0
    return home


def flags(home: Path, out: Path, *more: object) -> list[object]:
    return jobs.flags(home / "train", out, "--testingdir", home / "train", *more)


def test_a_checkpoint_holds_what_reproduces_the_training_and_no_folders(home):
    checkpoint = checkpoints.read(home / "out" / "wikiart.pth", 1)
    assert set(checkpoint) == {*checkpoints.RULES, "part", "version", "architecture", "image_size"}
    assert checkpoint["classes"] == list(jobs.COUNTS) and checkpoint["counts"] == jobs.COUNTS
    assert (checkpoint["architecture"], checkpoint["image_size"], checkpoint["epoch"]) == ("residual", 16, 1)
    assert all((home / "train" / path).is_file() for path in checkpoint["paths"])
    expected = (set(settings.SHARED) | set(settings.SECTIONS["classifier"])) - set(settings.PATHS)
    assert set(checkpoint["settings"]) == expected and checkpoint["settings"]["epochs"] == 1
    for file in "wikiart.pth", "wikiart.resume.pth":
        assert str(home).encode() not in (home / "out" / file).read_bytes()


class Hostile:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("planted"),)


@pytest.mark.parametrize(
    "save, trust", [(torch.save, partial(torch.load, weights_only=False)), (pickle.dump, pickle.load)]
)
def test_code_in_a_file_of_weights_never_runs(save, trust, home, workdir):
    content = written(save, jobs.load(home / "out" / "wikiart.pth") | {"history": Hostile()})
    for name in "wikiart.pth", "wikiart.resume.pth":
        Path(name).write_bytes(content)
    words, more = "could run code", ["--fresh", "--pretrained", "wikiart.pth", "--modelfile", "new.pth"]
    assert jobs.refused(jobs.call("testtrainpart1", *flags(home, workdir)), "wikiart.pth", words)
    assert jobs.refused(jobs.call("trainpart1", *flags(home, workdir)), "resume.pth", words, "--fresh")
    assert jobs.refused(jobs.call("trainpart1", *flags(home, workdir), *more), "--pretrained", words)
    assert not Path("planted").exists()
    trust(io.BytesIO(content))
    assert Path("planted").exists()  # it does run where it is trusted


DAMAGE = [
    ("is not a checkpoint", lambda c: [1, 2, 3]),
    ("holds an autoencoder, expected a style classifier; run python trainpart1.py", lambda c: c | {"part": 2}),
    (f"of this project (1, expected {checkpoints.VERSION})", lambda c: {n: c[n] for n in c if n != "version"}),
    ("is damaged: model is", lambda c: {n: c[n] for n in c if n != "model"}),
    *[(f"is damaged: {key} is", lambda c, key=key: c | {key: None}) for key in (*checkpoints.RULES, "image_size")],
    ("is damaged: fingerprints", lambda c: c | {"paths": c["paths"][1:]}),
    ("is damaged: counts", lambda c: c | {"counts": dict.fromkeys(c["counts"], "9")}),
    ("is damaged: image_size is 1000000000", lambda c: c | {"image_size": 10**9}),
    ("is damaged: imbalance is null", lambda c: c | {"settings": {}}),
    ("its weights do not fit", lambda c: c | {"model": {5: 5}}),
    ('unknown architecture "nothing"', lambda c: c | {"architecture": "nothing"}),
]


def test_a_file_that_is_no_checkpoint_is_one_line(home, workdir):
    good = jobs.load(home / "out" / "wikiart.pth")
    for script, file in ("part1", "wikiart"), ("auto", "autoencoder"):
        refusal = jobs.call(f"testtrain{script}", *flags(home, "out"))
        assert jobs.refused(refusal, f'out/{file}.pth: no such file in "{workdir}"; run python train{script}.py')
    for words, spoil in DAMAGE:
        torch.save(spoil(good), "wikiart.pth")
        done = jobs.call("testtrainpart1", *flags(home, workdir))
        assert jobs.refused(done, "wikiart.pth: ", words), (words, done)
    assert not list(workdir.glob("*.json"))


FOREIGN = {
    "is empty; delete it": [b""],
    "is a Git LFS pointer, not the file that it stands for; git lfs": [b"version https://git-lfs.github.com/spec/v1\n"],
    "is a web page, not the file": [b"\n<!DOCTYPE html>", b'\xef\xbb\xbf<?xml version="1.0"?>'],
    "is a safetensors file; convert it": [number.to_bytes(8, "little") + b'{"a": {} }' for number in (10, 2**20)],
    "is an archive or compressed; unpack it": [
        gzip.compress(b"x"), written(lambda file: tarfile.TarFile(fileobj=file, mode="w").add(__file__)),
    ],
    "is of Keras, NumPy, ONNX or other programs; expected what torch.save": [
        written(lambda file: np.savez(file, np.ones(9))), written(lambda file: np.save(file, np.ones(9))),
        b"\x89HDF\r\n\x1a\n00", b"\x08\x07\x12\x07pytorch",
    ],
    "is a pickle, which could run code": [pickle.dumps([1], protocol) for protocol in (2, 4, 5)],
    "is not a file of weights": [b"hello\n", b'{"a": 1}', b"\0" * 99],
    "holds torch.nn.modules.container.Sequential, and loading it could run code; if you trust it, save its weights": [
        written(torch.save, NETWORK), written(torch.save, {"net": NETWORK}, **LEGACY),
    ],
    ".multiarray.scalar, and loading it could run code": [written(torch.save, {"best": np.float64(1)})],
    "is incomplete or damaged; delete it, and download": [
        content[:length] for more in ({}, LEGACY) for content in [written(torch.save, NETWORK.state_dict(), **more)]
        for length in (20, len(content) // 2, len(content) - 1)
    ],
}  # fmt: skip


@pytest.mark.parametrize("words", [*FOREIGN, "is a TorchScript archive; convert it: torch.save(torch.jit"])
def test_a_file_of_another_format_is_named_with_what_to_do(words, tmp_path, recwarn):
    contents = FOREIGN.get(words) or [written(lambda file: torch.jit.save(torch.jit.script(NETWORK), file))]
    recwarn.clear()
    for content in contents:
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(console.UserError) as caught:
            checkpoints.load(tmp_path / "w.pth")
        assert str(caught.value).startswith(str(tmp_path / "w.pth: ")) and words in str(caught.value), caught.value
        assert str(caught.value).isprintable() and not recwarn.list


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), ArithmeticError("a bug")])
def test_an_error_of_memory_or_of_the_program_is_no_damage(error, home, monkeypatch):
    path = home / "out" / "wikiart.pth"
    checkpoint = checkpoints.read(path, 1)
    cases = [
        (torch.nn.Module, "load_state_dict", lambda: wikiart.load_network(checkpoint)),
        (models, "get_model", lambda: wikiart.make_classifier("squeezenet1_1", 2, 32)),
        (torch, "load", lambda: checkpoints.load(path)),
    ]
    for place, name, act in cases[: 2 if isinstance(error, ArithmeticError) else 3]:  # a damaged file can raise it
        with monkeypatch.context() as patch, pytest.raises(type(error)):
            patch.setattr(place, name, Mock(side_effect=error))
            act()
