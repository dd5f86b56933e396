"""Exact Ward clustering of any number of points, in memory that grows with their number and not with its square.

Ward's distance (Ward 1963, "Hierarchical grouping to optimize an objective function") of clusters of a and b points is
sqrt(2 a b / (a + b)) times that of their means. It is reducible: a merged cluster is no nearer to a third one than the
nearer of its parts was. So clusters that are each other's nearest may merge in any order, many of them in one round
(Murtagh and Contreras 2012, "Algorithms for hierarchical clustering: an overview").
"""

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster
from torch import Tensor
from tqdm import tqdm

BLOCK = 1 << 22  # distances held at a time
LISTED = 8  # near clusters listed for each


class Clusters:
    """The M clusters at present: a point of each (int64 [M]), centres (float64 [M, D]), sizes, heights (float64 [M]).

    near (int64 [M, LISTED]) lists near clusters of each and apart (float64) how far they are; all others are at least
    bound (float64 [M]) away. Merging keeps that true: a list serves until its bound is nearer. Distances are squared.
    """

    def __init__(self, points: Tensor, centres: Tensor, sizes: Tensor) -> None:
        self.points, self.centres, self.sizes, self.pace = points, centres, sizes, len(points)
        self.heights, self.bound = torch.zeros_like(sizes), torch.zeros_like(sizes)
        self.apart = sizes.new_full((len(sizes), LISTED), torch.inf)
        self.near = torch.zeros_like(self.apart, dtype=torch.int64)

    def distances(self, left: Tensor, right: Tensor) -> Tensor:
        """Distances (float64 [P]) of clusters left to right (int64 [P]), infinite from one to itself."""
        parts = (part.split(max(1, BLOCK // 8 // self.centres.shape[1])) for part in (left, right))
        squares = torch.cat([(self.centres[a] - self.centres[b]).square().sum(1) for a, b in zip(*parts, strict=True)])
        return (squares / (0.5 / self.sizes[left] + 0.5 / self.sizes[right])).masked_fill(left == right, torch.inf)

    def search(self, rows: Tensor) -> None:
        """List what is near clusters rows (int64 [P]): by float32, by float64 where its rounding hides the nearest."""
        (count, width), lengths = self.centres.shape, torch.linalg.vector_norm(self.centres, dim=1, keepdim=True)
        for kind in (torch.float32, torch.float64, None):
            right, halves = self.centres.to(kind or torch.float64), (0.5 / self.sizes).to(kind or torch.float64)
            if kind:  # norms less the greatest rounding error: products are the squared distances or below them
                norms = lengths.square() * (1 - (2 * width + 16) * torch.finfo(kind).eps) - 1e-35 * width
                right = torch.cat([right, norms.to(kind), torch.ones_like(norms, dtype=kind)], 1)
            for part in rows.split(max(1, BLOCK // count)):
                left = right[part]
                if kind:
                    squares = torch.cat([-2 * left[:, :-2], left[:, -1:], left[:, -2:-1]], 1) @ right.T
                else:  # differences, which cancel nothing
                    squares = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist").square_()
                least, near = squares.div_(halves[part, None] + halves).topk(min(LISTED, count), largest=False)
                near = torch.cat([near, part[:, None].expand(-1, LISTED - near.shape[1])], 1)  # itself, if too few
                self.near[part], self.bound[part] = near, least[:, -1].double().clamp(min=0)
                self.apart[part] = self.distances(part.repeat_interleave(LISTED), near.flatten()).view_as(near)
            rows = rows[self.apart[rows].amin(1) > self.bound[rows]]
            if not len(rows):
                return
        self.bound[rows] = self.apart[rows].amin(1)  # more equal distances than a list holds

    def nearest(self) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest listed cluster (int64 [M], the first of equals), its distance and whether no other is nearer."""
        best = self.apart.amin(1)
        return torch.where(self.apart == best[:, None], self.near, len(best)).amin(1), best, best <= self.bound

    def round(self) -> tuple[Tensor, Tensor, Tensor]:
        """Search some lists anew, merge all pairs of nearest clusters: a point of each (int64 [P]) and heights [P]."""
        nearest, best, known = self.nearest()
        asked = torch.zeros_like(known).index_fill_(0, nearest[known], True) & ~known  # nothing merges before these
        order = torch.where(asked, -1, self.bound).masked_fill(known, torch.inf).argsort()
        unknown = int((~known).sum())
        # Of the others, low bounds merge first; the shares hold down searches in vain and the time of a round.
        others = min(unknown, unknown // 8 + 1, 8 * self.pace, (1 << 30) // len(best) + 1)
        self.search(rows := order[: max(int(asked.sum()), others)])
        nearest, best, known = self.nearest()
        numbers = torch.arange(len(best), device=best.device)
        left = (known & known[nearest] & (nearest[nearest] == numbers) & (numbers < nearest)).nonzero().squeeze(1)
        if not len(left) and not len(rows):  # a ring of equal distances: the smallest may merge
            left = torch.where(known, best, torch.inf).argmin(0, keepdim=True)
        self.pace = max(1, len(left))
        return self.merge(left, nearest[left], best[left])

    def merge(self, left: Tensor, right: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Merge clusters left and right (int64 [P]) at distances squares (float64 [P])."""
        heights = torch.stack([squares.sqrt(), self.heights[left], self.heights[right]]).amax(0)  # despite rounding
        merged = self.points[left], self.points[right], heights
        a, b = self.sizes[left, None], self.sizes[right, None]
        self.centres[left] = (a * self.centres[left] + b * self.centres[right]) / (a + b)
        self.sizes[left], self.heights[left] = (a + b).squeeze(1), heights
        self.bound[left], self.apart[left] = squares, torch.inf  # nothing is nearer to the two than they were
        keep = torch.ones_like(self.bound, dtype=torch.bool).index_fill_(0, right, False)
        changed = (~keep).index_fill_(0, left, True)
        place = keep.cumsum(0) - 1
        place[right] = place[left]
        for name in ("points", "centres", "sizes", "heights", "near", "apart", "bound") if len(left) else ():
            setattr(self, name, getattr(self, name)[keep])
        rows, columns = (changed[self.near] & self.apart.isfinite()).nonzero(as_tuple=True)
        self.near = place[self.near]
        self.apart[rows, columns] = self.distances(rows, self.near[rows, columns])
        return merged


@torch.no_grad()
def ward_linkage(points: np.ndarray | Tensor, device: torch.device | str = "cpu") -> np.ndarray:
    """Ward's clustering of points [N, D] as scipy.cluster.hierarchy.linkage(points, "ward") has it: float64 [N - 1, 4].

    Equal distances may merge in another order than SciPy's. The device has to know float64. Heights are good to about
    1e-16 of the points' extent. ValueError: `points` is not a matrix of finite numbers, at least one.
    """
    points = np.asarray(points.detach().cpu() if isinstance(points, Tensor) else points, np.float64)
    if points.ndim != 2 or not points.size or not np.abs(points).max() < 1e300:
        raise ValueError(f"points: needs finite numbers [N, D], at least one; has {list(points.shape)}")
    centres = np.ascontiguousarray(points - points.mean(0)) + 0.0  # no -0.0: duplicates are equal bytes
    scale = 2.0 ** np.frexp(np.abs(centres).max())[1]  # float32 holds the squares
    rows = centres.view(np.dtype((np.void, centres[0].nbytes))).ravel()
    _, first, group, sizes = np.unique(rows, return_index=True, return_inverse=True, return_counts=True)
    copies = np.flatnonzero(first[group] != np.arange(len(points)))
    edges = [(first[group[copies]], copies, np.zeros(len(copies)))]
    order = np.random.default_rng(0).permutation(len(first))  # on a grid, all would wait for the first in line
    parts = first[order], centres[first[order]] / scale, sizes[order].astype(np.float64)
    clusters = Clusters(*(torch.from_numpy(part).to(device) for part in parts))
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # TF32's error is above the bounds
    try:
        bar = tqdm(total=len(first) - 1, desc="Ward", unit="merge", disable=None, leave=False)
        with bar, torch.autocast(clusters.points.device.type, enabled=False):
            while len(clusters.points) > 1:
                left, right, heights = (part.cpu().numpy() for part in clusters.round())
                edges.append((left, right, scale * heights))
                bar.update(len(left))
    finally:
        torch.set_float32_matmul_precision(precision)
    left, right, heights = map(np.concatenate, zip(*edges, strict=True))
    names, sizes, tree = list(range(len(points))), [1] * len(points), []
    order = np.argsort(heights, kind="stable")  # a merged cluster goes by its left point
    for a, b, height in zip(left[order].tolist(), right[order].tolist(), heights[order].tolist(), strict=True):
        sizes[a] += sizes[b]
        tree.append((min(names[a], names[b]), max(names[a], names[b]), height, sizes[a]))
        names[a] = len(order) + len(tree)
    return np.array(tree, np.float64).reshape(-1, 4)


def cut_tree(tree: np.ndarray, clusters: int) -> np.ndarray:
    """Undo a linkage's last merges: exactly `clusters` clusters as int64 [N], 0 the largest. ValueError: not 1 to N."""
    count = len(tree) + 1
    if not 1 <= clusters <= count:
        raise ValueError(f"clusters: {count} points cannot make {clusters}")
    ranked = np.column_stack([tree[:, :2], np.arange(1.0, count), tree[:, 3]])  # equal heights would cut as one
    found = fcluster(ranked, count - clusters, "distance") - 1 if len(tree) else np.zeros(1, np.int64)
    return np.argsort(np.argsort(-np.bincount(found), kind="stable"))[found]
