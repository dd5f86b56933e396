"""Folders of styles: what counts as a painting of which style, what is skipped and what is said about it."""

import importlib
import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import jobs
import pytest
from PIL import Image

import testtrainpart1
import trainauto
import trainpart1
import wikiart
from support.paintings import folders
from support.system import console, settings

JUNK = ["#recycle", "$RECYCLE.BIN", "@eaDir", "__MACOSX", "lost+found", "System Volume Information", "RECYCLED"]


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


# What is a painting


def test_styles_are_sorted_and_files_carry_size_and_times(top):
    (top / "Baroque").rename(top / "Zen")
    styles = folders.find_images(str(top))
    assert list(styles) == ["Cubism", "Rococo", "Zen"]
    assert [file.path for file in styles["Rococo"]] == [f"Rococo/{i:03d}.jpg" for i in range(4)]
    for file in styles["Cubism"] + styles["Zen"]:
        status = (top / file.path).stat()
        assert file[1:] == (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def test_images_are_found_at_any_depth_and_by_pillows_extensions_in_any_case(tmp_path, capfd):
    kinds = ["a.jpg", "b.JPEG", "deep/er/c.Png", "d.webp", "e.BMP", "f.gif", "g.tif", "h.TIFF", "i j é.jpg", "k.jfif",
             "l.JPE", "m.avif", "n.jp2", "o.jpg.jpg", "p.ppm", "q.dib"]  # fmt: skip
    save(tmp_path, *(f"Cubism/{kind}" for kind in kinds))
    for other in ["notes.txt", "x.jpg.bak", "jpg", "y.svg", "z.npy", "w.pdf", "BM.txt", "P6.txt"]:
        (tmp_path / "Cubism" / other).write_text(f"{other}: no painting")
    (tmp_path / "Cubism" / "sound.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
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
    for name in "layers.psd", "photo.jxl", "raw.CR2":
        (top / "Rococo" / name).write_bytes(b"any")
    assert counts(top) == COUNTS
    first, second = capfd.readouterr().err.splitlines()
    said = "8 files skipped that look like images: 5 .heic, 2 without an extension, 1 .crdownload"
    assert first == f'warning: "{top}/Cubism": {said}'
    assert second.endswith('Rococo": 3 files skipped that look like images: 1 .psd, 1 .jxl, 1 .cr2')


def test_what_is_hidden_is_skipped_in_silence_and_what_lies_beside_the_styles_is_counted(top, capfd):
    save(top, ".git/a.jpg", "Cubism/.b.jpg", "Cubism/.ipynb_checkpoints/c.jpg", "Rococo/._000.jpg", ".loose.jpg")
    assert counts(top) == COUNTS and capfd.readouterr().err == ""
    save(top, "a.jpg", "b.png")
    assert counts(top) == COUNTS
    assert capfd.readouterr().err == f'warning: folder "{top}": images beside the style folders skipped: 2\n'


@pytest.mark.parametrize("name", JUNK)
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


UPWARDS = {  # a link and its target
    "Cubism/again": "Cubism", "Cubism/up": ".", "Cubism/deep/up": "Cubism", "Cubism/out": "..", "All": ".",
    "Far/up": ".",
}  # fmt: skip


@pytest.mark.parametrize("link", UPWARDS)
def test_a_link_to_a_folder_above_brings_no_other_style_in_and_is_named(top, tmp_path, capfd, link):
    save(tmp_path, "elsewhere/a.png")
    (top / "Far").symlink_to(tmp_path / "elsewhere")  # a legal link
    (top / link).parent.mkdir(exist_ok=True)
    (top / link).symlink_to(top / UPWARDS[link])
    assert counts(top) == COUNTS | {"Far": 1}
    first, *more = capfd.readouterr().err.splitlines()
    assert first == f'warning: "{top}/{link}" is left out: it links to a folder above it'
    assert more == [f'warning: "{top}/{link}" holds no images: skipped'] * (link == "All")
    assert len(folders.find_in_folder(str(top))) == 10


INSIDE = {"outputdir": "train/results", "cachedir": "train/Cubism/cache", "modelfile": "test/models/w.pth"}


@pytest.mark.parametrize("script", jobs.SCRIPTS)
@pytest.mark.parametrize("name", INSIDE)
def test_what_is_written_goes_into_no_folder_of_paintings(workdir, refused, script, name):
    (workdir / "real").mkdir()
    for part in "train", "test":
        (workdir / part).symlink_to(workdir / "real" / part)
        jobs.paint(workdir / "real" / part)
    before = jobs.contents(workdir)
    paintings = ["--trainingdir", "real/train", "--testingdir", "real/test"]
    line = refused(importlib.import_module(script), *paintings, f"--{name}", workdir / INSIDE[name])
    assert line.startswith(f"--{name}: ") and "is inside the folder of paintings" in line
    assert jobs.contents(workdir) == before


@pytest.mark.parametrize("out, cache", [("train", "train/.cache"), (".", ".cache"), ("train/.out/a", "trains")])
def test_the_folder_of_paintings_itself_its_parents_and_hidden_folders_can_be_written(workdir, out, cache):
    jobs.paint(workdir / "train")
    chosen = ["--trainingdir", "train", "--testingdir", "train", "--outputdir", out, "--cachedir", cache]
    folders.check_outputs(settings.read("classifier", "", chosen))


def test_a_style_without_images_is_passed_over_with_a_warning(top, capfd):
    (top / "Empty").mkdir()
    assert "Empty" not in counts(top) and 'Empty" holds no images' in capfd.readouterr().err


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


# The same style written two ways


NFC, NFD = "Café", unicodedata.normalize("NFD", "Café")


def test_the_same_style_written_two_ways_is_named(tmp_path, capfd):
    save(tmp_path, f"{NFC}/a.png", f"{NFD}/b.png", "Cubism/a.png", "cubism /b.png")
    assert NFC != NFD and counts(tmp_path) == {NFC: 2, "Cubism": 1, "cubism ": 1}
    case, forms = sorted(capfd.readouterr().err.splitlines())
    assert case == f'warning: "Cubism"; "cubism " in "{tmp_path}" are taken for two styles'
    assert forms.endswith("two Unicode forms: one style")


# Folders that cannot be used


def flags(folder):
    return jobs.flags(folder, "out", "--batch_size", 4, "--validation", 0)


@pytest.mark.parametrize("kind", ["missing", "a file", "empty", "empty styles", "images without styles"])
def test_a_folder_that_cannot_be_used_is_one_line(workdir, refused, kind):
    folder = workdir / "paintings"
    if kind == "a file":
        folder.write_text("x")
    elif kind != "missing":
        (folder / "Cubism" if kind == "empty styles" else folder).mkdir(parents=True)
    if kind == "images without styles":
        save(folder, "a.jpg")
    line = refused(trainpart1, "--trainingdir", "paintings")
    assert line.startswith("--trainingdir: ") and '"paintings"' in line
    assert kind != "images without styles" or "expected one folder per style" in line


@pytest.mark.parametrize("parts, meant", [("train valid test", "train"), ("Test Training", "Training")])
def test_the_top_of_an_export_is_no_folder_of_styles(workdir, paint, refused, parts, meant):
    for part in parts.split():
        paint(workdir / "export" / part, {"A": 1, "B": 1})
    line = refused(trainpart1, *flags("export"))
    assert line.startswith("--trainingdir: ") and line.endswith(f'did you mean "export/{meant}"?')
    assert all(part in line for part in parts.split()) and "not styles" in line


def test_a_folder_that_wraps_the_styles_is_an_error_that_names_the_one_within(workdir, refused):
    for style in "AB":
        save(workdir, *(f"{top}/wikiart/{style}/a.png" for top in ("wrap", "zip/wrap", "own")))
    (workdir / "wrap" / "__MACOSX").mkdir()
    line = refused(trainpart1, *flags("wrap"))
    assert line.endswith('holds only the folder "wikiart", which holds "A"; "B"; did you mean "wrap/wikiart"?')
    line = refused(trainpart1, *flags("zip"))
    assert '"wrap/wikiart", which holds "A";' in line and line.endswith('did you mean "zip/wrap/wikiart"?')
    save(workdir, "own/wikiart/one.png")  # now it is one style with folders inside
    assert counts(workdir / "own") == {"wikiart": 3}


@pytest.mark.parametrize("files, message", [
    (["train/A/a.png", "test/A/a.png"], 'did you mean "data/test"'),
    (["train/A/a.png", "val/A/a.png"], 'did you mean "data/val"'),
    (["in/A/a.png"], 'which holds "A"; did you mean "data/in"'),
    (["a/1600s/a.png", "a/1700s/a.png"], 'style "a", which the model does not know; did you mean "A"'),
])  # fmt: skip
def test_a_test_folder_is_told_by_the_styles_that_the_network_knows(workdir, files, message):
    save(workdir / "data", *files)
    with pytest.raises(console.DataError, match=message):
        wikiart.WikiArtDataset("data", 16, classes=["A", "B"])


def test_one_known_style_with_folders_inside_is_no_wrapper(workdir):
    save(workdir, "one/A/1600s/a.png", "one/A/1650s/b.png", "one/A/@eaDir/c.png")
    assert wikiart.WikiArtDataset("one", 16, classes=["A", "B"]).counts == {"A": 2, "B": 0}
    with pytest.raises(console.DataError, match='which holds "1600s"; "1650s"; did you mean "one/A"'):
        wikiart.WikiArtDataset("one", 16)


@pytest.mark.parametrize("script", [trainpart1, trainauto])
def test_training_with_one_style_is_an_error(workdir, paint, refused, script):
    paint(workdir / "one", {"Cubism": 4})
    line = refused(script, *flags("one"))
    assert line.startswith("--trainingdir: only one style") and '"Cubism"' in line and not (workdir / "out").exists()


def test_an_unknown_style_is_an_error_that_names_the_nearest_known_one(workdir, paint, run, refused, listing):
    paint(workdir / "train", {"Cubism": 4, NFC: 4, "Ukiyo_e": 4})
    assert run(trainpart1, *flags("train")).status == 0
    evaluate = ["--outputdir", "out", "--cachedir", "cache", "--device", "cpu", "--testingdir"]
    paint(workdir / "wrong", {"CUBISM ": 1})
    before = listing(workdir / "out")
    line = refused(testtrainpart1, *evaluate, "wrong")
    assert listing(workdir / "out") == before
    assert line.startswith("--testingdir: ") and '"CUBISM "' in line and line.endswith('did you mean "Cubism"?')
    paint(workdir / "test", {NFD: 2})
    assert run(testtrainpart1, *evaluate, "test").status == 0
