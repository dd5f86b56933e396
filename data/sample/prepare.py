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
import re
import shutil
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from support.system import console, settings, workers

PARTS = ("train", "test")
FULL_SIDE = 416  # px, the side of every picture of --full
SAMPLE_SIDES = (90, 200)  # px, shortest and longest side of a sample picture
SAMPLE_SHARES = (0.1, 0.41)  # of the course split's training and test pictures
SAMPLE_LEAST = (2, 3)  # training and test pictures of a style, whatever its share
BORROW_GROUP = 0.08  # odds that a picture takes its palettes, scenes or hand from a neighbouring style
BORROW_ALL = 0.05  # odds that a picture is painted like a neighbour altogether: no model can name these
SPREAD = 1.35  # a stroke's numbers vary between a style's value / SPREAD and value * SPREAD
PAINTED_NAME = re.compile(r"painted_\d{5}\.(jpg|png)")

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


class Style(NamedTuple):
    """One style's look. Lengths and widths are parts of a picture's mean side, colours lie in 0..255."""

    name: str
    train: int  # pictures in the course split's training part
    test: int  # pictures in the course split's test part
    kin: str  # the neighbouring styles it borrows from
    palettes: str  # keys of PALETTES
    scenes: str  # draw_ methods of Canvas; a word written twice is twice as likely
    strokes: int  # brush strokes laid over the scene
    length: float  # of a stroke; one shorter than it is wide becomes a dot
    width: float  # of a stroke
    order: float  # 0: strokes lie anyhow, 1: all follow one flow
    bend: float  # radians a stroke turns from end to end
    own: float  # share of strokes in a palette colour, the others take the colour beneath them
    stray: float  # how far a stroke's colour strays from its source, 0..255
    facets: float  # facets along a side, 0 for none
    outline: float  # width of the dark line round each shape, 0 for none
    stretch: float  # height of a figure over the usual
    soft: float  # blur radius
    grain: float  # canvas noise, 0..255
    vignette: float  # 0: even light, 1: black corners
    contrast: float  # 1 leaves it as it is
    mark: str  # "cracks", "halftone" or ""


# fmt: off
STYLES = tuple(Style(*row) for row in (
    # name, train, test, kin, palettes,
    #     scenes, strokes length width order bend own stray facets outline stretch soft grain vignette contrast mark
    ("Abstract_Expressionism", 449, 17, "Action_painting Color_Field_Painting", "loud flat stone night",
        "blank fields", 70, 0.4, 0.07, 0.3, 1.0, 0.9, 20, 0, 0, 1, 0, 10, 0, 1.1, ""),
    ("Action_painting", 18, 2, "Abstract_Expressionism", "loud flat stone",
        "blank", 170, 0.8, 0.013, 0.0, 5.0, 1.0, 15, 0, 0, 1, 0, 8, 0, 1.1, ""),
    ("Analytical_Cubism", 15, 2, "Cubism", "stone umber",
        "still portrait", 150, 0.07, 0.02, 0.8, 0.0, 0.0, 15, 9, 0.012, 1, 0, 8, 0.3, 0.9, ""),
    ("Art_Nouveau_Modern", 688, 32, "Symbolism Ukiyo_e", "pastel garden gilded print",
        "arabesque arabesque portrait", 20, 0.5, 0.01, 0.7, 2.5, 0.4, 10, 0, 0.015, 1.1, 0, 4, 0, 1.0, ""),
    ("Baroque", 721, 34, "Romanticism Mannerism_Late_Renaissance Rococo", "umber night",
        "portrait company still", 120, 0.08, 0.03, 0.4, 0.8, 0.0, 8, 0, 0, 1, 0.004, 5, 0.9, 1.3, ""),
    ("Color_Field_Painting", 268, 6, "Abstract_Expressionism Minimalism", "loud flat night stone",
        "fields", 40, 0.35, 0.06, 0.95, 0.0, 0.0, 6, 0, 0, 1, 0.022, 6, 0, 1.0, ""),
    ("Contemporary_Realism", 91, 3, "Realism New_Realism", "garden stone umber",
        "town portrait still", 110, 0.05, 0.028, 0.6, 0.3, 0.0, 8, 0, 0, 1, 0, 3, 0, 1.1, ""),
    ("Cubism", 390, 15, "Analytical_Cubism Synthetic_Cubism Expressionism", "stone umber night",
        "still portrait town", 70, 0.09, 0.025, 0.7, 0.0, 0.1, 15, 5.5, 0.012, 1, 0, 6, 0.1, 1.0, ""),
    ("Early_Renaissance", 246, 9, "High_Renaissance Northern_Renaissance", "gilded umber pastel",
        "arches company", 60, 0.03, 0.012, 0.8, 0.0, 0.0, 8, 0, 0.006, 1, 0, 5, 0.1, 1.0, "cracks"),
    ("Expressionism", 1127, 52, "Fauvism Post_Impressionism Cubism", "loud night umber",
        "portrait town company", 190, 0.17, 0.042, 0.35, 0.9, 0.1, 26, 0, 0.022, 1.2, 0, 8, 0.2, 1.3, ""),
    ("Fauvism", 163, 8, "Expressionism Post_Impressionism", "loud garden",
        "landscape still portrait", 110, 0.11, 0.055, 0.6, 0.3, 0.25, 24, 0, 0.018, 1, 0, 6, 0, 1.2, ""),
    ("High_Renaissance", 198, 9, "Early_Renaissance Mannerism_Late_Renaissance", "gilded umber",
        "portrait arches", 50, 0.05, 0.02, 0.7, 0.2, 0.0, 4, 0, 0, 1, 0.012, 3, 0.4, 1.0, "cracks"),
    ("Impressionism", 2269, 101, "Post_Impressionism Pointillism Realism", "garden pastel print",
        "landscape sea town", 900, 0.05, 0.02, 0.5, 0.3, 0.06, 24, 0, 0, 1, 0, 6, 0, 0.9, ""),
    ("Mannerism_Late_Renaissance", 246, 12, "High_Renaissance Baroque", "gilded umber night",
        "company portrait", 80, 0.07, 0.02, 0.5, 0.9, 0.0, 8, 0, 0, 1.45, 0.005, 4, 0.5, 1.15, ""),
    ("Minimalism", 212, 10, "Color_Field_Painting", "flat stone",
        "grid", 0, 0.1, 0.01, 1.0, 0.0, 0.0, 0, 0, 0, 1, 0, 3, 0, 1.0, ""),
    ("Naive_Art_Primitivism", 373, 19, "Fauvism Pop_Art", "loud garden gilded",
        "village village landscape", 60, 0.03, 0.014, 0.3, 0.0, 0.3, 14, 0, 0.01, 0.8, 0, 4, 0, 1.0, ""),
    ("New_Realism", 41, 1, "Contemporary_Realism Realism", "stone umber night",
        "town company", 90, 0.06, 0.034, 0.3, 0.2, 0.0, 10, 0, 0, 1, 0, 9, 0.2, 0.95, ""),
    ("Northern_Renaissance", 413, 23, "Early_Renaissance Mannerism_Late_Renaissance", "umber gilded",
        "portrait village", 260, 0.018, 0.01, 0.5, 0.0, 0.05, 18, 0, 0.008, 1.1, 0, 3, 0.2, 1.15, "cracks"),
    ("Pointillism", 80, 6, "Impressionism Post_Impressionism", "garden pastel loud",
        "landscape sea", 1300, 0.01, 0.024, 0.0, 0.0, 0.2, 34, 0, 0, 1, 0, 3, 0, 0.95, ""),
    ("Pop_Art", 244, 15, "Naive_Art_Primitivism Minimalism", "loud flat",
        "portrait still fields", 0, 0.1, 0.02, 1.0, 0.0, 0.0, 0, 0, 0.02, 1, 0, 2, 0, 1.25, "halftone"),
    ("Post_Impressionism", 946, 51, "Impressionism Fauvism Expressionism", "garden loud print",
        "landscape still town", 420, 0.12, 0.026, 0.92, 1.4, 0.1, 28, 0, 0.008, 1, 0, 6, 0, 1.1, ""),
    ("Realism", 1712, 82, "Romanticism Contemporary_Realism Impressionism", "umber stone garden",
        "landscape company town", 200, 0.05, 0.03, 0.4, 0.2, 0.0, 9, 0, 0, 1, 0.003, 5, 0.25, 1.0, ""),
    ("Rococo", 369, 13, "Baroque Romanticism", "pastel umber garden",
        "company arabesque portrait", 260, 0.06, 0.022, 0.6, 1.8, 0.05, 12, 0, 0, 0.85, 0.009, 4, 0.4, 0.9, ""),
    ("Romanticism", 1157, 51, "Realism Baroque Symbolism", "night umber garden",
        "sea landscape", 220, 0.1, 0.04, 0.7, 1.2, 0.0, 11, 0, 0, 1, 0.008, 5, 0.6, 1.15, ""),
    ("Symbolism", 679, 44, "Art_Nouveau_Modern Romanticism", "night pastel gilded",
        "moon moon arabesque", 130, 0.16, 0.022, 0.8, 1.6, 0.08, 12, 0, 0, 1.25, 0.013, 6, 0.3, 0.9, ""),
    ("Synthetic_Cubism", 38, 1, "Cubism", "stone flat umber",
        "still", 20, 0.06, 0.02, 0.9, 0.0, 0.3, 12, 3.2, 0.014, 1, 0, 4, 0, 1.1, ""),
    ("Ukiyo_e", 197, 12, "Art_Nouveau_Modern", "print pastel",
        "waves waves portrait", 0, 0.1, 0.01, 1.0, 0.0, 0.0, 0, 0, 0.01, 1.1, 0, 5, 0, 0.95, ""),
))
# fmt: on
STYLE_OF = {style.name: style for style in STYLES}
SUBJECT = ("scenes", "stretch")
COLOUR = ("palettes", "contrast", "vignette")
HAND = ("strokes", "length", "width", "order", "bend", "own", "stray", "facets", "outline", "soft", "mark")


class Canvas:
    """A picture in the making: points run from (0, 0) top left to (1, 1), `tones` goes from dark to light."""

    def __init__(self, size: tuple[int, int], look: Style, tones: np.ndarray, rng: np.random.Generator) -> None:
        self.size, self.look, self.tones, self.rng = np.array(size), look, tones, rng
        self.unit = float(self.size.mean())  # px, what lengths and widths are parts of
        self.image = Image.new("RGB", size, self.tone(0.3, 0.9))
        self.draw = ImageDraw.Draw(self.image)

    def tone(self, low: float, high: float) -> tuple[int, ...]:
        """A colour of the palette between two ranks of lightness, 0 the darkest, 1 the lightest."""
        return tuple(self.tones[round(self.rng.uniform(low, high) * (len(self.tones) - 1))].tolist())

    def shape(self, points: np.ndarray, fill: tuple[int, ...]) -> None:
        """Fill the polygon through `points` (n, 2) and outline it where the style does so."""
        corners = [tuple(point) for point in (points * self.size).tolist()]
        self.draw.polygon(corners, fill=fill)
        if self.look.outline:
            dark = tuple(self.tones[0].tolist())
            self.draw.line([*corners, corners[0]], fill=dark, width=self.pixels(self.look.outline))

    def box(self, left: float, top: float, right: float, bottom: float, fill: tuple[int, ...]) -> None:
        """A rectangle."""
        self.shape(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), fill)

    def oval(self, x: float, y: float, across: float, down: float, fill: tuple[int, ...], arc: float = 1) -> None:
        """An ellipse round (x, y) with these radii; arc 0.5 leaves its upper half."""
        turn = -np.pi * np.linspace(0, 2 * arc, 20)
        self.shape(np.stack([x + across * np.cos(turn), y + down * np.sin(turn)], 1), fill)

    def pixels(self, length: float) -> int:
        """A length in whole pixels, at least one."""
        return max(1, round(length * self.unit))

    def dot(self, x: float, y: float, radius: float, fill: tuple[int, ...]) -> None:
        """A round dot; here all lengths are pixels."""
        self.draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)

    def gradient(self, top: float, bottom: float, low: float, high: float) -> None:
        """Bands from one tone to another between two heights."""
        ends, edges = np.array([self.tone(low, high), self.tone(low, high)]), np.linspace(top, bottom, 17)
        for band in range(16):
            colour = tuple((ends[0] + (ends[1] - ends[0]) * band / 15).astype(int).tolist())
            y = (edges[band : band + 2] * self.size[1]).tolist()
            self.draw.rectangle([0, y[0], int(self.size[0]), y[1]], fill=colour)

    def ridge(self, level: float, rise: float, fill: tuple[int, ...]) -> None:
        """Land or water below a wavy line about `level`."""
        x = np.linspace(-0.05, 1.05, 24)
        y = level + rise * np.sin(x * self.rng.uniform(3, 9) + self.rng.uniform(0, 6)) * np.cos(x * 4)
        self.shape(np.concatenate([np.stack([x, y], 1), [(1.05, 1.1), (-0.05, 1.1)]]), fill)

    def figure(self, x: float, foot: float, height: float) -> None:
        """A standing figure: an oval body and an oval head."""
        height, wide = height * self.look.stretch, height * self.rng.uniform(0.16, 0.24)
        self.oval(x, foot - height * 0.4, wide, height * 0.42, self.tone(0, 1))
        self.oval(x, foot - height * 0.88, height * 0.09, height * 0.12, self.tone(0.7, 1))

    def house(self, x: float, foot: float, high: float) -> None:
        """A house with a roof and two windows."""
        wide = 0.22 * self.rng.uniform(0.7, 1.2) if high > 0.2 else 0.16
        self.box(x, foot - high, x + wide, foot, self.tone(0.3, 1))
        roof = [(x - wide * 0.1, foot - high), (x + wide / 2, foot - high * 1.5), (x + wide * 1.1, foot - high)]
        self.shape(np.array(roof), self.tone(0, 0.5))
        for part in (0.2, 0.6):
            self.box(x + wide * part, foot - high * 0.7, x + wide * (part + 0.2), foot - high * 0.4, self.tone(0, 0.3))

    def tree(self, x: float, foot: float, high: float) -> None:
        """A trunk and a round crown."""
        self.box(x - high * 0.05, foot - high * 0.5, x + high * 0.05, foot, self.tone(0, 0.2))
        self.oval(x, foot - high * 0.7, high * 0.3, high * 0.4, self.tone(0.1, 0.5))

    def draw_blank(self) -> None:
        """A plain wash from one tone to another."""
        self.gradient(0, 1, 0, 1)

    def draw_fields(self) -> None:
        """Two or three wide bands."""
        edges = np.linspace(0.06, 0.94, self.rng.integers(3, 5)) + self.rng.uniform(-0.06, 0.06)
        for top, bottom in pairwise(edges):
            self.box(0.08, top + 0.02, 0.92, bottom - 0.02, self.tone(0, 1))

    def draw_grid(self) -> None:
        """Equal boxes in rows."""
        columns, rows, gap = *self.rng.integers(1, 6, 2).tolist(), self.rng.uniform(0.1, 0.4)
        fill = self.tone(0, 1)
        for cell in range(columns * rows):
            x, y = cell % columns, cell // columns
            self.box((x + gap) / columns, (y + gap) / rows, (x + 1 - gap) / columns, (y + 1 - gap) / rows, fill)

    def draw_landscape(self) -> None:
        """Hills below a sky, with trees."""
        level = self.rng.uniform(0.35, 0.6)
        self.gradient(0, level + 0.1, 0.6, 1)
        for step in range(3):
            self.ridge(level + 0.15 * step, 0.07, self.tone(0.1, 0.7))
        for x in self.rng.uniform(0, 1, self.rng.integers(2, 6)):
            self.tree(x, self.rng.uniform(level + 0.1, 0.95), self.rng.uniform(0.2, 0.5))

    def draw_sea(self) -> None:
        """Sailing boats on a calm sea."""
        level = self.rng.uniform(0.4, 0.65)
        self.gradient(0, level, 0.5, 1)
        self.gradient(level, 1, 0.1, 0.7)
        for x, y in self.rng.uniform((0.1, level), (0.8, 0.85), (self.rng.integers(1, 4), 2)):
            self.shape(np.array([(x, y), (x + 0.16, y), (x + 0.12, y + 0.05), (x + 0.03, y + 0.05)]), self.tone(0, 0.3))
            self.shape(np.array([(x + 0.07, y), (x + 0.07, y - 0.25), (x + 0.17, y - 0.04)]), self.tone(0.6, 1))

    def draw_waves(self) -> None:
        """A mountain behind rows of scale-like waves."""
        self.gradient(0, 1, 0.7, 1)
        self.shape(np.array([(0.2, 0.6), (0.5, self.rng.uniform(0.15, 0.35)), (0.85, 0.6)]), self.tone(0.1, 0.6))
        for row in np.linspace(self.rng.uniform(0.5, 0.6), 1.05, 5):
            for x in np.linspace(0, 1, 6) + self.rng.uniform(-0.1, 0.1):
                for ring in (1, 0.6):
                    self.oval(x, row + 0.06, 0.12 * ring, 0.13 * ring, self.tone(0.1, 0.9))

    def draw_portrait(self) -> None:
        """A head and shoulders."""
        x, y, size = self.rng.uniform((0.4, 0.3, 0.13), (0.6, 0.4, 0.2))
        self.gradient(0, 1, 0, 0.6)
        down = size * 1.3 * self.look.stretch
        self.oval(x, y - size * 0.2, size * 1.25, down * 1.1, self.tone(0, 0.4))
        self.oval(x, y + down + 0.4, size * 2.3, 0.45, self.tone(0, 1))
        self.oval(x, y, size, down, self.tone(0.75, 1))
        for side in (-0.4, 0.4):
            self.oval(x + size * side, y - 0.02, size * 0.15, size * 0.1, self.tone(0, 0.1))

    def draw_company(self) -> None:
        """Two to five standing figures."""
        level = self.rng.uniform(0.4, 0.6)
        self.gradient(0, level, 0.2, 0.9)
        self.gradient(level, 1, 0, 0.5)
        for x in np.sort(self.rng.uniform(0.1, 0.9, self.rng.integers(2, 6))):
            self.figure(x, self.rng.uniform(0.8, 1), self.rng.uniform(0.4, 0.6))

    def draw_arches(self) -> None:
        """A figure under each of a few arches."""
        self.gradient(0, 1, 0.4, 1)
        count = int(self.rng.integers(2, 5))
        for arch in range(count):
            x, wide, fill = (arch + 0.5) / count, 0.4 / count, self.tone(0.1, 0.6)
            self.oval(x, 0.4, wide, 0.25, fill, arc=0.5)
            self.box(x - wide, 0.4, x + wide, 0.85, fill)
            self.figure(x, 0.9, 0.4)

    def draw_still(self) -> None:
        """Bottles and fruit on a table."""
        table = self.rng.uniform(0.5, 0.7)
        self.gradient(0, table, 0, 0.7)
        self.gradient(table, 1, 0.3, 1)
        for x in self.rng.uniform(0.15, 0.85, 2):
            self.box(x - 0.06, table - 0.25, x + 0.06, table + 0.1, self.tone(0, 0.6))
            self.box(x - 0.02, table - 0.4, x + 0.02, table - 0.25, self.tone(0, 0.6))
        for x in self.rng.uniform(0.15, 0.85, self.rng.integers(3, 7)):
            self.oval(x, table + self.rng.uniform(0, 0.2), 0.08, 0.08, self.tone(0.2, 1))

    def draw_town(self) -> None:
        """A row of houses and a passer-by."""
        self.gradient(0, 1, 0.4, 1)
        for x in np.arange(-0.05, 1, 0.22):
            self.house(x, 0.78, self.rng.uniform(0.2, 0.5))
        self.figure(self.rng.uniform(0.1, 0.9), 0.95, self.rng.uniform(0.2, 0.35))

    def draw_village(self) -> None:
        """Small houses, trees and people in rows."""
        self.gradient(0, 0.35, 0.6, 1)
        self.ridge(0.33, 0.04, self.tone(0.2, 0.7))
        for y in np.linspace(0.5, 0.95, 4):
            for x in self.rng.uniform(0.02, 0.9, 3):
                thing = self.rng.choice(["tree", "figure", "house"])
                getattr(self, thing)(x, y, 0.2)

    def draw_moon(self) -> None:
        """A lone figure under a ringed moon."""
        self.gradient(0, 1, 0, 0.5)
        x, y = self.rng.uniform((0.2, 0.15), (0.8, 0.35))
        for ring, rank in ((0.2, 0.5), (0.13, 0.75), (0.08, 1)):
            self.oval(x, y, ring, ring, self.tone(rank, rank))
        self.ridge(self.rng.uniform(0.6, 0.8), 0.05, self.tone(0, 0.3))
        self.figure(self.rng.uniform(0.2, 0.8), 0.9, 0.45)

    def draw_arabesque(self) -> None:
        """Curling lines over a portrait or a wash."""
        self.draw_portrait() if self.rng.random() < 0.5 else self.draw_blank()
        for _ in range(self.rng.integers(4, 8)):
            turn, phase = np.linspace(0, self.rng.uniform(4, 9), 30), self.rng.uniform(0, 6)
            start, reach = self.rng.uniform(0, 1, 2), self.rng.uniform(0.1, 0.35) * np.linspace(1, 0.1, 30)
            curl = start + np.stack([np.cos(turn + phase), np.sin(turn + phase)], 1) * reach[:, None]
            curl = [tuple(point) for point in (curl * self.size).tolist()]
            self.draw.line(curl, fill=self.tone(0, 1), width=self.pixels(0.025))

    def lay_facets(self) -> None:
        """Break the scene into slanted, shaded quadrilaterals in the colours beneath them."""
        beneath, count = self.image.copy(), max(2, round(self.look.facets * self.rng.uniform(0.8, 1.25)))
        knots = np.stack(np.meshgrid(*[np.arange(count + 1) / count] * 2, indexing="ij"), -1)
        knots = knots + self.rng.uniform(-0.45, 0.45, knots.shape) / count
        for i, j in np.ndindex(count, count):
            corners = np.array([knots[i, j], knots[i + 1, j], knots[i + 1, j + 1], knots[i, j + 1]])
            x, y = (np.clip(corners.mean(0), 0, 0.99) * self.size).astype(int).tolist()
            shade = np.array(beneath.getpixel((x, y))) * self.rng.uniform(0.6, 1.4)
            self.shape(corners, tuple(np.clip(shade, 0, 255).astype(int).tolist()))

    def lay_strokes(self) -> None:
        """Brush the scene over: each stroke takes the colour beneath its middle or one of the palette."""
        look, rng = self.look, self.rng
        many, length, width = np.array([look.strokes, look.length, look.width]) * SPREAD ** rng.uniform(-1, 1, 3)
        many = round(many)
        middle = rng.random((many, 2))
        pixels = np.asarray(self.image)
        column, row = (middle * self.size).astype(int).T
        own = rng.random(many) < look.own
        colours = np.where(own[:, None], self.tones[rng.integers(len(self.tones), size=many)], pixels[row, column])
        colours = np.clip(colours + rng.normal(0, look.stray, (many, 3)), 0, 255).astype(int)
        flow = rng.uniform(0, np.pi) + np.sin(middle @ rng.uniform(-6, 6, 2) + rng.uniform(0, 6)) * 0.8
        flow = flow + (1 - look.order) * rng.uniform(-np.pi / 2, np.pi / 2, many)
        turn = flow[:, None] + np.linspace(-0.5, 0.5, 6) * look.bend * rng.normal(1, 0.4, (many, 1))
        steps = np.stack([np.cos(turn), np.sin(turn)], -1) * (length * rng.uniform(0.6, 1.4, (many, 1, 1)) / 6)
        path = (middle * self.size)[:, None] + (steps.cumsum(1) - steps.sum(1, keepdims=True) / 2) * self.unit
        widths = np.maximum(1, np.rint(width * rng.uniform(0.7, 1.3, many) * self.unit)).astype(int).tolist()
        for points, colour, wide in zip(path.tolist(), colours.tolist(), widths, strict=True):
            if length < width:
                self.dot(*points[3], wide / 2, tuple(colour))
            else:
                self.draw.line([tuple(point) for point in points], fill=tuple(colour), width=wide)

    def lay_cracks(self) -> None:
        """Thin dark cracks of old varnish."""
        for start in self.rng.random((25, 2)):
            walk = start + self.rng.normal(0, 0.03, (6, 2)).cumsum(0)
            self.draw.line((walk * self.size).ravel().tolist(), fill=tuple(self.tones[0].tolist()), width=1)

    def lay_halftone(self) -> None:
        """A raster of printed dots over a part of the picture."""
        step, fill, corner = self.rng.uniform(0.035, 0.06), self.tone(0, 1), self.rng.uniform(0, 0.4, 2)
        for cell in np.ndindex(12, 12):
            x, y = ((corner + np.array(cell) * step) * self.size).tolist()
            self.dot(x, y, step * self.unit * 0.3, fill)


def mix_tones(names: str, rng: np.random.Generator) -> np.ndarray:
    """One of the named palettes with its colours shifted, (6, 3) int in 0..255, from dark to light."""
    tones = np.array([list(bytes.fromhex(code)) for code in PALETTES[rng.choice(names.split())].split()], float)
    grey = tones.mean(1, keepdims=True)
    tones = grey + (tones - grey) * rng.uniform(0.5, 1.3)  # saturation
    tones = tones * rng.uniform(0.75, 1.2) * rng.uniform(0.85, 1.15, 3) + rng.normal(0, 12, tones.shape)  # light, tint
    return np.clip(tones[np.argsort(tones.sum(1))], 0, 255).astype(int)


def look_of(style: Style, rng: np.random.Generator) -> Style:
    """The style's row, at times with its subject, colours or hand, or all of them, taken from a neighbour."""
    kin = STYLE_OF[rng.choice(style.kin.split())]
    if rng.random() < BORROW_ALL:
        return kin
    borrowed = [field for group in (SUBJECT, COLOUR, HAND) if rng.random() < BORROW_GROUP for field in group]
    return style._replace(**{field: getattr(kin, field) for field in borrowed})


def paint(style: Style, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Paint one picture of a style: an RGB image of `size` (width, height) px."""
    look = look_of(style, rng)
    canvas = Canvas(size, look, mix_tones(look.palettes, rng), rng)
    getattr(canvas, f"draw_{rng.choice(look.scenes.split())}")()
    if look.facets:
        canvas.lay_facets()
    canvas.lay_strokes()
    if look.mark:
        getattr(canvas, f"lay_{look.mark}")()
    image = canvas.image.filter(ImageFilter.GaussianBlur(look.soft * canvas.unit)) if look.soft else canvas.image
    across, down = (np.linspace(-1, 1, side, dtype=np.float32) ** 2 for side in size)
    light = np.float32(rng.uniform(0.85, 1.15)) * (1 - np.float32(look.vignette / 2) * (across + down[:, None]))
    noise = rng.standard_normal(light.shape, dtype=np.float32) * np.float32(look.grain * rng.uniform(0.6, 1.4))
    pixels = (np.asarray(image, np.float32) - 110) * np.float32(look.contrast) + 110  # 110: a middling brightness
    return Image.fromarray(np.clip(pixels * light[..., None] + noise[..., None], 0, 255).astype(np.uint8))


def plan(full: bool = False) -> list[tuple[str, str, int]]:
    """What to paint: (part, style, number of pictures), the course split's own counts with `full`."""
    rows = []
    for style in STYLES:
        counts = (style.train, style.test)
        for part, count, share, least in zip(PARTS, counts, SAMPLE_SHARES, SAMPLE_LEAST, strict=True):
            rows.append((part, style.name, count if full else max(least, round(count * share))))
    return rows


def paint_file(job: tuple[str, str, int], out: Path, full: bool) -> None:
    """Paint picture `number` of (part, style, number) into its part's temporary folder below `out`."""
    part, name, number = job
    row = [style.name for style in STYLES].index(name)
    rng = np.random.default_rng([row, PARTS.index(part), number, full])
    size = (FULL_SIDE, FULL_SIDE) if full else tuple(rng.integers(*SAMPLE_SIDES, 2, endpoint=True).tolist())
    image = paint(STYLES[row], size, rng)
    kind = rng.choice(["RGB", "png", "L", "CMYK"], p=[0.9, 0.04, 0.04, 0.02])  # as mixed as real collections
    if kind in ("L", "CMYK"):
        image = image.convert(kind)
    ending = "png" if kind == "png" else "jpg"
    image.save(out / f".{part}.part" / name / f"painted_{number:05d}.{ending}", quality=88)


def clean(out: Path) -> None:
    """Remove what a killed run left, and put back a part that it had moved away and not replaced."""
    for part in PARTS:
        old = out / f".{part}.old"
        if old.exists() and not (out / part).exists():
            old.rename(out / part)
        for leftover in (old, out / f".{part}.part"):
            if leftover.exists():
                shutil.rmtree(leftover)


def refuse_foreign(out: Path) -> None:
    """Raise FileExistsError where a part to be replaced holds anything that this script did not paint."""
    for folder in (out / part for part in PARTS):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise FileExistsError(f"{folder} is not a folder that this script painted")
        for path in folder.rglob("*"):
            if not path.is_dir() and not path.name.startswith(".") and not PAINTED_NAME.fullmatch(path.name):
                raise FileExistsError(f"{path} was not painted by this script, so {folder} stays as it is")


def write_sample(out: Path, full: bool = False) -> None:
    """Paint train/ and test/ below `out`; each is there whole or, after an error, as it was before.

    Raises OSError where `out` cannot be written or holds pictures that are not this script's, UserError when a worker
    is killed.
    """
    out.mkdir(parents=True, exist_ok=True)
    clean(out)
    refuse_foreign(out)
    jobs = [(part, name, number) for part, name, count in plan(full) for number in range(count)]
    try:
        for part, name, _ in plan(full):
            (out / f".{part}.part" / name).mkdir(parents=True)
        with contextlib.closing(workers.parallel_map(partial(paint_file, out=out, full=full), jobs)) as painted:
            for _ in tqdm(painted, total=len(jobs), unit="picture", disable=None):
                pass
        for part in PARTS:
            if (out / part).exists():
                (out / part).rename(out / f".{part}.old")
            (out / f".{part}.part").rename(out / part)
    finally:
        clean(out)


@console.script
def main(argv: list[str] | None = None) -> None:
    """Paint, and say what there is."""
    parser = settings.Parser(description="Paint a small sample dataset with a program.", allow_abbrev=False)
    parser.add_argument("--full", action="store_true", help="paint the course split's own counts at 416x416 px")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder of train/ and test/")
    arguments = parser.parse_args(argv)
    try:
        write_sample(arguments.out, arguments.full)
    except OSError as error:
        raise console.UserError(f"prepare.py: {error}") from None
    for part in PARTS:
        counts = [count for row_part, _, count in plan(arguments.full) if row_part == part]
        console.say(f"{sum(counts):,} pictures of {len(counts)} styles in {console.quoted(arguments.out / part)}")
    console.say(
        "A program painted them: they show only that everything runs, and figures on them say nothing about art."
    )


if __name__ == "__main__":
    main()
