"""Damage images and settings at random, feed them to the program, and see that it never does worse than say no.

    python tests/fuzz.py --images 2000 --settings 2000 --scripts 30 --seed 0

Images go through images.decode_image and, in batches, through a WikiArtDataset; settings through settings.read_config
and read_settings; some of both through the scripts. Failures: any exception but UserError, a message that is not one
printable line, a hang over 10 s, a painting under another style than its folder's. Prints the counts; status 1 after a
failure, whose input is kept in the folder named.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import logging
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import jobs
import numpy as np
from PIL import Image

import wikiart
from support import console, images, settings

LIMIT = 10.0  # seconds that one input may take
SIZE = 16


class Report:
    """Counts of what happened, and the failures with their inputs."""

    def __init__(self, keep: Path) -> None:
        self.keep, self.counts, self.failures = keep, Counter(), []

    def fail(self, what: str, content: bytes | str = b"") -> None:
        self.failures.append(what)
        self.counts["failures"] += 1
        content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        self.keep.mkdir(parents=True, exist_ok=True)
        (self.keep / f"{len(self.failures)}.bin").write_bytes(content)

    @contextlib.contextmanager
    def watch(self, kind: str, content: bytes | str):
        """Count how the block ends; everything but a UserError of one line within the limit is a failure."""
        begun = time.monotonic()
        faulthandler.dump_traceback_later(60 * LIMIT, exit=True)  # what never returns is shown and ended
        try:
            yield
            self.counts[f"{kind} accepted"] += 1
        except console.UserError as error:
            self.counts[f"{kind} refused"] += 1
            if not str(error).strip() or not str(error).isprintable():
                self.fail(f"{kind}: not one line: {str(error)!r}", content)
        except Exception:
            self.fail(f"{kind}: {traceback.format_exc()}", content)
        finally:
            faulthandler.cancel_dump_traceback_later()
        if time.monotonic() - begun > LIMIT:
            self.fail(f"{kind}: took {time.monotonic() - begun:.1f} s", content)


# Images


def image_seeds(chance: random.Random) -> dict[str, bytes]:
    """A few small files of every format and mode, by a name with the format's ending."""
    noise = np.random.default_rng(chance.getrandbits(32))
    color = Image.fromarray(noise.integers(0, 256, (40, 50, 3), np.uint8))
    exif = Image.Exif()
    exif[274] = 6  # rotated
    seeds = {}

    def add(name: str, image: Image.Image, **options: object) -> None:
        file = io.BytesIO()
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(name.split(".")[1], name.split(".")[1].upper())
        image.save(file, kind, **options)
        seeds[name] = file.getvalue()

    add("plain.jpg", color, exif=exif)
    add("progressive.jpg", color, progressive=True, quality=60)
    add("inks.jpg", color.convert("CMYK"))
    add("plain.png", color, exif=exif)
    add("alpha.png", color.convert("RGBA"))
    add("palette.png", color.quantize(16), transparency=3)
    add("deep.png", Image.fromarray(noise.integers(0, 65536, (40, 50), np.uint16)))
    add("bits.png", color.convert("1"))
    add("plain.webp", color)
    add("alpha.webp", color.convert("RGBA"), lossless=True)
    add("moving.gif", color.quantize(32), save_all=True, append_images=[color.quantize(8)], loop=0)
    add("plain.bmp", color)
    add("palette.bmp", color.quantize(16))
    add("plain.tif", color)
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        add(f"{compression}.tif", color, compression=compression)
    add("float.tif", Image.fromarray(noise.random((40, 50), np.float32)))
    return seeds


def damage(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """`data` with one to four mutations: bits, bytes, cuts, splices, repeats and numbers in the header."""
    data = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not data:
            break
        place = chance.randrange(len(data))
        way = chance.choice(["bit", "byte", "cut", "splice", "repeat", "drop", "header", "number", "swap"])
        if way == "bit":
            for _ in range(chance.randint(1, 20)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif way == "byte":
            data[place] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        elif way == "cut":
            del data[place:]
        elif way == "splice":
            other = chance.choice(others)
            data[place:] = other[chance.randrange(len(other)) :]
        elif way == "repeat":
            data[place:place] = data[place : place + chance.randint(1, 200)] * chance.randint(1, 5)
        elif way == "drop":
            del data[place : place + chance.randint(1, 50)]
        elif way == "header":
            data[chance.randrange(min(len(data), 64))] = chance.randrange(256)
        elif way == "number":
            number = chance.choice([0, 1, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, chance.getrandbits(32)])
            start = chance.randrange(min(len(data), 400))
            data[start : start + 4] = struct.pack(chance.choice("<>") + "I", number)
        else:
            start = chance.randrange(min(len(data), 300))
            data[start : start + 8] = data[start : start + 8][::-1]
    return bytes(data)


def fuzz_images(count: int, seed: int, folder: Path, report: Report) -> None:
    """Damaged images one by one through decode_image, and a hundred at a time through a dataset."""
    chance = random.Random(seed)
    seeds = image_seeds(chance)
    styles = ["Cubism", "Rococo", "Ukiyo_e"]
    for begin in range(0, count, 100):
        paintings = folder / "paintings"
        shutil.rmtree(paintings, ignore_errors=True)
        expected = {}
        for number in range(begin, min(begin + 100, count)):
            name, data = chance.choice(list(seeds.items()))
            mutant = damage(data, list(seeds.values()), chance)
            style = chance.choice(styles)
            path = paintings / style / f"{number}-{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mutant)
            with report.watch("image", mutant):
                pixels = images.decode_image(str(path), SIZE)
                if pixels.shape != (3, SIZE, SIZE) or pixels.dtype != np.uint8:
                    report.fail(f"image: decoded to {pixels.dtype} {pixels.shape}", mutant)
                expected[str(path)] = style, pixels
        for style in styles:  # as many good ones, so that at most half of a folder is damaged
            for number in range(100):
                path = paintings / style / f"good{number}.bmp"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(seeds["plain.bmp"])
        with report.watch("dataset", ""), contextlib.redirect_stderr(io.StringIO()) as err:
            dataset = wikiart.WikiArtDataset(paintings, SIZE, cachedir=folder / "cache")
            found = {path: i for i, path in enumerate(dataset.paths) if "good" not in path}
            if found.keys() != expected.keys():
                report.fail(f"dataset: kept {found.keys() ^ expected.keys()} otherwise than alone")
            for path, i in found.items():
                style, pixels = expected[path]
                if dataset.classes[dataset.labels[i]] != style or not np.array_equal(dataset.images[i], pixels):
                    report.fail(f"dataset: {path} has another style or other pixels", Path(path).read_bytes())
        for line in err.getvalue().splitlines():
            if not line.isprintable() or not line.startswith("warning: "):
                report.fail(f"dataset: warned in more than a line: {line!r}")


# Settings

NAMES = [*settings.SHARED_SETTINGS, *settings.SECTIONS, *{name for s in settings.SECTIONS.values() for name in s}]
VALUES = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, -(10**30), 0.0, 0.5, -0.0, 1e-300, 1e308, float("inf"),
    float("nan"), "", " ", "0", "auto", "none", "true", "a\0b", "a\nb", "\ud800", "\U0001f3a8", "x" * 5000, "../..",
    "/", ".", "cuda:99", "cpu:1", "meta", "mps", "xla", [], [1], [[[]]], {}, {"epochs": 3}, {"a": {"b": [0]}}, "smote",
]  # fmt: skip
PIECES = [
    "{", "}", "[", "]", ",", ":", '"', "null", "NaN", "-Infinity", "1e999", "\\u0000", "\\ud800", "\x00", "\r\n", "//",
    "'", "\ufeff", "9" * 5000, "[" * 3000, '{"a":' * 900, "\u2028", "\x85", "\x1b[31m", "0x10", "1_000",
]  # fmt: skip


def mutated_settings(chance: random.Random) -> bytes:
    """The shipped settings with values, keys or text changed."""
    config = json.loads((jobs.ROOT / "config.json").read_text())
    for _ in range(chance.randint(0, 3)):
        place = chance.choice([config, *[value for value in config.values() if isinstance(value, dict)]])
        names = list(place) or ["seed"]
        way, name = chance.choice(["value", "value", "key", "move", "drop"]), chance.choice(names)
        if way == "value":
            place[name] = chance.choice(VALUES)
        elif way == "key":
            word = list(chance.choice(NAMES))
            word[chance.randrange(len(word)) :][:1] = chance.choice(["", "x", "\n", "é", "_"])
            word.insert(chance.randrange(len(word) + 1), chance.choice(["", "s", "\n", "\x1b", "-"]))
            place["".join(word)] = chance.choice(VALUES)
        elif way == "move":
            config[name] = place.pop(name, None)
        else:
            place.pop(name, None)
    data = json.dumps(config, ensure_ascii=chance.random() < 0.8).encode(errors="surrogatepass")
    if chance.random() < 0.5:
        data = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(data) + 1)
            way = chance.choice(["piece", "piece", "cut", "byte", "drop", "repeat"])
            if way == "piece":
                data[place:place] = chance.choice(PIECES).encode(errors="surrogatepass")
            elif way == "cut":
                del data[place:]
            elif way == "byte" and place < len(data):
                data[place] = chance.randrange(256)
            elif way == "drop":
                del data[place : place + chance.randint(1, 9)]
            else:
                data[place:place] = data[place : place + chance.randint(1, 60)]
    return bytes(data)


def mutated_flags(chance: random.Random) -> list[str]:
    """Flags: known and unknown ones, with values, without, cut off, doubled."""
    flags = []
    for _ in range(chance.randint(0, 3)):
        name = "--" + chance.choice(NAMES)
        if chance.random() < 0.2:
            name = name[: chance.randrange(len(name))] + chance.choice(["", "x", "\n", "=", "é", "\udcff"])
        value = chance.choice(VALUES)
        text = value if isinstance(value, str) else json.dumps(value)[:4500] if value != 10**400 else "9" * 5000
        flags += chance.choice([[name, text], [f"{name}={text}"], [name], [text]])
    return flags


def fuzz_settings(count: int, seed: int, folder: Path, report: Report) -> None:
    """Mutated files through read_config, and together with mutated flags through read_settings."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    for _ in range(count):
        data, flags = mutated_settings(chance), mutated_flags(chance)
        path.write_bytes(data)
        with report.watch("settings file", data):
            settings.read_config(path)
        if chance.random() < 0.5:
            path.write_bytes((jobs.ROOT / "config.json").read_bytes())
        section = chance.choice(list(settings.SECTIONS))
        with report.watch("settings and flags", data + repr(flags).encode()):
            try:
                options = settings.read(section, "", ["-c", str(path), *flags], settings.FRESH)
            except SystemExit as end:  # --help
                if end.code:
                    raise RuntimeError(f"ended with {end.code}") from None
                continue
            known = settings.SHARED_SETTINGS | settings.SECTIONS[section]
            wrong = [name for name, setting in known.items() if not setting.accepts(getattr(options, name))]
            if wrong:
                report.fail(f"settings: accepted {wrong[0]} = {getattr(settings, wrong[0])!r}", data)


# Scripts


def fuzz_scripts(count: int, seed: int, folder: Path, report: Report) -> None:
    """Whole scripts in processes of their own: half get mutated settings, half folders of damaged images."""
    chance = random.Random(seed)
    # No TIFF here: of damaged ones libtiff writes lines of its own to standard error, past Pillow and Python.
    seeds = {name: data for name, data in image_seeds(chance).items() if not name.endswith(".tif")}
    good = jobs.paint(folder / "good", {"Cubism": 6, "Rococo": 6})
    small = ["--outputdir", folder / "out", "--cachedir", folder / "cache", "--device", "cpu", "--epochs", 1]
    small += ["--image_size", SIZE, "--batch_size", 8, "--validation", 0.2]
    trainers = [script for script in jobs.SCRIPTS if script.startswith("train")]
    for number in range(count):
        script, content = chance.choice(trainers if number % 2 else jobs.SCRIPTS), b""
        flags = ["--trainingdir", good, "--testingdir", good, *small]
        if number % 2:
            paintings = folder / f"damaged{number}"
            for i in range(40):
                path = paintings / chance.choice(["Cubism", "Rococo"]) / f"{i}-{chance.choice(list(seeds))}"
                path.parent.mkdir(parents=True, exist_ok=True)
                data = seeds[path.name.split("-", 1)[1]]
                path.write_bytes(damage(data, list(seeds.values()), chance) if chance.random() < 0.4 else data)
            flags = ["--trainingdir", paintings, *small]
            if script == "trainauto":
                flags += ["--latent_dim", 8]
        else:
            content = mutated_settings(chance)
            (folder / "config.json").write_bytes(content)
            flags = ["-c", folder / "config.json", *flags, "--device", chance.choice(["cpu", "cpu", "cuda:99", "xla"])]
        running = jobs.start(folder / "log", script, *flags, "--fresh" if script in trainers else "--seed=1")
        try:
            done = running.wait(60)
        except AssertionError as error:
            report.fail(f"{script}: {error}", content)
            continue
        lines = [line for line in done.err.splitlines() if not line.startswith("warning: ")]
        report.counts[f"script status {done.status}"] += 1
        if done.status not in (0, 2) or len(lines) != (done.status == 2) or not all(map(str.isprintable, lines)):
            report.fail(f"{script}: status {done.status}: {done.err}", content)


def fuzz(images: int, settings: int, scripts: int, seed: int, folder: Path) -> Report:
    """All of it; `folder` takes the files, and those that made a failure stay in its subfolder "failures"."""
    report = Report(folder / "failures")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # as the scripts do
    fuzz_images(images, seed, folder / "images", report)
    fuzz_settings(settings, seed + 1, folder / "settings", report)
    if scripts:
        (folder / "scripts").mkdir()
        fuzz_scripts(scripts, seed + 2, folder / "scripts", report)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 2000), ("settings", 2000), ("scripts", 30), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    begun = time.monotonic()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", module=r"PIL\.")  # as the scripts do
        report = fuzz(arguments.images, arguments.settings, arguments.scripts, arguments.seed, folder)
    print(f"seed {arguments.seed}, {time.monotonic() - begun:.0f} s")
    for name, count in sorted(report.counts.items()):
        print(f"{count:6}  {name}")
    for text, count in Counter(f"{w.category.__name__}: {w.message}"[:150] for w in warned).most_common(20):
        print(f"{count:6}  warned: {text!r}")
    for failure in report.failures[:20]:
        print(f"\nFAILURE {failure[-3000:]}")
    if report.failures:
        print(f"\n{len(report.failures)} failures; their inputs are in {report.keep}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
