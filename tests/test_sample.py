"""The painted sample, as its users see it: repeatable, in the course's proportions, whole or not there."""

import hashlib
import importlib.util
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[1] / "data" / "sample" / "prepare.py"


@pytest.fixture
def prepare(monkeypatch):
    """The script as a fresh module with a plan of a few pictures."""
    spec = importlib.util.spec_from_file_location("prepare_sample", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.full_plan = module.plan(full=True)
    small = [("train", "Cubism", 6), ("train", "Ukiyo_e", 6), ("test", "Cubism", 3), ("test", "Ukiyo_e", 3)]
    monkeypatch.setattr(module, "plan", lambda full=False: small)
    return module


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_it_repeats_itself_and_training_and_test_share_no_picture(prepare, tmp_path):
    for folder in "a", "b":
        prepare.main(["--out", str(tmp_path / folder)])
    first = digests(tmp_path / "a")
    assert first == digests(tmp_path / "b") and len(first) == len(set(first.values())) == 18
    assert sum(name.startswith("train/Cubism/") for name in first) == 6


def test_a_terminal_that_is_not_utf8_is_no_reason_to_stop(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    prepare.main(["--out", str(tmp_path / "pr\u00e9")])


def test_styles_differ(prepare, tmp_path):
    prepare.main(["--out", str(tmp_path)])

    def colors(style):  # each picture's mean colour
        images = (Image.open(path).convert("RGB") for path in sorted(tmp_path.glob(f"*/{style}/*")))
        return np.array([np.asarray(image).mean((0, 1)) for image in images])

    one, other = colors("Cubism"), colors("Ukiyo_e")
    assert np.abs(one.mean(0) - other.mean(0)).max() > 10


def test_the_full_plan_has_the_courses_counts(prepare):
    totals = {part: sum(n for p, _, n in prepare.full_plan if p == part) for part in ("train", "test")}
    assert totals == {"train": 13_350, "test": 630} and len({style for _, style, _ in prepare.full_plan}) == 27
    assert ("train", "Impressionism", 2269) in prepare.full_plan and ("test", "New_Realism", 1) in prepare.full_plan


def test_a_painting_that_fails_keeps_the_old_parts_and_pictures_of_others(prepare, tmp_path, monkeypatch, run, refused):
    prepare.main(["--out", str(tmp_path)])
    before, real, left = digests(tmp_path), prepare.paint, iter([True] * 3)

    def fail(*arguments):
        if not next(left, False):
            raise OSError("no space left")
        return real(*arguments)

    monkeypatch.setattr(prepare, "paint", fail)
    assert "no space left" in refused(prepare, "--out", tmp_path, "--full")
    assert digests(tmp_path) == before and sorted(path.name for path in tmp_path.iterdir()) == ["test", "train"]
    monkeypatch.setattr(prepare.workers, "parallel_map", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(prepare, "--out", tmp_path, "--full").status == 130 and digests(tmp_path) == before
    (tmp_path / "train" / "Cubism" / "violin.jpg").write_bytes(b"a real painting")
    assert "violin.jpg" in refused(prepare, "--out", tmp_path)
    assert digests(tmp_path).items() > before.items()


def test_a_killed_painting_leaves_no_half_folder_and_the_next_one_cleans_up(prepare, tmp_path):
    process = subprocess.Popen([sys.executable, SCRIPT, "--full", "--out", tmp_path], stderr=subprocess.DEVNULL)
    for _ in range(3000):
        if list(tmp_path.glob(".train.part/*/*")):
            break
        time.sleep(0.02)
    process.kill()
    process.wait(60)
    assert not (tmp_path / "train").exists() and not (tmp_path / "test").exists()
    prepare.main(["--out", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test", "train"] and len(digests(tmp_path)) == 18
