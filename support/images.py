"""Folders of images: finding them, decoding them into one uint8 file (the cache)."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import stat
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from tqdm import tqdm

from support import console, files, workers

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # nothing that would start another program


class DataError(console.UserError):
    """A folder of paintings, or an image, that cannot be used."""


class ImageFile(NamedTuple):
    """A file that looks like a painting: its path relative to the folder of styles, bytes and time of change in ns."""

    path: str
    size: int
    changed: int


def find_images(imgdir: str) -> dict[str, list[ImageFile]]:
    """The image files of every style folder directly under `imgdir`, styles and paths sorted.

    Links are followed, each folder once a style, so that a loop ends. Hidden names and files without an image's ending
    are passed over; what has the ending and is no readable file is named in a warning. Raises DataError where there
    is no folder, no style folder or no image.
    """
    try:
        with os.scandir(imgdir) as entries:
            names = sorted((e.name, os.path.isdir(e.path)) for e in entries if not e.name.startswith("."))
    except OSError as error:
        hint = " (python data/sample/prepare.py paints the sample)" if "data/sample" in imgdir else ""
        raise DataError(f"folder {console.quoted(imgdir)} cannot be read: {error.strerror}{hint}") from None
    styles = {}
    for style in [name for name, is_folder in names if is_folder]:
        styles[style] = list(_walk(imgdir, style))
        if not styles[style]:
            console.warn(f"{console.quoted(os.path.join(imgdir, style))} holds no images and is passed over")
            del styles[style]
    if not styles:
        if any(name.lower().endswith(IMAGE_ENDINGS) for name, _ in names):
            raise DataError(
                f"folder {console.quoted(imgdir)} holds images but no style folders; meant: a folder a style"
            )
        raise DataError(f"folder {console.quoted(imgdir)} holds no style folder with images")
    return styles


def _walk(imgdir: str, style: str) -> Iterator[ImageFile]:
    def unreadable(error: OSError) -> None:
        console.warn(f"{console.quoted(error.filename)} is left out: {error.strerror}")

    seen = set()
    for folder, folders, names in os.walk(os.path.join(imgdir, style), onerror=unreadable, followlinks=True):
        try:
            status = os.stat(folder)
        except OSError as error:
            unreadable(error)
            continue
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(folder, imgdir)
        for name in folders:
            if name.lower().endswith(IMAGE_ENDINGS):
                console.warn(
                    f"{console.quoted(os.path.join(folder, name))} is a folder, not an image; images in it are read"
                )
        for name in sorted(names):
            if name.startswith(".") or not name.lower().endswith(IMAGE_ENDINGS):
                continue
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(0, "not a file")
            except OSError as error:
                console.warn(f"{console.quoted(path)} is left out: {error.strerror}")
            else:
                yield ImageFile(os.path.join(inside, name), status.st_size, status.st_mtime_ns)


def decode_image(path: str, image_size: int) -> np.ndarray:
    """An image file as uint8 [3, S, S]: RGB, upright by its EXIF orientation, transparency on white, stretched.

    The first frame of an animation counts; 16-bit greys are scaled to 8. Raises DataError with the reason.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            # A JPEG decodes several times faster at a reduced scale; twice the target keeps the resize exact enough.
            image.draft("RGB", (2 * image_size, 2 * image_size))
            ImageOps.exif_transpose(image, in_place=True)
            picture = image
            if picture.mode.startswith("I"):
                picture = Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
            elif picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture.convert("RGBA"))
            if picture.mode != "RGB":
                picture = picture.convert("RGB")
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
            # What Pillow's resize does, up to one grey level, in a quarter of the time. It stretches rows first, which
            # would make far too much of a tall, thin image: the height of such a one is reduced before.
            if picture.width < image_size:
                pixels = F.interpolate(pixels, size=(image_size, picture.width), mode="bilinear", antialias=True)
            pixels = F.interpolate(pixels, size=(image_size, image_size), mode="bilinear", antialias=True)
    except Exception as error:  # a hostile file can raise anything in a decoder
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(reason.replace(str(path), "file").replace(repr(path), "file")) from None
    return pixels[0].contiguous().numpy()


def fingerprint(pixels: np.ndarray) -> int:
    """A signed 64-bit hash of an image's decoded pixels: equal images have equal fingerprints."""
    return int.from_bytes(hashlib.sha256(pixels).digest()[:8], "little", signed=True)


def decode_folder(
    imgdir: str, image_size: int, listed: list[ImageFile], cachedir: str
) -> tuple[Path, dict[str, str], list[int]]:
    """The path of the decoded images (uint8, one after the other), what was left out and why, and the fingerprints.

    The cache's name holds a digest of the files' names, sizes and times: when they change, it is made anew and the old
    one removed. A lock lets one process decode while others wait, and is free again when its holder dies.
    """
    listing = json.dumps([4, image_size, listed]).encode()  # 4: the version of decoding
    folder = f"{hashlib.sha256(os.fsencode(os.path.realpath(imgdir))).hexdigest()[:12]}-{image_size}"
    stem = f"{folder}-{hashlib.sha256(listing).hexdigest()[:20]}"
    index_path, data_path = Path(cachedir) / f"{stem}.json", Path(cachedir) / f"{stem}.uint8"

    def decode(number: int, output: int | None = None) -> int | str:
        """The image's fingerprint, its pixels written to their place in the file `output`; or why it has none."""
        try:
            pixels = decode_image(os.path.join(imgdir, listed[number].path), image_size)
        except DataError as error:
            return str(error)
        left, place = memoryview(pixels).cast("B"), number * pixels.nbytes
        while left and output is not None:  # a disk that is nearly full takes a part and refuses the rest
            written = os.pwrite(output, left, place)
            left, place = left[written:], place + written
        return fingerprint(pixels)

    def read_index() -> tuple[Path, dict[str, str], list[int]] | None:
        try:
            index = json.loads(index_path.read_text())
            left_out, fingerprints = dict(index["left_out"]), list(index["fingerprints"])
            whole = data_path.stat().st_size == len(fingerprints) * 3 * image_size**2
            complete = whole and len(left_out) + len(fingerprints) == len(listed)
            if complete and all(
                isinstance(decode(i), str) for i, f in enumerate(listed) if f.path in left_out
            ):  # a chmod changes no file's time
                return data_path, left_out, fingerprints
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    found = read_index()
    if found:
        return found
    try:
        Path(cachedir).mkdir(parents=True, exist_ok=True)
        lock = open(Path(cachedir) / f"{folder}.lock", "wb")  # noqa: SIM115 - the `with` below closes it
    except OSError as error:
        raise console.UserError(f"{console.quoted(cachedir)}: cannot be written: {error.strerror}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = read_index()  # another process may have decoded meanwhile
        if found:
            return found
        left_out, fingerprints = {}, []

        def write_pixels(output: io.BufferedWriter) -> None:
            size = 3 * image_size**2
            if hasattr(os, "posix_fallocate"):  # a disk that is too small says so before the work is done
                try:
                    os.posix_fallocate(output.fileno(), 0, len(listed) * size)
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some file systems cannot say it
                        raise
            function = functools.partial(decode, output=output.fileno())  # processes write for themselves
            with contextlib.closing(
                workers.parallel_map(function, range(len(listed)))
            ) as results:  # else they would go on
                bar = tqdm(results, f"decoding {imgdir}", len(listed), unit="painting", disable=None, leave=False)
                for number, result in enumerate(bar):
                    if isinstance(result, str):
                        left_out[listed[number].path] = result
                    else:
                        fingerprints.append(result)
            if left_out:  # close the gaps: what is read lies at or after what is written
                with open(output.name, "rb") as source:
                    for number, file in enumerate(listed):
                        if file.path not in left_out:
                            source.seek(number * size)
                            output.write(source.read(size))
            output.truncate(len(fingerprints) * size)

        begun = time.perf_counter()
        with warnings.catch_warnings():  # Pillow refuses images of twice its limit; up to there is no need to warn
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Python from 3.12 on warns of forks beside threads; ours touch nothing that those may hold.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            files.write_whole(data_path, write_pixels)
        files.write_whole(
            index_path,
            lambda file: file.write(json.dumps({"left_out": left_out, "fingerprints": fingerprints}).encode()),
        )
        rate = len(listed) / (time.perf_counter() - begun)
        console.say(f"decoded {len(listed):,} images of {console.quoted(imgdir)} into the cache ({rate:,.0f} a second)")
        for old in Path(cachedir).glob(f"*{folder}-*"):
            if not old.name.startswith(stem):
                old.unlink(missing_ok=True)
        return data_path, left_out, fingerprints
