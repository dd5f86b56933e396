"""What the head of a classifier sees of every painting, computed once and kept; and a head that is fitted to it."""

import contextlib
import copy
import functools
import hashlib
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from support.system import console, files, processes
from support.system.console import UserError
from support.training import batches, checkpoints

CODE = Path(__file__).resolve().parents[2]  # wikiart.py and support/
CPU_BATCH, GPU_BATCH = 16, 128  # images at once; more leave a CPU's caches, fewer leave a GPU waiting
NEVER = -20.0  # logit of a style without paintings
HEAD_C = 0.002  # of the logistic regression: the inverse of its L2 penalty


def compute(model: nn.Module, loader: batches.Batches, order: Tensor, pixel_file: str | None = None) -> Tensor:
    """`model.features` of the images that `order` names: float32 [len(order), F] on the CPU; shows its progress.

    pixel_file: if given, the features of all paintings are cached in a file next to it, for a trunk that will be used
    again as it is; synthetic ones are computed each time and come last in `order`. Other weights or other code make
    another file. The processes share the work. The model is left in eval mode.
    """
    model.eval()
    quick = copy.deepcopy(model)
    fold_batch_norms(quick.trunk)
    if pixel_file is None:
        return _compute(quick, loader, order)
    count, parts = len(loader.images), nn.ModuleList([model.normalize, model.trunk])
    path = cache_path(pixel_file, parts, count, model.head.in_features)
    found = cached(path, lambda: _compute(quick, loader, torch.arange(count)))
    return torch.cat([found[order[order < count]], _compute(quick, loader, order[order >= count])])


def fold_batch_norms(trunk: nn.Module) -> None:
    """Fold every batch norm of a trunk in eval mode into the convolution before it in a sequence, in place.

    The same features, up to rounding; with mobilenet_v2 in two thirds of the time on a CPU.
    """
    for sequence in [module for module in trunk.modules() if isinstance(module, nn.Sequential)]:
        for (first, layer), (second, norm) in itertools.pairwise(list(sequence.named_children())):
            if type(layer) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                setattr(sequence, first, fuse_conv_bn_eval(layer, norm))
                setattr(sequence, second, nn.Identity())


@torch.no_grad()
def _compute(model: nn.Module, loader: batches.Batches, order: Tensor) -> Tensor:
    shared = loader.device if processes.world_size() > 1 else "cpu"  # they may not fit into a GPU's memory
    features = torch.zeros(len(order), model.head.in_features, device=shared)
    rank, done, hidden = processes.rank(), 0, None if processes.rank() == 0 else True
    size = CPU_BATCH if loader.device.type == "cpu" else GPU_BATCH
    with tqdm(total=len(order), desc="features", unit="painting", disable=hidden, leave=False) as bar:
        for images, _ in loader.batches(order, size):
            features[done + rank : done + size : processes.world_size()] = model.features(images).to(shared)
            bar.update(min(size, len(order) - done))
            done += size
    return processes.total(features).cpu()


@functools.cache
def code_version() -> str:
    """A digest of all of this project's code that can change what a network makes of an image."""
    files = sorted([*CODE.glob("*.py"), *CODE.glob("support/**/*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def cache_path(pixel_file: str, network: nn.Module, count: int, *more: object) -> Path:
    """Where to keep what a network makes of `count` decoded images: beside their file; other weights or code, another.

    Any change of the code counts, since no list of what matters would stay complete.
    """
    total = hashlib.sha256(repr((count, *more)).encode())
    for name, value in network.state_dict().items():
        total.update(f"{name} {tuple(value.shape)}".encode() + value.cpu().contiguous().numpy().tobytes())
    return Path(pixel_file).with_suffix(f".{code_version()[:8]}-{total.hexdigest()[:20]}.pth")


def cached(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """The tensor that the file at `path` holds; where there is none, or a damaged one, it is computed and written.

    All processes call it. It warns where the file cannot be written. Files of other code are removed then.
    """
    found = None
    with contextlib.suppress(UserError):  # there is none, or it is damaged
        found = checkpoints.load(path) if processes.rank() == 0 else None
    found = processes.from_first(found)
    if not isinstance(found, Tensor):
        found = compute()
        try:
            if processes.rank() == 0:
                files.write_tensors(path, found)
                stem, version = path.name.split(".")[0], f".{code_version()[:8]}-"
                for old in path.parent.glob(f"{stem}.*-*.pth"):
                    if version not in old.name:
                        old.unlink(missing_ok=True)
        except UserError as error:
            console.warn(str(error))
    return found


def fit_head(model: nn.Module, features: Tensor, labels: Tensor, balanced: bool) -> None:
    """Make a classifier's head scikit-learn's logistic regression of labels, int64 [N], on features, float32 [N, F].

    balanced: whether every style has the same weight, or every painting. A style without labels is never predicted.
    Raises UserError for features that are not finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    if not features.isfinite().all():
        raise UserError("the features are not finite, so the head cannot be fitted; try a lower learning_rate")
    if model.has_statistics:
        mean, variance = features.mean(0), features.var(0, correction=0)
        model.scale.running_mean.copy_(mean)
        model.scale.running_var.copy_(variance)
        features = (features - mean).div_((variance + model.scale.eps).sqrt())  # all of WikiArt takes gigabytes
    regression = LogisticRegression(C=HEAD_C, class_weight="balanced" if balanced else None, max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last iterations change next to nothing
        regression.fit(features.numpy(), labels.numpy())
    weight, bias = torch.from_numpy(regression.coef_), torch.from_numpy(regression.intercept_)
    if len(weight) == 1:  # two styles have one logit, the difference of ours
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(NEVER)
        model.head.weight[regression.classes_] = weight.to(model.head.weight)
        model.head.bias[regression.classes_] = bias.to(model.head.bias)
