"""Copies of a painting, exact, nearly so or mirrored: which belong together, and which are in training and test."""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from support.system import console, files, processes

SIDE = 16  # of a grey fingerprint
LEAST_CONTRAST = 2.0  # standard deviation in grey levels below which an image has nothing to compare
# How much of the detail of two fingerprints may differ before and after their alignment; measured in docs/results.md.
CANDIDATES, TOLERANCE = 0.12, 0.06
LEAST_CORRELATION = 0.75
BLOCK = 1 << 24  # correlations held at a time


def grey_fingerprints(images: Tensor) -> Tensor:
    """Block means of the grey images, zero mean and unit norm: uint8 [N, 3, S, S] -> float32 [N, 256].

    The inner product of two is their correlation. An image with hardly any contrast has zeros and resembles nothing.
    """
    rows = []
    for part in images.split(256):
        grey = (part.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
        blocks = F.adaptive_avg_pool2d(grey, SIDE).flatten(1)
        blocks = blocks - blocks.mean(1, keepdim=True)
        norm = blocks.norm(dim=1, keepdim=True)
        rows.append(torch.where(norm < LEAST_CONTRAST * SIDE, 0.0, blocks / norm.clamp(min=1e-6)))
    return torch.cat(rows)


def pack(fingerprints: Tensor) -> Tensor:
    """Grey fingerprints as int8 [N, 256], for a checkpoint."""
    return (127 * F.normalize(fingerprints, p=math.inf, dim=1)).round().to(torch.int8)


def unpack(packed: Tensor) -> Tensor:
    """The grey fingerprints, float32 [N, 256], that were packed; correlations change by less than 0.003."""
    return F.normalize(packed.float(), dim=1)


def groups(thumbnails: Tensor, *keys: Iterable[object]) -> Tensor:
    """A group's number for each of N paintings, int64 [N]: copies share one, also over several steps.

    thumbnails: grey fingerprints, float32 [N, 256], whose near-duplicates are copies; keys: N values each, equal for
    paintings that belong together.
    """
    edges = [near_duplicates(thumbnails)[0]]
    for values in keys:
        first = {}
        edges.append(torch.tensor([(first.setdefault(value, i), i) for i, value in enumerate(values)]))
    (rows, columns), count = torch.cat(edges).T.numpy(), len(edges[-1])
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(count, count))
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long()


def groups_of(dataset: object, thumbnails: Tensor) -> Tensor:
    """The `groups` of a WikiArtDataset's paintings, by `thumbnails` and equal pixels; kept in a file beside these.

    The first process compares for all of them, so that none differs by rounding.
    """
    if processes.rank() > 0:
        numbers = processes.from_first(None)  # of another number of paintings, this process is refused soon
        return torch.tensor(numbers if len(numbers) == len(dataset) else range(len(dataset)))
    compared = Path(__file__).read_bytes() + dataset.fingerprints.numpy().tobytes()  # other code may find others
    path = Path(dataset.pixel_file).with_suffix(f".{hashlib.sha256(compared).hexdigest()[:20]}.json")
    try:
        numbers = json.loads(path.read_text())
    except (OSError, ValueError):  # there is none, or it is damaged
        numbers = groups(thumbnails, dataset.fingerprints.tolist()).tolist()
        with contextlib.suppress(console.UserError):  # it cannot be written: they are compared again the next time
            files.write_json(path, numbers)
    return torch.tensor(processes.from_first(numbers))


def near_duplicates(first: Tensor, second: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pairs (int64 [M, 2]) of the same painting, saved again, resized, cropped by up to 3% at each side or mirrored.

    Also which of them are alike only when one is mirrored, bool [M]. first, second: grey fingerprints, float32
    [N, 256]; without `second`, pairs i < j within `first`. The difference that is allowed grows with the detail of a
    painting, which a crop moves. All pairs are compared first, then the few that are left are aligned.
    """
    other = first if second is None else second
    slack, other_slack = ((CANDIDATES * _detail(part)).clamp(max=1 - LEAST_CORRELATION) / 2 for part in (first, other))
    # The correlation is the sum of the even and the odd parts' products, and with the mirror image their difference.
    (even, odd), (other_even, other_odd) = _parts(first), _parts(other)
    rows, results = max(1, BLOCK // max(1, len(other))), [torch.zeros(0, 3, dtype=torch.int64)]
    for start in range(0, len(first), rows):
        skipped = start if second is None else 0  # of the symmetric product, the upper half
        block = slice(start, start + rows)
        likeness = (odd[block] @ other_odd[skipped:].T).abs_().addmm_(even[block], other_even[skipped:].T)
        pairs = (likeness + other_slack[skipped:] >= 1 - slack[block, None]).nonzero() + torch.tensor([start, skipped])
        if second is None:
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        for part in pairs.split(4096):
            one, two = first[part[:, 0]], other[part[:, 1]]
            plain, mirrored = _are_copies(one, two), _are_copies(one, _mirror(two), mirrored=True)
            results.append(torch.cat([part, ~plain[:, None]], 1)[plain | mirrored])
    result = torch.cat(results)
    return result[:, :2], result[:, 2].bool()


def _mirror(blocks: Tensor) -> Tensor:
    """The fingerprints of the mirror images: [N, 256] -> [N, 256]."""
    return blocks.view(-1, SIDE, SIDE).flip(2).flatten(1)


def _parts(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The even and the odd part of fingerprints: what stays in a mirror and what changes its sign, each [N, 128]."""
    left, right = blocks.view(-1, SIDE, 2, SIDE // 2).unbind(2)
    return tuple(part.flatten(1) / math.sqrt(2) for part in (left + right.flip(2), left - right.flip(2)))


def _detail(blocks: Tensor) -> Tensor:
    """How much of an image changes from block to block: the energy of its Laplacian. [N, side**2] -> [N]."""
    x = blocks.unflatten(1, 2 * [math.isqrt(blocks.shape[1])])
    around = x[:, 2:, 1:-1] + x[:, :-2, 1:-1] + x[:, 1:-1, 2:] + x[:, 1:-1, :-2]
    return (around - 4 * x[:, 1:-1, 1:-1]).square().sum((1, 2))


def _views(blocks: Tensor, mirrored: bool) -> list[Tensor]:
    """What must agree in copies, fingerprints [N, 256] -> unit norms, [N, 256] or [N, 64]."""
    # The centre, since a frame, a round canvas or black bars make different paintings correlate; and what differs
    # between left and right, since symmetric paintings resemble the mirror images of others by all else.
    inner = blocks.view(-1, SIDE, SIDE)[:, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4].flatten(1)
    views = [blocks, inner - inner.mean(1, keepdim=True)] + [blocks - _mirror(blocks)] * mirrored
    return [F.normalize(view, dim=1) for view in views]


def _are_copies(first: Tensor, second: Tensor, mirrored: bool = False) -> Tensor:
    """Whether pairs of fingerprints [M, 256] are of one painting once they are aligned: bool [M]."""
    answer = torch.ones(len(first), dtype=torch.bool)
    views = [_views(part, mirrored) for part in (first, second, *_align(first, second))]
    for *before, one, two in zip(*views, strict=True):
        allowed = TOLERANCE / 2 * sum(map(_detail, before))
        answer &= 1 - (one * two).sum(1) <= allowed.clamp(max=1 - LEAST_CORRELATION)
    return answer


def _align(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of fingerprints [M, 256] after the shift and stretch that fit best (Lucas and Kanade, 1981), half each."""
    mean = F.pad(((first + second) / 2).view(-1, 1, SIDE, SIDE), (1, 1, 1, 1), mode="replicate")[:, 0]
    across = (mean[:, 1:-1, 2:] - mean[:, 1:-1, :-2]) / 2
    down = (mean[:, 2:, 1:-1] - mean[:, :-2, 1:-1]) / 2
    place = (torch.arange(SIDE) + 0.5) * (2 / SIDE) - 1
    slopes = torch.stack([across, down, across * place, down * place[:, None]], 1).flatten(2)
    slopes = slopes - slopes.mean(2, keepdim=True)
    gram = slopes @ slopes.transpose(1, 2) + 1e-5 * torch.eye(4)
    moved = torch.linalg.solve(gram, slopes @ (second - first)[:, :, None]).clamp(-0.6, 0.6)  # blocks; 3% are 0.5
    change = (moved.transpose(1, 2) @ slopes)[:, 0] / 2
    return first + change, second - change


def warn_of_contradictions(paths: list[str], labels: Tensor, fingerprints: Tensor) -> None:
    """Warn of identical images (equal fingerprints, int64 [N]) that are in two styles (labels, int64 [N])."""
    keys, styles = fingerprints.tolist(), labels.tolist()
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    pairs = [(first[key], i) for i, key in enumerate(keys) if styles[i] != styles[first[key]]]
    if pairs:
        number = console.count(len(pairs), "pair of identical images", "pairs of identical images")
        texts = [" and ".join(console.quoted(paths[i]) for i in pair) for pair in pairs]
        console.warn(f"{number} in two styles, trained with both labels: {console.first_few(texts, 3)}")


def known_paintings(dataset: object, checkpoint: dict[str, object]) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Which paintings of a dataset (bool [N]) are copies of training paintings, and what a report says of these.

    dataset: a WikiArtDataset; checkpoint: has `paths`, `fingerprints` and `thumbnails` of its training paintings. Each
    copy has its `path`, that of one `training` painting (an identical one before others) and their `likeness`:
    "identical", "near" or "mirrored". Warns of them.
    """
    first = {key: i for i, key in reversed(list(enumerate(checkpoint["fingerprints"].tolist())))}
    copy_of = {i: (first[key], "identical") for i, key in enumerate(dataset.fingerprints.tolist()) if key in first}
    pairs, mirrored = near_duplicates(grey_fingerprints(dataset.images), unpack(checkpoint["thumbnails"]))
    for i, j, is_mirrored in torch.cat([pairs, mirrored[:, None]], 1).tolist():
        copy_of.setdefault(i, (j, "mirrored" if is_mirrored else "near"))
    copies = [
        {"path": dataset.paths[i], "training": checkpoint["paths"][j], "likeness": likeness}
        for i, (j, likeness) in sorted(copy_of.items())
    ]
    if copies:
        texts = ['"{path}" looks like "{training}" ({likeness})'.format_map(copy) for copy in copies]
        number = f"{len(copies)} ({sum(copy['likeness'] == 'identical' for copy in copies)} identical)"
        console.warn(f"test paintings that look like training paintings: {number}: {console.first_few(texts, 3)}")
    return np.isin(np.arange(len(dataset.paths)), list(copy_of)), copies


def report(copies: list[dict[str, str]], rest: dict[str, object] | None) -> dict[str, object]:
    """What a metrics file holds on the copies of `known_paintings`; rest: the metrics without them, if any are left."""
    return {"also_in_training": {"images": len(copies), "paintings": copies, "metrics_without": rest}}
