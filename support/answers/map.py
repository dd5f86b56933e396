"""The map of paintings: thumbnails laid out by likeness, cluster and style in one HTML file, whose template is map.html.

The file needs no network, no server and no package. Names of files and styles are in it as JSON alone.
"""

import base64
import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from PIL import ExifTags, Image
from scipy.spatial import cKDTree
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from support.answers import clustering
from support.paintings import artists, cache, folders, images
from support.paintings.formats import FORMATS
from support.system import console, files
from support.system.console import DataError
from support.training import batches

MOST = 10_000  # paintings on a map; a browser draws them at more than 20 frames per second
SIDES = (64, 128)  # pixels of a thumbnail: the more paintings, the smaller
PIXELS = MOST * SIDES[0] ** 2  # of all thumbnails; a browser holds four bytes for each
SHEET = 2048  # pixels of a sprite sheet's side; phones refuse images of more than 4096
NEIGHBOURS = 8
ROOM = 1.7  # cells of the grid per painting, so that the groups of t-SNE stay apart
WITHOUT_STYLE = "no style"


def write(
    path: str | os.PathLike,
    paths: Sequence[str],
    styles: Sequence[str],
    spaces: dict[str, np.ndarray],
    clusters: np.ndarray,
    predictions: dict[str, tuple[str, float]],
    seed: int,
) -> None:
    """Write the map of N paintings, whole or not at all; of more than `MOST`, the same share of every cluster.

    paths, styles: N texts. spaces: "style" and "content", float [N, D]: what the layout is made from, and what the
    paintings nearest to one are searched in. clusters: int [N]. predictions: of `read_predictions`.
    """
    order, total = by_distance(spaces["style"], clusters), len(paths)
    chosen = np.sort(order[np.linspace(0, total - 1, min(total, MOST)).astype(int)])
    paths, styles, clusters = [paths[i] for i in chosen], [styles[i] for i in chosen], clusters[chosen]
    spaces = {name: points[chosen] for name, points in spaces.items()}
    side = int(np.clip(math.sqrt(PIXELS / len(paths)) // 16 * 16, *SIDES))  # a multiple of JPEG's blocks
    columns, folder = SHEET // side, os.path.dirname(os.path.abspath(path))
    names = sorted(set(styles))
    labels = np.array([names.index(style) for style in styles])
    painters = [artists.artist_of(name) for name in paths]
    told = [predictions.get(escaped(name), ("", 0.0)) for name in paths]
    console.say(f"laying out {console.count(len(paths), 'painting')} by likeness (t-SNE)")
    data = {
        "total": total,
        "side": side,
        "columns": columns,
        "paths": [escaped(name) for name in paths],
        "links": [link(name, folder) for name in paths],
        "shapes": [shape(name) for name in paths],
        "artists": [painter and escaped(painter) for painter in painters],
        "predictions": [[escaped(style), round(share, 4)] if style else None for style, share in told],
        "cells": spread(likeness(spaces["style"], seed), seed).tolist(),
        "near": {name: nearest(points).tolist() for name, points in spaces.items()},
        "groups": {
            "cluster": group([f"Cluster {i}" for i in range(clusters.max() + 1)], clusters, spaces["style"]),
            "style": group([escaped(name) for name in names], labels, spaces["style"]),
        },
    }
    before, after = Path(__file__).with_suffix(".html").read_text(encoding="utf-8").split("<!-- data and sheets -->")
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # ASCII, and no end of a script element
    parts = [before, f'<script type="application/json" id="data">{text}</script>\n']
    for sheet in sheets(paths, side, columns):
        uri = f"data:image/jpeg;base64,{base64.b64encode(sheet).decode()}"
        parts.append(f'<script type="text/plain" class="sheet">{uri}</script>\n')
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
    with contextlib.suppress(Exception), Image.open(path, formats=FORMATS) as image:  # a damaged file can raise any
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return round(height / width if turned else width / height, 3)
    return 1.0


def by_distance(points: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The indices of points [N, D], group by group (int [N]), in each the nearest to its middle first."""
    middles = np.stack([np.bincount(groups, column) for column in points.T], 1)
    middles /= np.maximum(np.bincount(groups), 1)[:, None]
    return np.lexsort((np.square(points - middles[groups]).sum(1), groups))


def group(names: list[str], groups: np.ndarray, points: np.ndarray) -> dict[str, list]:
    """Groups as the page reads them: names, each painting's group, and the order of `by_distance`."""
    return {"names": names, "of": groups.tolist(), "order": by_distance(points, groups).tolist()}


def nearest(points: np.ndarray) -> np.ndarray:
    """The indices [N, at most NEIGHBOURS] of the points nearest to each of points [N, D], the nearest first."""
    count = min(NEIGHBOURS, len(points) - 1)
    if not count:
        return np.zeros((1, 0), int)
    return NearestNeighbors(n_neighbors=count, algorithm="brute").fit(points).kneighbors(return_distance=False)


def likeness(points: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE of points [N, D] in two dimensions, from their principal components on: float [N, 2]."""
    plane, _ = clustering.project(points, seed)
    if len(points) < 4:
        return plane
    start = plane / max(plane[:, 0].std(), 1e-12) * 1e-4
    tsne = TSNE(perplexity=min(30, (len(points) - 1) / 3), init=start, angle=0.8, max_iter=500, random_state=seed)
    return tsne.fit_transform(points)


def spread(plane: np.ndarray, seed: int) -> np.ndarray:
    """Points [N, 2] moved apart, then to the cells of a grid: int [N, 2], no two the same, near where they were."""
    low, size = plane.min(0), np.ptp(plane, 0).max() or 1.0
    points = (plane - low) / size
    area = max(np.prod(np.ptp(points, 0)), 0.1)
    points = points * math.sqrt(ROOM * len(points) / area) + np.random.default_rng(seed).normal(0, 1e-3, plane.shape)
    for _ in range(50):
        pairs = cKDTree(points).query_pairs(1.0, output_type="ndarray")
        apart = points[pairs[:, 0]] - points[pairs[:, 1]]
        distance = np.linalg.norm(apart, axis=1, keepdims=True)
        push = apart / np.maximum(distance, 1e-9) * (1 - distance) / 2
        for axis in range(2):
            for column, sign in enumerate((1, -1)):
                points[:, axis] += sign * np.bincount(pairs[:, column], push[:, axis], len(points)) / 2
    low, high = np.floor(points.min(0)).astype(int) - 2, np.ceil(points.max(0)).astype(int) + 3
    free = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1).reshape(-1, 2)
    cells, left = np.zeros((len(points), 2), int), np.arange(len(points))
    while len(left):  # every free cell takes the nearest of the points to which it is the nearest
        distance, wanted = cKDTree(free).query(points[left])
        first = np.lexsort((distance, wanted))
        first = first[np.diff(wanted[first], prepend=-1) != 0]
        cells[left[first]] = free[wanted[first]]
        free, left = np.delete(free, wanted[first], 0), np.delete(left, first)
    return cells - cells.min(0)


def sheets(paths: Sequence[str], side: int, columns: int) -> Iterator[bytes]:
    """Sprite sheets of the paintings, stretched to `side` pixels: JPEGs of columns x columns of them, row by row."""
    most = columns**2
    with contextlib.closing(images.decode_all(paths, side)) as decoded:
        thumbnails = iter(tqdm(decoded, "thumbnails", len(paths), unit="painting", disable=None, leave=False))
        for start in range(0, len(paths), most):
            count = min(most, len(paths) - start)
            tiles = np.full((-(-count // columns) * columns, 3, side, side), 128, np.uint8)
            for tile, (pixels, _, _) in zip(tiles[:count], thumbnails, strict=False):
                if pixels is not None:
                    tile[:] = np.frombuffer(pixels, np.uint8).reshape(tile.shape)
            rows = tiles.reshape(-1, columns, 3, side, side).transpose(0, 3, 1, 4, 2)
            sheet = io.BytesIO()
            Image.fromarray(rows.reshape(-1, columns * side, 3)).save(sheet, "JPEG", quality=85)
            yield sheet.getvalue()


def read_predictions(path: str | os.PathLike) -> dict[str, tuple[str, float]]:
    """Path -> predicted style and its probability, of part 1's predictions.csv; empty where that cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, csv.Error), open(path, encoding="utf-8", newline="") as file:
        return {row["path"]: (row["predicted"], float(row["probability"])) for row in csv.DictReader(file)}
    return {}
