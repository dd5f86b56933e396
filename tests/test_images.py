"""Image files to uint8 pixels, and the decoded file (the cache)."""

import io
import os
import resource
import struct
import warnings
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
from support.system.console import DataError, ImageError

S = 16


def by_pillow(path, size=S):
    """An image by plain Pillow: upright, RGB, stretched."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def is_close(pixels, others, levels=1):
    """Whether two images differ by one grey level at most: two libraries round differently."""
    return np.abs(pixels.astype(int) - others).max() <= levels


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


# Kinds of image


KINDS = {
    "grey.jpg": Image.new("L", (12, 20), 90),
    "cmyk.jpg": Image.new("CMYK", (12, 20), (30, 60, 90, 20)),
    "one_bit.png": Image.new("1", (12, 20), 1),
    "palette.gif": Image.new("RGB", (12, 20), (255, 0, 0)).convert("P"),
    "lab.tif": Image.new("LAB", (12, 20), (128, 128, 128)),
    "rgb.webp": Image.new("RGB", (12, 20), (1, 2, 250)),
    "rgb.avif": Image.new("RGB", (12, 20), (1, 2, 250)),
    "rgb.jp2": Image.new("RGB", (40, 40), (1, 2, 250)),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_colour_space_becomes_rgb_as_pillow_has_it(tmp_path, name):
    path = save(tmp_path, name, KINDS[name])
    assert is_close(decode(path), by_pillow(path))


def test_pixels_are_plain_pillows_up_to_one_grey_level(tmp_path, paint):
    for size in (40, 32), (S, S), (9, 50), (50, 9):
        path = paint(tmp_path / str(size), {"A": 1}, side=size) / "A" / "000.jpg"
        assert is_close(decode(path), by_pillow(path))


def test_a_large_jpeg_decoded_at_a_reduced_scale_stays_close_to_plain_pillow(tmp_path, paint):
    small = Image.open(paint(tmp_path, {"A": 1}) / "A" / "000.jpg")
    path = save(tmp_path, "large.jpg", small.resize((700, 500), Image.Resampling.BICUBIC), quality=95)
    difference = np.abs(decode(path, 32).astype(int) - by_pillow(path, 32))
    assert difference.mean() < 1.5 and difference.max() < 25


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


def test_a_tall_thin_image_takes_no_more_memory_than_it_has_pixels(tmp_path):
    """Its rows stretched first would take 3 GB."""
    path = save(tmp_path, "thin.png", Image.new("RGB", (1, 1_000_000), (200, 100, 0)))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, limits[1]))
    try:
        assert np.unique(decode(path, 1024)[0]).tolist() == [200]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_transparency_shows_white(tmp_path):
    clear, solid = Image.new("RGBA", (9, 9), (255, 0, 0, 0)), Image.new("RGBA", (9, 9), (255, 0, 0, 255))
    palette = Image.new("P", (9, 9), 3)
    palette.putpalette([9, 9, 9] * 256)
    files = {
        "clear.png": (clear, {}, [255, 255, 255]),
        "solid.png": (solid, {}, [255, 0, 0]),
        "clear.webp": (clear, {"lossless": True}, [255, 255, 255]),
        "grey.png": (Image.new("LA", (9, 9), (0, 0)), {}, [255, 255, 255]),
        "palette.png": (palette, {"transparency": 3}, [255, 255, 255]),
        "shown.png": (palette, {"transparency": 4}, [9, 9, 9]),
    }
    for name, (image, options, expected) in files.items():
        assert color(save(tmp_path, name, image, **options)) == expected, name


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(size, depth, kind, row, *chunks, after=b""):
    """A PNG of equal rows (bytes), with chunks before and after its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * size[1]))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + after + chunk(b"IEND", b"")


KEYS = {  # depth, colour type, a row of 16 pixels, the transparent value, and the greys of the row's quarters
    2: (0, b"\x00\x55\xaa\xff", [1], [0, 255, 170, 255]),
    4: (0, b"\x00\x00\x33\x33\x99\x99\xff\xff", [3], [0, 255, 153, 255]),
    8: (0, bytes([0] * 4 + [3] * 4 + [9] * 4 + [200] * 4), [3], [0, 255, 9, 200]),
    16: (0, np.repeat([0, 512, 65535, 4000], 4).astype(">u2").tobytes(), [65535], [0, 32, 255, 249]),
    48: (2, np.repeat([515, 258, 30840, 0], 12).astype(">u2").tobytes(), [258] * 3, [2, 255, 120, 0]),
}


@pytest.mark.parametrize("bits", KEYS)
def test_the_transparent_value_of_a_png_of_any_depth_shows_white(tmp_path, bits):
    kind, row, key, greys = KEYS[bits]
    data = png((16, 16), min(bits, 16), kind, row, chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
    (tmp_path / "k.png").write_bytes(data)
    pixels = decode(tmp_path / "k.png")
    assert pixels[:, 0, ::4].tolist() == [greys] * 3 and (pixels == pixels[:, :1]).all()


@pytest.mark.parametrize("name, head", [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")])
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
    assert color(save(tmp_path, "truly_png.jpg", Image.new("RGB", (9, 9), (1, 2, 3)), format="PNG")) == [1, 2, 3]


def test_a_format_that_starts_another_program_is_refused(tmp_path):
    (tmp_path / "e.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError):
        decode(tmp_path / "e.jpg")


# 16 and 32 bits, floats


@pytest.mark.parametrize("kind, values, greys", [
    ("u2", [0, 257, 32896, 65535], [0, 1, 128, 255]),
    ("u2", [0, 512, 2048, 4000], [0, 32, 128, 249]),  # 12 bits
    ("u2", [0, 0, 1, 1], [0, 0, 1, 1]),
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


# Orientation


def exif(*tags):
    """An EXIF block of tags: number, type, count and at most 4 bytes."""
    entries = b"".join(struct.pack("<HHI4s", *tag) for tag in sorted(tags))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


TURNED = exif((274, 3, 1, b"\6"))
WHITE_LEFT_HALF = Image.fromarray(np.tile(np.uint8([255] * 16 + [0] * 16)[:, None], (24, 1, 3)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, orientation):
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:12, :16], pixels[12:, :16] = (250, 0, 0), (0, 250, 0)
    exif = Image.Exif()
    exif[274] = orientation
    for name in "o.jpg", "o.tif", "o.png", "o.webp":
        path = save(tmp_path, name, Image.fromarray(pixels), exif=exif, quality=95)
        corners = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
        red = decode(path)[0].astype(int) - decode(path)[1]
        quarters = red.reshape(2, S // 2, 2, S // 2).mean((1, 3))
        assert np.unravel_index(quarters.argmax(), (2, 2)) == corners[orientation]
        assert is_close(decode(path), by_pillow(path))


@pytest.mark.parametrize("tag", [(282, 2, 4, b"72\0"), (259, 8, 1, b"\xff\xff")])
def test_a_bad_exif_tag_costs_neither_the_image_nor_its_orientation(tmp_path, tag):
    """A rational as text, a negative short: Pillow cannot write such tags again."""
    pixels = decode(save(tmp_path, "o.jpg", WHITE_LEFT_HALF, exif=exif((274, 3, 1, b"\6"), tag), quality=95))
    assert pixels[:, :6].min() > 240 and pixels[:, 10:].max() < 15  # turned: the left is now the top


@pytest.mark.parametrize("kind, value", [(2, b"u\0"), (8, b"\xff\xff"), (3, b"\x09\0")])
def test_an_image_with_a_bad_orientation_is_read_as_it_is_with_a_warning(tmp_path, capfd, kind, value):
    save(tmp_path / "p", "A/o.jpg", WHITE_LEFT_HALF, exif=exif((274, kind, 1, value)), quality=95)
    (pixels, _) = wikiart.WikiArtDataset(tmp_path / "p", S, cachedir=tmp_path / "cache")[0]
    assert pixels[:, :, :6].min() > 240 and pixels[:, :, 10:].max() < 15
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: ") and 'A/o.jpg" is read without its EXIF orientation: ' in line


# Colour profiles


def profile(name):
    """An sRGB profile with red and green swapped, and another name, of 13 letters."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = icc.replace(b"rXYZ", b"-XYZ").replace(b"gXYZ", b"rXYZ").replace(b"-XYZ", b"gXYZ")
    return icc.replace("sRGB built-in".encode("utf-16-be"), name.ljust(13).encode("utf-16-be"))


SWAPPED = profile("swapped")


@pytest.mark.parametrize("name", ["p.png", "p.tif", "p.webp", "alpha.png"])
def test_a_profile_decodes_to_the_srgb_colours_that_it_stands_for(tmp_path, name):
    image = Image.new("RGBA" if name == "alpha.png" else "RGB", (9, 9), (180, 120, 90))
    got = color(save(tmp_path, name, image, icc_profile=SWAPPED, **({"lossless": True} if "webp" in name else {})))
    assert is_close(np.array(got), np.array([120, 180, 90]), 2)


def test_a_profile_that_is_srgb_damaged_or_unfitting_changes_nothing(tmp_path):
    image = Image.new("RGB", (9, 9), (180, 120, 90))
    for icc in profile("sRGB"), b"junk", SWAPPED[:200], SWAPPED[:130] + b"\xff" * 200:
        assert color(save(tmp_path, "a.png", image, icc_profile=icc)) == [180, 120, 90]
    assert color(save(tmp_path, "grey.png", Image.new("L", (9, 9), 77), icc_profile=SWAPPED)) == [77] * 3
    linear = color(save(tmp_path, "a.png", image, icc_profile=profile("Linear sRGB")))  # its name has sRGB in it
    assert is_close(np.array(linear), np.array([120, 180, 90]), 2)


def test_a_cmyk_profile_is_applied_to_the_inks(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr(ImageCms, "buildTransform", lambda *given: modes.append(given[2:]))
    decode(save(tmp_path, "scan.jpg", Image.new("CMYK", (9, 9)), icc_profile=profile("CMYK")))
    assert modes == [("CMYK", "RGB")]


# Broken files: named, left out, and the rest goes on


BROKEN = {
    "corrupt": lambda path, good: path.write_bytes(good[:40] + b"\xff" * len(good)),
    "truncated": lambda path, good: path.write_bytes(good[: len(good) // 2]),
    "empty": lambda path, good: path.write_bytes(b""),
    "dangling": lambda path, good: path.symlink_to("nowhere.jpg"),
    "pipe": lambda path, good: os.mkfifo(path),
    "bomb": lambda path, good: path.write_bytes(png((30_000, 30_000), 1, 0, b"")),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_in_a_warning_and_left_out(tmp_path, capfd, kind):
    folder = jobs.paint(tmp_path / "paintings", {"A": 2, "B": 1})
    good = Path(save(folder, "A/0b.jpg", Image.new("RGB", (40, 40), "red")))
    BROKEN[kind](folder / "A" / "1b.jpg", good.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # Python 3.12
        for _ in range(2):  # decoded, and from the cache
            dataset = wikiart.WikiArtDataset(folder, S, cachedir=tmp_path / "cache")
            names = [os.path.relpath(path, folder) for path in dataset.paths]
            assert names == ["A/0.png", "A/0b.jpg", "A/1.png", "B/0.png"] and dataset.labels.tolist() == [0, 0, 0, 1]
            assert all(
                is_close(image.numpy(), by_pillow(path))
                for path, image in zip(dataset.paths, dataset.images, strict=True)
            )
            (line,) = capfd.readouterr().err.splitlines()
            assert line.startswith("warning: ") and 'A/1b.jpg" is left out: ' in line and not line.endswith(": ")
            assert {"empty": "file is empty", "corrupt": "not an image of a format that"}.get(kind, "") in line


def test_a_pipe_that_is_named_itself_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a file"):
        decode(tmp_path / "pipe.jpg")
    assert not issubclass(ImageError, DataError)  # for which a folder is blamed


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried")])
@pytest.mark.parametrize("place, name", [(Image.Image, "transpose"), (ImageFile.ImageFile, "load")])
def test_an_image_is_not_left_out_for_want_of_memory(error, place, name, tmp_path, monkeypatch, refused):
    path = save(tmp_path, "p/A/0.jpg", Image.new("RGB", (40, 30)), exif=TURNED)
    monkeypatch.setattr(place, name, Mock(side_effect=error))
    line = refused(trainpart1, *jobs.flags(tmp_path / "p", tmp_path / "out"))
    assert line.startswith(f'out of memory while "{path}" is decoded; a smaller'), line


def test_half_broken_goes_on_and_more_is_an_error(workdir, refused, paint):
    folder = paint(workdir / "half", {"A": 2, "B": 2})
    for number in range(4):
        (folder / "A" / f"broken{number}.jpg").write_text("junk")
    assert len(wikiart.WikiArtDataset(folder, S)) == 4
    (folder / "B" / "one_more.jpg").write_text("junk")
    line = refused(trainpart1, "--trainingdir", "half", "--outputdir", "out")
    assert line.startswith("--trainingdir: ") and "5 of 9 images cannot be decoded" in line
    assert not (workdir / "out").exists()


def encoded(name, image, **options):
    file = io.BytesIO()
    image.save(file, Image.registered_extensions()[os.path.splitext(name)[1]], **options)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8))
SEEDS = {  # small files of several formats and modes
    "a.jpg": (NOISE, {"icc_profile": SWAPPED, "exif": TURNED}), "b.jpg": (NOISE.convert("CMYK"), {}),
    "c.png": (NOISE, {"icc_profile": SWAPPED}), "d.png": (NOISE.quantize(16), {"transparency": 3}),
    "e.webp": (NOISE.convert("RGBA"), {}), "f.gif": (NOISE.quantize(16), {}), "g.bmp": (NOISE, {}),
    "h.tif": (NOISE, {}), "i.tif": (NOISE.convert("F"), {}),
}  # fmt: skip
CHANGE = st.tuples(
    st.floats(0, 1), st.sampled_from(["set", "insert", "drop", "cut"]), st.binary(min_size=1, max_size=8)
)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(list(SEEDS)), st.lists(CHANGE, min_size=1, max_size=4), st.booleans())
def test_any_damage_gives_pixels_or_a_reason(tmp_path_factory, name, changes, in_header):
    image, options = SEEDS[name]
    data = bytearray(encoded(name, image, **options))
    for share, way, value in changes:
        place = int(share * min(len(data), 300 if in_header else len(data)))
        if way == "cut":
            del data[max(place, 8) :]
        else:
            data[place : place + (0 if way == "insert" else len(value))] = b"" if way == "drop" else value
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    try:
        pixels, note = images.decode_image(str(path), S)
    except ImageError as error:
        assert str(error).strip() and str(error).count("\n") == 0 and str(path) not in str(error)
    else:
        assert pixels.shape == (3, S, S) and pixels.dtype == np.uint8 and isinstance(note, str)


# The cache


@pytest.fixture
def folder(tmp_path, paint):
    return paint(tmp_path / "paintings", {"Baroque": 2, "Cubism": 3})


@pytest.fixture
def load(tmp_path):
    return lambda folder, size=S: wikiart.WikiArtDataset(str(folder), size, cachedir=str(tmp_path / "cache"))


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """A function that gives the paths decoded since it was called last, sorted, whatever process did it."""
    log, real = tmp_path / "decoded.log", images.decode_image

    def spy(path, size):
        with open(log, "a") as file:
            file.write(f"{path}\n")
        return real(path, size)

    def since_last():
        paths = log.read_text().splitlines() if log.exists() else []
        log.write_text("")
        return sorted(paths)

    monkeypatch.setattr(images, "decode_image", spy)
    return since_last


def test_each_image_is_decoded_once(folder, load, decoded, tmp_path):
    first = load(folder)
    assert decoded() == first.paths
    again = load(folder)
    assert not decoded() and again.images.equal(first.images)
    assert (first.paths, first.fingerprints.tolist()) == (again.paths, again.fingerprints.tolist())
    (file,) = (tmp_path / "cache").glob("*.uint8")
    assert file.read_bytes() == first.images.numpy().tobytes()
    assert load(folder, 32).images.shape[-1] == 32 and load(folder).images.equal(first.images)
    assert decoded() == first.paths  # for the other size alone


def replace_alike(path):
    """Another picture by the same name, of the same size in bytes and with the same time of modification."""
    before = path.stat()
    jpeg = io.BytesIO()
    Image.new("RGB", (9, 9), "white").save(jpeg, "JPEG")
    path.with_suffix(".new").write_bytes(jpeg.getvalue().ljust(before.st_size, b"\0"))
    os.utime(path.with_suffix(".new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    path.with_suffix(".new").replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


CHANGES = {
    "content": lambda folder: Image.new("RGB", (33, 33), "white").save(folder / "Cubism" / "001.jpg"),
    "same size and time": lambda folder: replace_alike(folder / "Cubism" / "001.jpg"),
    "time": lambda folder: os.utime(folder / "Cubism" / "001.jpg", ns=(1, 1)),
    "removed": lambda folder: (folder / "Cubism" / "001.jpg").unlink(),
    "decoding": lambda folder: setattr(images, "VERSION", images.VERSION + 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_is_decoded_anew_and_the_old_cache_removed(
    folder, load, tmp_path, decoded, change, monkeypatch
):
    monkeypatch.setattr(images, "VERSION", images.VERSION)
    load(folder)
    old = {path.name for path in (tmp_path / "cache").glob("*.uint8")}
    decoded()
    CHANGES[change](folder)
    dataset = load(folder)
    assert decoded() == dataset.paths == sorted(map(str, folder.rglob("*.jpg")))
    assert all(
        is_close(image.numpy(), by_pillow(path)) for path, image in zip(dataset.paths, dataset.images, strict=True)
    )
    new = {path.name for path in (tmp_path / "cache").glob("*.uint8")}
    assert len(new) == 1 and not new & old and len(list((tmp_path / "cache").glob("*.json"))) == 1


@pytest.mark.parametrize("suffix", [".uint8", ".json"])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 9)])
def test_a_damaged_cache_is_made_anew(folder, load, tmp_path, suffix, damage):
    first = load(folder).images.clone()
    (file,) = (tmp_path / "cache").glob(f"*{suffix}")
    damage(file)
    assert load(folder).images.equal(first)
