"""The description of every painting of a folder, computed once and kept."""

import contextlib
import copy
import functools
import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from support.networks.description import Description
from support.system import console, files, processes
from support.system.console import UserError
from support.training import batches, checkpoints

CODE = Path(__file__).resolve().parents[2]  # wikiart.py and support/
CPU_BATCH, GPU_BATCH = 16, 128  # images at once; more leave a CPU's caches, fewer leave a GPU waiting


def compute(model: Description, loader: batches.Batches, order: Tensor, pixel_file: str | None = None) -> Tensor:
    """`model.all_features` of the images that `order` names: float32 [len(order), F] on the CPU; shows its progress.

    pixel_file: if given, the features of all paintings are cached in a file next to it, for a trunk that will be used
    again as it is; synthetic ones are computed each time and come last in `order`. Other weights or other code make
    another file. The processes share the work. The model is left in eval mode.
    """
    model.eval()
    folded = quick(model)
    if pixel_file is None:
        return _compute(folded, loader, order)
    count, parts = len(loader.images), nn.ModuleDict({"normalize": model.normalize})
    if model.trunk is not None:
        parts["trunk"] = model.trunk
    path = cache_path(pixel_file, parts, count)
    features = cached(path, lambda: _compute(folded, loader, torch.arange(count)))
    return torch.cat([features[order[order < count]], _compute(folded, loader, order[order >= count])])


def quick(model: Description) -> Description:
    """A copy in eval mode that computes the same features, up to rounding, in less time."""
    copied = copy.deepcopy(model).eval()
    if copied.trunk is not None:
        fold_batch_norms(copied.trunk)
    return copied


def batch_size(device: torch.device) -> int:
    """How many images to describe at once."""
    return CPU_BATCH if device.type == "cpu" else GPU_BATCH


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
def _compute(model: Description, loader: batches.Batches, order: Tensor) -> Tensor:
    shared = loader.device if processes.world_size() > 1 else "cpu"  # they may not fit into a GPU's memory
    features = torch.zeros(len(order), model.full_width, device=shared)
    rank, done, hidden = processes.rank(), 0, None if processes.rank() == 0 else True
    size = batch_size(loader.device)
    with tqdm(total=len(order), desc="features", unit="painting", disable=hidden, leave=False) as bar:
        for images, _ in loader.batches(order, size):
            features[done + rank : done + size : processes.world_size()] = model.all_features(images).to(shared)
            bar.update(min(size, len(order) - done))
            done += size
    return processes.total(features).cpu()


@functools.cache
def code_version() -> str:
    """A digest of all of this project's code that can change what a network makes of an image."""
    files = sorted([*CODE.glob("*.py"), *CODE.glob("support/**/*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def cache_path(pixel_file: str, network: nn.Module, count: int) -> Path:
    """Where to keep what a network makes of `count` decoded images: beside their file; other weights or code, another.

    Any change of the code counts, since no list of what matters would stay complete.
    """
    total = hashlib.sha256(repr(count).encode())
    for name, value in network.state_dict().items():
        total.update(f"{name} {tuple(value.shape)}".encode() + value.cpu().contiguous().numpy().tobytes())
    return Path(pixel_file).with_suffix(f".{code_version()[:8]}-{total.hexdigest()[:20]}.pth")


def cached(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """The tensor that the file at `path` holds; where there is none, or a damaged one, it is computed and written.

    All processes call it. It warns where the file cannot be written. Files of other code are removed then.
    """
    tensor = None
    with contextlib.suppress(UserError):  # there is none, or it is damaged
        tensor = checkpoints.load(path) if processes.rank() == 0 else None
    tensor = processes.from_first(tensor)
    if not isinstance(tensor, Tensor):
        tensor = compute()
        try:
            if processes.rank() == 0:
                files.write_tensors(path, tensor)
                stem, version = path.name.split(".")[0], f".{code_version()[:8]}-"
                for old in path.parent.glob(f"{stem}.*-*.pth"):
                    if version not in old.name:
                        old.unlink(missing_ok=True)
        except UserError as error:
            console.warn(str(error))
    return tensor
