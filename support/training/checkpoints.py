"""What a checkpoint holds; reading and checking it."""

import errno
import os
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor

from support.paintings import artists, duplicates
from support.system import console, files, settings
from support.system.console import UserError

VERSION = 8  # of checkpoints and resume files
KEYS = {
    "part": int, "model": dict, "classes": list, "counts": dict, "image_size": int, "settings": dict, "epoch": int,
    "history": list, "paths": list, "fingerprints": Tensor, "thumbnails": Tensor, "artists": list,
}  # fmt: skip
PART_KEYS = {1: {"architecture": str}, 2: {"latent_dim": int}}
PARTS = {1: "a style classifier (trainpart1.py writes it)", 2: "an autoencoder (trainauto.py writes it)"}
EXPECTED = "expected what torch.save wrote, such as a state_dict"
ALONE = "where it is trusted, save its weights alone: torch.save(model.state_dict(), FILE)"
AGAIN = "delete it, and download or copy it again"
FORMATS = {  # how files begin that torch.load does not read, what they are, and what to do
    rb"\Z": f"is empty; {AGAIN}",
    rb"version https://git-lfs": "is a Git LFS pointer, not the file that it stands for; git lfs pull fetches that",
    rb"(\xef\xbb\xbf)?\s*<": f"is a web page, not the file that was to be downloaded; {AGAIN}",
    rb".{4}\0{4}\{": "is a safetensors file; convert it: torch.save(safetensors.torch.load_file(FILE), NEW_FILE)",
    rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|.{257}ustar": "is an archive or compressed; unpack it first",
    rb"PK(?!.*data\.pkl).{60}": f"is a zip archive of other files, such as NumPy's or Keras's; {EXPECTED}",
    rb"\x89HDF|\x93NUMPY|\x08.\x12": f"is a file of Keras, NumPy, ONNX or TensorFlow; {EXPECTED}",
    rb"\x80[\x02-\x05](?!\x8a\x0al\xfc)": f"is a pickle, which could run code and is never loaded; {EXPECTED}",
    rb"(?!PK|\x80)": f"is not a file of weights; {EXPECTED}",
}


def load(path: str | os.PathLike) -> object:
    """What torch.save wrote: tensors, numbers, texts, lists and dicts; nothing in the file is run.

    Raises UserError, saying what to do, where there is no such file, and where it is of another format, is damaged or
    holds anything else.
    """
    where, start = console.printable(path), b"?"
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(0, "not a file")  # opening a pipe would wait for its writer
        with open(path, "rb") as file:
            start = file.read(2**16)
        with warnings.catch_warnings():  # of what is an error below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{where}: no such file{console.looked_in(path)}") from None
    except Exception as error:  # a damaged archive can raise anything
        if console.is_out_of_memory(error):
            raise
        failed = isinstance(error, OSError) and error.errno != errno.EINVAL  # which a truncated file gives
        problem = f"cannot be read: {console.reason(error)}" if failed else _problem(start, str(error))
        raise UserError(f"{where}: {problem}") from None


def _problem(start: bytes, message: str) -> str:
    """What is wrong with a file that begins with `start` and that torch.load refuses with a message."""
    if "TorchScript" in message:
        return "is a TorchScript archive; convert it: torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
    refused = re.search(r"GLOBAL (\S+)", message)
    if refused and b"torch.nn.modules." in start:
        return f"is a whole network ({refused[1]}), and loading it would run code; {ALONE}"
    if refused:
        kinds = "tensors, numbers, texts, lists and dicts"
        return f"holds {refused[1]}, and only {kinds} are loaded, since others could run code; {ALONE}"
    matches = (text for pattern, text in FORMATS.items() if re.match(pattern, start, re.DOTALL))
    return next(matches, f"is incomplete or damaged; {AGAIN}")


def check_version(state: dict[str, object], where: str, hint: str) -> None:
    """Raise UserError for a checkpoint or resume file that another version of this project wrote."""
    version = state.get("version", 1)
    if version != VERSION:
        raise UserError(f"{where}written by another version of this project ({version}, expected {VERSION}); {hint}")


def read(path: str | os.PathLike, part: int) -> dict[str, object]:
    """Read and check the checkpoint of a part (1 or 2); its keys are those of `KEYS` and `PART_KEYS`.

    Raises UserError for a file that is no checkpoint, is damaged, holds code, is of another version, or belongs to
    the other part.
    """
    where, checkpoint = console.printable(path), load(path)
    if not isinstance(checkpoint, dict) or checkpoint.get("part") not in PARTS:
        raise UserError(f"{where}: is not a checkpoint of this project")
    check_version(checkpoint, f"{where}: ", "train again")
    if checkpoint["part"] != part:
        raise UserError(f"{where}: holds {PARTS[checkpoint['part']]}, expected {PARTS[part]}")
    for key, kind in (KEYS | PART_KEYS[part]).items():
        if not isinstance(checkpoint.get(key), kind):
            raise UserError(f"{where}: is damaged: {key} is missing or of the wrong type")
    limits = settings.SHARED | settings.SECTIONS["autoencoder"]
    for key in {"image_size", "latent_dim"} & checkpoint.keys():
        if not limits[key].accepts(checkpoint[key]):  # a large number would take all memory
            raise UserError(f"{where}: is damaged: {key} is {console.shown(checkpoint[key])}")
    paths = checkpoint["paths"]
    if checkpoint["fingerprints"].shape != (len(paths),) or not all(isinstance(path, str) for path in paths):
        raise UserError(f"{where}: is damaged: paths are not one text for each fingerprint")
    if (
        checkpoint["thumbnails"].shape != (len(paths), duplicates.SIDE**2)
        or checkpoint["thumbnails"].dtype != torch.int8
    ):
        raise UserError(f"{where}: is damaged: thumbnails are not int8 [{len(paths)}, {duplicates.SIDE**2}]")
    if not checkpoint["classes"] or list(checkpoint["counts"]) != checkpoint["classes"]:
        raise UserError(f"{where}: is damaged: classes and counts do not agree")
    if not all(isinstance(style, str) and type(count) is int for style, count in checkpoint["counts"].items()):
        raise UserError(f"{where}: is damaged: counts are not whole numbers by style")
    if part == 1:  # what the evaluation's priors follow from
        for key in ("imbalance", "smote_target", "validation"):
            value = checkpoint["settings"].get(key)
            if not settings.SECTIONS["classifier"][key].accepts(value):
                raise UserError(f"{where}: is damaged: {key} is {console.shown(value)}")
    return checkpoint


def describe(options: settings.Settings, part: int, dataset: object, thumbnails: Tensor) -> dict[str, object]:
    """What a checkpoint holds besides its weights and history. Folders of this machine are left out.

    thumbnails: the paintings' grey fingerprints, float32 [N, 256].
    """
    name = {1: "architecture", 2: "latent_dim"}[part]
    return {
        "part": part, "version": VERSION, name: getattr(options, name), "classes": dataset.classes,
        "counts": dataset.counts, "image_size": options.image_size, "settings": options.values(),
        "fingerprints": dataset.fingerprints, "artists": artists.known_artists(dataset.paths),
        "thumbnails": duplicates.pack(thumbnails),
        "paths": [os.path.relpath(path, options.trainingdir) for path in dataset.paths],
    }  # fmt: skip


def write(path: Path, contents: dict[str, object], weights: dict[str, Tensor], history: list[dict[str, float]]) -> None:
    """Write a checkpoint of the last row of `history`; contents: what `describe` gives; weights: a state_dict."""
    files.write_tensors(path, {**contents, "model": weights, "epoch": history[-1]["epoch"], "history": history})


def check_flags(options: settings.Settings, checkpoint: dict[str, object]) -> None:
    """Raise UserError for a flag that describes another network than the checkpoint does."""
    for name in ("architecture", "image_size", "latent_dim"):
        if name in options.flags and getattr(options, name) != checkpoint[name]:
            given, trained = console.shown(getattr(options, name)), console.shown(checkpoint[name])
            raise options.error(name, f"got {given}, but {options.modelfile} was trained with {trained}")
