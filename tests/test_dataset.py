"""WikiArtDataset: labels, the read-only mapping, worker processes of any kind, and the README's lines."""

import errno
import json
import multiprocessing
import os
import pickle
import re
import unicodedata
from functools import partial

import jobs
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import wikiart
from support.system import console

S = 16


@pytest.fixture
def folder(tmp_path, paint):
    return paint(tmp_path / "paintings", {"Cubism": 3, "Baroque": 2, "Rococo": 4})


@pytest.fixture
def load(tmp_path, folder):
    return partial(wikiart.WikiArtDataset, folder, cachedir=tmp_path / "cache")


def test_the_dataset_has_what_the_contract_names(load, folder):
    dataset = load(S)
    assert isinstance(dataset, torch.utils.data.Dataset) and len(dataset) == len(list(dataset)) == 9
    assert dataset.counts == {"Baroque": 2, "Cubism": 3, "Rococo": 4} and dataset.classes == list(dataset.counts)
    assert dataset.labels.dtype == torch.int64 and dataset.labels.tolist() == [0] * 2 + [1] * 3 + [2] * 4
    assert dataset.images.dtype == torch.uint8 and dataset.images.shape == (9, 3, S, S)
    image, label = dataset[4]
    assert torch.equal(image, dataset.images[4]) and (label, type(label)) == (1, int)
    assert dataset.paths[4] == str(folder / "Cubism" / "002.jpg")


def test_given_classes_keep_their_labels_in_either_unicode_form(folder, load):
    (folder / "Cubism").rename(folder / unicodedata.normalize("NFD", "Cubisme é"))
    for form in "NFC", "NFD":
        known = ["Art_Nouveau", "Baroque", unicodedata.normalize(form, "Cubisme é"), "Minimalism", "Rococo"]
        dataset = load(S, known)
        assert dataset.classes == known and dataset.labels.tolist() == [1] * 2 + [2] * 3 + [4] * 4
        assert dataset.counts == dict(zip(known, [0, 2, 3, 0, 4], strict=True))


def test_a_changed_sample_leaves_the_dataset_alone_and_the_mapping_is_read_only(load):
    dataset = load(S)
    before = dataset.images.clone()
    image, _ = dataset[0]
    image.zero_()
    next(iter(DataLoader(dataset, batch_size=4)))[0].zero_()
    assert before[0].any() and torch.equal(dataset.images, before)
    with open("/proc/self/maps") as maps:
        (line,) = [line for line in maps if os.path.realpath(dataset.pixel_file) in line]
    assert line.split()[1].startswith("r--")


def test_a_cache_that_cannot_be_mapped_is_one_clear_error(load, monkeypatch):
    monkeypatch.setattr(np, "memmap", partial(jobs.fail, errno.ENOMEM))
    with pytest.raises(console.UserError, match=r"cannot be mapped .* memory; a smaller image_size needs less$"):
        load(S)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.usefixtures("folder")
def test_workers_of_any_kind_give_the_same_items_and_a_pickle_holds_no_pixels(tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)  # the fork server's workers begin elsewhere
    dataset = wikiart.WikiArtDataset("paintings", 256, cachedir="cache")
    assert len(pickle.dumps(dataset)) < 5000 < dataset.images.nbytes / 100  # names, labels and paths
    context = jobs.fork_server() if method == "forkserver" else multiprocessing.get_context(method)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=context)
    images, labels = (torch.cat(column) for column in zip(*loader, strict=True))
    assert torch.equal(images, dataset.images) and torch.equal(labels, dataset.labels)


def test_the_readmes_lines_run(tmp_path, monkeypatch):
    jobs.paint(tmp_path / "data" / "sample" / "train", side=40)
    monkeypatch.chdir(tmp_path)
    flags = jobs.flags("data/sample/train", ".", "--image_size", 64, "--validation", 0)
    assert jobs.call("trainpart1", *flags).status == 0
    (block,) = re.findall(r"```python\n(.*?)```", (jobs.ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(block, names)
    assert names["loss"].item() > 0 and names["probabilities"].shape[1] == len(jobs.COUNTS)
    assert torch.allclose(names["probabilities"].sum(1), torch.ones(1), atol=1e-5)


HOSTILE = ['a "quoted"\nline\x1b[31m', "-rf $a_b^c %s {0}", "浮世絵 " + os.fsdecode(b"latin\xe9")]


def test_any_name_goes_through_a_whole_run(tmp_path):
    for part, seed in ("train", 0), ("test", 1):
        jobs.paint(tmp_path / part, dict.fromkeys(HOSTILE, 4), seed)
        for name in HOSTILE:
            (tmp_path / part / name / "0.png").rename(tmp_path / part / name / f"{name}.PNG")
            (tmp_path / part / name / f"broken {name}.jpg").write_bytes(b"junk")
    flags = jobs.flags(tmp_path / "train", tmp_path / "out", "--testingdir", tmp_path / "test")
    for script in "trainpart1", "testtrainpart1":
        done = jobs.call(script, *flags)
        assert done.status == 0, done.err
        assert all(line.isprintable() and line.encode() for line in [*done.out.splitlines(), *done.err.splitlines()])
        left_out = [line for line in done.err.splitlines() if "left out" in line]
        assert len(left_out) == 3 and all(line.startswith("warning: ") for line in done.err.splitlines())
    metrics = json.loads((tmp_path / "out" / "metrics_part1.json").read_text())
    assert sorted(metrics["per_class"]) == sorted(HOSTILE)
