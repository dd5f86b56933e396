"""Paint a small sample dataset with a program: 27 folders named like painting styles, no real art in any of them.

python data/sample/prepare.py            about 1,350 training and 270 test pictures, 90 to 200 px a side
python data/sample/prepare.py --full     13,350 training and 630 test pictures of 416x416 px
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    from support.system import signals

    signals.quiet_ctrl_c()

import contextlib
import csv
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from support.system import console, files, workers

PARTS = ("train", "test")
FULL_SIDE = 416  # px, the side of every picture of --full
SAMPLE_SIDES = (90, 200)  # px, shortest and longest side of a sample picture
SAMPLE_SHARES = (0.1, 0.41)  # of the course split's training and test pictures
SAMPLE_LEAST = (2, 3)  # training and test pictures of a style, whatever its share
OWN_FILES = r"painted_\d{5}\.(jpg|png)|\..*"  # a folder with nothing else may be painted anew
BORROW = 0.02  # odds that a picture takes any one trait from a neighbouring style
BORROW_ALL = 0.05  # odds that a picture is painted like a neighbour altogether: no model can name these
SPREAD = 1.35  # a stroke's numbers vary between a style's value / SPREAD and value * SPREAD

PALETTES = {  # six colours each; kin styles share palettes, so that colour alone does not give the style away
    "umber": "1c1410 4a2f1d 7d5530 a8804f d0bc94 7a2a1e",
    "gilded": "3a2a18 8c2f22 2f4a78 c79a3c e6d4a8 5d6b3a",
    "night": "141a2a 26344f 4b4a68 7d5a50 b08a5a d2c6a0",
    "garden": "3d5a4c 6f9a63 8fb3c9 d8c9a0 b58fb0 f0e3c8",
    "pastel": "8e6f60 c9b3a0 a8b8cc bcd0c4 e8c8c0 f2e6cf",
    "stone": "2b2c2e 5a5c5b 8b8a80 b8b3a2 7c6a50 d9d5c8",
    "loud": "28204a c8281e 1e50a0 208c50 f08232 f0c83c",
    "print": "20304a 5a7896 c8b88c e6d8b4 b4503c 7d8c6e",
    "flat": "30302e b4282a 1f2a5c e0b030 9aa0a0 f0ece0",
}
TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)
SHAPES = {  # corners around a shape's middle, in half widths to the right and half heights upwards
    "box": np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "peak": np.array([(-1, -1), (0, 1), (1, -1)]),
    "bowl": np.array([(-1, 1), (1, 1), (0.6, -1), (-0.6, -1)]),
    "oval": np.stack([np.cos(TURN), np.sin(TURN)], 1),
}
THINGS = {  # shapes from back to front: middle x, y above the foot, half width, half height (of 1), tones from, to
    "arch": [("box", 0, 0.35, 0.3, 0.35, 0.1, 0.6), ("oval", 0, 0.7, 0.3, 0.3, 0.1, 0.6)],
    "boat": [("bowl", 0, 0.1, 0.35, 0.1, 0, 0.3), ("peak", 0.05, 0.6, 0.25, 0.4, 0.6, 1)],
    "bottle": [("box", 0, 0.3, 0.2, 0.3, 0, 0.6), ("box", 0, 0.8, 0.07, 0.2, 0, 0.6)],
    "bust": [
        *[("oval", 0, 0.62, 0.27, 0.37, 0, 0.4), ("oval", 0, 0, 0.5, 0.38, 0, 1)],
        *[("oval", 0, 0.6, 0.21, 0.29, 0.6, 1), ("oval", -0.08, 0.64, 0.035, 0.025, 0, 0.1)],
        ("oval", 0.08, 0.64, 0.035, 0.025, 0, 0.1),
    ],
    "field": [("box", 0, 0.5, 1.2, 0.42, 0, 1)],
    "figure": [("oval", 0, 0.4, 0.2, 0.42, 0, 1), ("oval", 0, 0.88, 0.09, 0.12, 0.7, 1)],
    "fruit": [("oval", 0, 0.5, 0.5, 0.5, 0.2, 1)],
    "hill": [("oval", 0, 0, 1.8, 1, 0.1, 0.7)],
    "house": [
        *[("box", 0, 0.33, 0.3, 0.33, 0.3, 1), ("peak", 0, 0.83, 0.37, 0.17, 0, 0.5)],
        *[("box", side, 0.4, 0.06, 0.1, 0, 0.3) for side in (-0.13, 0.13)],
    ],
    "moon": [("oval", 0, 0, 2.2, 2.2, 0.5, 0.5), ("oval", 0, 0, 1.5, 1.5, 0.8, 0.8), ("oval", 0, 0, 0.9, 0.9, 1, 1)],
    "mountain": [("peak", 0, 0.5, 0.9, 0.5, 0.1, 0.6), ("peak", 0, 0.86, 0.25, 0.14, 0.9, 1)],
    "tile": [("box", 0, 0.5, 0.4, 0.4, 0, 1)],
    "tree": [("box", 0, 0.25, 0.05, 0.25, 0, 0.2), ("oval", 0, 0.7, 0.3, 0.4, 0.1, 0.5)],
    "wave": [("oval", 0, 0.3, 0.6, 0.65, 0.1, 0.9), ("oval", 0, 0.3, 0.35, 0.4, 0.1, 0.9)],
}
SCENES = {  # horizon from, to; tones above it; tones below it; then, from back to front,
    #         things: columns from, to; rows from, to; how far they stray from these; feet from, to; heights from, to
    "arches": ((0.6, 0.8), (0.4, 1), (0, 0.6), ("arch", (2, 4), (1, 1), 0, (0.8, 0.9), (0.5, 0.8)),
               ("figure", (1, 4), (1, 1), 0.5, (0.85, 1), (0.3, 0.5))),
    "blank": ((0.1, 0.9), (0, 1), (0, 1)),
    "company": ((0.3, 0.6), (0.2, 0.9), (0, 0.5), ("figure", (2, 6), (1, 1), 1, (0.75, 1), (0.35, 0.6))),
    "fields": ((0, 1), (0, 1), (0, 1), ("field", (1, 1), (2, 3), 0.2, (0.05, 0.95), (0.7, 0.95))),
    "landscape": ((0.35, 0.6), (0.6, 1), (0.1, 0.7), ("hill", (1, 3), (1, 2), 1, (0.5, 0.9), (0.2, 0.4)),
                  ("tree", (2, 5), (1, 1), 1, (0.5, 0.95), (0.2, 0.5))),
    "moonlight": ((0.5, 0.8), (0, 0.5), (0, 0.3), ("moon", (1, 1), (1, 1), 1, (0.1, 0.4), (0.06, 0.12)),
                  ("figure", (1, 2), (1, 1), 1, (0.8, 1), (0.4, 0.6))),
    "portrait": ((0.3, 1), (0, 0.6), (0, 0.6), ("hill", (0, 2), (1, 2), 1, (0.5, 1), (0.2, 0.4)),
                 ("bust", (1, 2), (1, 1), 0.7, (0.9, 1.1), (0.6, 1))),
    "sea": ((0.35, 0.65), (0.5, 1), (0.1, 0.7), ("boat", (1, 4), (1, 1), 1, (0.5, 0.9), (0.15, 0.4))),
    "still": ((0.45, 0.7), (0, 0.7), (0.3, 1), ("bottle", (1, 3), (1, 1), 1, (0.65, 0.8), (0.3, 0.6)),
              ("fruit", (2, 6), (1, 1), 1, (0.7, 0.95), (0.12, 0.25))),
    "tiles": ((0.5, 0.5), (0, 1), (0, 1), ("tile", (1, 5), (1, 5), 0, (0.1, 1), (0.3, 1))),
    "town": ((0.6, 0.8), (0.4, 1), (0.4, 1), ("house", (3, 5), (1, 2), 0.4, (0.7, 0.9), (0.3, 0.6)),
             ("figure", (1, 2), (1, 1), 1, (0.9, 1), (0.2, 0.35))),
    "village": ((0.25, 0.4), (0.6, 1), (0.2, 0.7), ("house", (2, 3), (2, 3), 1, (0.4, 1), (0.4, 0.6)),
                ("tree", (2, 3), (2, 2), 1, (0.4, 1), (0.3, 0.5)), ("figure", (2, 4), (1, 2), 1, (0.6, 1), (0.2, 0.3))),
    "waves": ((0.5, 0.7), (0.7, 1), (0.1, 0.6), ("mountain", (1, 1), (1, 1), 1, (0.6, 0.7), (0.2, 0.5)),
              ("wave", (4, 7), (4, 6), 0.3, (0.6, 1.3), (0.9, 1.2))),
}  # fmt: skip


class Style(NamedTuple):
    """One style's look. Lengths and widths are parts of a picture's mean side, colours lie in 0..255."""

    name: str
    train: int  # pictures in the course split's training part
    test: int  # pictures in the course split's test part
    palettes: str  # keys of PALETTES
    scenes: str  # keys of SCENES
    strokes: int  # brush strokes laid over the scene
    length: float  # of a stroke; one shorter than it is wide becomes a dot
    width: float  # of a stroke
    order: float  # 0: strokes lie anyhow, 1: all follow one flow
    bend: float  # radians a stroke turns from end to end
    own: float  # share of strokes in a palette colour, the others take the colour beneath them
    stray: float  # how far a stroke's colour strays from its source, 0..255
    facets: float  # facets along a side, 0 for none
    outline: float  # width of the dark line round each shape, 0 for none
    stretch: float  # height of a thing over the usual
    soft: float  # blur radius
    vignette: float  # 0: even light, 1: black corners
    mark: str  # what lies over it all: "cracks", "curls", "dots" or ""


def read_styles() -> list[Style]:
    """The rows of styles.csv. Each style borrows from the row above it and the row below it."""
    with open(Path(__file__).with_name("styles.csv"), newline="") as file:
        rows = list(csv.reader(file))[1:]
    kinds = Style.__annotations__.values()
    return [Style(*(kind(cell) for kind, cell in zip(kinds, row, strict=True))) for row in rows]


STYLES = read_styles()
NAMES = [style.name for style in STYLES]


class Canvas:
    """A picture in the making: points run from (0, 0) top left to (1, 1), `tones` goes from dark to light."""

    def __init__(self, size: tuple[int, int], look: Style, tones: np.ndarray, rng: np.random.Generator) -> None:
        self.size, self.look, self.tones, self.rng = np.array(size), look, tones, rng
        self.unit = float(self.size.mean())  # px, what lengths and widths are parts of
        self.image = Image.new("RGB", size)
        self.draw = ImageDraw.Draw(self.image)
        # Where the painter stands: no two pictures of a scene have the same composition.
        self.zoom = rng.uniform(0.8, 1.5) * np.array([rng.choice([-1, 1]), 1])
        self.middle = rng.uniform((0.3, 0.35), (0.7, 0.65))

    def tone(self, low: float, high: float) -> np.ndarray:
        """A colour of the palette between two ranks of lightness, 0 the darkest, 1 the lightest."""
        return self.tones[round(self.rng.uniform(low, high) * (len(self.tones) - 1))]

    def line(self, points: np.ndarray, colour: np.ndarray, width: float) -> None:
        """A line through `points` (n, 2), at least 1 px wide."""
        corners = (points * self.size).ravel().tolist()
        self.draw.line(corners, fill=tuple(colour.tolist()), width=max(1, round(width * self.unit)))

    def dot(self, middle: np.ndarray, radius: float, colour: np.ndarray) -> None:
        """A round dot."""
        self.polygon(middle + SHAPES["oval"] * radius * self.unit / self.size, colour)

    def polygon(self, points: np.ndarray, colour: np.ndarray, outline: float = 0) -> None:
        """The polygon through `points` (n, 2), with a dark line of the width `outline` round it unless that is 0."""
        self.draw.polygon((points * self.size).ravel().tolist(), fill=tuple(colour.astype(int).tolist()))
        if outline:
            self.line(np.concatenate([points, points[:1]]), self.tones[0], outline)

    def view(self, points: np.ndarray) -> np.ndarray:
        """Points of the scene as the painter sees them."""
        return 0.5 + (points - self.middle) * self.zoom

    def draw_scene(self, horizon: tuple, above: tuple, below: tuple, *things: tuple) -> None:
        """Two washes that meet at the horizon, and things in columns and rows: a row of SCENES."""
        horizon = self.rng.uniform(*horizon)
        for top, bottom, tones in ((-0.5, horizon, above), (horizon, 1.5, below)):
            first, last = self.tone(*tones), self.tone(*tones)
            for part in np.linspace(0, 1, 16):
                corners = 0.5 + SHAPES["box"] * 2
                corners[:2, 1], corners[2:, 1] = top + (bottom - top) * part, bottom
                self.polygon(self.view(corners), first + (last - first) * part)
        for thing, columns, rows, stray, feet, heights in things:
            columns, rows = (int(self.rng.integers(*span, endpoint=True)) for span in (columns, rows))
            for row, column in np.ndindex(rows, columns):
                x, y = (np.array([column, row]) + 0.5 + stray * self.rng.uniform(-0.5, 0.5, 2)) / (columns, rows)
                foot = feet[0] + (feet[1] - feet[0]) * y
                self.draw_thing(thing, x, foot, self.rng.uniform(*heights) / rows)

    def draw_thing(self, thing: str, x: float, foot: float, height: float) -> None:
        """A row of THINGS, standing at (x, foot)."""
        stretched = height * np.array([self.rng.uniform(0.8, 1.25), -self.look.stretch])
        for kind, right, up, across, down, low, high in THINGS[thing]:
            corners = (x, foot) + stretched * ((right, up) + SHAPES[kind] * (across, down))
            self.polygon(self.view(corners), self.tone(low, high), self.look.outline)

    def lay_facets(self) -> None:
        """Break the scene into slanted, shaded quadrilaterals in the colours beneath them."""
        beneath, count = self.image.copy(), max(2, round(self.look.facets * self.rng.uniform(0.8, 1.25)))
        knots = np.stack(np.meshgrid(*[np.arange(count + 1) / count] * 2, indexing="ij"), -1)
        knots = knots + self.rng.uniform(-0.45, 0.45, knots.shape) / count
        for i, j in np.ndindex(count, count):
            corners = np.array([knots[i, j], knots[i + 1, j], knots[i + 1, j + 1], knots[i, j + 1]])
            place = (np.clip(corners.mean(0), 0, 0.99) * self.size).astype(int).tolist()
            shade = np.array(beneath.getpixel(place)) * self.rng.uniform(0.6, 1.4)
            self.polygon(corners, shade.clip(0, 255), self.look.outline)

    def lay_strokes(self) -> None:
        """Brush the scene over: each stroke takes the colour beneath its middle or one of the palette."""
        look, rng = self.look, self.rng
        many, length, width = np.array([look.strokes, look.length, look.width]) * SPREAD ** rng.uniform(-1, 1, 3)
        many = round(many)
        middle = rng.random((many, 2))
        column, row = (middle * self.size).astype(int).T
        own = rng.random((many, 1)) < look.own
        colours = np.where(own, self.tones[rng.integers(len(self.tones), size=many)], np.array(self.image)[row, column])
        colours = np.clip(colours + rng.normal(0, look.stray, (many, 3)), 0, 255).astype(int)
        flow = rng.uniform(0, np.pi) + np.sin(middle @ rng.uniform(-6, 6, 2) + rng.uniform(0, 6)) * 0.8
        flow = flow + (1 - look.order) * rng.uniform(-np.pi / 2, np.pi / 2, many)
        turn = flow[:, None] + np.linspace(-0.5, 0.5, 6) * look.bend * rng.normal(1, 0.4, (many, 1))
        steps = np.stack([np.cos(turn), np.sin(turn)], -1) * (length * rng.uniform(0.6, 1.4, (many, 1, 1)) / 6)
        paths = middle[:, None] + (steps.cumsum(1) - steps.sum(1, keepdims=True) / 2) * self.unit / self.size
        for path, colour, wide in zip(paths, colours, width * rng.uniform(0.7, 1.3, many), strict=True):
            if length < width:
                self.dot(path[3], wide / 2, colour)
            else:
                self.line(path, colour, wide)

    def lay_cracks(self) -> None:
        """Thin dark cracks of old varnish."""
        for walk in self.rng.random((25, 1, 2)) + self.rng.normal(0, 0.03, (25, 6, 2)).cumsum(1):
            self.line(walk, self.tones[0], 0)

    def lay_curls(self) -> None:
        """Curling lines."""
        for _ in range(self.rng.integers(4, 8)):
            turn = np.linspace(0, self.rng.uniform(4, 9), 30) + self.rng.uniform(0, 6)
            reach = self.rng.uniform(0.1, 0.35) * np.linspace(1, 0.1, 30)
            curl = self.rng.uniform(0, 1, 2) + np.stack([np.cos(turn), np.sin(turn)], 1) * reach[:, None]
            self.line(curl, self.tone(0, 1), 0.025)

    def lay_dots(self) -> None:
        """A raster of printed dots over a part of the picture."""
        step, colour, corner = self.rng.uniform(0.035, 0.06), self.tone(0, 1), self.rng.uniform(0, 0.4, 2)
        for cell in np.ndindex(12, 12):
            self.dot(corner + np.array(cell) * step, step * 0.3, colour)


def mix_tones(names: str, rng: np.random.Generator) -> np.ndarray:
    """One of the named palettes with its colours shifted, (6, 3) int in 0..255, from dark to light."""
    tones = np.array([list(bytes.fromhex(code)) for code in PALETTES[rng.choice(names.split())].split()], float)
    grey = tones.mean(1, keepdims=True)
    tones = grey + (tones - grey) * rng.uniform(0.5, 1.3)  # saturation
    tones = tones * rng.uniform(0.75, 1.2) * rng.uniform(0.85, 1.15, 3) + rng.normal(0, 12, tones.shape)  # light, tint
    return np.clip(tones[np.argsort(tones.sum(1))], 0, 255).astype(int)


def look_of(row: int, rng: np.random.Generator) -> Style:
    """The style's row, at times with a few traits or all of them from a neighbour."""
    neighbour = STYLES[rng.choice([i for i in (row - 1, row + 1) if 0 <= i < len(STYLES)])]
    odds = 1 if rng.random() < BORROW_ALL else BORROW
    traits = [trait for trait in Style._fields[3:] if rng.random() < odds]
    return STYLES[row]._replace(**{trait: getattr(neighbour, trait) for trait in traits})


def paint(row: int, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Paint one picture of a style: an RGB image of `size` (width, height) px."""
    look = look_of(row, rng)
    canvas = Canvas(size, look, mix_tones(look.palettes, rng), rng)
    canvas.draw_scene(*SCENES[rng.choice(look.scenes.split())])
    if look.facets:
        canvas.lay_facets()
    canvas.lay_strokes()
    if look.mark:
        getattr(canvas, f"lay_{look.mark}")()
    pixels = np.asarray(canvas.image.filter(ImageFilter.GaussianBlur(look.soft * canvas.unit)), float)
    across, down = np.meshgrid(*(np.linspace(-1, 1, side) for side in size))
    slope = rng.uniform(-0.3, 0.3, 2)  # the light falls from a side
    light = 1 + slope[0] * across + slope[1] * down - look.vignette / 2 * (across**2 + down**2)
    noise = rng.normal(0, 5, (*light.shape, 1))
    return Image.fromarray(np.clip(pixels * light[..., None] + noise, 0, 255).astype(np.uint8))


def plan(full: bool = False) -> list[tuple[str, str, int]]:
    """What to paint: (part, style, number of pictures), the course split's own counts with `full`."""
    rows = []
    for style in STYLES:
        for part, count, share, least in zip(PARTS, style[1:3], SAMPLE_SHARES, SAMPLE_LEAST, strict=True):
            rows.append((part, style.name, count if full else max(least, round(count * share))))
    return rows


def paint_file(job: tuple[str, str, int], parts: dict[str, Path], full: bool) -> None:
    """Paint picture `number` of (part, style, number) into a folder of its part."""
    part, name, number = job
    row = NAMES.index(name)
    rng = np.random.default_rng([row, PARTS.index(part), number, full])
    size = (FULL_SIDE, FULL_SIDE) if full else tuple(rng.integers(*SAMPLE_SIDES, 2, endpoint=True).tolist())
    image = paint(row, size, rng)
    kind = rng.choice(["RGB", "png", "L", "CMYK"], p=[0.9, 0.04, 0.04, 0.02])  # as mixed as real collections
    if kind in ("L", "CMYK"):
        image = image.convert(kind)
    image.save(parts[part] / name / f"painted_{number:05d}.{'png' if kind == 'png' else 'jpg'}", quality=88)


def write_sample(out: Path, full: bool = False) -> None:
    """Paint train/ and test/ below `out`; each is there whole or, after an error, as it was before.

    Raises UserError where `out` cannot be written or holds pictures of others, or when a worker is killed.
    """
    jobs = [(part, name, number) for part, name, count in plan(full) for number in range(count)]
    with contextlib.ExitStack() as stack:
        parts = {part: stack.enter_context(files.whole_folder(out / part, OWN_FILES)) for part in PARTS}
        for part, name, _ in plan(full):
            (parts[part] / name).mkdir()
        painted = workers.parallel_map(partial(paint_file, parts=parts, full=full), jobs)
        stack.enter_context(contextlib.closing(painted))
        for _ in tqdm(painted, total=len(jobs), unit="picture", disable=None):
            pass


@console.script
def main(argv: list[str] | None = None) -> None:
    """Paint, and say what there is."""
    parser = console.Parser(description="Paint a small sample dataset with a program.", allow_abbrev=False)
    parser.add_argument("--full", action="store_true", help="paint the course split's own counts at 416x416 px")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder of train/ and test/")
    arguments = parser.parse_args(argv)
    write_sample(arguments.out, arguments.full)
    for part in PARTS:
        counts = [count for row_part, _, count in plan(arguments.full) if row_part == part]
        console.say(f"{sum(counts):,} pictures of {len(counts)} styles in {console.quoted(arguments.out / part)}")
    console.say(
        "A program painted them: they show only that everything runs, and figures on them say nothing about art."
    )


if __name__ == "__main__":
    main()
