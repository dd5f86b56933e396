"""Image files to uint8 pixels, and the decoded file (the cache)."""

import os
import shutil
import struct
import zlib
from pathlib import Path
from unittest.mock import Mock

import jobs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, ImageOps

import trainpart1
import wikiart
from support.paintings import images
from support.system.console import ImageError

S = 16
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8))
BROWN = Image.new("RGB", (9, 9), (180, 120, 90))


def by_pillow(path):
    """An image by plain Pillow: upright, RGB, stretched."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    return np.asarray(image.resize((S, S), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def is_close(pixels, others, levels=1):
    """Whether two images differ by one grey level at most: two libraries round differently."""
    return np.abs(np.asarray(pixels, int) - others).max() <= levels


def shows_its_files(dataset):
    pairs = zip(dataset.paths, dataset.images.numpy(), strict=True)
    return all(is_close(image, by_pillow(path)) for path, image in pairs)


def save(folder, name, image, **options):
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return str(path)


def decode(path, size=S):
    pixels, note = images.decode_image(str(path), size)
    assert pixels.shape == (3, size, size) and pixels.dtype == np.uint8 and note == ""
    return pixels


def color(path):
    """The colour of an image of one colour."""
    pixels = decode(path)
    assert (pixels == pixels[:, :1, :1]).all()
    return pixels[:, 0, 0].tolist()


def exif(*tags):
    """An EXIF block of tags: number, type, count and at most 4 bytes."""
    entries = b"".join(struct.pack("<HHI4s", *tag) for tag in sorted(tags))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


TURNED = exif((274, 3, 1, b"\6"))  # the left is the top
WHITE_LEFT_HALF = Image.fromarray(np.tile(np.uint8([255] * 16 + [0] * 16)[:, None], (24, 1, 3)))


@pytest.mark.parametrize("name, image", [
    ("wide.jpg", NOISE.resize((50, 9))), ("tall.jpg", NOISE.resize((9, 50))), ("same.png", NOISE.resize((S, S))),
    ("grey.jpg", NOISE.convert("L")), ("cmyk.jpg", NOISE.convert("CMYK")), ("one_bit.png", NOISE.convert("1")),
    ("palette.gif", NOISE.quantize(16)), ("lab.tif", Image.new("LAB", (12, 20), (128, 128, 128))),
    ("a.webp", NOISE), ("a.avif", NOISE), ("a.jp2", NOISE.resize((40, 40))),
])  # fmt: skip
def test_every_shape_and_colour_space_becomes_rgb_as_pillow_has_it(tmp_path, name, image):
    path = save(tmp_path, name, image)
    assert is_close(decode(path), by_pillow(path))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_beyond_pillows_limit_is_read_if_a_reduced_scale_brings_it_below(tmp_path, monkeypatch, mode):
    picture = Image.linear_gradient("L").resize((640, 480)).convert("RGB").convert(mode)
    small, large = save(tmp_path, "s.jpg", picture, exif=TURNED), save(tmp_path, "l.jpg", picture.resize((5000, 200)))
    several, png = save(tmp_path, "p.jpg", picture, progressive=True), save(tmp_path, "p.png", picture.convert("L"))
    expected = decode(small)
    assert is_close(expected, by_pillow(small), 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # the limit is twice this
    assert np.array_equal(decode(small), expected)
    for path, size in [(large, 128), (several, S), (png, S)]:
        with pytest.raises(ImageError, match="exceeds limit of 200000"):
            decode(path, size)


@pytest.mark.parametrize("image, transparent, expected", [
    (Image.new("RGBA", (9, 9), (255, 0, 0, 0)), None, [255] * 3),
    (Image.new("RGBA", (9, 9), (255, 0, 0, 255)), None, [255, 0, 0]),
    (Image.new("LA", (9, 9), (0, 0)), None, [255] * 3),
    (Image.new("L", (9, 9), 3), 4, [3] * 3),
    (Image.new("L", (9, 9), 3), 3, [255] * 3),
    (BROWN.quantize(1), 0, [255] * 3),
])  # fmt: skip
def test_transparency_shows_white(tmp_path, image, transparent, expected):
    assert color(save(tmp_path, "a.png", image, transparency=transparent)) == expected


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(size, depth, kind, row, *chunks, after=b""):
    """A PNG of equal rows (bytes), with chunks before and after its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * size[1]))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + after + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth, kind, row, key, greys", [  # greys: of the row's quarters
    (2, 0, b"\x00\x55\xaa\xff", [1], [0, 255, 170, 255]),
    (4, 0, b"\x00\x00\x33\x33\x99\x99\xff\xff", [3], [0, 255, 153, 255]),
    (16, 0, np.repeat([0, 512, 65535, 4000], 4).astype(">u2").tobytes(), [65535], [0, 32, 255, 249]),
    (16, 2, np.repeat([515, 258, 30840, 0], 12).astype(">u2").tobytes(), [258] * 3, [2, 255, 120, 0]),
])  # fmt: skip
def test_the_transparent_value_of_a_png_of_any_depth_shows_white(tmp_path, depth, kind, row, key, greys):
    data = png((16, 16), depth, kind, row, chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
    (tmp_path / "k.png").write_bytes(data)
    pixels = decode(tmp_path / "k.png")
    assert pixels[:, 0, ::4].tolist() == [greys] * 3 and (pixels == pixels[:, :1]).all()


@pytest.mark.parametrize("name, head", [(b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0")])
def test_a_large_text_or_profile_of_a_png_costs_no_image_and_hides_no_damage(tmp_path, name, head):
    path, row = tmp_path / "t.png", b"\x09" * 48
    for size, is_read in (1 << 21, True), (1 << 26 | 1, False):
        text = chunk(name, head + zlib.compress(bytes(size), 1))
        for data in png((16, 16), 8, 2, row, text), png((16, 16), 8, 2, row, after=text):
            path.write_bytes(data)
            if is_read:
                assert color(path) == [9, 9, 9]
                path.write_bytes(data.replace(b"IDAT", b"IDAT\xff"))
            with pytest.raises(ImageError, match=None if is_read else "too large"):
                decode(path)


def test_the_first_frame_and_the_content_count(tmp_path):
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "lime", "blue")]
    assert color(save(tmp_path, "a.gif", frames[0], save_all=True, append_images=frames[1:])) == [255, 0, 0]
    assert color(save(tmp_path, "truly_png.jpg", BROWN, format="PNG")) == [180, 120, 90]


@pytest.mark.parametrize("kind, values, greys", [
    ("u2", [0, 257, 32896, 65535], [0, 1, 128, 255]),
    ("u2", [0, 512, 2048, 4000], [0, 32, 128, 249]),  # 12 bits
    ("i4", [0, 257, 32896, 65535], [0, 1, 128, 255]),
    ("i4", [-100, -50, 0, 100], [0, 64, 128, 255]),
    ("f4", [0, 0.25, 0.5, 0.75], [0, 64, 128, 191]),
    ("f4", [0, 0.6, 0.9, 1.2], [0, 128, 191, 255]),  # just above 1
])  # fmt: skip
def test_more_than_eight_bits_are_scaled_by_their_range(tmp_path, kind, values, greys):
    path = save(tmp_path, "deep.tif", Image.fromarray(np.tile(np.array(values, kind).repeat(4), (16, 1))))
    pixels = decode(path)
    assert (pixels == pixels[:1, :1]).all() and is_close(pixels[0, 0, ::4], np.array(greys))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_not_finite_are_left_out_by_name(tmp_path, value):
    pixels = np.full((9, 9), 0.5, np.float32)
    pixels[3, 3] = value
    with pytest.raises(ImageError, match="its pixel values are not finite"):
        decode(save(tmp_path, "bad.tif", Image.fromarray(pixels)))


@pytest.mark.parametrize("name, tags", [
    ("o.jpg", []), ("o.png", []), ("o.tif", []), ("o.webp", []),
    ("o.jpg", [(282, 2, 4, b"72\0")]), ("o.jpg", [(259, 8, 1, b"\xff\xff")]),
])  # fmt: skip
def test_the_exif_orientation_is_applied_whatever_the_other_tags(tmp_path, name, tags):
    """A rational as text, a negative short: Pillow cannot write such tags again."""
    pixels = decode(save(tmp_path, name, WHITE_LEFT_HALF, exif=exif((274, 3, 1, b"\6"), *tags), quality=95))
    assert pixels[:, :6].min() > 240 and pixels[:, 10:].max() < 15


@pytest.mark.parametrize("kind, value", [(2, b"u\0"), (3, b"\x09\0")])
def test_an_image_with_a_bad_orientation_is_read_as_it_is_with_a_warning(tmp_path, capfd, kind, value):
    save(tmp_path / "p", "A/o.jpg", WHITE_LEFT_HALF, exif=exif((274, kind, 1, value)), quality=95)
    (pixels, _) = wikiart.WikiArtDataset(tmp_path / "p", S, cachedir=tmp_path / "cache")[0]
    assert pixels[:, :, :6].min() > 240 and pixels[:, :, 10:].max() < 15
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: ") and 'A/o.jpg" is read without its EXIF orientation: ' in line


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = SRGB.replace(b"rXYZ", b"-XYZ").replace(b"gXYZ", b"rXYZ").replace(b"-XYZ", b"gXYZ")  # red and green
SWAPPED = SWAPPED.replace("sRGB built-in".encode("utf-16-be"), "swapped colors".encode("utf-16-be")[:26])


def test_a_profile_is_applied_unless_it_is_srgb_damaged_or_unfitting(tmp_path):
    def shown(image, icc):
        return color(save(tmp_path, "a.png", image, icc_profile=icc))

    for image in BROWN, BROWN.convert("RGBA"):
        assert is_close(shown(image, SWAPPED), np.array([120, 180, 90]), 2)
    for icc in SRGB, b"junk", SWAPPED[:200], SWAPPED[:130] + b"\xff" * 200:
        assert shown(BROWN, icc) == [180, 120, 90]
    assert shown(Image.new("L", (9, 9), 77), SWAPPED) == [77] * 3


BROKEN = {
    "corrupt": lambda path, good: path.write_bytes(good[:40] + b"\xff" * len(good)),
    "ghostscript": lambda path, good: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
    "truncated": lambda path, good: path.write_bytes(good[: len(good) // 2]),
    "empty": lambda path, good: path.write_bytes(b""),
    "dangling": lambda path, good: path.symlink_to("nowhere.jpg"),
    "pipe": lambda path, good: os.mkfifo(path),
    "bomb": lambda path, good: path.write_bytes(png((30_000, 30_000), 1, 0, b"")),
}
REASONS = {"empty": "file is empty"} | dict.fromkeys(["corrupt", "ghostscript"], "not an image of a format that")


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.filterwarnings("error", "ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
def test_a_broken_image_is_named_in_a_warning_and_left_out(tmp_path, capfd, kind):
    folder = jobs.paint(tmp_path / "paintings", {"A": 2, "B": 1})
    good = Path(save(folder, "A/0b.jpg", Image.new("RGB", (40, 40), "red")))
    BROKEN[kind](folder / "A" / "1b.jpg", good.read_bytes())
    for _ in range(2):  # decoded, and from the cache
        dataset = wikiart.WikiArtDataset(folder, S, cachedir=tmp_path / "cache")
        names = [os.path.relpath(path, folder) for path in dataset.paths]
        assert names == ["A/0.png", "A/0b.jpg", "A/1.png", "B/0.png"] and dataset.labels.tolist() == [0, 0, 0, 1]
        assert shows_its_files(dataset)
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("warning: ") and 'A/1b.jpg" is left out: ' in line and not line.endswith(": ")
        assert REASONS.get(kind, "") in line
    with pytest.raises(ImageError):  # named itself, too: a pipe is not waited for
        decode(folder / "A" / "1b.jpg")


@pytest.mark.parametrize("place, name", [(Image.Image, "transpose"), (ImageFile.ImageFile, "load")])
def test_an_image_is_not_left_out_for_want_of_memory(place, name, tmp_path, monkeypatch, refused):
    path = save(tmp_path, "p/A/0.jpg", Image.new("RGB", (40, 30)), exif=TURNED)
    monkeypatch.setattr(place, name, Mock(side_effect=MemoryError))
    line = refused(trainpart1, *jobs.flags(tmp_path / "p", tmp_path / "out"))
    assert line.startswith(f'out of memory while "{path}" is decoded; a smaller'), line


def test_half_broken_goes_on_and_more_is_an_error(workdir, refused):
    folder = jobs.paint(workdir / "half", {"A": 2, "B": 2})
    for number in range(4):
        (folder / "A" / f"broken{number}.jpg").write_text("junk")
    assert len(wikiart.WikiArtDataset(folder, S)) == 4
    (folder / "B" / "one_more.jpg").write_text("junk")
    line = refused(trainpart1, "--trainingdir", "half", "--outputdir", "out")
    assert line.startswith("--trainingdir: ") and "5 of 9 images cannot be decoded" in line
    assert not (workdir / "out").exists()


SEEDS = {  # small files of several formats and modes
    "a.jpg": (NOISE, {"icc_profile": SWAPPED, "exif": TURNED}), "b.jpg": (NOISE.convert("CMYK"), {}),
    "c.png": (NOISE, {"icc_profile": SWAPPED}), "d.png": (NOISE.quantize(16), {"transparency": 3}),
    "e.webp": (NOISE.convert("RGBA"), {}), "f.gif": (NOISE.quantize(16), {}), "g.tif": (NOISE.convert("F"), {}),
}  # fmt: skip
SPLICE = st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 8, 10**6]), st.binary(max_size=8))  # where, cut, put in


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(list(SEEDS)), st.lists(SPLICE, min_size=1, max_size=4), st.sampled_from([300, 10**6]))
def test_any_damage_gives_pixels_or_a_reason(tmp_path_factory, name, splices, header):
    image, options = SEEDS[name]
    path = Path(save(tmp_path_factory.getbasetemp(), name, image, **options))
    data = bytearray(path.read_bytes())
    for share, cut, value in splices:
        place = max(8, int(share * min(len(data), header)))
        data[place : place + cut] = value
    path.write_bytes(data)
    try:
        pixels, note = images.decode_image(str(path), S)
    except ImageError as error:
        assert str(error).strip() and str(error).count("\n") == 0 and str(path) not in str(error)
    else:
        assert pixels.shape == (3, S, S) and pixels.dtype == np.uint8 and isinstance(note, str)


@pytest.fixture
def load(tmp_path):
    jobs.paint(tmp_path / "paintings", {"Baroque": 2, "Cubism": 3}, name="{}.bmp")
    return lambda size=S: wikiart.WikiArtDataset(tmp_path / "paintings", size, cachedir=tmp_path / "cache")


def test_each_image_is_decoded_once_unless_the_cache_is_damaged(load, tmp_path, monkeypatch):
    first = load()
    (file,) = (tmp_path / "cache").glob("*.uint8")
    pixels, fingerprints = first.images.clone(), first.fingerprints
    assert file.read_bytes() == pixels.numpy().tobytes()
    assert load(32).images.shape[-1] == 32
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode_image", None)
        again = load()
        assert again.images.equal(pixels) and (again.paths, again.labels.tolist()) == (first.paths, [0, 0, 1, 1, 1])
    for damaged in file, file.with_suffix(".json"):
        os.truncate(damaged, 9)
        again = load()
        assert again.images.equal(pixels) and again.fingerprints.equal(fingerprints)


def replace_alike(path):
    """Another picture by the same name, of the same size in bytes and with the same time of modification."""
    before = path.stat()
    shutil.copy(path.with_name("2.bmp"), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("change", [replace_alike, Path.unlink, lambda _: setattr(images, "VERSION", 0)])
def test_a_changed_folder_is_decoded_anew_and_the_old_cache_removed(load, tmp_path, change, monkeypatch):
    monkeypatch.setattr(images, "VERSION", images.VERSION)
    old = load().pixel_file
    change(tmp_path / "paintings" / "Cubism" / "1.bmp")
    dataset = load()
    assert dataset.paths == sorted(map(str, tmp_path.rglob("*.bmp"))) and shows_its_files(dataset)
    (new,) = (tmp_path / "cache").glob("*.uint8")
    assert str(new) == str(dataset.pixel_file) != str(old) and len(list((tmp_path / "cache").glob("*.json"))) == 1
