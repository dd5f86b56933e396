"""An image file -> uint8 pixels. `cache.py` keeps them, `batches.py` makes batches, `wikiart.Normalize` is next."""

import contextlib
import functools
import hashlib
import io
import os
import warnings
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageCms

from support import console, workers
from support.console import ImageError
from support.folders import FORMATS

TURNS = {  # by EXIF orientation; ImageOps.exif_transpose also rewrites all other tags, which fails where one is bad
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
VERSION = 6  # of decoding: any change of the pixels raises it, so that older caches are decoded again


def decode_image(path: str, image_size: int) -> tuple[np.ndarray, str]:
    """An image file as uint8 [3, S, S] in sRGB, upright by its EXIF orientation, transparency on white, stretched.

    The second value warns of a part of the file that was ignored; it is empty for most files. The first frame of an
    animation counts; 16-bit, 32-bit and float greys are scaled to 8 bits. Raises ImageError with the reason,
    and MemoryError, naming the file, where memory is lacking.
    """
    try:
        if isinstance(path, str) and not os.path.isfile(path) and os.path.exists(path):
            raise OSError(0, "not a file")  # opening a pipe would wait for its writer
        with Image.open(path, formats=FORMATS) as image:
            # A JPEG decodes several times faster at a reduced scale; twice the target keeps the resize exact enough.
            image.draft("RGB", (2 * image_size, 2 * image_size))
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
        return Image.fromarray((values * (255 / fits[0]) + 0.5).astype(np.uint8))
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
    with warnings.catch_warnings():  # Pillow refuses images of twice its limit; up to there no warning is needed
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Python from 3.12 on warns of forks beside threads; the workers touch nothing that those may hold.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        decode = functools.partial(try_decode, image_size=image_size)
        yield from workers.parallel_map(decode, paths)
