"""Checkpoints: what they hold, reading and checking them."""

import math
import os
import pickle

import torch
from torch import Tensor
from torch.utils.data import Dataset

from support import console, settings

_CHECKPOINT_KEYS = {
    "part": int, "model": dict, "classes": list, "counts": dict, "image_size": int, "mean": list, "std": list,
    "settings": dict, "epoch": int, "history": list, "fingerprints": Tensor,
}  # fmt: skip


_PART_KEYS = {1: {"architecture": str}, 2: {"latent_dim": int}}


_PART_NAMES = {1: "a style classifier (trainpart1.py writes it)", 2: "an autoencoder (trainauto.py writes it)"}


def load(path: str | os.PathLike) -> object:
    """What torch.save wrote: tensors, numbers, texts, lists and dicts, and nothing that could run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise console.UserError(f"{console.quoted(path)[1:-1]}: no such file") from None
    except OSError as error:
        raise console.UserError(f"{console.quoted(path)[1:-1]}: cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError:
        raise console.UserError(
            f"{console.quoted(path)[1:-1]}: is no file of weights, or holds code, which is never run"
        ) from None
    except Exception as error:  # a damaged archive can raise anything
        raise console.UserError(
            f"{console.quoted(path)[1:-1]}: is no file of weights: {' '.join(str(error).split())[:200]}"
        ) from None


def read(path: str | os.PathLike, part: int) -> dict[str, object]:
    """Read and check the checkpoint of a part (1 or 2); keys as `_CHECKPOINT_KEYS` and `_PART_KEYS` list them.

    Raises UserError for a file that is none, is damaged, holds code, or belongs to the other part.
    """
    where, checkpoint = console.quoted(path)[1:-1], load(path)
    if not isinstance(checkpoint, dict) or type(checkpoint.get("part")) is not int:
        raise console.UserError(f"{where}: is no checkpoint of this project")
    if checkpoint["part"] != part:
        other = _PART_NAMES.get(checkpoint["part"], "something else")
        raise console.UserError(f"{where}: holds {other}; meant {_PART_NAMES[part]}")
    for key, kind in (_CHECKPOINT_KEYS | _PART_KEYS[part]).items():
        if not isinstance(checkpoint.get(key), kind):
            raise console.UserError(f"{where}: is damaged: {key} is missing or of the wrong kind")
    if not _is_sound(checkpoint):
        raise console.UserError(f"{where}: is damaged: its values are not what a training writes")
    return checkpoint


def _is_sound(checkpoint: dict[str, object]) -> bool:
    classes, counts = checkpoint["classes"], checkpoint["counts"]
    return (
        all(isinstance(name, str) for name in classes)
        and classes == sorted(set(classes)) != []
        and list(counts) == classes
        and all(type(count) is int and count >= 0 for count in counts.values())
        and settings.SHARED_SETTINGS["image_size"].accepts(checkpoint["image_size"])
        and all(len(checkpoint[name]) == 3 for name in ("mean", "std"))
        and all(type(value) is float and 0 <= value <= 1 for value in checkpoint["mean"])
        and all(type(value) is float and 1e-6 < value < math.inf for value in checkpoint["std"])
        and (
            checkpoint["part"] == 1 or settings.SECTIONS["autoencoder"]["latent_dim"].accepts(checkpoint["latent_dim"])
        )
        and all(isinstance(name, str) for name in checkpoint["model"])
        and all(is_plain(value) for value in [*checkpoint["model"].values(), checkpoint["fingerprints"]])
        and (checkpoint["fingerprints"].dtype, checkpoint["fingerprints"].ndim) == (torch.int64, 1)
    )


def is_plain(value: object) -> bool:
    """Whether it is a tensor of finite numbers that are all there, not a few that claim to be many."""
    try:
        return (
            isinstance(value, Tensor)
            and (value.layout, value.device.type) == (torch.strided, "cpu")
            and value.untyped_storage().nbytes() >= value.nbytes
            and bool(value.isfinite().all())
        )
    except RuntimeError:  # kinds of tensors that no training writes
        return False


def describe(options: settings.Settings, dataset: Dataset, mean: list[float], std: list[float]) -> dict[str, object]:
    """What a checkpoint holds beside its weights and its history, for both parts."""
    return {
        "classes": dataset.classes,
        "counts": dataset.counts,
        "image_size": options.image_size,
        "mean": mean,
        "std": std,
        "settings": options.values(),
        "fingerprints": dataset.fingerprints,
    }


def check_flags(options: settings.Settings, checkpoint: dict[str, object]) -> None:
    """Raise UserError for a flag that describes another network than the checkpoint does."""
    for name in ("architecture", "image_size", "latent_dim"):
        if name in options.flags and getattr(options, name) != checkpoint[name]:
            given, trained = console.shown(getattr(options, name)), console.shown(checkpoint[name])
            raise options.error(name, f"found {given}, but {options.modelfile} was trained with {trained}")
