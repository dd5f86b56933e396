"""Checkpoints: what they hold, and files that are damaged, of another version or hostile."""

import pickle
from functools import partial
from pathlib import Path

import jobs
import pytest
import torch

import wikiart
from support import checkpoints, settings


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


@pytest.mark.filterwarnings("ignore")
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
        words = "is not a file of weights, is damaged, or holds code, which is never run"
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
