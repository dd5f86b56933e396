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
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from support.paintings.formats import FORMATS
from support.system import console, workers
from support.system.console import ImageError

VERSION = 7  # of decoding: any change of the pixels raises it, so that older caches are decoded again
# A PNG's profile or text may be as large as Pillow lets all of them be together (64 MB), instead of 1 MB; beyond that
# it is a bomb. The limit is Pillow's for all its callers. LOAD_TRUNCATED_IMAGES would hide damage as well.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def decode_image(path: str | io.BytesIO, image_size: int) -> tuple[np.ndarray, str]:
    """An image file as uint8 [3, S, S] in sRGB, upright by its EXIF orientation, transparency on white, stretched.

    The second value warns of a part of the file that was ignored; it is empty for most files. The first frame of an
    animation counts. Raises ImageError with the reason, also for an image beyond Pillow's limit of pixels (twice
    `Image.MAX_IMAGE_PIXELS`; see `_open` for JPEGs), and MemoryError, naming the file, where memory is lacking.
    """
    is_path = not isinstance(path, io.BytesIO)
    try:
        if is_path and os.path.exists(path) and not os.path.isfile(path):
            raise OSError(0, "not a file")  # opening a pipe would wait for its writer
        with _open(path, 2 * image_size) as image:  # twice the target keeps the resize exact enough
            _match_key_to_pixels(image)
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
        is_empty = is_path and not os.path.getsize(path)
        raise ImageError("the file is empty" if is_empty else "not an image of a format that is read") from None
    except Exception as error:  # a damaged file can raise anything in a decoder
        if console.is_out_of_memory(error):  # which says nothing about the file
            raise MemoryError(f"out of memory while {console.quoted(path)} is decoded") from None
        raise ImageError(console.reason(error)) from None
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), note


def _open(path: str | io.BytesIO, side: int) -> Image.Image:
    """An image file, opened; a JPEG at a reduced scale of at least `side` pixels, several times faster to decode.

    The limit of pixels is for what is in memory at once: of a JPEG what the scale leaves, or all of a progressive one,
    which libjpeg keeps. Raises DecompressionBombError beyond it.
    """
    try:
        with warnings.catch_warnings():  # of half the limit, also in a worker that was spawned
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        with contextlib.suppress(SyntaxError):  # not a JPEG
            image = JpegImageFile(path)
            if "progressive" not in image.info:
                image.draft("RGB", (side, side))
            if math.prod(image.size) <= 2 * Image.MAX_IMAGE_PIXELS:
                return image
            image.close()
        raise
    image.draft("RGB", (side, side))
    return image


def _match_key_to_pixels(image: Image.Image) -> None:
    """Bring a PNG's transparent value to 8 bits, as Pillow does with its pixels alone."""
    key, packing = image.info.get("transparency"), image.tile[0][3] if image.tile else ""
    if key is not None and packing in ("L;2", "L;4"):
        image.info["transparency"] = key * (85 if packing == "L;2" else 17)
    elif key is not None and packing == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _upright(image: Image.Image) -> tuple[Image.Image, str]:
    """The image turned as its EXIF orientation says, and a note where that cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation not in range(9):
            raise ValueError(f"got {console.shown(orientation)}, expected 1 to 8")
        image.info.pop("exif", None)  # exif_transpose would write all tags again, and fail where another one is bad
        return ImageOps.exif_transpose(image) if orientation > 1 else image, ""
    except Exception as error:  # the pixels may be fine
        if console.is_out_of_memory(error):
            raise
        return image, f"read without its EXIF orientation: {console.reason(error)}"


def _flatten(image: Image.Image) -> Image.Image:
    """The image without transparency and palette, and with 8 bits per channel."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB") if image.mode in ("P", "1") else image


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits or floats by the range that they fit, else from the darkest to the lightest pixel."""
    values = np.asarray(image, np.float64)
    clear = values == image.info.get("transparency", np.nan)  # the transparent value of a 16-bit PNG
    values[clear] = values.min(where=~clear, initial=65535)  # it may be out of the others' range
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        raise ValueError("its pixel values are not finite")
    if image.mode in ("F", "I"):  # next to black in a range: it is another one
        fits = [top for top in ([1] if image.mode == "F" else []) + [255, 65535] if low >= 0 and top / 8 < high <= top]
    else:  # 16 bits, of which scanners and cameras may use 8, 10, 12 or 14
        fits = [top for top in (255, 1023, 4095, 16383, 65535) if high <= top]
    if not fits:
        values, fits = values - low, [max(high - low, 1e-12)]
    greys = (values * (255 / fits[0]) + 0.5).astype(np.uint8)
    greys[clear] = 255
    return Image.fromarray(greys)


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture with its embedded ICC profile applied; as it is where there is none, or one that does not fit."""
    with contextlib.suppress(ImageCms.PyCMSError, OSError, TypeError, ValueError):
        if profile and (transform := _transform(profile, picture.mode)):
            return ImageCms.applyTransform(picture, transform)
    return picture


@functools.lru_cache(maxsize=64)  # a collection has few profiles
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    source = ImageCms.getOpenProfile(io.BytesIO(profile))
    name = ImageCms.getProfileDescription(source).lower()
    is_srgb = "srgb" in name and "linear" not in name
    return None if is_srgb else ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


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
    """What `try_decode` gives for each file, in order, from worker processes."""
    return workers.parallel_map(functools.partial(try_decode, image_size=image_size), paths)
