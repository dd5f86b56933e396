"""The painted sample, as its users see it: repeatable, in the course's proportions, whole or not there."""

import importlib.util
from functools import partial
from pathlib import Path

import jobs
import pytest
import torch

import wikiart
from support.paintings import duplicates

SCRIPT = jobs.ROOT / "data" / "sample" / "prepare.py"


@pytest.fixture
def prepare(monkeypatch):
    """The script as a fresh module with a plan of a few pictures."""
    spec = importlib.util.spec_from_file_location("prepare_sample", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.whole_plan = module.plan
    small = [("train", "Cubism", 6), ("train", "Ukiyo_e", 6), ("test", "Cubism", 3), ("test", "Ukiyo_e", 3)]
    monkeypatch.setattr(module, "plan", lambda full=False: small)
    return module


def test_it_repeats_itself_and_training_and_test_share_no_picture(prepare, tmp_path):
    for folder in "ab":
        prepare.main(["--out", str(tmp_path / folder)])
    first = jobs.contents(tmp_path / "a")
    assert first == jobs.contents(tmp_path / "b") and len(first) == len(set(first.values())) == 18
    assert sum(name.startswith("train/Cubism/") for name in first) == 6


def test_training_and_evaluating_on_the_sample_warns_of_no_near_duplicate(prepare, tmp_path, monkeypatch):
    """Portraits are what looks alike soonest."""
    of_portraits = "Northern_Renaissance", "High_Renaissance", "Art_Nouveau_Modern", "Minimalism"
    plan = [row for row in prepare.whole_plan() if row[1] in of_portraits]
    monkeypatch.setattr(prepare, "plan", lambda full: plan)
    prepare.main(["--out", str(tmp_path)])
    parts = [wikiart.WikiArtDataset(tmp_path / part, 64, cachedir=tmp_path / "cache") for part in prepare.PARTS]
    pairs, _ = duplicates.near_duplicates(duplicates.grey_fingerprints(torch.cat([part.images for part in parts])))
    assert sum(map(len, parts)) == sum(count for _, _, count in plan) and not len(pairs)


def test_the_full_plan_has_the_courses_counts(prepare):
    plan = prepare.whole_plan(full=True)
    counts = {part: [count for row_part, _, count in plan if row_part == part] for part in prepare.PARTS}
    assert [(len(each), sum(each)) for each in counts.values()] == [(27, 13_350), (27, 630)]


def test_a_run_that_fails_or_is_killed_keeps_what_was_there(prepare, tmp_path, monkeypatch, run, refused):
    prepare.main(["--out", str(tmp_path)])
    train, rename = tmp_path / "train", Path.rename
    before = jobs.contents(train)
    for place, name, fails in (
        (prepare, "paint", partial(jobs.fail, 28)),
        (Path, "rename", lambda path, to: jobs.fail(28) if path.name == ".train.part" else rename(path, to)),
    ):
        train.rename(tmp_path / ".train.old")  # as a killed run may leave them
        (tmp_path / ".test.part").mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fails)
            assert "No space left" in refused(prepare, "--out", tmp_path, "--full")
        assert jobs.contents(train) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["test", "train"]
    monkeypatch.setattr(prepare.workers, "parallel_map", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(prepare, "--out", tmp_path, "--full").status == 130 and jobs.contents(train) == before
    (train / "Cubism" / "violin.jpg").write_bytes(b"a real painting")
    assert "violin.jpg" in refused(prepare, "--out", tmp_path)
    assert jobs.contents(train).items() > before.items()
