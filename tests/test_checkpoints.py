"""Checkpoints: what they hold, and files that are damaged, of another version or hostile."""

import argparse
import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
from torchvision import models

import wikiart
from support.system import console, settings
from support.training import checkpoints, resume


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
    assert set(checkpoint) == {*checkpoints.KEYS, "architecture", "version"}
    assert checkpoint["classes"] == list(jobs.COUNTS) and checkpoint["counts"] == jobs.COUNTS
    assert (checkpoint["architecture"], checkpoint["image_size"], checkpoint["epoch"]) == ("residual", 16, 1)
    assert all((home / "train" / path).is_file() for path in checkpoint["paths"])
    expected = (set(settings.SHARED) | set(settings.SECTIONS["classifier"])) - set(settings.PATHS)
    assert set(checkpoint["settings"]) == expected and checkpoint["settings"]["epochs"] == 1
    for file in "wikiart.pth", "wikiart.resume.pth":
        assert str(home).encode() not in (home / "out" / file).read_bytes()
    network = wikiart.load_network(checkpoint)
    assert not network.training and not any(p.requires_grad for p in network.parameters())


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("kind", ["torch", "legacy", "pickle"])
def test_code_in_a_file_of_weights_never_runs(kind, home, tmp_path):
    planted, file = tmp_path / "planted", tmp_path / "evil.pth"
    for value in [Hostile(planted), jobs.load(home / "out" / "wikiart.pth") | {"history": Hostile(planted)}]:
        if kind == "pickle":
            file.write_bytes(pickle.dumps(value))
        else:
            torch.save(value, file, _use_new_zipfile_serialization=kind == "torch")
        for name in "wikiart.pth", "wikiart.resume.pth":
            (tmp_path / name).write_bytes(file.read_bytes())
        words = "could run code"
        assert jobs.refused(jobs.call("testtrainpart1", *flags(home, tmp_path)), "wikiart.pth", words)
        assert jobs.refused(jobs.call("trainpart1", *flags(home, tmp_path)), "resume.pth", words, "--fresh")
        more = ["--fresh", "--pretrained", file]
        assert jobs.refused(jobs.call("trainpart1", *flags(home, tmp_path), *more), "--pretrained", words)
        assert not planted.exists()
        trust = pickle.load if kind == "pickle" else partial(torch.load, weights_only=False)
        with open(file, "rb") as opened:
            trust(opened)
        assert planted.exists()  # it does run where it is trusted
        planted.unlink()


DAMAGE = {
    "list": (lambda c: [1, 2, 3], "is not a checkpoint"),
    "state_dict": (lambda c: c["model"], "is not a checkpoint"),
    "other part": (lambda c: c | {"part": 2, "latent_dim": 8}, "holds an autoencoder"),
    "version 1": (lambda c: {k: v for k, v in c.items() if k != "version"}, "written by another version of this pro"),
    "version 9": (lambda c: c | {"version": 9}, f"version of this project (9, expected {checkpoints.VERSION})"),
    "lacks a key": (lambda c: {k: v for k, v in c.items() if k != "fingerprints"}, "is damaged: fingerprints"),
    "a path less": (lambda c: c | {"paths": c["paths"][1:]}, "is damaged: paths are not one text for each"),
    "a path as a number": (lambda c: c | {"paths": [1, *c["paths"][1:]]}, "is damaged: paths"),
    "a text": (lambda c: c | {"model": c["model"] | {"note": "text"}}, "note is not part of it"),
    "eight bits": (
        lambda c: c | {"model": {n: (v * torch.nan).to(torch.float8_e4m3fn) for n, v in c["model"].items()}},
        "not finite",
    ),
    "no shape": (lambda c: c | {"fingerprints": torch.tensor(1)}, "is damaged: paths"),
    "a thumbnail less": (lambda c: c | {"thumbnails": c["thumbnails"][1:]}, "is damaged: thumbnails"),
    "image size": (lambda c: c | {"image_size": 10**9}, "is damaged: image_size"),
    "one style less": (lambda c: c | {"classes": c["classes"][:-1]}, "is damaged"),
    "counts as texts": (lambda c: c | {"counts": dict.fromkeys(c["counts"], "9")}, "is damaged: counts"),
    "other settings": (lambda c: c | {"settings": c["settings"] | {"smote_target": None}}, "smote_target is null"),
    "no settings": (lambda c: c | {"settings": {}}, "imbalance is null"),
    "a share of 2": (lambda c: c | {"settings": c["settings"] | {"validation": 2}}, "validation is 2"),
    "another network": (lambda c: c | {"architecture": "three_conv"}, "is damaged"),
    "no such network": (lambda c: c | {"architecture": "nothing"}, "is damaged"),
    "not finite": (lambda c: c | {"model": c["model"] | {"normalize.std": torch.ones(3) / 0}}, "is damaged"),
    "no weights": (lambda c: c | {"model": {}}, "is damaged"),
}  # fmt: skip


def test_a_file_that_is_no_checkpoint_is_one_line(home, tmp_path, monkeypatch):
    good, whole = jobs.load(home / "out" / "wikiart.pth"), (home / "out" / "wikiart.pth").read_bytes()
    path = tmp_path / "wikiart.pth"
    assert jobs.refused(jobs.call("testtrainpart1", *flags(home, tmp_path)), "wikiart.pth: no such file")
    monkeypatch.chdir(tmp_path)
    refusal = jobs.call("testtrainpart1", *flags(home, "out"))
    assert jobs.refused(refusal, f'out/wikiart.pth: no such file in "{tmp_path}"')
    for name, (spoil, words) in DAMAGE.items():
        torch.save(spoil(good), path)
        done = jobs.call("testtrainpart1", *flags(home, tmp_path))
        assert jobs.refused(done, "wikiart.pth: ", words), (name, done)
    for data in b"", b"text\n", whole[: len(whole) // 2], whole[:-1]:
        path.write_bytes(data)
        assert jobs.refused(jobs.call("testtrainpart1", *flags(home, tmp_path)), "wikiart.pth: ")
    assert [path.name for path in tmp_path.iterdir()] == ["wikiart.pth"]  # nothing was written


def written(write: Callable, *more: object, **options: object) -> bytes:
    """What a function writes into a file."""
    file = io.BytesIO()
    write(*more, file, **options)
    return file.getvalue()


NETWORK, LEGACY = torch.nn.Sequential(torch.nn.Linear(99, 99)), {"_use_new_zipfile_serialization": False}
FOREIGN = {
    "is empty; delete it": [b""],
    "is a Git LFS pointer, not the file that it stands for; git lfs": [b"version https://git-lfs.github.com/spec/v1\n"],
    "is a web page, not the file": [b"\n<!DOCTYPE html>", b"<html lang=en>", b'\xef\xbb\xbf<?xml version="1.0"?>'],
    "is a safetensors file; convert it": [number.to_bytes(8, "little") + b'{"a": {} }' for number in (10, 2**20)],
    "is an archive or compressed; unpack it": [
        *[library.compress(b"x") for library in (gzip, bz2, lzma)],
        written(lambda file: tarfile.TarFile(fileobj=file, mode="w").add(__file__)),
    ],
    "is a zip archive of other files": [
        written(lambda file: zipfile.ZipFile(file, "w").write(__file__)),
        written(lambda file: np.savez(file, np.ones(9))),
    ],
    "is a file of Keras, NumPy": [
        b"\x89HDF\r\n\x1a\n00", b"\x08\x07\x12\x07pytorch", written(lambda file: np.save(file, np.ones(9))),
    ],
    "is a pickle, which could run code": [pickle.dumps([1], protocol) for protocol in (2, 4, 5)],
    "is not a file of weights": [b"hello\n", b'{"a": 1}', b"\x89PNG\r\n\x1a\n", b"\0" * 99],
    "is a whole network (torch.nn.modules.container.Sequential), and": [
        written(torch.save, NETWORK), written(torch.save, {"net": NETWORK}, **LEGACY),
    ],
    "holds argparse.Namespace, and only tensors": [
        written(torch.save, {"args": argparse.Namespace(), "model": NETWORK.state_dict()}, **more)
        for more in ({}, LEGACY)
    ],
    ".multiarray.scalar, and only tensors": [written(torch.save, {"best": np.float64(1)})],
    "is incomplete or damaged; delete it, and download": [
        content[:length] for more in ({}, LEGACY) for content in [written(torch.save, NETWORK.state_dict(), **more)]
        for length in (20, 1000, 9999, len(content) // 2, len(content) - 1)
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


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in tmp_path, tmp_path / "pipe":
        with pytest.raises(console.UserError, match="cannot be read: not a file"):
            checkpoints.load(path)


ALLOCATION = (
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
)


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(ALLOCATION), ArithmeticError("a bug"),
])  # fmt: skip
def test_an_error_of_memory_or_of_the_program_is_no_damage(error, home, monkeypatch):
    checkpoint = checkpoints.read(home / "out" / "wikiart.pth", 1)

    def fails(place: object, name: str, act: Callable) -> None:
        with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
            patch.setattr(place, name, partial(raising, error))
            act()
        assert caught.value is error

    fails(torch.nn.Module, "load_state_dict", lambda: wikiart.load_network(checkpoint))
    fails(torch.nn.Module, "__call__", lambda: wikiart.make_classifier("squeezenet1_1", 2, 32))
    fails(models, "get_model", lambda: wikiart.load_network(checkpoint | {"architecture": "squeezenet1_1"}))
    if not isinstance(error, ArithmeticError):  # a damaged file can raise anything else
        fails(torch, "load", lambda: checkpoints.load(home / "out" / "wikiart.pth"))
        fails(torch.nn.Module, "load_state_dict", lambda: resume.restore({"model": {}}, NETWORK, None, "x"))


def raising(error: BaseException, *_: object, **__: object) -> None:
    raise error
