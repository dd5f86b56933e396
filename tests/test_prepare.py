"""Laying out real WikiArt: splits by painting and artist, lists, what is left out; folders are whole or absent."""

import importlib.util
import os
import pickle
import shutil
import sys
import unicodedata
from collections import Counter
from functools import partial
from pathlib import Path

import jobs
import numpy as np
import pytest
from PIL import Image, ImageOps

SCRIPT = jobs.ROOT / "data" / "wikiart" / "prepare.py"
COUNTS = {"Baroque": 20, "Pop Art's": 10, "Живопись": 5}  # a plain name, one with a space and a quote, a non-Latin one


@pytest.fixture
def prepare():
    """The script as a fresh module."""
    spec = importlib.util.spec_from_file_location("prepare_wikiart", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def paint(path, seed, crop=0.0, mirror=False):
    """A smooth picture that only this seed paints; `crop` leaves a share off each side, as another photograph would."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((100, 120), Image.Resampling.BICUBIC)
    image = ImageOps.mirror(image) if mirror else image
    path.parent.mkdir(parents=True, exist_ok=True)
    image.crop((100 * crop, 120 * crop, 100 - 100 * crop, 120 - 120 * crop)).save(path, quality=70)


@pytest.fixture
def source(tmp_path):
    """A folder of three styles, every picture another one; a style's name may be in both forms of Unicode."""
    folder = tmp_path / "source"
    for number, (style, count) in enumerate(COUNTS.items()):
        for i in range(count):
            form = unicodedata.normalize("NFD" if i % 2 else "NFC", style)
            paint(folder / form / f"painting {i:02d}.jpg", 1000 * number + i)
    return folder


def layout(out):
    """Side -> the paths below it, each of which has to be a relative link to a picture."""
    links = [path for path in sorted(out.rglob("*")) if not path.is_dir()]
    assert all(path.is_symlink() and path.is_file() and not os.path.isabs(os.readlink(path)) for path in links)
    return {
        side: [str(p.relative_to(out / side)) for p in links if out / side in p.parents] for side in ("train", "test")
    }


def side_of(out):
    return {Path(path).name: side for side, paths in layout(out).items() for path in paths}


def per_style(paths):
    return Counter(unicodedata.normalize("NFC", path.split("/")[0]) for path in paths)


def test_split_is_stratified_and_seeded(prepare, source, tmp_path, capsys):
    sides = {}
    for name, options in {"a": [], "b": [], "c": ["--seed", "7"], "d": ["--test_share", "0.4"]}.items():
        prepare.main([str(source), str(tmp_path / name), *options])
        sides[name] = layout(tmp_path / name)
        assert per_style(sides[name]["train"] + sides[name]["test"]) == COUNTS
    assert prepare.settings.read_config(SCRIPT.with_name("config.json"))["image_size"] == prepare.COMPARED_SIZE
    assert per_style(sides["a"]["test"]) == {"Baroque": 2, "Pop Art's": 1, "Живопись": 1}
    assert per_style(sides["d"]["test"]) == {"Baroque": 8, "Pop Art's": 4, "Живопись": 2}
    assert sides["a"] == sides["b"] != sides["c"]
    out = capsys.readouterr().out
    assert f'"{source}": 35 images, 3 styles' in out and f'"{tmp_path / "a" / "test"}": 4 links, 3 styles' in out


def test_copies_stand_once_and_contradictions_and_broken_images_nowhere(prepare, source, tmp_path, capsys):
    for i in range(20):  # every picture of the style twice: a draw that forgot to compare would put some on both sides
        paint(source / "Baroque" / f"copy {i:02d}.jpg", i)
    shutil.copy(source / "Pop Art's" / "painting 03.jpg", source / "Живопись" / "also here.jpg")
    whole = (source / "Pop Art's" / "painting 00.jpg").read_bytes()
    (source / "Baroque" / "broken.jpg").write_bytes(b"no picture at all")
    (source / "Baroque" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    prepare.main([str(source), str(tmp_path / "out"), "--test_share", "0.5"])
    sides = layout(tmp_path / "out")
    assert per_style(sides["train"] + sides["test"]) == {"Baroque": 20, "Pop Art's": 9, "Живопись": 5}
    assert not {"also here.jpg", "broken.jpg", "half.jpg"} & side_of(tmp_path / "out").keys()
    out, err = capsys.readouterr()
    assert "copies of another image of their style: 20 (" in out
    assert 'identical in two styles: 2 ("Pop Art\'s/painting 03.jpg"; "Живопись/also here.jpg")' in out
    assert 'cannot be decoded: 2 ("Baroque/broken.jpg"; "Baroque/half.jpg")' in out
    assert [err.count(f'{name}" is left out: ') for name in ("broken.jpg", "half.jpg")] == [1, 1]


def write_lists(folder, train, test):
    """Two lists as ArtGAN has them; returns the options that name them."""
    options = []
    for name, rows in (("train", train), ("test", test)):
        (folder / f"{name}.csv").write_text("".join(f"{row},{i % 3}\n" for i, row in enumerate(rows)))
        options += [f"--{name}_list", str(folder / f"{name}.csv")]
    return options


def test_lists_with_copies_conflicts_garbled_names_and_a_style_for_test_alone(prepare, source, tmp_path, capsys):
    shutil.copy(source / "Baroque" / "painting 00.jpg", source / "Baroque" / "twin.jpg")
    paint(source / "Baroque" / "mirrored.jpg", 5, mirror=True)
    garbled = [f"Baroque/{name}.jpg" for name in ("joaqu\xe3\xadn-beach", "cafe\u0301", "dürer")]
    files = [f"Baroque/{name}.jpg" for name in ("joaquπ¡n-beach", "caf\xe9", "dürer")]
    for i, file in enumerate(files):
        paint(source / file, 9000 + i)
    baroque = [f"Baroque/painting {i:02d}.jpg" for i in range(6)]
    train = [*baroque[:4], baroque[5], "Baroque/mirrored.jpg", "Baroque/gone.jpg", *garbled]
    test = [*baroque[3:], "Baroque/twin.jpg", "Живопись/painting 00.jpg"]
    prepare.main([str(source), str(tmp_path / "out"), *write_lists(tmp_path, train, test)])
    sides = layout(tmp_path / "out")
    assert sides == {"train": sorted([*baroque[1:3], *files]), "test": [*baroque[3:], "Baroque/twin.jpg"]}
    out = capsys.readouterr().out
    for said in (
        'copies of another image of their style: 1 ("Baroque/painting 00.jpg")',
        'near-duplicates of test images: 1 ("Baroque/mirrored.jpg")',
        'in both lists, taken for test: 2 ("Baroque/painting 03.jpg"; "Baroque/painting 05.jpg")',
        'no training image of their style: 1 ("Живопись/painting 00.jpg")',
        "styles without an image: 2 (",
        'train.csv: missing files: 1 ("Baroque/gone.jpg")',
        "matched by their letters without accents: 2 (",
        "left out, in no list: 28 (",
    ):
        assert said in out


def test_bad_arguments(prepare, source, tmp_path, refused):
    out, bad, missing = tmp_path / "out", tmp_path / "bad.csv", tmp_path / "none.csv"
    lists = write_lists(tmp_path, ["Baroque/gone.jpg"], ["Baroque/painting 01.jpg"])
    bad.write_text("Baroque/painting 00.jpg,0\n\npath,class\n")
    for options, said in (
        (lists, "train.csv: none of its 1 images is in SOURCE"),
        ([*lists, "--train_list", bad], 'bad.csv: line 3: got "path,class", expected path,class index'),
        ([*lists, "--train_list", missing], "none.csv: cannot be read: No such file"),
        ([*lists, "--by", "artist"], "expected one of them"),
        (lists[:2], "expected both or none"),
        (["--test_share", "1"], '--test_share: got "1"'),
        (["--seed=-1"], '--seed: got "-1"'),
    ):
        assert said in refused(prepare, source, out, *options)
    assert "is inside SOURCE" in refused(prepare, source, source / "out")
    for i in range(2):
        paint(tmp_path / "few" / f"style {i}" / "a.jpg", i)
    assert "too few" in refused(prepare, tmp_path / "few", out)
    assert not out.exists() and not list(tmp_path.glob(".*"))
    paint(out / "mine.jpg", 1)
    assert f'"{out / "mine.jpg"}" would be lost; expected "{out}" new or empty' in refused(prepare, source, out)
    assert "mine.jpg" in refused(prepare, source, out / "mine.jpg")
    assert [path.name for path in out.iterdir()] == ["mine.jpg"]


def test_near_duplicates_stay_on_one_side(prepare, tmp_path, capsys):
    source = tmp_path / "source"
    for i in range(30):
        paint(source / "Baroque" / f"a{i}.jpg", i)
        paint(source / ("Baroque" if i % 2 else "Rococo") / f"b{i}.jpg", i, crop=0.02, mirror=i % 3 == 0)
    prepare.main([str(source), str(tmp_path / "out"), "--test_share", "0.5"])
    sides = side_of(tmp_path / "out")
    assert len(sides) == 60 and all(sides[f"a{i}.jpg"] == sides[f"b{i}.jpg"] for i in range(30))
    assert abs(sum(side == "test" for side in sides.values()) - 30) <= 2
    assert "near-duplicates of each other, kept on one side: 60 (" in capsys.readouterr().out


def test_no_artist_is_on_both_sides(prepare, tmp_path, capsys):
    random, source = np.random.default_rng(0), tmp_path / "source"
    for i in range(60):
        style = list(COUNTS)[random.integers(3)]
        paint(source / style / f"artist{random.integers(15)}_{i}.jpg", i)
        paint(source / style / f"nameless {i}.jpg", 100 + i)
    prepare.main([str(source), str(tmp_path / "out"), "--by", "artist", "--test_share", "0.3"])
    paths, artists = layout(tmp_path / "out"), {}
    for name, side in side_of(tmp_path / "out").items():
        artists.setdefault(name.split("_")[0], set()).add(side)
    tested, trained = per_style(paths["test"]), per_style(paths["train"])
    assert tested.total() + trained.total() == 120 and all(len(both) == 1 for both in artists.values())
    assert abs(tested.total() - 36) <= 3
    assert all(0.2 < tested[style] / (tested[style] + trained[style]) < 0.4 for style in COUNTS)
    trained = sum(artist == {"train"} for artist in artists.values())
    assert f"artists: {trained} in training, {len(artists) - trained} in test, 0 in both" in capsys.readouterr().out


def test_a_full_disk_leaves_nothing(prepare, source, tmp_path, monkeypatch, refused):
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(Path, "symlink_to", partial(jobs.fail, 28))
    monkeypatch.setattr(os, "link", partial(jobs.fail, 28))
    assert "cannot be written: No space left" in refused(prepare, source, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_where_symlinks_are_not_allowed_they_are_hard_links(prepare, source, tmp_path, monkeypatch):
    """As on Windows, which besides renames to no name that is there and spawns its workers."""
    real = Path.rename
    pickled = lambda function, items: map(pickle.loads(pickle.dumps(function)), items)  # noqa: E731
    monkeypatch.setitem(sys.modules, prepare.__name__, prepare)
    monkeypatch.setattr(prepare.workers, "parallel_map", pickled)
    monkeypatch.setattr(Path, "symlink_to", partial(jobs.fail, 22))
    monkeypatch.setattr(Path, "rename", lambda path, to: jobs.fail(17) if to.exists() else real(path, to))
    (tmp_path / "out").mkdir()
    prepare.main([str(source), str(tmp_path / "out")])
    made = [path for path in (tmp_path / "out").rglob("*.jpg") if path.stat().st_nlink == 2]
    assert len(made) == sum(COUNTS.values()) and not any(path.is_symlink() for path in made)
