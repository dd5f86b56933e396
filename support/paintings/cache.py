"""A folder of images -> one decoded uint8 file, made once and used again."""

import contextlib
import errno
import hashlib
import io
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from support.paintings import images
from support.paintings.folders import ImageFile
from support.system import console, files, locks
from support.system.console import UserError


def decode_folder(
    imgdir: str, image_size: int, listed: list[ImageFile], cachedir: str
) -> tuple[Path, dict[str, str], list[int]]:
    """The file of the decoded images (uint8, one after the other), what was left out and why, and the fingerprints.

    The cache's name holds a digest of the files' names, sizes and times: when they change, it is made anew and the old
    one removed. A lock lets one process decode while others wait.
    """
    listing = json.dumps([images.VERSION, image_size, listed]).encode()
    folder = f"{hashlib.sha256(os.fsencode(os.path.realpath(imgdir))).hexdigest()[:12]}-{image_size}"
    stem = f"{folder}-{hashlib.sha256(listing).hexdigest()[:20]}"
    index_path, data_path = Path(cachedir) / f"{stem}.json", Path(cachedir) / f"{stem}.uint8"

    def read_cache() -> tuple[Path, dict[str, str], list[int]] | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            index = json.loads(index_path.read_text())
            left_out, fingerprints = dict(index["left_out"]), list(index["fingerprints"])
            is_whole = data_path.stat().st_size == len(fingerprints) * 3 * image_size**2
            if is_whole and len(left_out) + len(fingerprints) == len(listed):
                again = [images.try_decode(os.path.join(imgdir, path), image_size)[0] for path in left_out]
                return (data_path, left_out, fingerprints) if not any(again) else None  # some can be decoded now
        return None

    if cached := read_cache():
        return cached
    with locks.locked(Path(cachedir) / f"{folder}.lock", wait=True):
        if cached := read_cache():  # another process has decoded meanwhile
            return cached
        for old in Path(cachedir).glob(f".{folder}-*.uint8.*.part"):  # of a decoding that was interrupted
            _remove(old)
        begun = time.perf_counter()
        left_out, fingerprints = _write_pixels(data_path, imgdir, image_size, [file.path for file in listed])
        files.write_json(index_path, {"left_out": left_out, "fingerprints": fingerprints})
        rate = len(listed) / (time.perf_counter() - begun)
        done = f"decoded {len(listed):,} images of {console.quoted(imgdir)} into the cache"
        console.say(f"{done} ({rate:,.0f} per second)")
        for old in set(Path(cachedir).glob(f"{folder}-*")) - set(Path(cachedir).glob(f"{stem}*")):
            _remove(old)
        return data_path, left_out, fingerprints


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # Windows keeps a mapped file, a sticky folder that of another user
        path.unlink()


def map_pixels(pixel_file: str, count: int, image_size: int) -> Tensor:
    """The decoded images in a file of `decode_folder`, memory-mapped: uint8 [count, 3, S, S], read-only.

    Raises UserError where the file cannot be mapped.
    """
    try:
        pixels = np.memmap(pixel_file, np.uint8, "r", shape=(count, 3, image_size, image_size))
    except OSError as error:  # such as a limit on the memory that a process may address
        hint = "; a smaller image_size needs less" if error.errno == errno.ENOMEM else ""
        problem = f"cannot be mapped into memory: {error.strerror}{hint}"
        raise UserError(f"{console.printable(pixel_file)}: {problem}") from None
    with warnings.catch_warnings():  # of memory that cannot be written, which is what is wanted
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(pixels)


def _write_pixels(data_path: Path, imgdir: str, image_size: int, paths: list[str]) -> tuple[dict[str, str], list[int]]:
    """Decode the images in worker processes and write them; returns what was left out and why, and fingerprints."""
    left_out, notes, fingerprints = {}, {}, []

    def write(output: io.BufferedWriter) -> None:
        if hasattr(os, "posix_fallocate"):  # a disk that is too small says so before the work is done
            try:
                os.posix_fallocate(output.fileno(), 0, max(1, len(paths) * 3 * image_size**2))
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not every file system can reserve space
                    raise
        full_paths = [os.path.join(imgdir, path) for path in paths]
        with contextlib.closing(images.decode_all(full_paths, image_size)) as results:
            bar = tqdm(results, f"decoding {imgdir}", len(paths), unit="painting", disable=None, leave=False)
            for path, (pixels, fingerprint, note) in zip(paths, bar, strict=True):
                if note:
                    (notes if pixels else left_out)[path] = note
                if pixels:
                    output.write(pixels)
                    fingerprints.append(fingerprint)
        output.truncate(len(fingerprints) * 3 * image_size**2)

    files.write_whole(data_path, write)
    for path, note in notes.items():
        console.warn(f"{console.quoted(os.path.join(imgdir, path))} is {note}")
    return left_out, fingerprints
