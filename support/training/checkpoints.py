"""What a checkpoint holds; reading and checking it."""

import contextlib
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

VERSION = 9  # of checkpoints and resume files
PARTS = {1: "a style classifier", 2: "an autoencoder"}
WRITERS = {1: "run python trainpart1.py", 2: "run python trainauto.py"}
NETWORK = {1: ("architecture",), 2: ("architecture", "latent_dim")}  # say, with image_size, which network it is
RULES = {  # what a checkpoint `c` has to hold
    "model": lambda c: isinstance(c["model"], dict),
    "settings": lambda c: isinstance(c["settings"], dict),
    "epoch": lambda c: isinstance(c["epoch"], int),
    "history": lambda c: isinstance(c["history"], list),
    "artists": lambda c: isinstance(c["artists"], list),
    "classes": lambda c: set(map(type, c["classes"])) == {str},
    "counts": lambda c: list(c["counts"]) == c["classes"] and set(map(type, c["counts"].values())) == {int},
    "paths": lambda c: set(map(type, c["paths"])) == {str},
    "fingerprints": lambda c: c["fingerprints"].shape == (len(c["paths"]),),
    "thumbnails": lambda c: c["thumbnails"].shape == (len(c["paths"]), 256) and c["thumbnails"].dtype == torch.int8,
}
EXPECTED = "expected what torch.save wrote, such as a state_dict"
ALONE = "if you trust it, save its weights alone: torch.save(model.state_dict(), FILE)"
AGAIN = "delete it, and download or copy it again"
FORMATS = {  # how files begin that torch.load does not read, what they are, and what to do
    rb"\Z": f"is empty; {AGAIN}",
    rb"version https://git-lfs": "is a Git LFS pointer, not the file that it stands for; git lfs pull fetches that",
    rb"(\xef\xbb\xbf)?\s*<": f"is a web page, not the file that was to be downloaded; {AGAIN}",
    rb".{4}\0{4}\{": "is a safetensors file; convert it: torch.save(safetensors.torch.load_file(FILE), NEW_FILE)",
    rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|.{257}ustar": "is an archive or compressed; unpack it first",
    rb"PK(?!.*data\.pkl).{60}|\x89HDF|\x93NUMPY|\x08.\x12": f"is of Keras, NumPy, ONNX or other programs; {EXPECTED}",
    rb"\x80[\x02-\x05](?!\x8a\x0al\xfc)": f"is a pickle, which could run code and is never loaded; {EXPECTED}",
    rb"(?!PK|\x80)": f"is not a file of weights; {EXPECTED}",
}


def load(path: str | os.PathLike, missing: str = "") -> object:
    """What torch.save wrote: tensors, numbers, texts, lists and dicts; nothing in the file is run.

    Raises UserError, saying what to do, where there is no such file (`missing` ends the message), and where it is of
    another format, is damaged or holds anything else.
    """
    where, start = console.printable(path), b"?"
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(0, "not a file")  # opening a pipe would wait for its writer
        with open(path, "rb") as file:
            start = file.read(4096)
        with warnings.catch_warnings():  # of what is an error below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{where}: no such file{console.looked_in(path)}{missing}") from None
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
    if refused := re.search(r"GLOBAL (\S+)", message):
        return f"holds {refused[1]}, and loading it could run code; {ALONE}"
    matches = (text for pattern, text in FORMATS.items() if re.match(pattern, start, re.DOTALL))
    return next(matches, f"is incomplete or damaged; {AGAIN}")


def check_version(state: dict[str, object], where: str, hint: str) -> None:
    """Raise UserError for a checkpoint or resume file that another version of this project wrote."""
    version = state.get("version", 1)
    if version != VERSION:
        raise UserError(f"{where}written by another version of this project ({version}, expected {VERSION}); {hint}")


def read(path: str | os.PathLike, part: int) -> dict[str, object]:
    """Read and check the checkpoint of a part (1 or 2): what `metadata` gives, model, epoch and history.

    Raises UserError for a file that is no checkpoint, is damaged, holds code, is of another version, or belongs to
    the other part.
    """
    where, checkpoint = console.printable(path), load(path, f"; {WRITERS[part]}")
    if not isinstance(checkpoint, dict) or checkpoint.get("part") not in PARTS:
        raise UserError(f"{where}: is not a checkpoint of this project")
    check_version(checkpoint, f"{where}: ", "train again")
    if checkpoint["part"] != part:
        raise UserError(f"{where}: holds {PARTS[checkpoint['part']]}, expected {PARTS[part]}; {WRITERS[part]}")
    for key, is_right in RULES.items():
        with contextlib.suppress(LookupError, TypeError, AttributeError):  # missing, or of another type
            if is_right(checkpoint):
                continue
        raise UserError(f"{where}: is damaged: {key} is missing or not what was written")
    known = settings.SHARED | settings.SECTIONS["classifier"] | settings.SECTIONS["autoencoder"]
    values = {key: checkpoint.get(key) for key in ("image_size", *NETWORK[part])}  # a large size would take all memory
    if part == 1:  # the evaluation's priors follow from these
        values |= {key: checkpoint["settings"].get(key) for key in ("imbalance", "smote_target", "validation")}
    for key, value in values.items():
        if not known[key].accepts(value):
            raise UserError(f"{where}: is damaged: {key} is {console.shown(value)}")
    return checkpoint


def metadata(options: settings.Settings, part: int, dataset: object, thumbnails: Tensor) -> dict[str, object]:
    """What a checkpoint holds besides weights and history. Folders of this machine are left out.

    thumbnails: the paintings' grey fingerprints, float32 [N, 256].
    """
    network = {name: getattr(options, name) for name in NETWORK[part]}
    return {
        "part": part, "version": VERSION, **network, "classes": dataset.classes,
        "counts": dataset.counts, "image_size": options.image_size, "settings": options.values(),
        "fingerprints": dataset.fingerprints, "artists": artists.known_artists(dataset.paths),
        "thumbnails": duplicates.pack(thumbnails),
        "paths": [os.path.relpath(path, options.trainingdir) for path in dataset.paths],
    }  # fmt: skip


def write(path: Path, metadata: dict[str, object], weights: dict[str, Tensor], history: list[dict[str, float]]) -> None:
    """Write a checkpoint of the last row of `history`; weights: a state_dict."""
    files.write_tensors(path, {**metadata, "model": weights, "epoch": history[-1]["epoch"], "history": history})


def check_flags(options: settings.Settings, checkpoint: dict[str, object]) -> None:
    """Raise UserError for a flag that describes another network than the checkpoint does."""
    for name in ("architecture", "image_size", "latent_dim"):
        if name in options.flags and getattr(options, name) != checkpoint[name]:
            given, trained = console.shown(getattr(options, name)), console.shown(checkpoint[name])
            raise options.error(name, f"got {given}, but {options.modelfile} was trained with {trained}")
