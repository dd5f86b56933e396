"""Folders of styles: what counts as a painting of which style, what is skipped and what is said about it."""

import importlib
import os
import re
import shutil
import tempfile
import unicodedata
from pathlib import Path

import jobs
import pytest
from PIL import Image

import trainauto
import trainpart1
import wikiart
from support.paintings import folders
from support.system import console, settings

COUNTS = {"Baroque": 2, "Cubism": 3, "Rococo": 4}


@pytest.fixture
def top(tmp_path, paint):
    return paint(tmp_path / "paintings", COUNTS)


def save(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 12), (10, 200, 60)).save(folder / name)


def counts(folder):
    return {style: len(files) for style, files in folders.find_images(str(folder)).items()}


def test_images_are_found_at_any_depth_and_by_pillows_extensions_in_any_case(tmp_path, capfd):
    kinds = ["a.jpg", "b.JPEG", "deep/er/c.Png", "d.webp", "f.gif", "h.TIFF", "i j é.jpg", "m.avif", "o.jpg.jpg"]
    save(tmp_path, *(f"Cubism/{kind}" for kind in kinds))
    for other in ["notes.txt", "x.jpg.bak", "jpg", "y.svg", "z.npy", "BM.txt", "P6.txt"]:
        (tmp_path / "Cubism" / other).write_text(f"{other}: no painting")
    os.mkfifo(tmp_path / "Cubism" / "pipe")  # must not be waited for
    files = folders.find_images(str(tmp_path))["Cubism"]
    assert sorted(file.path for file in files) == sorted(f"Cubism/{kind}" for kind in kinds)
    assert sorted(folders.find_in_folder(str(tmp_path))) == sorted(f"{tmp_path}/Cubism/{kind}" for kind in kinds)
    assert capfd.readouterr().err == ""


def test_files_that_look_like_images_and_are_not_read_are_counted_in_one_line(top, capfd):
    for i in range(5):
        (top / "Cubism" / f"photo{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    for name in "scan", "deep/scan2", "x.jpg.crdownload":
        (top / "Cubism" / name).parent.mkdir(exist_ok=True)
        (top / "Cubism" / name).write_bytes((top / "Cubism/000.jpg").read_bytes())
    assert counts(top) == COUNTS
    said = "8 files skipped that look like images: 5 .heic, 2 without an extension, 1 .crdownload"
    assert capfd.readouterr().err == f'warning: "{top}/Cubism": {said}\n'


def test_what_is_hidden_is_skipped_in_silence_and_what_lies_beside_the_styles_is_counted(top, capfd):
    save(top, ".git/a.jpg", "Cubism/.b.jpg", "Cubism/.ipynb_checkpoints/c.jpg", "Rococo/._000.jpg", ".loose.jpg")
    assert counts(top) == COUNTS and capfd.readouterr().err == ""
    save(top, "a.jpg", "b.png")
    assert counts(top) == COUNTS
    assert capfd.readouterr().err == f'warning: folder "{top}": images beside the style folders skipped: 2\n'


@pytest.mark.parametrize("name", ["#recycle", "$RECYCLE.BIN", "@eaDir", "lost+found"])
def test_folders_of_systems_and_programs_are_no_styles_and_bring_no_painting_in_twice(top, capfd, name):
    for place in top, top / "Cubism", top / "Cubism" / "deep":
        (place / name).mkdir(parents=True)
    assert counts(top) == COUNTS and capfd.readouterr().err == ""
    for place in name, f"Cubism/{name}", f"Cubism/deep/{name}":
        save(top, f"{place}/a.jpg", f"{place}/deeper/b.png")
    assert counts(top) == COUNTS
    assert sorted(capfd.readouterr().err.splitlines()) == sorted([
        f'warning: "{top}/{name}" is not a style: 2 images skipped',
        f'warning: "{top}/Cubism": 4 files skipped that look like images: 4 in "{name}"',
    ])  # fmt: skip


def test_links_are_followed_and_a_loop_ends_and_counts_nothing_twice(top, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "Linked").symlink_to(top / "Cubism")
    save(tmp_path / "other", "Own/a.png")
    (tmp_path / "other" / "Own" / "b.jpg").symlink_to(top / "Rococo" / "000.jpg")
    assert counts(tmp_path / "other") == {"Linked": 3, "Own": 2}
    save(tmp_path / "far", "one/c.png", "two/d.png")
    for link, target in ("one/next", "two"), ("two/back", "one"):
        (tmp_path / "far" / link).symlink_to(tmp_path / "far" / target)
    (tmp_path / "other" / "Far").symlink_to(tmp_path / "far" / "one")
    assert counts(tmp_path / "other") == {"Far": 2, "Linked": 3, "Own": 2}


@pytest.mark.parametrize("link, target", [("Cubism/up", "Cubism"), ("Cubism/out", ".."), ("All", "."), ("Far/up", ".")])
def test_a_link_to_a_folder_above_brings_no_other_style_in_and_is_named(top, tmp_path, capfd, link, target):
    save(tmp_path, "elsewhere/a.png")
    (top / "Far").symlink_to(tmp_path / "elsewhere")  # a legal link
    (top / link).symlink_to(top / target)
    assert counts(top) == COUNTS | {"Far": 1}
    first, *more = capfd.readouterr().err.splitlines()
    assert first == f'warning: "{top}/{link}" is left out: it links to a folder above it'
    assert more == [f'warning: "{top}/{link}" holds no images: skipped'] * (link == "All")
    assert len(folders.find_in_folder(str(top))) == 10


@pytest.mark.parametrize("script, name, place", [
    ("trainpart1", "outputdir", "train/results"), ("testtrainpart1", "cachedir", "train/Cubism/cache"),
    ("trainauto", "modelfile", "test/models/w.pth"), ("testtrainauto", "outputdir", "test/results"),
])  # fmt: skip
def test_what_is_written_goes_into_no_folder_of_paintings(workdir, refused, script, name, place):
    (workdir / "real").mkdir()
    for part in "train", "test":
        (workdir / part).symlink_to(workdir / "real" / part)
        jobs.paint(workdir / "real" / part)
    before = jobs.contents(workdir)
    paintings = ["--trainingdir", "real/train", "--testingdir", "real/test"]
    line = refused(importlib.import_module(script), *paintings, f"--{name}", workdir / place)
    assert line.startswith(f"--{name}: ") and "is inside the folder of paintings" in line
    assert jobs.contents(workdir) == before


@pytest.mark.parametrize("out, cache", [("train", "train/.cache"), (".", ".cache"), ("train/.out/a", "trains")])
def test_the_folder_of_paintings_itself_its_parents_and_hidden_folders_can_be_written(workdir, out, cache):
    jobs.paint(workdir / "train")
    chosen = ["--trainingdir", "train", "--testingdir", "train", "--outputdir", out, "--cachedir", cache]
    folders.check_outputs(settings.read("classifier", "", chosen))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, whom a closed folder holds back")
def test_an_unreadable_folder_is_named(capfd):
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's folders, and a TMPDIR, may be closed to others
        top = jobs.paint(Path(name))
        for closed in "closed", "lost+found":
            shutil.copytree(top / "Cubism", top / "Baroque" / closed)
            (top / "Baroque" / closed).chmod(0)
        top.chmod(0o755)
        os.seteuid(65534)
        try:
            assert counts(top) == jobs.COUNTS
        finally:
            os.seteuid(0)
    assert capfd.readouterr().err == f'warning: "{top}/Baroque/closed" is left out: Permission denied\n'


def test_the_same_style_written_two_ways_is_named(tmp_path, capfd):
    composed, decomposed = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    save(tmp_path, f"{composed}/a.png", f"{decomposed}/b.png", "Cubism/a.png", "cubism /b.png")
    assert counts(tmp_path) == {composed: 2, "Cubism": 1, "cubism ": 1}
    case, forms = sorted(capfd.readouterr().err.splitlines())
    assert case == f'warning: "Cubism"; "cubism " in "{tmp_path}" are taken for two styles'
    assert forms.endswith("two Unicode forms: one style")


@pytest.mark.parametrize(
    "make", [lambda path: None, Path.touch, Path.mkdir, lambda path: (path / "Cubism").mkdir(parents=True)]
)
def test_a_folder_that_cannot_be_used_is_one_line(workdir, refused, make):
    make(workdir / "paintings")
    line = refused(trainpart1, "--trainingdir", "paintings")
    assert line.startswith("--trainingdir: ") and '"paintings"' in line


@pytest.mark.parametrize("classes, files, message", [
    (None, ["a.jpg"], "images but no style folders; expected one folder per style"),
    (None, ["train/A/a.png", "valid/A/a.png", "test/A/a.png"],
     'the folders test, train, valid, which are not styles; did you mean "data/train"?'),
    (None, ["Test/A/a.png", "Training/A/a.png"], 'did you mean "data/Training"?'),
    (None, ["wikiart/A/a.png", "wikiart/B/a.png", "__MACOSX/B/a.png"],
     'holds only the folder "wikiart", which holds "A"; "B"; did you mean "data/wikiart"?'),
    (None, ["zip/in/A/a.png", "zip/in/B/a.png"], '"zip/in", which holds "A"; "B"; did you mean "data/zip/in"?'),
    (["A", "B"], ["train/A/a.png", "test/A/a.png"], 'did you mean "data/test"?'),
    (["A", "B"], ["train/A/a.png", "val/A/a.png"], 'did you mean "data/val"?'),
    (["A", "B"], ["in/A/a.png"], 'which holds "A"; did you mean "data/in"?'),
    (["A", "B"], ["a/1600s/a.png", "a/1700s/a.png"], 'style "a", which the model does not know; did you mean "A"?'),
    (None, ["A/1600s/a.png", "A/1700s/a.png"], 'which holds "1600s"; "1700s"; did you mean "data/A"?'),
])  # fmt: skip
def test_the_wrong_folder_is_an_error_that_names_the_right_one(workdir, classes, files, message):
    save(workdir / "data", *files)
    with pytest.raises(console.DataError, match=re.escape(message)):
        wikiart.WikiArtDataset("data", 16, classes)


def test_one_style_with_folders_inside_is_no_wrapper(workdir):
    save(workdir, "one/A/1600s/a.png", "one/A/1650s/b.png", "one/A/@eaDir/c.png")
    assert wikiart.WikiArtDataset("one", 16, ["A", "B"]).counts == {"A": 2, "B": 0}
    save(workdir, "one/A/c.png")
    assert counts(workdir / "one") == {"A": 3}


@pytest.mark.parametrize("script", [trainpart1, trainauto])
def test_training_with_one_style_is_an_error(workdir, refused, script):
    jobs.paint(workdir / "one", {"Cubism": 4})
    line = refused(script, *jobs.flags("one", "out"))
    assert line.startswith("--trainingdir: only one style") and '"Cubism"' in line and not (workdir / "out").exists()
