"""Lay out one folder of styles as a training and a test folder of links; no painting is copied or changed.

python data/wikiart/prepare.py SOURCE OUT
python data/wikiart/prepare.py SOURCE OUT --train_list style_train.csv --test_list style_val.csv

SOURCE/<Style>/a.jpg is linked as OUT/train/<Style>/a.jpg or OUT/test/<Style>/a.jpg, on one side only: by a seeded
draw from every style, or as the two lists say. Left out and counted, the first five by name, are:

- images that cannot be decoded (each is named, with its reason);
- copies: of images with identical pixels in one style one is kept (that of the test list, so that it stays whole);
- images with identical pixels under two styles, all of them: a contradiction can neither be taught nor tested;
- with lists: images in no list, and test images of a style that is left without a training image.
"""

import contextlib
import csv
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from support import balance, console, images, settings, workers

# Side in pixels at which images are compared: the image_size of config.json here, so that training sees no twins.
COMPARED_SIZE = 128
TEST_SHARE = settings.number(0.1, 0.001, 0.999, "share of every style drawn for test, without lists")
SEED = settings.integer(2326, 0, 2**32 - 1, "start of the draw, without lists")


def style_of(path: str) -> str:
    """The style of an image's path, which is relative to the folder of styles."""
    return path.split(os.sep)[0]


def grouped(items: Iterable[str], key: Callable[[str], object]) -> dict[object, list[str]]:
    """The items by their key, in the order in which they come."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def count(what: str, paths: list[str]) -> None:
    """Say how many there are of something and name the first five."""
    names = ", ".join(map(console.quoted, paths[:5])) + (", ..." if len(paths) > 5 else "")
    console.say(f"{what}: {len(paths):,}" + (f" ({names})" if paths else ""))


def read_list(path: str) -> list[str]:
    """The image paths in a list of ArtGAN, whose rows are path,class index; the path's folder names the style.

    Raises UserError where the file cannot be read or a row is something else.
    """
    where, images = console.quoted(path)[1:-1], []
    try:
        # Bytes that are no UTF-8 pass through, as they do in the names of files.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file)
            for row in filter(None, rows):
                image, index = ",".join(row[:-1]), row[-1].strip()
                if not image or not index.isdecimal():
                    found = console.quoted(",".join(row)[:80])
                    raise console.UserError(f"{where}: line {rows.line_num}: found {found}, meant path,class index")
                images.append(image)
    except (OSError, csv.Error) as error:
        raise console.UserError(f"{where}: cannot be read: {getattr(error, 'strerror', error)}") from None
    return list(dict.fromkeys(images))


def ascii_part(path: str) -> str:
    """A path without its letters beyond ASCII."""
    return unicodedata.normalize("NFC", path).encode("ascii", "ignore").decode()


def match_rows(rows: list[str], files: list[str]) -> dict[str, str]:
    """Row -> file, for the rows whose file is there.

    The lists hold garbled accents, and every unpacker garbles those of the archive its own way. So an accented row
    without a file takes an accented file without a row when their ASCII letters agree and leave no choice.
    """
    there = set(files)
    matched = {row: row for row in rows if row in there}
    spare_rows = grouped((row for row in set(rows) - there if not row.isascii()), ascii_part)
    spare_files = grouped((file for file in there - set(rows) if not file.isascii()), ascii_part)
    for key, same in spare_rows.items():
        if len(same) == len(spare_files.get(key, [])) == 1:
            matched[same[0]] = spare_files[key][0]
    return matched


def sides_by_lists(files: list[str], train_list: str, test_list: str) -> dict[str, str]:
    """File -> "train" or "test" as the lists have it, "test" where both have it; counts what does not fit.

    Raises UserError for a list that cannot be used or of which no file is there.
    """
    rows = {"train": read_list(train_list), "test": read_list(test_list)}
    matched = match_rows(rows["train"] + rows["test"], files)
    for side, path in (("train", train_list), ("test", test_list)):
        missing, where = [row for row in rows[side] if row not in matched], console.quoted(path)[1:-1]
        console.say(f"{where}: {len(rows[side]):,} images")
        count(f"{where}: missing files", missing)
        if len(missing) == len(rows[side]):
            raise console.UserError(f"{where}: none of its {len(missing):,} images is in SOURCE")
    sides = {matched[row]: side for side in ("train", "test") for row in rows[side] if row in matched}
    count("matched by their letters without accents", sorted(file for row, file in matched.items() if row != file))
    count("in both lists, taken for test", sorted(set(rows["train"]) & set(rows["test"])))
    count("left out, in no list", [file for file in files if file not in sides])
    return sides


def sides_by_draw(files: list[str], share: float, seed: int) -> dict[str, str]:
    """File -> "train" or "test": `share` of every style is drawn for test; a style's only image is for training."""
    number = {style: i for i, style in enumerate(sorted(set(map(style_of, files))))}
    train, test = balance.split(torch.tensor([number[style_of(file)] for file in files]), share, seed)
    return {files[i]: side for side, chosen in (("train", train), ("test", test)) for i in chosen.tolist()}


def read_fingerprints(source: Path, files: list[str]) -> dict[str, int]:
    """File -> fingerprint of its decoded pixels; what cannot be decoded is named in a warning and left out.

    Raises UserError when more than half of the images cannot be decoded.
    """

    def read(file: str) -> int | str:
        try:
            return images.fingerprint(images.decode_image(os.path.join(source, file), COMPARED_SIZE))
        except images.DataError as error:
            return str(error)

    bar = tqdm(workers.parallel_map(read, files), "comparing", len(files), unit="painting", disable=None, leave=False)
    results = dict(zip(files, bar, strict=True))
    unreadable = [file for file in files if isinstance(results[file], str)]
    for file in unreadable:
        console.warn(f"{console.quoted(source / file)} is left out: {results.pop(file)}")
    if len(unreadable) > len(results):
        raise console.UserError(f"{len(unreadable):,} of {len(files):,} images cannot be decoded")
    count("left out, cannot be decoded", unreadable)
    return results


def without_twins(fingerprints: dict[str, int], sides: dict[str, str]) -> list[str]:
    """The files without copies and contradictions, all counted; of copies, one that `sides` has for test stays."""
    kept, copies, contradictions = [], [], []
    for twins in grouped(fingerprints, fingerprints.get).values():
        if len(set(map(style_of, twins))) > 1:
            contradictions += twins
        else:
            kept.append(next((file for file in twins if sides.get(file) == "test"), twins[0]))
            copies += [file for file in twins if file != kept[-1]]
    count("left out, copies of another image of their style", copies)
    count("left out, identical under two styles", contradictions)
    return sorted(kept)


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to fill: it becomes `out` at the end, or is gone after an error.

    Raises UserError when `out` holds anything already or cannot be written.
    """
    temporary = out.with_name(f".{out.name}.part")
    try:
        if out.exists() and any(out.iterdir()):
            raise console.UserError(f"folder {console.quoted(out)} is not empty; meant: a new folder")
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed run has left
        temporary.mkdir()
        yield temporary
        temporary.rename(out)
    except OSError as error:
        reason = error.strerror or error
        raise console.UserError(f"folder {console.quoted(out)} cannot be written: {reason}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_links(source: Path, folder: Path, sides: dict[str, str]) -> None:
    """Link every file below `folder`/train or `folder`/test, relatively: folder and source can move together."""
    for file, side in sides.items():
        link = folder / side / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(source / file, link.parent))


@console.script
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = settings.Parser(prog="prepare.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("source", metavar="SOURCE", help="folder of paintings, one folder a style")
    parser.add_argument("out", metavar="OUT", help="folder for train and test, new or empty")
    parser.add_argument("--train_list", metavar="CSV", help="training images as rows of path,class index (ArtGAN)")
    parser.add_argument("--test_list", metavar="CSV", help="test images likewise; both lists or none")
    for name, setting in (("test_share", TEST_SHARE), ("seed", SEED)):
        text = f"{setting.help} (default: {setting.default})"
        parser.add_argument(f"--{name}", metavar="VALUE", default=str(setting.default), help=text)
    arguments = parser.parse_args(argv)
    share = settings.parse_flag("test_share", arguments.test_share, TEST_SHARE)
    seed = settings.parse_flag("seed", arguments.seed, SEED)
    if (arguments.train_list is None) != (arguments.test_list is None):
        raise console.UserError("prepare.py: --train_list and --test_list belong together, found one of them")
    source, out = (Path(os.path.realpath(path)) for path in (arguments.source, arguments.out))
    if out.is_relative_to(source):
        raise console.UserError(f"folder {console.quoted(out)} lies in SOURCE, where it would pass for a style")

    with whole_folder(out) as folder:
        styles = images.find_images(str(source))
        if {"train", "test"} <= styles.keys():
            raise console.UserError(f"folder {console.quoted(source)} has train and test already; use it as it is")
        files = [image.path for images in styles.values() for image in images]
        console.say(f"{console.quoted(source)}: {len(files):,} images, {len(styles)} styles")
        sides = {}
        if arguments.train_list is not None:
            sides = sides_by_lists(files, arguments.train_list, arguments.test_list)
            files = [file for file in files if file in sides]
        files = without_twins(read_fingerprints(source, files), sides)
        if sides:
            known = {style_of(file) for file in files if sides[file] == "train"}
            count("left out, no training image of their style", [f for f in files if style_of(f) not in known])
            sides = {file: sides[file] for file in files if style_of(file) in known}
        elif files:
            sides = sides_by_draw(files, share, seed)
        if set(sides.values()) != {"train", "test"}:
            raise console.UserError(f"{len(sides):,} images are left, too few for both train and test")
        write_links(source, folder, sides)
    for side in ("train", "test"):
        linked = [file for file in sides if sides[file] == side]
        number = len(set(map(style_of, linked)))
        console.say(f"{console.quoted(out / side)}: {len(linked):,} links, {number} styles")
    count("styles without an image", sorted(styles.keys() - set(map(style_of, sides))))


if __name__ == "__main__":
    main()
