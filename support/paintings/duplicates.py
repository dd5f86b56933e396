"""Copies of a painting, exact, nearly so or mirrored: which belong together, and which are in training and test."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from support.system import console, processes

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
    largest = fingerprints.abs().amax(1, keepdim=True).clamp(min=1e-6)
    return (127 * fingerprints / largest).round().to(torch.int8)


def unpack(packed: Tensor) -> Tensor:
    """The grey fingerprints, float32 [N, 256], that were packed; correlations change by less than 0.003."""
    return F.normalize(packed.float(), dim=1)


def groups(thumbnails: Tensor, *keys: Iterable[object]) -> Tensor:
    """A group's number for each of N paintings, int64 [N]: copies share one, also over several steps.

    thumbnails: grey fingerprints, float32 [N, 256], whose near-duplicates are copies; keys: N values each, equal for
    paintings that belong together. The first process compares for all of them, so that none differs by rounding.
    """
    if processes.rank() > 0:
        found = processes.from_first(None)
        return found if len(found) == len(thumbnails) else torch.arange(len(thumbnails))  # else: refused soon
    edges = [near_duplicates(thumbnails)[0]]
    for values in keys:
        first = {}
        edges.append(torch.tensor([(first.setdefault(value, i), i) for i, value in enumerate(values)]))
    (rows, columns), count = torch.cat(edges).T.numpy(), len(edges[-1])
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(count, count))
    return processes.from_first(torch.from_numpy(connected_components(graph, directed=False)[1]).long())


def near_duplicates(first: Tensor, second: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pairs (int64 [M, 2]) of the same painting, saved again, resized, cropped by up to 3% at each side or mirrored.

    Also which pairs are alike only when one of them is mirrored: bool [M].

    first, second: grey fingerprints, float32 [N, 256]; without `second`, pairs i < j within `first`. A crop moves what
    is in the image, and that changes a detailed painting more than a plain one: so the difference that is allowed
    grows with the detail, up to a correlation of `LEAST_CORRELATION`. All pairs are compared first, then the few that
    are left are aligned.
    """
    other = first if second is None else second
    most = (1 - LEAST_CORRELATION) / 2
    slack = [(CANDIDATES / 2 * _detail(part)).clamp(max=most)[:, None] for part in (first, other)]
    # The correlation is the sum of the even and the odd parts' products, and with the mirror image their difference.
    (left, odd), (right, other_odd) = _parts(first), _parts(other)
    # Two more columns, so that one product gives correlation + slack of both, which is 1 or more for a candidate.
    left = torch.cat([left, slack[0], torch.ones(len(first), 1)], 1)
    right = torch.cat([right, torch.ones(len(other), 1), slack[1]], 1).T.contiguous()
    rows, found = max(1, BLOCK // max(1, len(other))), [torch.zeros(0, 3, dtype=torch.int64)]
    for start in range(0, len(first), rows):
        skipped = start if second is None else 0  # of the symmetric product, the upper half
        product = (odd[start : start + rows] @ other_odd.T[:, skipped:]).abs_()
        product.addmm_(left[start : start + rows], right[:, skipped:])
        pairs = (product >= 1).nonzero() + torch.tensor([start, skipped])
        if second is None:
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        for part in pairs.split(4096):
            one, two = first[part[:, 0]], other[part[:, 1]]
            plain, mirrored = _alike(one, two), _alike(one, _mirror(two), _oddness)
            found.append(torch.cat([part, ~plain[:, None]], 1)[plain | mirrored])
    found = torch.cat(found)
    return found[:, :2], found[:, 2].bool()


def _mirror(blocks: Tensor) -> Tensor:
    """The fingerprints of the mirror images: [N, 256] -> [N, 256]."""
    return blocks.view(-1, SIDE, SIDE).flip(2).flatten(1)


def _parts(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The even and the odd part of fingerprints: what stays in a mirror and what changes its sign, each [N, 128]."""
    left, right = blocks.view(-1, SIDE, 2, SIDE // 2).unbind(2)
    return tuple(part.flatten(1) / math.sqrt(2) for part in (left + right.flip(2), left - right.flip(2)))


def _oddness(blocks: Tensor) -> Tensor:
    """What differs between the left and the right of fingerprints, unit norm: [N, 256] -> [N, 256]."""
    return F.normalize(blocks - _mirror(blocks), dim=1)


def _detail(blocks: Tensor) -> Tensor:
    """How much of an image changes from block to block: the energy of its Laplacian. [N, side**2] -> [N]."""
    side = math.isqrt(blocks.shape[1])
    x = blocks.view(-1, side, side)
    around = x[:, 2:, 1:-1] + x[:, :-2, 1:-1] + x[:, 1:-1, 2:] + x[:, 1:-1, :-2]
    return (around - 4 * x[:, 1:-1, 1:-1]).square().sum((1, 2))


def _centre(blocks: Tensor) -> Tensor:
    """The inner quarter of fingerprints, zero mean and unit norm: [N, 256] -> [N, 64]."""
    quarter = SIDE // 4
    inner = blocks.view(-1, SIDE, SIDE)[:, quarter:-quarter, quarter:-quarter].flatten(1)
    return F.normalize(inner - inner.mean(1, keepdim=True), dim=1)


def _alike(first: Tensor, second: Tensor, *views: Callable[[Tensor], Tensor]) -> Tensor:
    """Whether pairs of fingerprints [M, 256] are of one painting: bool [M].

    Their centres must agree too: a frame, a round canvas or black bars make different paintings correlate. So must
    more `views` of them: symmetric paintings resemble the mirror images of others, by all but their oddness.
    """
    aligned, answer = _align(first, second), torch.ones(len(first), dtype=torch.bool)
    for view in (torch.nn.Identity(), _centre, *views):
        allowed = TOLERANCE / 2 * (_detail(view(first)) + _detail(view(second)))
        correlation = F.cosine_similarity(*map(view, aligned), dim=1)
        answer &= 1 - correlation <= allowed.clamp(max=1 - LEAST_CORRELATION)
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
    first, pairs = {}, []
    for i, key in enumerate(fingerprints.tolist()):
        j = first.setdefault(key, i)
        if labels[i] != labels[j]:
            pairs.append(f"{console.quoted(paths[j])} and {console.quoted(paths[i])}")
    if pairs:
        found = console.count(len(pairs), "pair of identical images", "pairs of identical images")
        console.warn(f"{found} in two styles, trained with both labels: {console.first_few(pairs, 3)}")


def known_paintings(dataset: object, checkpoint: dict[str, object]) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Which paintings of a dataset (bool [N]) are copies of training paintings, and what a report says of these.

    dataset: has `paths`, `images` and `fingerprints`; checkpoint: has `paths`, `fingerprints` and `thumbnails`, those
    of its training paintings. Each copy has its `path`, the first training painting that it is a copy of (an identical
    one before others) and their `likeness`: "identical", "near" or "mirrored". Warns of them.
    """
    places = {key: j for j, key in reversed(list(enumerate(checkpoint["fingerprints"].tolist())))}
    found = {i: (places[key], "identical") for i, key in enumerate(dataset.fingerprints.tolist()) if key in places}
    identical = len(found)
    pairs, mirrored = near_duplicates(grey_fingerprints(dataset.images), unpack(checkpoint["thumbnails"]))
    for (i, j), is_mirrored in zip(pairs.tolist(), mirrored.tolist(), strict=True):
        found.setdefault(i, (j, "mirrored" if is_mirrored else "near"))
    copies = [
        {"path": dataset.paths[i], "training": checkpoint["paths"][j], "likeness": likeness}
        for i, (j, likeness) in sorted(found.items())
    ]
    if copies:
        texts = ['"{path}" looks like "{training}" ({likeness})'.format_map(copy) for copy in copies]
        number = f"{len(copies)} ({identical} identical)"
        console.warn(f"test paintings that look like training paintings: {number}: {console.first_few(texts)}")
    return np.isin(np.arange(len(dataset.paths)), list(found)), copies


def report(copies: list[dict[str, str]], rest: dict[str, object] | None) -> dict[str, object]:
    """What a metrics file holds on the copies of `known_paintings`; rest: the metrics without them, if any are left."""
    return {"also_in_training": {"images": len(copies), "paintings": copies, "metrics_without": rest}}
