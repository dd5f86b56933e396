"""The painted sample: its counts, its files' kinds, that it repeats itself and that a part is whole or not there."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[1] / "data" / "sample" / "prepare.py"
COURSE_COUNTS = {  # style: (training, test) pictures of the course split
    "Abstract_Expressionism": (449, 17),
    "Action_painting": (18, 2),
    "Analytical_Cubism": (15, 2),
    "Art_Nouveau_Modern": (688, 32),
    "Baroque": (721, 34),
    "Color_Field_Painting": (268, 6),
    "Contemporary_Realism": (91, 3),
    "Cubism": (390, 15),
    "Early_Renaissance": (246, 9),
    "Expressionism": (1127, 52),
    "Fauvism": (163, 8),
    "High_Renaissance": (198, 9),
    "Impressionism": (2269, 101),
    "Mannerism_Late_Renaissance": (246, 12),
    "Minimalism": (212, 10),
    "Naive_Art_Primitivism": (373, 19),
    "New_Realism": (41, 1),
    "Northern_Renaissance": (413, 23),
    "Pointillism": (80, 6),
    "Pop_Art": (244, 15),
    "Post_Impressionism": (946, 51),
    "Realism": (1712, 82),
    "Rococo": (369, 13),
    "Romanticism": (1157, 51),
    "Symbolism": (679, 44),
    "Synthetic_Cubism": (38, 1),
    "Ukiyo_e": (197, 12),
}


@pytest.fixture
def prepare():
    """The script as a fresh module."""
    spec = importlib.util.spec_from_file_location("prepare_sample", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(prepare, monkeypatch):
    """The script with a plan of a few pictures, to be run in this process."""
    monkeypatch.setattr(prepare, "plan", lambda full=False: [("train", "Cubism", 3), ("test", "Cubism", 2)])
    return prepare


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The sample as several workers paint it, and what the script printed."""
    folder = tmp_path_factory.mktemp("sample")
    code, out, err = run("--out", folder, "--workers", 2)
    assert (code, err) == (0, "")
    return folder, out


@pytest.mark.slow
def test_it_can_be_learnt_and_erred_on(sample, tmp_path):
    """Accuracy lies between twice the majority guess and 95%, and the residual network's above three_conv's."""
    accuracy = {}
    for architecture in "residual", "three_conv":
        flags = ["--trainingdir", sample[0] / "train", "--testingdir", sample[0] / "test"]
        flags += ["--outputdir", tmp_path / architecture, "--cachedir", tmp_path / "cache"]
        for script, more in ("trainpart1", ["--architecture", architecture]), ("testtrainpart1", []):
            command = [sys.executable, SCRIPT.parents[2] / f"{script}.py", *flags, *more]
            subprocess.run([str(word) for word in command], check=True, capture_output=True)
        metrics = json.loads((tmp_path / architecture / "metrics_part1.json").read_text())
        accuracy[architecture] = metrics["accuracy"]
    assert 2 * metrics["majority_accuracy"] < accuracy["three_conv"] < accuracy["residual"] < 0.95


def test_counts_follow_the_course_split(sample):
    folder, out = sample
    totals = {}
    for part, column, share, least in (("train", 0, 0.1, 2), ("test", 1, 0.41, 3)):
        counts = {path.name: len(list(path.iterdir())) for path in (folder / part).iterdir()}
        wanted = {name: max(least, round(both[column] * share)) for name, both in COURSE_COUNTS.items()}
        assert counts == wanted
        totals[part] = sum(counts.values())
    assert 1300 <= totals["train"] <= 1400
    assert 260 <= totals["test"] <= 290
    assert f"{totals['train']:,} pictures of 27 styles" in out
    assert f"{totals['test']} pictures of 27 styles" in out
    assert "nothing about art" in out


def test_full_plan_is_the_course_split(prepare):
    counts = {}
    for part, name, number in prepare.plan(full=True):
        counts.setdefault(name, {})[part] = number
    assert {name: (both["train"], both["test"]) for name, both in counts.items()} == COURSE_COUNTS


def test_full_pictures_are_416_px(small, tmp_path):
    assert small.main(["--full", "--out", str(tmp_path), "--workers", "1"]) == 0
    assert {Image.open(path).size for path in tmp_path.glob("*/*/*")} == {(416, 416)}


def test_one_worker_paints_the_same_bytes(sample, tmp_path):
    assert run("--out", tmp_path, "--workers", 1)[0] == 0
    first, second = digests(sample[0]), digests(tmp_path)
    assert first == second
    assert len(set(first.values())) == len(first), "two pictures are the same"


def test_pictures_are_of_many_kinds(sample):
    pictures = []
    for path in sample[0].glob("*/*/*"):
        with Image.open(path) as image:
            pictures.append((image.format, image.mode, *image.size))
    kinds = {picture[:2] for picture in pictures}
    assert {("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB")} <= kinds
    assert sum(picture[:2] == ("JPEG", "RGB") for picture in pictures) > 0.8 * len(pictures)
    sides = [side for picture in pictures for side in picture[2:]]
    assert min(sides) >= 90
    assert max(sides) <= 200
    ratios = [width / height for _, _, width, height in pictures]
    assert min(ratios) < 0.7
    assert max(ratios) > 1.4


def test_every_style_row_fits_the_painter(prepare):
    for style in prepare.STYLES:
        assert set(style.kin.split()) <= set(COURSE_COUNTS) - {style.name}
        assert set(style.palettes.split()) <= set(prepare.PALETTES)
        for scene in style.scenes.split():  # also the scenes that the sample happens to leave out
            look = style._replace(scenes=scene, kin=style.name)
            image = prepare.paint(look, (90, 120), np.random.default_rng(0))
            assert (image.mode, image.size) == ("RGB", (90, 120))
            assert len(np.unique(np.asarray(image))) > 8, "an almost empty picture"


def test_a_failing_painter_keeps_the_old_parts(small, tmp_path, monkeypatch, capsys):
    assert small.main(["--out", str(tmp_path), "--workers", "1"]) == 0
    before = digests(tmp_path)
    whole, calls = small.paint, []

    def fail_at_the_fourth(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise OSError("no space left")
        return whole(*arguments)

    monkeypatch.setattr(small, "paint", fail_at_the_fourth)
    capsys.readouterr()
    assert small.main(["--out", str(tmp_path), "--workers", "1", "--full"]) == 2
    assert "no space left" in capsys.readouterr().err
    assert digests(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test", "train"]


def test_a_failing_first_run_leaves_no_part(small, tmp_path, monkeypatch):
    monkeypatch.setattr(small, "paint", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        small.main(["--out", str(tmp_path), "--workers", "1"])
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_run_are_cleaned(small, tmp_path):
    assert small.main(["--out", str(tmp_path), "--workers", "1"]) == 0
    wanted = digests(tmp_path)
    (tmp_path / ".train.part" / "Cubism").mkdir(parents=True)
    (tmp_path / ".train.part" / "Cubism" / "painted_99999.jpg").write_bytes(b"half")
    (tmp_path / "train").rename(tmp_path / ".train.old")  # killed between the two renames
    small.clean(tmp_path)
    assert digests(tmp_path) == wanted, "the part that was moved away did not come back"
    (tmp_path / ".train.part" / "Other").mkdir(parents=True)
    (tmp_path / ".test.old").mkdir()
    assert small.main(["--out", str(tmp_path), "--workers", "1"]) == 0
    assert digests(tmp_path) == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test", "train"]


def test_pictures_of_others_are_not_replaced(small, tmp_path, capsys):
    theirs = tmp_path / "train" / "Cubism" / "violin.jpg"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"a real painting")
    assert small.main(["--out", str(tmp_path), "--workers", "1"]) == 2
    assert "violin.jpg" in capsys.readouterr().err
    assert theirs.read_bytes() == b"a real painting"
    assert not (tmp_path / "test").exists()


def test_an_unwritable_target_ends_with_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, out, err = run("--out", tmp_path / "file" / "sample")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "file" in err


def living_group(process):
    """Ids of the running processes in the session that `start` opened."""
    ids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:  # ended meanwhile
            continue
        if int(session) == process.pid and state != "Z":
            ids.append(int(path.parent.name))
    return ids


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_an_ended_run(tmp_path, ending):
    process = start("--full", "--out", tmp_path, "--workers", 2)
    for _ in range(200):
        if list(tmp_path.glob(".train.part/*/*")):
            break
        time.sleep(0.05)
    assert len(living_group(process)) >= 3, "the workers did not start"
    if ending == signal.SIGINT:
        os.killpg(process.pid, ending)  # as a terminal's Ctrl-C, to all of them
    else:
        process.kill()
    _, err = process.communicate(timeout=20)
    for _ in range(100):
        if not living_group(process):
            break
        time.sleep(0.05)
    assert living_group(process) == []
    assert not (tmp_path / "train").exists()
    if ending == signal.SIGINT:
        assert process.returncode == 130
        assert len(err.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []
