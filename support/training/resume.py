"""Where a run writes, the state saved to resume it, and which run may resume from it."""

import hashlib
import itertools
import json
import os
import platform
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from support.paintings import folders
from support.system import console, files, processes, settings
from support.system.console import UserError
from support.training import checkpoints
from support.training.epochs import Optimizer
from support.training.progress import Progress, progress_in

FREE_TO_CHANGE = {"device", "clusters", "epochs"}
FRESH = "--fresh starts a new run"
KEYS = ("run", "progress", "model", "optimizer")


class Paths(NamedTuple):
    """The files of a training, in one folder."""

    modelfile: Path
    resume_file: Path
    csv_file: Path
    curves: Path


def paths(options: settings.Settings, part: int) -> Paths:
    """Where a training writes; unless `modelfile` has its default name, history and curves have its name in theirs."""
    modelfile = options.output(options.modelfile)
    section, name = {1: ("classifier", "part1"), 2: ("autoencoder", "auto")}[part]
    name += "" if modelfile.name == settings.SECTIONS[section]["modelfile"].default else f"_{modelfile.stem}"
    others = f"{modelfile.stem}.resume.pth", f"history_{name}.csv", f"training_{name}.png"
    return Paths(modelfile, *map(modelfile.with_name, others))


def check_paths(options: settings.Settings, part: int) -> None:
    """Raise UserError where the files of a training cannot be written, or would replace other files; creates nothing.

    Only the first process checks, as it alone writes.
    """
    if processes.rank() > 0:
        return
    folders.check_outputs(options)
    modelfile = options.output(options.modelfile)
    if modelfile.suffix != ".pth" or modelfile.stem.lower().endswith(".resume"):
        got = console.quoted(options.modelfile)
        raise options.error("modelfile", f"got {got}, expected a name that ends in .pth, but not in .resume.pth")
    with options.checking("modelfile" if os.path.isabs(options.modelfile) else "outputdir"):
        files.check_folder(modelfile.parent)
    for path in paths(options, part):
        if os.path.isdir(path):
            raise options.error("modelfile", f"{console.quoted(path)} is a folder")
        weights = getattr(options, "pretrained", False)
        if isinstance(weights, str) and os.path.realpath(weights) == os.path.realpath(path):
            raise options.error("pretrained", "this run would overwrite it; set another modelfile or outputdir")


def identity(options: settings.Settings, metadata: dict[str, object], model: nn.Module) -> dict[str, object]:
    """What has to be the same for a run to go on: the settings that shape its result, paintings, pretrained weights.

    model: as it is before training. Raises UserError in a process whose own differ from the first one's, as they can on
    another machine.
    """
    kept = {name: value for name, value in options.values().items() if name not in FREE_TO_CHANGE}
    if isinstance(kept.get("pretrained"), str):  # what the file holds makes the run, not its name
        weights = model.state_dict()
        values = [weights[name].numpy(force=True).tobytes() for name in weights if "trunk." in name]
        kept["pretrained"] = f"a file ({hashlib.sha256(b''.join(values)).hexdigest()[:16]})"
    paintings = metadata["fingerprints"].numpy().tobytes() + json.dumps(metadata["counts"]).encode()
    number = f"{len(metadata['fingerprints'])} in {len(metadata['counts'])} styles"
    kept["paintings"] = f"{number} ({hashlib.sha256(paintings).hexdigest()[:16]})"
    own = kept | {"epochs": options.epochs}
    if differences := _differences(processes.from_first(own), own, "{} is {} in the first process and {} here"):
        raise UserError(f"process {processes.rank()} on {platform.node()} is of another run: {differences}")
    return kept


def _differences(was: dict[str, object], run: dict[str, object], words: str) -> str:
    shown = {name: (console.shown(was.get(name)), console.shown(run.get(name))) for name in {**run, **was}}
    return "; ".join(words.format(name, *values) for name, values in shown.items() if values[0] != values[1])


def write(
    path: Path, run: dict[str, object], progress: Progress, weights: dict[str, Tensor], optimizer: Optimizer
) -> None:
    """Write a resume file; run: what `identity` gives; weights: those of the newest row."""
    state = {"run": run, "progress": vars(progress), "model": weights, "optimizer": optimizer.state_dict()}
    files.write_tensors(path, {"version": checkpoints.VERSION, **state})


def read(paths: Paths, run: dict[str, object], count: int) -> dict[str, object] | None:
    """The state in a run's resume file, None where there is none; count: the requested number of epochs.

    Raises UserError for the file of another run (with each difference), of another version and a damaged one, and when
    the checkpoint beside it is not the run's or is there alone.
    """
    where, modelfile = console.printable(paths.resume_file), console.printable(paths.modelfile)
    if not os.path.exists(paths.resume_file):
        if os.path.exists(paths.modelfile):
            raise UserError(f"{modelfile}: exists, but no resume file beside it; {FRESH}")
        return None
    try:
        state = checkpoints.load(paths.resume_file)
    except UserError as error:
        raise UserError(f"{error}; {FRESH}") from None
    if not isinstance(state, dict) or not isinstance(state.get("run"), dict):
        raise UserError(f"{where}: is not a resume file; {FRESH}")
    checkpoints.check_version(state, f"{where}: ", FRESH)
    progress = progress_in(state["progress"]) if all(isinstance(state.get(key), dict) for key in KEYS) else None
    if progress is None:
        raise UserError(f"{where}: is damaged; {FRESH}")
    done = progress.done()
    if differences := _differences(state["run"], run, "{} was {} and is {}"):
        raise UserError(f"{where}: belongs to another run: {differences}; {FRESH}")
    if count < done < progress.ends[-1]:
        finished = f"the run was planned for {progress.ends[-1]} epochs and has finished {done}"
        raise UserError(f"{where}: {finished}: epochs is {count}, expected {done} or more; {FRESH}")
    best = progress.rows[: progress.best + 1]
    if len(best) < len(progress.rows) and not is_kept(paths.modelfile, best):
        raise UserError(f"{modelfile}: is not epoch {best[-1]['epoch']} of the run, its best; {FRESH}")
    return state


def plan(ends: list[int], done: int, epochs: int) -> list[int]:
    """The last epoch of each schedule of a run that goes on after `done` epochs, up to `epochs`.

    ends: those saved; of them only schedules that have begun stay. Says what the learning rate does if it was planned
    for fewer or more epochs.
    """
    begun = [end for before, end in itertools.pairwise([0, *ends]) if before < done]
    if not begun:
        return [epochs]
    if begun[-1] < epochs:
        more = console.count(epochs - begun[-1], "more epoch")
        console.say(f"{more} after the last one planned: the learning rate goes on as in a run of {epochs}")
        return [*begun, epochs]
    if max(done, epochs) < begun[-1]:
        console.say(
            f"the run ends before epoch {begun[-1]}, which was planned: the learning rate does not fall to zero"
        )
        return begun if epochs > done else [*begun[:-1], done]
    return begun


def restore(state: dict[str, object], model: nn.Module, optimizer: Optimizer, where: str) -> Progress:
    """Fill model and optimizer from a state that `read` gave, and return its progress.

    Raises UserError, beginning with `where`, for a damaged one.
    """
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        if console.is_out_of_memory(error):
            raise
        raise UserError(f"{where}: is damaged: {console.reason(error)}; {FRESH}") from None
    return Progress(**state["progress"])


def is_kept(modelfile: Path, history: list[dict[str, object]]) -> bool:
    """Whether the checkpoint `modelfile` is that of the last row of `history`."""
    try:
        checkpoint = checkpoints.load(modelfile)
    except UserError:
        return False
    return isinstance(checkpoint, dict) and checkpoint.get("history") == history
