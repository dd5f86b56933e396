"""An image file -> uint8 pixels. `cache.py` keeps them, `batches.py` makes batches, `wikiart.Normalize` is next."""

import contextlib
import functools
import hashlib
import io
import math
import os
import warnings
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageCms, PngImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from support.paintings.formats import FORMATS
from support.system import console, workers
from support.system.console import ImageError

TURNS = {  # by EXIF orientation; ImageOps.exif_transpose also rewrites all other tags, which fails where one is bad
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
VERSION = 7  # of decoding: any change of the pixels raises it, so that older caches are decoded again
# A PNG's profile or text may be as large as Pillow lets all of them be together (64 MB), instead of 1 MB; beyond that
# it is a bomb. The limit is Pillow's for all its callers. LOAD_TRUNCATED_IMAGES would hide damage as well.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def decode_image(path: str, image_size: int) -> tuple[np.ndarray, str]:
    """An image file as uint8 [3, S, S] in sRGB, upright by its EXIF orientation, transparency on white, stretched.

    The second value warns of a part of the file that was ignored; it is empty for most files. The first frame of an
    animation counts; 16-bit, 32-bit and float greys are scaled to 8 bits. Raises ImageError with the reason, also for
    an image beyond Pillow's limit of pixels (twice `Image.MAX_IMAGE_PIXELS`; see `_open` for JPEGs), and MemoryError,
    naming the file, where memory is lacking.
    """
    try:
        if isinstance(path, str) and not os.path.isfile(path) and os.path.exists(path):
            raise OSError(0, "not a file")  # opening a pipe would wait for its writer
        with _open(path, 2 * image_size) as image:  # twice the target keeps the resize exact enough
            _scale_key(image)
            profile = image.info.get("icc_profile")
            image.load()
            picture, note = _upright(image)
            picture = _flatten(picture)
            if picture.mode != "RGB":
                picture, profile = _to_srgb(picture, profile).convert("RGB"), None
            pixels = _stretch(picture, image_size)
            if profile:  # applied to the few pixels that are kept
                pixels = np.asarray(_to_srgb(Image.fromarray(pixels), profile))
    except Image.UnidentifiedImageError:
        is_empty = isinstance(path, str) and not os.path.getsize(path)
        raise ImageError("the file is empty" if is_empty else "not an image of a format that is read") from None
    except Exception as error:  # a damaged file can raise anything in a decoder
        if console.is_out_of_memory(error):  # which says nothing about the file
            raise MemoryError(f"out of memory while {console.quoted(path)} is decoded") from None
        raise ImageError(console.reason(error)) from None
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), note


def _open(path: str, side: int) -> Image.Image:
    """An image file, opened; a JPEG at a reduced scale of at least `side` pixels, several times faster to decode.

    The limit of pixels is for what is in memory at once: of a JPEG what the scale leaves, or all of it where it comes
    in several scans (as progressive ones do), since libjpeg keeps those. Raises DecompressionBombError beyond it.
    """
    try:
        with warnings.catch_warnings():  # of half the limit, also in a worker that was spawned
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        with contextlib.suppress(SyntaxError):  # not a JPEG
            image = JpegImageFile(path)
            image.fp.seek(-8 - 2 * image.layers, os.SEEK_CUR)  # where the header of a scan of all components begins
            in_scans, whole = "progressive" in image.info or image.fp.read(2) != b"\xff\xda", image.size
            image.draft("RGB", (side, side))
            if math.prod(whole if in_scans else image.size) <= 2 * Image.MAX_IMAGE_PIXELS:
                return image
            image.close()
        raise
    image.draft("RGB", (side, side))
    return image


def _scale_key(image: Image.Image) -> None:
    """Bring a PNG's transparent value to the 8 bits to which Pillow will bring its pixels alone."""
    key, packing = image.info.get("transparency"), image.tile[0][3] if image.tile else ""
    if key is not None and packing in ("L;2", "L;4"):
        image.info["transparency"] = key * (85 if packing == "L;2" else 17)
    elif key is not None and packing == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _stretch(picture: Image.Image, image_size: int) -> np.ndarray:
    """An RGB image as uint8 [S, S, 3]: Pillow's bilinear resize up to one grey level, in a quarter of the time."""
    if picture.size == (image_size, image_size):
        return np.array(picture)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    # The width is resized first, which takes too much memory for a tall, thin image: reduce its height before.
    if picture.width < image_size:
        pixels = F.interpolate(pixels, size=(image_size, picture.width), mode="bilinear", antialias=True)
    pixels = F.interpolate(pixels, size=(image_size, image_size), mode="bilinear", antialias=True)
    return pixels[0].permute(1, 2, 0).contiguous().numpy()


def _upright(image: Image.Image) -> tuple[Image.Image, str]:
    """The image turned as its EXIF orientation says, and a note where that cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        turn = TURNS.get(value)
        problem = "" if value in (0, 1, *TURNS) else f"got {console.shown(value)}, expected 1 to 8"
    except Exception as error:  # a damaged tag; the pixels may be fine
        turn, problem = None, console.reason(error)
    image = image if turn is None else image.transpose(turn)
    return image, f"read without its EXIF orientation: {problem}" if problem else ""


def _flatten(image: Image.Image) -> Image.Image:
    """The image without transparency, and with 8 bits per channel."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image, np.float64)
        clear = values == image.info.get("transparency", np.nan)  # the transparent value of a 16-bit PNG
        values[clear] = values.min(where=~clear, initial=65535)  # it may be out of the others' range
        low, high = values.min(), values.max()
        if not np.isfinite([low, high]).all():
            raise ValueError("its pixel values are not finite")
        if image.mode in ("F", "I"):
            ranges = [255, 65535] if image.mode == "I" else [1, 255, 65535]
            fits = [top for top in ranges if low >= 0 and top / 8 < high <= top]
        else:  # 16 bits, of which scanners and cameras may use 8, 10, 12 or 14
            fits = [top for top in (255, 1023, 4095, 16383, 65535) if high <= top]
        if not fits:  # no usual range, or next to black in it: stretched from its darkest to its lightest pixel
            values, fits = values - low, [max(high - low, 1e-12)]
        greys = (values * (255 / fits[0]) + 0.5).astype(np.uint8)
        greys[clear] = 255
        return Image.fromarray(greys)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB") if image.mode in ("P", "1") else image


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture with its embedded ICC profile applied; as it is where there is none, or one that does not fit."""
    if not profile:
        return picture
    with contextlib.suppress(ImageCms.PyCMSError, OSError, TypeError, ValueError):
        transform = _transform(profile, picture.mode)
        if transform is not None:
            return ImageCms.applyTransform(picture, transform)
    return picture


@functools.lru_cache(maxsize=64)  # a collection has few profiles
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    source = ImageCms.getOpenProfile(io.BytesIO(profile))
    name = ImageCms.getProfileDescription(source).lower()
    if "srgb" in name and "linear" not in name:
        return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


def fingerprint(pixels: np.ndarray) -> int:
    """A signed 64-bit hash of an image's decoded pixels: equal images have equal fingerprints."""
    return int.from_bytes(hashlib.sha256(pixels).digest()[:8], "little", signed=True)


def try_decode(path: str, image_size: int) -> tuple[bytes | None, int, str]:
    """Pixels (the bytes of uint8 [3, S, S]), fingerprint and note of a file; None, 0 and the reason if it fails."""
    try:
        pixels, note = decode_image(path, image_size)
    except ImageError as error:
        return None, 0, str(error)
    return pixels.tobytes(), fingerprint(pixels), note  # bytes travel between processes faster than arrays


def decode_all(paths: list[str], image_size: int) -> Iterator[tuple[bytes | None, int, str]]:
    """Pixels (the bytes of uint8 [3, S, S]), fingerprint and note of each file, in order, from worker processes.

    A file that cannot be decoded gives None, 0 and the reason. See `decode_image` and `fingerprint`.
    """
    with warnings.catch_warnings():
        # Python from 3.12 on warns of forks beside threads; the workers touch nothing that those may hold.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        decode = functools.partial(try_decode, image_size=image_size)
        yield from workers.parallel_map(decode, paths)
