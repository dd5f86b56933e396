"""Folders of images: which files count as paintings of which style."""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from support.paintings.formats import is_image, looks_like_image
from support.system import console, settings
from support.system.console import DataError

NOT_STYLES = {  # what file systems, network drives and programs keep beside a user's files, hidden folders aside
    "#recycle", "#snapshot", "$recycle.bin", "@recycle", "@recently-snapshot", "@eadir", "__macosx", "__pycache__",
    "lost+found", "system volume information", "recycler", "recycled", "found.000", "@tmp", "~snapshot", "thumbs",
}  # fmt: skip
SAMPLE = str(Path(__file__).resolve().parents[2] / "data" / "sample")
SPLITS = {"train", "training", "valid", "val", "validation", "test", "testing"}


class ImageFile(NamedTuple):
    """A file that looks like a painting: its path relative to the folder of styles, bytes and times in ns.

    modified: of the content, which programs may set; changed: of the file (ctime), which they cannot: it tells a
    replaced file. A chmod or rename changes it too and costs a decoding. Network drives may give new inodes each time.
    """

    path: str
    size: int
    modified: int
    changed: int


def find_images(imgdir: str, known: Collection[str] = ()) -> dict[str, list[ImageFile]]:
    """The image files of every style folder directly under `imgdir`, by the style's name in NFC, sorted.

    known: the styles of the network that will be tested, if any. Images may lie deeper. Symlinks are followed, each
    folder once per style, so that a loop ends. Hidden files are skipped; images that are not read are counted in a
    warning, and so are folders that are left out. Raises DataError where there is no folder, no style folder or no
    image, and for a folder that holds splits (train, test) or another folder of styles.
    """
    try:
        folders, loose = _list(imgdir)
    except OSError as error:
        hint = " (python data/sample/prepare.py makes the sample)" * os.path.abspath(imgdir).startswith(SAMPLE)
        where = console.quoted(imgdir) + " cannot be read" + console.looked_in(imgdir)
        raise DataError(f"folder {where}: {error.strerror}{hint}") from None
    _check_level(imgdir, folders, known)
    styles, alike = {}, {}
    for folder in folders:
        path = os.path.join(imgdir, folder)
        if _is_no_style(folder):
            if count := _count_images(path):
                console.warn(f"{console.quoted(path)} is not a style: {console.count(count, 'image')} skipped")
        elif images := _walk(imgdir, folder):
            style = unicodedata.normalize("NFC", folder)
            other = alike.setdefault(_bare(style), style)
            if style in styles:
                two_forms = f"{console.quoted(style)} in two Unicode forms"
                console.warn(f"folder {console.quoted(imgdir)} has {two_forms}: one style")
                images = sorted(styles[style] + images)
            elif style != other:
                console.warn(f"{console.names([other, style])} in {console.quoted(imgdir)} are taken for two styles")
            styles[style] = images
        else:
            console.warn(f"{console.quoted(path)} holds no images: skipped")
    if not styles:
        what = "images but no style folders; expected one folder per style" if loose else "no style folder with images"
        raise DataError(f"folder {console.quoted(imgdir)} holds {what}")
    if loose:
        console.warn(f"folder {console.quoted(imgdir)}: images beside the style folders skipped: {loose:,}")
    return dict(sorted(styles.items()))


def find_in_folder(folder: str) -> list[str]:
    """The paths of the images in a folder and in the folders below it, by the rules of `find_images`."""
    return [os.path.join(folder, file.path) for file in _walk(folder, "")]


def check_outputs(options: settings.Settings) -> None:
    """Raise UserError where a folder to be written is inside a folder of paintings, which would take in its pictures.

    It may be the folder of paintings itself, whose loose pictures are skipped, or a hidden one, which is passed over.
    """
    folder_of_model = str(options.output(options.modelfile).parent)
    for name, written in zip(settings.WRITTEN, (options.outputdir, options.cachedir, folder_of_model), strict=True):
        for paintings in (options.trainingdir, options.testingdir):
            place, above = Path(os.path.realpath(written)), Path(os.path.realpath(paintings))
            inside = place.relative_to(above).parts if place.is_relative_to(above) else ()
            if inside and not any(part.startswith(".") for part in inside):
                problem = f"{console.quoted(written)} is inside the folder of paintings {console.quoted(paintings)}"
                raise options.error(
                    name, f"{problem}, and its pictures would be read as paintings; expected a folder outside it"
                )


def _list(folder: str) -> tuple[list[str], int]:
    """The names of the folders directly in a folder, sorted, and its number of images, hidden ones aside."""
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    folders = sorted(name for name in names if os.path.isdir(os.path.join(folder, name)))
    return folders, sum(map(is_image, set(names) - set(folders)))


def _count_images(folder: str) -> int:
    return sum(is_image(name) for _, _, names in os.walk(folder) for name in names)


def _bare(style: str) -> str:
    return unicodedata.normalize("NFC", style).casefold().strip()


def _is_no_style(folder: str) -> bool:
    return folder.lower() in NOT_STYLES


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
            folders, loose = _list(inner)
        except OSError:
            return
        if loose:
            return
        styles = [name for name in folders if not _is_no_style(name)]
    if inner != imgdir and styles:
        raise DataError(
            f"folder {console.quoted(imgdir)} holds only the folder {console.quoted(os.path.relpath(inner, imgdir))}, "
            f"which holds {console.names(styles, 3)}; did you mean {console.quoted(inner)}?"
        )


def _walk(imgdir: str, style: str) -> list[ImageFile]:
    """The image files below the folder of one style; warns of what is left out."""

    def leave_out(path: str, reason: str) -> None:
        console.warn(f"{console.quoted(path)} is left out: {reason}")

    images, seen, skipped = [], set(), Counter()
    top, prefix = os.path.join(imgdir, style), os.path.join(imgdir, "")
    for folder, folders, names in os.walk(top, onerror=lambda e: leave_out(e.filename, e.strerror), followlinks=True):
        target, above = os.path.realpath(folder), [imgdir, os.path.dirname(folder)]
        leads_up = os.path.islink(folder) and any(Path(os.path.realpath(p)).is_relative_to(target) for p in above)
        if leads_up:  # the other styles would be read under this name
            leave_out(folder, "it links to a folder above it")
        if leads_up or target in seen:  # a symlink loop
            folders.clear()
            continue
        seen.add(target)
        for name in filter(_is_no_style, folders):
            skipped[f"in {console.quoted(name)}"] += _count_images(os.path.join(folder, name))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _is_no_style(name))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = os.path.join(folder, name)
            if not is_image(name):
                if looks_like_image(path):
                    skipped[os.path.splitext(name)[1].lower() or "without an extension"] += 1
                continue
            try:
                status = os.stat(path)
            except OSError as error:
                leave_out(path, error.strerror)
                continue
            if stat.S_ISREG(status.st_mode):
                path = path.removeprefix(prefix)
                images.append(ImageFile(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
            else:
                leave_out(path, "not a file")
    if skipped.total():
        what = "files skipped that look like images" if skipped.total() > 1 else "file skipped that looks like an image"
        kinds = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common() if count)
        console.warn(f"{console.quoted(top)}: {skipped.total()} {what}: {kinds}")
    return images
