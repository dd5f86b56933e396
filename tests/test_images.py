"""Image files to uint8 pixels, and the decoded file (the cache)."""

import io
import os
import resource
import struct
import warnings
import zlib
from pathlib import Path

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


SCAN, PART_SCAN = b"\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0", b"\xff\xda\0\x08\1\1\0\0\x3f\0"


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_beyond_pillows_limit_is_read_if_a_reduced_scale_brings_it_below(tmp_path, monkeypatch, mode):
    picture = Image.linear_gradient("L").resize((640, 480)).convert("RGB").convert(mode)
    small, large = save(tmp_path, "s.jpg", picture, exif=TURNED), save(tmp_path, "l.jpg", picture.resize((5000, 200)))
    several, png = save(tmp_path, "p.jpg", picture, progressive=True), save(tmp_path, "p.png", picture.convert("L"))
    (tmp_path / "parts.jpg").write_bytes(Path(small).read_bytes().replace(SCAN, PART_SCAN))
    expected = decode(small)
    assert is_close(expected, by_pillow(small), 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # the limit is twice this
    assert np.array_equal(decode(small), expected)
    for path, size in [(large, 128), (several, S), (png, S)] + [(tmp_path / "parts.jpg", S)] * (mode == "RGB"):
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
    "1 bit": (1, 0, b"\xf0\xf0", [0], [255] * 4),
    "2 bits": (2, 0, b"\x00\x55\xaa\xff", [1], [0, 255, 170, 255]),
    "4 bits": (4, 0, b"\x00\x00\x33\x33\x99\x99\xff\xff", [3], [0, 255, 153, 255]),
    "8 bits": (8, 0, bytes([0] * 4 + [3] * 4 + [9] * 4 + [200] * 4), [3], [0, 255, 9, 200]),
    "16 bits": (16, 0, np.repeat([0, 257, 32896, 65535], 4).astype(">u2").tobytes(), [32896], [0, 1, 255, 255]),
    "16 bits, to 4095": (
        16,
        0,
        np.repeat([0, 512, 65535, 4000], 4).astype(">u2").tobytes(),
        [65535],
        [0, 32, 255, 249],
    ),
    "16 bits, to 255": (16, 0, np.repeat([0, 10, 0, 250], 4).astype(">u2").tobytes(), [0], [255, 10, 255, 250]),
    "16 bits, all": (16, 0, np.repeat([7] * 4, 4).astype(">u2").tobytes(), [7], [255] * 4),
    "16 bits, colour": (
        16,
        2,
        np.repeat([515, 257, 30840, 0], 12).astype(">u2").tobytes(),
        [257] * 3,
        [2, 255, 120, 0],
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_the_transparent_value_of_a_png_of_any_depth_shows_white(tmp_path, name):
    depth, kind, row, key, greys = KEYS[name]
    (tmp_path / "k.png").write_bytes(
        png((16, 16), depth, kind, row, chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
    )
    pixels = decode(tmp_path / "k.png")
    assert pixels[:, 0, ::4].tolist() == [greys] * 3 and (pixels == pixels[:, :1]).all()


TEXTS = {
    "zTXt": lambda text: chunk(b"zTXt", b"a\0\0" + zlib.compress(text, 1)),
    "iTXt": lambda text: chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(text, 1)),
    "iCCP": lambda text: chunk(b"iCCP", b"a\0\0" + zlib.compress(text, 1)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_large_text_or_profile_of_a_png_costs_no_image_and_hides_no_damage(tmp_path, name):
    path, row = tmp_path / "t.png", b"\x09" * 48
    for size, reason in (1 << 21, ""), (1 << 26 | 1, "too large"):
        text = TEXTS[name](bytes(size))
        for data in png((16, 16), 8, 2, row, text), png((16, 16), 8, 2, row, after=text):
            path.write_bytes(data)
            if reason:
                with pytest.raises(ImageError, match=reason):
                    decode(path)
            else:
                assert color(path) == [9, 9, 9]
                path.write_bytes(data.replace(b"IDAT", b"IDAT\xff"))
                with pytest.raises(ImageError):
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


RAMPS = {  # values along a row, and the greys that they stand for
    "16 bits": (np.array([0, 257, 32896, 65535], np.uint16), [0, 1, 128, 255]),
    "16 bits, to 4095": (np.array([0, 512, 2048, 4000], np.uint16), [0, 32, 128, 249]),
    "16 bits, to 255": (np.array([0, 10, 128, 250], np.uint16), [0, 10, 128, 250]),
    "16 bits, to 16383": (np.array([0, 1500, 3000, 12000], np.uint16), [0, 23, 47, 187]),
    "16 bits, all but black": (np.array([0, 0, 1, 1], np.uint16), [0, 0, 1, 1]),
    "32 bits, to 255": (np.array([0, 10, 128, 255], np.int32), [0, 10, 128, 255]),
    "32 bits, to 65535": (np.array([0, 257, 32896, 65535], np.int32), [0, 1, 128, 255]),
    "32 bits, large": (np.array([0, 10**8, 10**9, 2 * 10**9], np.int32), [0, 13, 128, 255]),
    "32 bits, small": (np.array([0, 1, 2, 4], np.int32), [0, 64, 128, 255]),
    "32 bits, negative": (np.array([-100, -50, 0, 100], np.int32), [0, 64, 128, 255]),
    "float, to 1": (np.array([0, 0.25, 0.5, 0.75], np.float32), [0, 64, 128, 191]),
    "float, to 255": (np.array([0, 64, 128, 200], np.float32), [0, 64, 128, 200]),
    "float, just above 1": (np.array([0, 0.6, 0.9, 1.2], np.float32), [0, 128, 191, 255]),
    "float, negative": (np.array([-1, -0.5, 0, 1], np.float32), [0, 64, 128, 255]),
    "float, large": (np.array([0, 1e20, 1e30, 1e38], np.float32), [0, 0, 0, 255]),
}


@pytest.mark.parametrize("name", RAMPS)
def test_more_than_eight_bits_are_scaled_by_their_range(tmp_path, name):
    values, greys = RAMPS[name]
    path = save(tmp_path, "deep.tif", Image.fromarray(np.tile(values.repeat(4), (16, 1))))
    pixels = decode(path)
    assert (pixels == pixels[:1, :1]).all() and is_close(pixels[0, 0, ::4], np.array(greys))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_not_finite_are_left_out_by_name(tmp_path, capfd, value):
    pixels = np.full((9, 9), 0.5, np.float32)
    save(tmp_path, "p/A/good.tif", Image.fromarray(pixels))
    pixels[3, 3] = value
    save(tmp_path, "p/A/bad.tif", Image.fromarray(pixels))
    assert len(wikiart.WikiArtDataset(tmp_path / "p", S, cachedir=tmp_path / "cache")) == 1
    assert capfd.readouterr().err.endswith('A/bad.tif" is left out: its pixel values are not finite\n')


# Orientation


def white_left_half(folder, name, *more, kind=3, value=b"\6\0"):
    """A picture 32 wide and 24 high with an orientation (kind, value) and more EXIF tags (tag, type, count, value)."""
    entries, extra = sorted([(274, kind, 1 if kind != 2 else len(value), value), *more]), b""
    block = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, kind, count, value in entries:
        place = struct.pack("<I", 8 + 2 + 12 * len(entries) + 4 + len(extra))
        block += struct.pack("<HHI", tag, kind, count) + (value.ljust(4, b"\0") if len(value) <= 4 else place)
        extra += value if len(value) > 4 else b""
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:, :16] = 255
    return save(folder, name, Image.fromarray(pixels), exif=b"Exif\0\0" + block + bytes(4) + extra, quality=95)


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


BAD_TAGS = {
    "a rational as text": (282, 2, 8, b"72 dpi.\0"),
    "a negative short": (259, 8, 1, struct.pack("<h", -1)),
    "strip offsets as text": (273, 2, 8, b"offsets\0"),
    "a folder of tags as text": (34665, 2, 8, b"offsets\0"),
}


@pytest.mark.parametrize("name", BAD_TAGS)
def test_a_bad_exif_tag_costs_neither_the_image_nor_its_orientation(tmp_path, name):
    pixels = decode(white_left_half(tmp_path, "o.jpg", BAD_TAGS[name]))
    assert pixels[:, :6].min() > 240 and pixels[:, 10:].max() < 15  # turned: the left is now the top


@pytest.mark.parametrize("kind, value", [(2, b"upright\0"), (8, b"\xff\xff"), (3, b"\x09\0")])
def test_an_image_with_a_bad_orientation_is_read_as_it_is_with_a_warning(tmp_path, capfd, kind, value):
    white_left_half(tmp_path / "p", "A/o.jpg", kind=kind, value=value)
    (pixels, _) = wikiart.WikiArtDataset(tmp_path / "p", S, cachedir=tmp_path / "cache")[0]
    assert pixels[:, :, :6].min() > 240 and pixels[:, :, 10:].max() < 15
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: ") and 'A/o.jpg" is read without its EXIF orientation: ' in line


# Colour profiles, written by hand: ICC.1:2001-04, s15Fixed16 numbers and tables of 8 bits


def profile(space, tags):
    """An ICC profile of a device space ("RGB ", "CMYK"), its tags by signature."""
    pcs = b"Lab " if b"A2B0" in tags else b"XYZ "
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79), **tags}
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    white = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    head = struct.pack(">I", start + len(body)) + bytes(4) + b"\x02\x40\0\0" + kind + space + pcs + bytes(12) + b"acsp"
    return (head + bytes(28) + white).ljust(128, b"\0") + table + body


def xyz(values):
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(65536 * value)) for value in values)


def matrix_profile(primaries, gamma):
    """An RGB profile from its primaries' XYZ values under D50 and a gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma))
    tags = {b"wtpt": xyz((0.9642, 1.0, 0.8249)), **{bytes([name]) + b"TRC": curve for name in b"rgb"}}
    return profile(
        b"RGB ", tags | {name + b"XYZ": xyz(v) for name, v in zip((b"r", b"g", b"b"), primaries, strict=True)}
    )


SRGB = np.array([[0.4361, 0.2225, 0.0139], [0.3851, 0.7169, 0.0971], [0.1431, 0.0606, 0.7141]])  # rows: R, G, B in XYZ
WIDE = {  # published primaries, adapted to D50, and gamma
    "Adobe RGB": (np.array([[0.6097, 0.3111, 0.0195], [0.2053, 0.6257, 0.0609], [0.1492, 0.0632, 0.7446]]), 563 / 256),
    "Display P3": (np.array([[0.5151, 0.2412, -0.0011], [0.2920, 0.6922, 0.0419], [0.1571, 0.0666, 0.7841]]), 2.2),
}
D50 = np.array([0.9642, 1.0, 0.8249])


def to_srgb(xyz):
    """XYZ under D50 as sRGB values from 0 to 255 (IEC 61966-2-1)."""
    linear = (xyz @ np.linalg.inv(SRGB)).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


COLORS = [(128, 128, 128), (180, 120, 90), (90, 130, 60), (60, 70, 150), (200, 190, 120)]


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("given", COLORS)
def test_a_profile_decodes_to_the_srgb_colours_that_it_stands_for(tmp_path, name, given):
    primaries, gamma = WIDE[name]
    expected = to_srgb((np.array(given) / 255) ** gamma @ primaries)
    image, icc = Image.new("RGB", (9, 9), given), matrix_profile(primaries, gamma)
    for file in "p.png", "p.tif", "p.webp":
        got = color(save(tmp_path, file, image, icc_profile=icc, **({"lossless": True} if file == "p.webp" else {})))
        assert is_close(np.array(got), expected, 2), (got, expected)
    got = color(save(tmp_path, "alpha.png", image.convert("RGBA"), icc_profile=icc))
    assert is_close(np.array(got), expected, 2)
    if given != (128, 128, 128):  # without the profile, colours would be others
        assert not is_close(np.array(given), expected, 2)


def test_a_cmyk_scan_decodes_by_its_profile(tmp_path):
    """The corners of a table of 2 x 2 x 2 x 2 Lab colours; a full cyan is not Pillow's (0, 255, 255)."""
    inks = {(255, 0, 0, 0): (60, -20, -30), (0, 255, 0, 0): (48, 50, -3), (0, 0, 255, 0): (85, -5, 60)}
    table = bytes(
        byte for i in range(16) for byte in (lambda lab: (round(2.55 * lab[0]), 128 + lab[1], 128 + lab[2]))(
            inks.get(tuple(255 * (i >> shift & 1) for shift in (3, 2, 1, 0)), (100, 0, 0) if i == 0 else (0, 0, 0))
        )
    )  # fmt: skip
    ramp = bytes(range(256))
    unit = b"".join(struct.pack(">i", 65536 * (i % 4 == 0)) for i in range(9))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + 4 * ramp + table + 3 * ramp
    icc = profile(b"CMYK", {b"A2B0": lut, b"wtpt": xyz(D50)})
    for ink, (lightness, a, b) in [*inks.items(), ((0, 0, 0, 0), (100, 0, 0))]:
        f = (lightness + 16) / 116 + np.array([a / 500, 0, -b / 200])
        expected = to_srgb(np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2) * D50)
        for name in "scan.jpg", "scan.tif":
            path = save(tmp_path, name, Image.new("CMYK", (16, 16), ink), icc_profile=icc)
            assert is_close(np.array(color(path)), expected, 4), (ink, color(path), expected)


def test_an_srgb_a_damaged_and_an_unfitting_profile_change_nothing(tmp_path):
    image = Image.new("RGB", (9, 9), COLORS[1])
    srgb, wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), matrix_profile(*WIDE["Adobe RGB"])
    for icc in srgb, b"junk", wide[:200], wide[:130] + b"\xff" * 200, profile(b"RGB ", {}), profile(b"CMYK", {}):
        assert color(save(tmp_path, "a.png", image, icc_profile=icc)) == list(COLORS[1])
    assert color(save(tmp_path, "grey.png", Image.new("L", (9, 9), 77), icc_profile=wide)) == [77] * 3


def test_linear_srgb_is_converted_whatever_its_name_has_in_it(tmp_path):
    name = struct.pack(">I", 12) + b"Linear sRGB\0" + bytes(72)
    icc = matrix_profile(SRGB, 1.0).replace(struct.pack(">I", 5) + b"test\0" + bytes(79), name)
    assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))).strip() == "Linear sRGB"
    got = color(save(tmp_path, "a.png", Image.new("RGB", (9, 9), (60, 60, 60)), icc_profile=icc))
    assert is_close(np.array(got), to_srgb(np.full(3, 60 / 255) @ SRGB), 2) and got[0] > 120


# Broken files: named, left out, and the rest goes on


def make_bomb(path, good):
    """A header that claims 900 million pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(data + struct.pack(">I", 0) + b"IDAT" + bytes(4))


BROKEN = {
    "corrupt": lambda path, good: path.write_bytes(good[:40] + b"\xff" * len(good)),
    "truncated": lambda path, good: path.write_bytes(good[: len(good) // 2]),
    "empty": lambda path, good: path.write_bytes(b""),
    "dangling": lambda path, good: path.symlink_to("nowhere.jpg"),
    "pipe": lambda path, good: os.mkfifo(path),
    "bomb": make_bomb,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_in_a_warning_and_left_out(tmp_path, capfd, kind):
    folder = jobs.paint(tmp_path / "paintings", {"A": 2, "B": 1})
    good = Path(save(folder, "A/0b.jpg", Image.new("RGB", (40, 40), "red")))
    BROKEN[kind](folder / "A" / "1b.jpg", good.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
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
    exif = Image.Exif()
    exif[274] = 6
    for style in "A", "B":
        (tmp_path / "p" / style).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "p" / style / "0.jpg", exif=exif)
    monkeypatch.setattr(place, name, lambda *_, **__: raising(error))
    line = refused(trainpart1, *jobs.flags(tmp_path / "p", tmp_path / "out"))
    assert line.startswith(f'out of memory while "{tmp_path / "p" / "A" / "0.jpg"}" is decoded; a smaller'), line


def raising(error: Exception) -> None:
    raise error


def test_half_broken_goes_on_and_more_is_an_error(workdir, refused, paint):
    folder = paint(workdir / "half", {"A": 2, "B": 2})
    for number in range(4):
        (folder / "A" / f"broken{number}.jpg").write_text("junk")
    assert len(wikiart.WikiArtDataset(folder, S)) == 4
    (folder / "B" / "one_more.jpg").write_text("junk")
    line = refused(trainpart1, "--trainingdir", "half", "--outputdir", "out")
    assert line.startswith("--trainingdir: ") and "5 of 9 images cannot be decoded" in line
    assert not (workdir / "out").exists()


TURNED = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"  # orientation 6


def seeds():
    """Small files of several formats and modes, by name."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8))
    icc = matrix_profile(*WIDE["Adobe RGB"])
    kinds = {
        "a.jpg": (noise, {"icc_profile": icc, "exif": TURNED}), "b.jpg": (noise.convert("CMYK"), {}),
        "c.png": (noise, {"icc_profile": icc}), "d.png": (noise.quantize(16), {"transparency": 3}),
        "e.webp": (noise.convert("RGBA"), {}), "f.gif": (noise.quantize(16), {}), "g.bmp": (noise, {}),
        "h.tif": (noise, {}), "i.tif": (noise.convert("F"), {}),
    }  # fmt: skip
    for name, (image, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, Image.registered_extensions()[os.path.splitext(name)[1]], **options)
        yield name, file.getvalue()


SEEDS = dict(seeds())
CHANGE = st.tuples(
    st.floats(0, 1), st.sampled_from(["set", "insert", "drop", "cut"]), st.binary(min_size=1, max_size=8)
)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(list(SEEDS)), st.lists(CHANGE, min_size=1, max_size=4), st.booleans())
def test_any_damage_gives_pixels_or_a_reason(tmp_path_factory, name, changes, in_header):
    data = bytearray(SEEDS[name])
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
@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b""), lambda p: os.truncate(p, 9)])
def test_a_damaged_cache_is_made_anew(folder, load, tmp_path, suffix, damage):
    first = load(folder).images.clone()
    (file,) = (tmp_path / "cache").glob(f"*{suffix}")
    damage(file)
    assert load(folder).images.equal(first)
