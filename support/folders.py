"""Folders of images: which files count as paintings of which style."""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from PIL import Image

from support import console
from support.console import DataError

# Formats that paintings come in. EPS would start another program; stub, icon and video formats are left out.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "PCX")
# What file systems, network drives and programs keep beside a user's files.
NOT_STYLES = {
    "#recycle", "#snapshot", "$recycle.bin", "@recycle", "@recently-snapshot", "@eadir", "__macosx", "__pycache__",
    ".ipynb_checkpoints", "lost+found", "system volume information", "recycler", "recycled", "found.000", "@tmp",
    "~snapshot", "thumbs", ".trashes", ".@__thumb", ".appledouble",
}  # fmt: skip
SAMPLE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "sample")
SPLITS = {"train", "training", "valid", "val", "validation", "test", "testing"}
SIGNATURES = (  # of the formats above, and of others that hold pictures
    b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51",
    b"P4\n", b"P5\n", b"P6\n", b"II+\0", b"MM\0+",  # PPM, BigTIFF
    b"8BPS", b"gimp xcf", b"%!PS", b"\0\0\1\0", b"icns", b"\x76\x2f\x31\x01", b"#?RADIANCE", b"DDS ", b"qoif",
    b"\xff\x0a", b"\0\0\0\x0cJXL ", b"II\xbc\x01",  # JPEG XL, JPEG XR
    b"FUJIFILM", b"IIU\0", b"IIRO", b"IIRS",  # cameras' raw files; most others begin as TIFF does
)  # fmt: skip
BOXES = {  # HEIF, AVIF and Canon's raw files name themselves after four bytes
    b"ftyp" + brand for brand in b"heic,heix,heim,heis,hevc,mif1,msf1,avif,avis,crx ".split(b",")
}


class ImageFile(NamedTuple):
    """A file that looks like a painting: its path relative to the folder of styles, bytes and time of change in ns."""

    path: str
    size: int
    changed: int


def is_image(name: str) -> bool:
    """Whether a file's name ends as Pillow registers it for one of `FORMATS`."""
    return Image.registered_extensions().get(os.path.splitext(name)[1].lower()) in (*FORMATS, "MPO")  # opened as JPEG


def looks_like_image(path: str) -> bool:
    """Whether a file's first bytes are those of an image."""
    if not os.path.isfile(path):  # opening a pipe would wait for its writer
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return False
    webp, bmp = start[:4] + start[8:12] == b"RIFFWEBP", start[:2] + start[6:10] == b"BM\0\0\0\0"
    return start.startswith(SIGNATURES) or start[4:12] in BOXES or webp or bmp


def _count_images(folder: str) -> int:
    return sum(is_image(name) for _, _, names in os.walk(folder) for name in names)


def find_images(imgdir: str, known: Collection[str] = ()) -> dict[str, list[ImageFile]]:
    """The image files of every style folder directly under `imgdir`, by the style's name in NFC, sorted.

    known: the styles of the network that will be tested, if any. Images may lie deeper. Symlinks are followed, each
    folder once per style, so that a loop ends. Hidden files are skipped; images that are not read are counted in a
    warning, and so are folders that are left out. Raises DataError where there is no folder, no style folder or no
    image, and for a folder that holds splits (train, test) or another folder of styles.
    """
    try:
        with os.scandir(imgdir) as entries:
            seen = [e for e in entries if not e.name.startswith(".") or _is_no_style(e.name)]
            names = sorted((e.name, os.path.isdir(e.path)) for e in seen)
    except OSError as error:
        hint = " (python data/sample/prepare.py makes the sample)" * os.path.abspath(imgdir).startswith(SAMPLE)
        where = console.quoted(imgdir) + " cannot be read" + console.looked_in(imgdir)
        raise DataError(f"folder {where}: {error.strerror}{hint}") from None
    folders = [name for name, is_folder in names if is_folder]
    _check_level(imgdir, folders, known)
    styles = {}
    for folder in folders:
        where = console.quoted(os.path.join(imgdir, folder))
        if _is_no_style(folder):
            if count := _count_images(os.path.join(imgdir, folder)):
                console.warn(f"{where} is not a style: {console.count(count, 'image')} skipped")
            continue
        found = list(_walk(imgdir, folder))
        style = unicodedata.normalize("NFC", folder)
        if not found:
            console.warn(f"{where} holds no images: skipped")
        elif style in styles:
            console.warn(f"folder {console.quoted(imgdir)} has {console.quoted(style)} in two Unicode forms: one style")
            styles[style] = sorted(styles[style] + found)
        else:
            styles[style] = found
    loose = sum(is_image(name) for name, is_folder in names if not is_folder)
    if not styles:
        what = "images but no style folders; expected one folder per style" if loose else "no style folder with images"
        raise DataError(f"folder {console.quoted(imgdir)} holds {what}")
    if loose:
        console.warn(f"folder {console.quoted(imgdir)}: images beside the style folders skipped: {loose:,}")
    alike = {}
    for style in styles:
        if (other := alike.setdefault(_bare(style), style)) != style:
            console.warn(f"{console.names([other, style])} in {console.quoted(imgdir)} are taken for two styles")
    return dict(sorted(styles.items()))


def _bare(style: str) -> str:
    return unicodedata.normalize("NFC", style).casefold().strip()


def _is_no_style(folder: str) -> bool:
    return folder.lower() in NOT_STYLES or folder.lower().startswith(".trash-")  # and a user's number


def find_in_folder(folder: str) -> list[str]:
    """The paths of the images in a folder and in the folders below it, by the rules of `find_images`."""
    return [os.path.join(folder, file.path.removeprefix(os.curdir + os.sep)) for file in _walk(folder, "")]


def _check_level(imgdir: str, folders: list[str], known: Collection[str]) -> None:
    """Raise DataError for a folder above the styles: its folders are splits, or its only folder leads to them."""
    splits = [name for name in folders if name.lower() in SPLITS]
    if len(splits) > 1:
        wanted = ("test", "val", "") if known else ("train", "")  # what a network is tested on, or trained on
        meant = next(name for start in wanted for name in splits if name.lower().startswith(start))
        raise DataError(
            f"folder {console.quoted(imgdir)} holds the folders {', '.join(splits)}, which are not styles; "
            f"did you mean {console.quoted(os.path.join(imgdir, meant))}?"
        )
    inner, styles = imgdir, [name for name in folders if not _is_no_style(name)]
    while len(styles) == 1 and _bare(styles[0]) not in map(_bare, known):
        inner = os.path.join(inner, styles[0])
        try:
            with os.scandir(inner) as entries:
                kinds = [(e.name, e.is_dir()) for e in entries if not e.name.startswith(".")]
        except OSError:
            return
        if any(is_image(name) for name, is_folder in kinds if not is_folder):
            return
        styles = [name for name, is_folder in kinds if is_folder and not _is_no_style(name)]
    if inner != imgdir and styles:
        raise DataError(
            f"folder {console.quoted(imgdir)} holds only the folder {console.quoted(os.path.relpath(inner, imgdir))}, "
            f"which holds {console.names(sorted(styles), 3)}; did you mean {console.quoted(inner)}?"
        )


def _walk(imgdir: str, style: str) -> Iterator[ImageFile]:
    def unreadable(error: OSError) -> None:
        console.warn(f"{console.quoted(error.filename)} is left out: {error.strerror}")

    seen, skipped, not_styles = set(), Counter(), Counter()
    for folder, folders, names in os.walk(os.path.join(imgdir, style), onerror=unreadable, followlinks=True):
        try:
            status = os.stat(folder)
        except OSError as error:
            unreadable(error)
            continue
        if (status.st_dev, status.st_ino) in seen:  # a symlink loop
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in folders:
            if _is_no_style(name):
                not_styles[name] += _count_images(os.path.join(folder, name))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _is_no_style(name))
        inside = os.path.relpath(folder, imgdir)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.startswith("."):
                continue
            if not is_image(name):
                if looks_like_image(path):
                    skipped[os.path.splitext(name)[1].lower() or "without an extension"] += 1
                continue
            try:
                status = os.stat(path)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(0, "not a file")
            except OSError as error:
                unreadable(OSError(error.errno, error.strerror, path))
            else:
                yield ImageFile(os.path.join(inside, name), status.st_size, status.st_mtime_ns)
    where = console.quoted(os.path.join(imgdir, style))
    if skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common())
        what = "files skipped that look like images" if skipped.total() > 1 else "file skipped that looks like an image"
        console.warn(f"{where}: {skipped.total()} {what}: {kinds}")
    for name, count in not_styles.items():
        if count:
            console.warn(f"{where}: {console.count(count, 'image')} in {console.quoted(name)} skipped")
