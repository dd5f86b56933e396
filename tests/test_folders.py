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

JUNK = ["#recycle", "$RECYCLE.BIN", "@Recycle", "@eaDir", "__MACOSX", ".ipynb_checkpoints", "lost+found",
        "System Volume Information", "@tmp", "RECYCLED", "~snapshot", ".Trash-502", ".AppleDouble"]  # fmt: skip


@pytest.fixture
def top(tmp_path, paint):
    return paint(tmp_path / "paintings", {"Cubism": 3, "Baroque": 2, "Rococo": 4})


def save(folder, *names, image=None):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (image or Image.new("RGB", (9, 12), (10, 200, 60))).save(folder / name)


def counts(folder):
    return {style: len(files) for style, files in folders.find_images(str(folder)).items()}


def flags(folder, *more):
    return jobs.flags(folder, "out", "--batch_size", 4, "--validation", 0, *more)


# What is a painting


def test_styles_are_sorted_and_files_carry_size_and_time(top):
    found = folders.find_images(str(top))
    assert list(found) == ["Baroque", "Cubism", "Rococo"] and counts(top) == {"Baroque": 2, "Cubism": 3, "Rococo": 4}
    for file in (file for files in found.values() for file in files):
        status = (top / file.path).stat()
        assert file[1:] == (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    assert [file.path for file in found["Rococo"]] == [f"Rococo/{i:03d}.jpg" for i in range(4)]


def test_images_are_found_at_any_depth_and_by_pillows_extensions_in_any_case(tmp_path, capfd):
    kinds = ["a.jpg", "b.JPEG", "deep/er/c.Png", "d.webp", "e.BMP", "f.gif", "g.tif", "h.TIFF", "i j é.jpg", "k.jfif",
             "l.JPE", "m.avif", "n.jp2", "o.jpg.jpg", "p.ppm", "q.dib"]  # fmt: skip
    save(tmp_path, *(f"Cubism/{kind}" for kind in kinds))
    for other in ["notes.txt", "x.jpg.bak", "jpg", "y.svg", "z.npy", "w.pdf", "BM.txt"]:
        (tmp_path / "Cubism" / other).write_text("BM: no painting")
    (tmp_path / "Cubism" / "sound.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    os.mkfifo(tmp_path / "Cubism" / "pipe")  # must not be waited for
    found = folders.find_images(str(tmp_path))["Cubism"]
    assert sorted(file.path for file in found) == sorted(f"Cubism/{kind}" for kind in kinds)
    assert capfd.readouterr().err == ""


def test_files_that_look_like_images_and_are_not_read_are_counted_in_one_line(top, capfd):
    heic, png = b"\0\0\0\x18ftypheic", (top / "Cubism/000.jpg").read_bytes()
    for i in range(5):
        (top / "Cubism" / f"photo{i}.HEIC").write_bytes(heic)
    for name in "scan", "deep/scan2", "x.jpg.crdownload":
        (top / "Cubism" / name).parent.mkdir(exist_ok=True)
        (top / "Cubism" / name).write_bytes(png)
    (top / "Rococo" / "layers.psd").write_bytes(b"8BPS\0\1")
    assert counts(top) == {"Baroque": 2, "Cubism": 3, "Rococo": 4}
    first, second = capfd.readouterr().err.splitlines()
    said = "8 files skipped that look like images: 5 .heic, 2 without an extension, 1 .crdownload"
    assert first == f'warning: "{top}/Cubism": {said}'
    assert second.endswith('Rococo": 1 file skipped that looks like an image: 1 .psd')


def test_what_is_hidden_is_passed_over_in_silence(top, capfd):
    save(top, ".git/a.jpg", "Cubism/.b.jpg", "Cubism/.deep/c.jpg", "Rococo/._000.jpg", ".loose.jpg")
    assert counts(top) == {"Baroque": 2, "Cubism": 3, "Rococo": 4} and capfd.readouterr().err == ""


def test_images_beside_the_style_folders_are_counted_in_one_line(top, capfd):
    save(top, "a.jpg", "b.png")
    assert counts(top) == {"Baroque": 2, "Cubism": 3, "Rococo": 4}
    assert capfd.readouterr().err == f'warning: folder "{top}": images beside the style folders skipped: 2\n'


@pytest.mark.parametrize("start", [
    b"\xff\x0a\xfa", b"\0\0\0\x0cJXL \r\n", b"\0\0\0\x18ftypheim", b"\0\0\0\x18ftypmsf1", b"\0\0\0\x20ftypavis",
    b"\0\0\0\x18ftypcrx ", b"II+\0\x08", b"FUJIFILMCCD-RAW", b"IIU\0\x18", b"IIRO\x08", b"II\xbc\x01\x08", b"P6\n9 9\n",
    b"DDS \x7c", b"gimp xcf file", b"qoif\0\0", b"#?RADIANCE\n", b"icns\0",
])  # fmt: skip
def test_the_first_bytes_tell_an_image(top, capfd, start):
    (top / "Cubism" / "picture.xyz").write_bytes(start.ljust(40, b"\0"))
    (top / "Cubism" / "text.xyz").write_text("Painted in Paris, 1907")
    assert counts(top)["Cubism"] == 3
    assert capfd.readouterr().err == f'warning: "{top}/Cubism": 1 file skipped that looks like an image: 1 .xyz\n'


@pytest.mark.parametrize("name", JUNK)
def test_folders_of_systems_and_programs_are_no_styles_and_bring_no_painting_in_twice(top, capfd, name):
    for place in top, top / "Cubism", top / "Cubism" / "deep":
        (place / name).mkdir(parents=True)
    assert counts(top) == {"Baroque": 2, "Cubism": 3, "Rococo": 4} and capfd.readouterr().err == ""
    for place in name, f"Cubism/{name}":
        save(top, f"{place}/a.jpg", f"{place}/deeper/b.png")
    assert counts(top) == {"Baroque": 2, "Cubism": 3, "Rococo": 4}
    lines = sorted(capfd.readouterr().err.splitlines())
    assert lines == sorted([
        f'warning: "{top}/{name}" is not a style: 2 images skipped',
        f'warning: "{top}/Cubism": 2 images in "{name}" skipped',
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


UPWARDS = {  # a link, its target and how many images are read for its style
    "Cubism/again": ("Cubism", 3), "Cubism/up": (".", 3), "Cubism/deep/up": ("Cubism", 3), "Cubism/out": ("..", 3),
    "All": (".", None), "Most": ("..", None), "Far/up": (".", 1),
}  # fmt: skip


@pytest.mark.parametrize("link", UPWARDS)
def test_a_link_to_a_folder_above_brings_no_other_style_in_and_is_named(top, tmp_path, capfd, link):
    target, count = UPWARDS[link]
    save(tmp_path, "elsewhere/a.png")
    (top / "Far").symlink_to(tmp_path / "elsewhere")  # a legal link
    (top / link).parent.mkdir(exist_ok=True)
    (top / link).symlink_to(top / target)
    found = counts(top)
    assert found.pop("Far") == 1 and found == {"Baroque": 2, "Cubism": 3, "Rococo": 4}
    first, *more = capfd.readouterr().err.splitlines()
    assert first == f'warning: "{top}/{link}" is left out: it links to a folder above it'
    assert more == [f'warning: "{top}/{link}" holds no images: skipped'] * (count is None)
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


def test_two_unicode_forms_of_a_style_are_one_style_with_a_warning(tmp_path, capfd):
    save(tmp_path, f"{NFC}/a.png", f"{NFD}/b.png", "Other/c.png")
    assert NFC != NFD and counts(tmp_path) == {NFC: 2, "Other": 1}
    assert "two Unicode forms: one style" in capfd.readouterr().err


def test_two_styles_that_differ_in_case_or_spaces_alone_are_named(tmp_path, capfd):
    save(tmp_path, "Cubism/a.png", "cubism /b.png", "Other/c.png")
    assert counts(tmp_path) == {"Cubism": 1, "cubism ": 1, "Other": 1}
    assert capfd.readouterr().err == f'warning: "Cubism"; "cubism " in "{tmp_path}" are taken for two styles\n'


# Folders that cannot be used


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


def test_a_folder_that_wraps_the_styles_is_an_error_that_names_the_one_within(workdir, paint, refused, capfd):
    paint(workdir / "wrap" / "wikiart", {"A": 1, "B": 1, "C": 1})
    (workdir / "wrap" / "__MACOSX").mkdir()
    line = refused(trainpart1, *flags("wrap"))
    assert line.endswith('holds only the folder "wikiart", which holds "A"; "B"; "C"; did you mean "wrap/wikiart"?')
    (workdir / "zip").mkdir()
    (workdir / "wrap").rename(workdir / "zip" / "wrap")
    line = refused(trainpart1, *flags("zip"))
    assert '"wrap/wikiart", which holds "A";' in line and line.endswith('did you mean "zip/wrap/wikiart"?')
    (workdir / "zip" / "wrap").rename(workdir / "wrap")
    save(workdir, "wrap/wikiart/one.png")  # now it is one style with folders inside
    assert counts(workdir / "wrap") == {"wikiart": 4}


def test_a_test_folder_is_told_by_the_styles_that_the_network_knows(workdir, paint):
    for part in "train", "test":
        paint(workdir / "export" / part, {"A": 1, "B": 1})
    with pytest.raises(console.DataError, match='did you mean "export/test"'):
        wikiart.WikiArtDataset("export", 16, classes=["A", "B"])
    paint(workdir / "part" / "train", {"A": 1})
    paint(workdir / "part" / "val", {"A": 1})
    with pytest.raises(console.DataError, match='did you mean "part/val"'):
        wikiart.WikiArtDataset("part", 16, classes=["A", "B"])
    save(workdir, "wrap/in/A/a.png", "case/a/1600s/a.png", "case/a/1700s/a.png")
    with pytest.raises(console.DataError, match='which holds "A"; did you mean "wrap/in"'):
        wikiart.WikiArtDataset("wrap", 16, classes=["A", "B"])
    with pytest.raises(console.DataError, match='style "a", which the model does not know; did you mean "A"'):
        wikiart.WikiArtDataset("case", 16, classes=["A", "B"])
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
