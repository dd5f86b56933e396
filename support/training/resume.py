"""Where a run writes, the state saved to resume it, and which run may resume from it."""

import hashlib
import itertools
import json
import os
import platform
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from support.paintings import folders
from support.system import console, files, processes, settings
from support.system.console import UserError
from support.training import checkpoints

FREE_TO_CHANGE = {"device", "clusters", "epochs"}
FRESH = "--fresh starts a new run"
# start: metrics before the first epoch; times: rates and seconds of the epochs; best: the epoch in modelfile, 0 before
# the first; ends: the last epoch of each schedule; scaler: the scale of float16's gradients, else empty
KEYS = {
    "run": dict, "start": dict, "history": list, "times": list, "best": int, "ends": list, "model": dict,
    "moments": dict, "scaler": dict,
}  # fmt: skip


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


def identity(options: settings.Settings, contents: dict[str, object]) -> dict[str, object]:
    """What has to be the same for a run to go on: the settings that shape its result, paintings, pretrained weights.

    Raises UserError in a process whose own differ from the first one's, as they can on another machine.
    """
    kept = {name: value for name, value in options.values().items() if name not in FREE_TO_CHANGE}
    paintings = contents["fingerprints"].numpy().tobytes() + json.dumps(contents["counts"]).encode()
    if isinstance(kept.get("pretrained"), str):  # what it holds makes the run, not its name
        digest = hashlib.sha256(Path(options.pretrained).read_bytes()).hexdigest()
        kept["pretrained"] = f"a file ({digest[:16]})"
    number = f"{len(contents['fingerprints'])} in {len(contents['counts'])} styles"
    kept["paintings"] = f"{number} ({hashlib.sha256(paintings).hexdigest()[:16]})"
    own = kept | {"epochs": options.epochs}
    if differences := _differences(processes.from_first(own), own, "{} is {} in the first process and {} here"):
        raise UserError(f"process {processes.rank()} on {platform.node()} is of another run: {differences}")
    return kept


def _differences(was: dict[str, object], run: dict[str, object], words: str) -> str:
    shown = {name: (console.shown(was.get(name)), console.shown(run.get(name))) for name in {**run, **was}}
    return "; ".join(words.format(name, *values) for name, values in shown.items() if values[0] != values[1])


def write(path: Path, state: dict[str, object]) -> None:
    """Write a resume file; its keys are those of `KEYS`, and version."""
    files.write_tensors(path, {"version": checkpoints.VERSION, **state})


def read(path: Path, modelfile: Path, run: dict[str, object], epochs: int) -> dict[str, object] | None:
    """The state in a resume file, None where there is none; `epochs` is the requested number.

    Raises UserError for the file of another run (with each difference), of another version and a damaged one, and when
    the checkpoint beside it is not the run's or is there alone.
    """
    where = console.printable(path)
    if not os.path.exists(path):
        if os.path.exists(modelfile):
            raise UserError(f"{console.printable(modelfile)}: exists, but no resume file beside it; {FRESH}")
        return None
    try:
        state = checkpoints.load(path)
    except UserError as error:
        raise UserError(f"{error}; {FRESH}") from None
    if not isinstance(state, dict) or not isinstance(state.get("run"), dict):
        raise UserError(f"{where}: is not a resume file; {FRESH}")
    checkpoints.check_version(state, f"{where}: ", FRESH)
    if not all(isinstance(state.get(key), kind) for key, kind in KEYS.items()) or not _is_consistent(state):
        raise UserError(f"{where}: is damaged; {FRESH}")
    end, done = state["ends"][-1], len(state["history"])
    if differences := _differences(state["run"], run, "{} was {} and is {}"):
        raise UserError(f"{where}: belongs to another run: {differences}; {FRESH}")
    if epochs < done < end:
        finished = f"the run was planned for {end} epochs and has finished {done}"
        raise UserError(f"{where}: {finished}: epochs is {epochs}, expected {done} or more; {FRESH}")
    if state["best"] < done and not is_kept(modelfile, state["history"][: state["best"]]):
        raise UserError(f"{console.printable(modelfile)}: is not epoch {state['best']} of the run, its best; {FRESH}")
    return state


def _is_consistent(state: dict[str, object]) -> bool:
    rows, done = [state["start"], *state["history"], *state["times"]], len(state["history"])
    if not all(isinstance(row, dict) for row in rows) or len(state["times"]) != done:
        return False
    numbers = [*state["ends"], *(value for row in rows for value in row.values())]
    counted = [row.get("epoch") for row in state["history"]] == list(range(1, done + 1))
    typed = all(isinstance(number, int | float) for number in numbers)
    return typed and counted and 0 <= state["best"] <= done and bool(state["ends"]) and done <= state["ends"][-1]


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
        console.say(f"{more} after the last one planned: the learning rate rises again and falls to zero")
        return [*begun, epochs]
    if max(done, epochs) < begun[-1]:
        console.say(
            f"the run ends before epoch {begun[-1]}, which was planned: the learning rate does not fall to zero"
        )
    return begun


def restore(
    state: dict[str, object], model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
    where: str,
) -> None:  # fmt: skip
    """Fill model, optimizer and scaler from a state. Raises UserError, beginning with `where`, when it does not fit."""
    try:
        model.load_state_dict(state["model"])
        groups = optimizer.state_dict()["param_groups"]  # these follow from the settings
        optimizer.load_state_dict({"state": state["moments"], "param_groups": groups})
        for parameter, moments in optimizer.state.items():
            if any(moments[name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq")):
                raise ValueError("the optimizer's moments have other shapes than the weights")
        if state["scaler"]:
            scaler.load_state_dict(state["scaler"])
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:  # of a damaged state
        if console.is_out_of_memory(error):
            raise
        raise UserError(f"{where}: is damaged: {console.reason(error)}; {FRESH}") from None


def is_kept(modelfile: Path, history: list[dict[str, float]]) -> bool:
    """Whether the checkpoint `modelfile` is that of the last epoch of `history`."""
    try:
        checkpoint = checkpoints.load(modelfile)
    except UserError:
        return False
    return isinstance(checkpoint, dict) and checkpoint.get("history") == history
