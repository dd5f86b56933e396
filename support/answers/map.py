"""The map of paintings: thumbnails by likeness, cluster and style in one HTML file, whose template is map.html."""

import base64
import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import ExifTags, Image
from scipy.spatial import cKDTree
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from tqdm import tqdm

from support.answers import clustering
from support.paintings import artists, formats, images
from support.system import console, files, settings

MOST = 10_000  # paintings on a map
SIDES = (64, 128)  # pixels of a thumbnail: the more paintings, the smaller
SHEET = 2048  # pixels of a sprite sheet's side; phones refuse images of more than 4096


def write(
    options: settings.Settings, paths: list[str], styles: list[str], spaces: dict[str, np.ndarray], clusters: np.ndarray
) -> None:  # fmt: skip
    """Write map.html of N paintings; of more than `MOST`, the same share of every cluster.

    paths, styles: N texts, at least two. spaces: "style", which is laid out, and "content", [N, D]. clusters: int [N].
    """
    path, predictions = options.output("map.html"), read_predictions(options.output("predictions.csv"))
    order, total = by_distance(spaces["style"], clusters), len(paths)
    chosen = np.sort(order[np.linspace(0, total - 1, min(total, MOST)).astype(int)])
    paths, styles, clusters = [paths[i] for i in chosen], [escaped(styles[i]) for i in chosen], clusters[chosen]
    spaces = {name: points[chosen] for name, points in spaces.items()}
    side = int(np.clip(math.sqrt(MOST / len(paths)) * SIDES[0] // 16 * 16, *SIDES))  # a multiple of JPEG's blocks
    numbers = [f"Cluster {number}" for number in range(max(clusters) + 1)]
    groups = {"cluster": (numbers, clusters), "style": np.unique(styles, return_inverse=True)}
    search = NearestNeighbors(n_neighbors=min(8, len(paths) - 1), algorithm="brute")
    console.say(f"laying out {console.count(len(paths), 'painting')} by likeness (t-SNE)")
    data = {
        "total": total,
        "sheet": [side, SHEET // side],
        "paths": [escaped(name) for name in paths],
        "links": [link(name, os.path.dirname(os.path.abspath(path))) for name in paths],
        "shapes": [shape(name) for name in paths],
        "artists": [escaped(artists.artist_of(name) or "") for name in paths],
        "predictions": [predictions.get(escaped(name)) for name in paths],
        "cells": spread(likeness(spaces["style"], options.seed), options.seed).tolist(),
        "near": {name: search.fit(points).kneighbors()[1].tolist() for name, points in spaces.items()},
        "groups": {
            kind: {
                "names": list(map(str, names)),
                "of": of.tolist(),
                "order": by_distance(spaces["style"], of).tolist(),
            }
            for kind, (names, of) in groups.items()
        },
    }
    before, after = Path(__file__).with_suffix(".html").read_text(encoding="utf-8").split("<!-- data and sheets -->")
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # ASCII, and no end of a script element
    parts = [before, f'<script type="application/json" id="data">{text}</script>\n']
    for sheet in map(base64.b64encode, sheets(paths, side, SHEET // side)):
        parts.append(f'<script type="text/plain" class="sheet">data:image/jpeg;base64,{sheet.decode()}</script>\n')
    files.write_whole(path, lambda file: file.writelines(part.encode() for part in [*parts, after]))


def escaped(text: str) -> str:
    """A text as `files.write_rows` writes it: bytes that are not UTF-8 are escaped."""
    return text.encode(errors="backslashreplace").decode()


def link(path: str, folder: str) -> str:
    """The URL of a file, relative to the map's folder; absolute where it is on another drive."""
    try:
        return quote(os.fsencode(os.path.relpath(path, folder).replace(os.sep, "/")))
    except ValueError:
        return Path(path).absolute().as_uri()


def shape(path: str) -> float:
    """A painting's width over its height, upright; 1 where its file does not tell."""
    with contextlib.suppress(Exception), Image.open(path, formats=formats.FORMATS) as image:  # damaged: any error
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return round((image.width / image.height) ** (-1 if turned else 1), 3)
    return 1.0


def by_distance(points: np.ndarray, of: np.ndarray) -> np.ndarray:
    """The indices of points [N, D], group by group (of: int [N]), in each the nearest to its middle first."""
    middles = np.stack([np.bincount(of, column) for column in points.T], 1) / np.maximum(np.bincount(of), 1)[:, None]
    return np.lexsort((np.square(points - middles[of]).sum(1), of))


def likeness(points: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE of points [N, D] in two dimensions, from their principal components on: float [N, 2]."""
    plane, _ = clustering.project(points, seed)
    start, perplexity = plane / max(plane[:, 0].std(), 1e-12) * 1e-4, min(30, (len(points) - 1) / 3)
    tsne = TSNE(init=start, perplexity=perplexity, angle=0.8, max_iter=500, random_state=seed)
    return tsne.fit_transform(points)


def spread(plane: np.ndarray, seed: int) -> np.ndarray:
    """Points [N, 2] moved apart, then to a grid, 1.4 cells per point so that groups stay apart: distinct int [N, 2]."""
    sides = np.maximum(np.ptp(plane, 0), np.ptp(plane) * 0.1 + 1e-12)
    noise = np.random.default_rng(seed).normal(0, 1e-3, plane.shape)  # parts equal points
    points = plane * math.sqrt(1.4 * len(plane) / np.prod(sides)) + noise
    for _ in range(50):
        pairs = cKDTree(points).query_pairs(1.0, output_type="ndarray")
        apart = points[pairs[:, 0]] - points[pairs[:, 1]]
        apart *= (1 / np.linalg.norm(apart, axis=1, keepdims=True) - 1) / 4
        np.add.at(points, pairs, np.stack([apart, -apart], 1))
    points -= points.min(0) - 2
    free = np.indices(points.max(0).astype(int) + 4).reshape(2, -1).T
    cells, left = np.zeros(points.shape, int), np.arange(len(points))
    while len(left):  # every free cell takes the nearest of the points to which it is the nearest
        distance, wanted = cKDTree(free).query(points[left])
        order = np.lexsort((distance, wanted))
        order = order[np.diff(wanted[order], prepend=-1) != 0]
        cells[left[order]] = free[wanted[order]]
        free, left = np.delete(free, wanted[order], 0), np.delete(left, order)
    return cells - cells.min(0)


def sheets(paths: Sequence[str], side: int, columns: int) -> Iterator[bytes]:
    """Sprite sheets of the paintings, stretched to `side` pixels: JPEGs of columns x columns of them, row by row."""
    with contextlib.closing(images.decode_all(paths, side)) as decoded:
        thumbnails = iter(tqdm(decoded, "thumbnails", len(paths), unit="painting", disable=None, leave=False))
        for start in range(0, len(paths), columns**2):
            rows = -(-min(columns**2, len(paths) - start) // columns)
            tiles = np.full((rows * columns, 3, side, side), 128, np.uint8)
            for tile, (pixels, _, _) in zip(tiles, thumbnails, strict=False):
                tile[:] = 128 if pixels is None else np.frombuffer(pixels, np.uint8).reshape(tile.shape)
            tiles, sheet = tiles.reshape(rows, columns, 3, side, side).transpose(0, 3, 1, 4, 2), io.BytesIO()
            Image.fromarray(tiles.reshape(rows * side, columns * side, 3)).save(sheet, "JPEG", quality=85)
            yield sheet.getvalue()


def read_predictions(path: str | os.PathLike) -> dict[str, tuple[str, float]]:
    """Path -> predicted style and its probability, of part 1's predictions.csv; empty where that cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, csv.Error):
        rows = csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines(keepends=True))
        return {row["path"]: (row["predicted"], float(row["probability"])) for row in rows}
    return {}
