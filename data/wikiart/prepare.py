"""Lay out one folder of styles as a training and a test folder of links; no painting is copied or changed.

python data/wikiart/prepare.py SOURCE OUT
python data/wikiart/prepare.py SOURCE OUT --by artist
python data/wikiart/prepare.py SOURCE OUT --train_list style_train.csv --test_list style_val.csv

SOURCE/<Style>/a.jpg is linked as OUT/train/<Style>/a.jpg or OUT/test/<Style>/a.jpg, on one side only: by a random
split of every style, or as the two lists say. Near-duplicates (the same painting saved again, resized, mirrored or
cropped by a few percent) stay together on one side, in whichever styles they are; with `--by artist` an artist's
paintings do too (files are named artist_title.jpg). Left out and counted, the first five by name, are:

- images that cannot be decoded (each is named, with its reason);
- copies: of images with identical pixels in one style one is kept (that of the test list, so that it stays whole);
- images with identical pixels in two styles, all of them: a contradiction can neither be taught nor tested;
- with lists: images in no list, training images that are near-duplicates of test images, and test images of a style
  that is left without a training image.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    from support.system import signals

    signals.quiet_ctrl_c()

import argparse
import csv
import functools
import os
import unicodedata
from collections.abc import Callable, Iterable

import numpy as np
import torch
from tqdm import tqdm

from support.paintings import artists, duplicates, folders, images
from support.system import console, settings, workers
from support.system.files import whole_folder

# Side in pixels at which images are compared: the image_size of config.json here, so that training sees no copies.
COMPARED_SIZE = 128
TEST_SHARE = settings.number(0.1, 0.001, 0.999, "share of every style for test, without lists")
SEED = settings.integer(2326, 0, 2**32 - 1, "random seed of the split, without lists")


def style_of(path: str) -> str:
    """The style of an image's path, which is relative to the folder of styles, in NFC as training compares it."""
    return unicodedata.normalize("NFC", path.split(os.sep)[0])


def grouped(items: Iterable[str], key: Callable[[str], object]) -> dict[object, list[str]]:
    """The items by their key, in the order in which they come."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def count(what: str, paths: list[str]) -> None:
    """Say how many there are of something and name the first five."""
    console.say(f"{what}: {len(paths):,}" + (f" ({console.names(paths)})" if paths else ""))


def read_list(path: str) -> list[str]:
    """The image paths in a list of ArtGAN, whose rows are path,class index; the path's folder names the style.

    Raises UserError where the file cannot be read or a row is something else.
    """
    where, listed = console.printable(path), {}
    try:
        # Bytes that are no UTF-8 pass through, as they do in the names of files.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file)
            for row in filter(None, rows):
                image, comma, index = ",".join(row).rpartition(",")
                if not image or not index.strip().isdecimal():
                    row = console.quoted((image + comma + index)[:80])
                    raise console.UserError(f"{where}: line {rows.line_num}: got {row}, expected path,class index")
                listed[image] = None
    except (OSError, csv.Error) as error:
        raise console.UserError(f"{where}: cannot be read: {getattr(error, 'strerror', error)}") from None
    return list(listed)


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
        missing, where = [row for row in rows[side] if row not in matched], console.printable(path)
        console.say(f"{where}: {len(rows[side]):,} images")
        count(f"{where}: missing files", missing)
        if len(missing) == len(rows[side]):
            raise console.UserError(f"{where}: none of its {len(missing):,} images is in SOURCE")
    sides = {matched[row]: side for side in ("train", "test") for row in rows[side] if row in matched}
    count("matched by their letters without accents", sorted(file for row, file in matched.items() if row != file))
    count("in both lists, taken for test", sorted(set(rows["train"]) & set(rows["test"])))
    count("left out, in no list", [file for file in files if file not in sides])
    return sides


def sides_by_split(files: list[str], groups: np.ndarray, share: float, seed: int) -> dict[str, str]:
    """File -> "train" or "test", whole groups on one side: every style's share for test as near as groups allow.

    In random order, a group changes sides when that brings the styles' shares nearer, until none does. A style keeps a
    training image, and with several images gives at least one for test where groups allow it.
    """
    styles, style = np.unique([style_of(file) for file in files], return_inverse=True)
    sizes = np.bincount(style)
    wanted = np.minimum(np.maximum(1, np.round(share * sizes)), sizes - 1)
    by_group = np.split(style[np.argsort(groups, kind="stable")], np.cumsum(np.bincount(groups))[:-1])
    members = [np.unique(each, return_counts=True) for each in by_group]
    in_test, chosen = np.zeros(len(styles)), np.zeros(len(members), dtype=bool)
    order, changed = np.random.default_rng(seed).permutation(len(members)), True
    while changed:
        changed = False
        for group in order:
            where, count = members[group]
            before, size = in_test[where], sizes[where]
            after = before + (-count if chosen[group] else count)
            gain = (np.abs(before - wanted[where]) - np.abs(after - wanted[where])) / size
            if gain.sum() > 1e-9 and (after < size).all():
                in_test[where], chosen[group], changed = after, not chosen[group], True
    return {file: "test" if chosen[group] else "train" for file, group in zip(files, groups, strict=True)}


def read_image(file: str, source: Path) -> tuple[int, np.ndarray] | str:
    """An image's fingerprints, as `read_images` has them, or why it cannot be decoded."""
    try:
        pixels, _ = images.decode_image(os.path.join(source, file), COMPARED_SIZE)
    except console.ImageError as error:
        return str(error)
    return images.fingerprint(pixels), duplicates.grey_fingerprints(torch.from_numpy(pixels)[None])[0].numpy()


def read_images(source: Path, files: list[str]) -> dict[str, tuple[int, np.ndarray]]:
    """File -> fingerprint of its decoded pixels, and grey fingerprint (float32 [256]).

    What cannot be decoded is named in a warning and left out. Raises UserError when more than half of the images
    cannot be decoded.
    """
    images_read = workers.parallel_map(functools.partial(read_image, source=source), files)
    bar = tqdm(images_read, "comparing", len(files), unit="painting", disable=None, leave=False)
    results = dict(zip(files, bar, strict=True))
    unreadable = [file for file in files if isinstance(results[file], str)]
    for file in unreadable:
        console.warn(f"{console.quoted(source / file)} is left out: {results.pop(file)}")
    if len(unreadable) > len(results):
        raise console.UserError(f"{len(unreadable):,} of {len(files):,} images cannot be decoded")
    count("left out, cannot be decoded", unreadable)
    return results


def without_copies(fingerprints: dict[str, int], sides: dict[str, str]) -> list[str]:
    """The files without copies and contradictions, all counted; of copies, one that `sides` has for test stays."""
    kept, copies, contradictions = [], [], []
    for same in grouped(fingerprints, fingerprints.get).values():
        if len(set(map(style_of, same))) > 1:
            contradictions += same
        else:
            kept.append(next((file for file in same if sides.get(file) == "test"), same[0]))
            copies += [file for file in same if file != kept[-1]]
    count("left out, copies of another image of their style", copies)
    count("left out, identical in two styles", contradictions)
    return sorted(kept)


def write_links(source: Path, folder: Path, sides: dict[str, str]) -> None:
    """Link every file below `folder`/train or `folder`/test, relatively: folder and source can move together.

    Where there are no symlinks (Windows, unless its developer mode is on) they are hard links, on the same disk alone.
    """
    for file, side in sides.items():
        link = folder / side / file
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            link.symlink_to(os.path.relpath(source / file, link.parent))
        except (OSError, ValueError):  # ValueError: another drive
            os.link(source / file, link)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The checked command line. Raises UserError."""
    form = argparse.RawDescriptionHelpFormatter
    parser = console.Parser(prog="prepare.py", description=__doc__, allow_abbrev=False, formatter_class=form)
    parser.add_argument("source", metavar="SOURCE", help="folder of paintings, one folder per style")
    parser.add_argument("out", metavar="OUT", help="folder for train and test, new or empty")
    parser.add_argument("--by", choices=["painting", "artist"], default="painting", help="what is split, without lists")
    parser.add_argument("--train_list", metavar="CSV", help="training images as rows of path,class index (ArtGAN)")
    parser.add_argument("--test_list", metavar="CSV", help="test images likewise; both lists or none")
    for name, setting in (("test_share", TEST_SHARE), ("seed", SEED)):
        text = f"{setting.help}; {setting.expected} (default: {setting.default})"
        parser.add_argument(f"--{name}", metavar="VALUE", default=str(setting.default), help=text)
    arguments = parser.parse_args(argv)
    arguments.test_share = settings.parse_flag("test_share", arguments.test_share, TEST_SHARE)
    arguments.seed = settings.parse_flag("seed", arguments.seed, SEED)
    if (arguments.train_list is None) != (arguments.test_list is None):
        raise console.UserError("prepare.py: got one of --train_list and --test_list, expected both or none")
    if arguments.train_list is not None and arguments.by == "artist":
        raise console.UserError("prepare.py: got --by artist and lists, expected one of them")
    arguments.source, arguments.out = (Path(os.path.realpath(path)) for path in (arguments.source, arguments.out))
    if arguments.out.is_relative_to(arguments.source):
        raise console.UserError(f"folder {console.quoted(arguments.out)} is inside SOURCE, where it would be a style")
    return arguments


def choose_sides(arguments: argparse.Namespace, files: list[str]) -> dict[str, str]:
    """File -> "train" or "test", for the files that are used; counts what is left out. Raises UserError."""
    sides = {}
    if arguments.train_list is not None:
        sides = sides_by_lists(files, arguments.train_list, arguments.test_list)
        files = [file for file in files if file in sides]
    results = read_images(arguments.source, files)
    files = without_copies({file: result[0] for file, result in results.items()}, sides)
    if not files:
        return {}
    groups = duplicates.groups(torch.from_numpy(np.stack([results[file][1] for file in files])), files).numpy()
    if not sides:
        alike = (np.bincount(groups)[groups] > 1).nonzero()[0]
        count("near-duplicates of each other, kept on one side", [files[i] for i in alike])
        if arguments.by == "artist":
            by_artist = [artists.artist_of(file) or file for file in files]
            groups = duplicates.groups(torch.zeros(0, duplicates.SIDE**2), groups.tolist(), by_artist).numpy()
        return sides_by_split(files, groups, arguments.test_share, arguments.seed)
    tested = {group for file, group in zip(files, groups, strict=True) if sides[file] == "test"}
    left_out = {file for file, group in zip(files, groups, strict=True) if sides[file] == "train" and group in tested}
    count("left out of training, near-duplicates of test images", sorted(left_out))
    files = [file for file in files if file not in left_out]
    known = {style_of(file) for file in files if sides[file] == "train"}
    count("left out, no training image of their style", [file for file in files if style_of(file) not in known])
    return {file: sides[file] for file in files if style_of(file) in known}


@console.script
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    arguments = parse(argv)
    source, out = arguments.source, arguments.out
    with whole_folder(out) as folder:
        styles = folders.find_images(str(source))
        files = [image.path for style in styles.values() for image in style]
        console.say(f"{console.quoted(source)}: {len(files):,} images, {len(styles)} styles")
        sides = choose_sides(arguments, files)
        if set(sides.values()) != {"train", "test"}:
            raise console.UserError(f"{len(sides):,} images are left, too few for both train and test")
        write_links(source, folder, sides)
    for side in ("train", "test"):
        linked = [style_of(file) for file in sides if sides[file] == side]
        console.say(f"{console.quoted(out / side)}: {len(linked):,} links, {len(set(linked))} styles")
    if arguments.by == "artist":
        train, test = ({artists.artist_of(f) or f for f in sides if sides[f] == side} for side in ("train", "test"))
        console.say(f"artists: {len(train):,} in training, {len(test):,} in test, {len(train & test)} in both")
    count("styles without an image", sorted(styles.keys() - set(map(style_of, sides))))


if __name__ == "__main__":
    main()
