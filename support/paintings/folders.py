"""Folders of images: which files count as paintings of which style."""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from support.paintings.formats import is_image, looks_like_image
from support.system import console, settings
from support.system.console import DataError

# What file systems, network drives and programs keep beside a user's files.
NOT_STYLES = {
    "#recycle", "#snapshot", "$recycle.bin", "@recycle", "@recently-snapshot", "@eadir", "__macosx", "__pycache__",
    ".ipynb_checkpoints", "lost+found", "system volume information", "recycler", "recycled", "found.000", "@tmp",
    "~snapshot", "thumbs", ".trashes", ".@__thumb", ".appledouble",
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


def _leads_up(link: str, imgdir: str) -> bool:
    """Whether a link's target holds the link itself or the folder of styles."""
    target = os.path.realpath(link)
    return any(Path(os.path.realpath(path)).is_relative_to(target) for path in (imgdir, os.path.dirname(link)))


def check_outputs(options: settings.Settings) -> None:
    """Raise UserError where a folder to be written is inside a folder of paintings: its pictures would become a style.

    It may be the folder of paintings itself, whose loose pictures are skipped, or a hidden one, which is passed over.
    """
    folder_of_model = str(options.output(options.modelfile).parent)
    for name, written in zip(settings.WRITTEN, (options.outputdir, options.cachedir, folder_of_model), strict=True):
        for paintings in (options.trainingdir, options.testingdir):
            place, above = Path(os.path.realpath(written)), Path(os.path.realpath(paintings))
            inside = place.relative_to(above).parts if place.is_relative_to(above) else ()
            if inside and not any(part.startswith(".") for part in inside):
                problem = f"{console.quoted(written)} is inside the folder of paintings {console.quoted(paintings)}"
                raise options.error(name, f"{problem} and would become a style; expected a folder outside it")


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
        if os.path.islink(folder) and _leads_up(folder, imgdir):  # the other styles would be read under this name
            console.warn(f"{console.quoted(folder)} is left out: it links to a folder above it")
            folders.clear()
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
                yield ImageFile(os.path.join(inside, name), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    where = console.quoted(os.path.join(imgdir, style))
    if skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common())
        what = "files skipped that look like images" if skipped.total() > 1 else "file skipped that looks like an image"
        console.warn(f"{where}: {skipped.total()} {what}: {kinds}")
    for name, count in not_styles.items():
        if count:
            console.warn(f"{where}: {console.count(count, 'image')} in {console.quoted(name)} skipped")
