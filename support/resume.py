"""The state saved to resume a run, and which run may resume from it."""

import hashlib
import json
import os
from pathlib import Path

import torch
from torch import nn

from support import checkpoints, console, files, settings
from support.console import UserError

FREE_TO_CHANGE = {"device", "clusters", "epochs"}
FRESH = "--fresh starts a new run"
# start: metrics before the first epoch; times: rates and seconds of the epochs; best: the epoch in modelfile, 0 before
# the first; ends: the last epoch of each schedule; scaler: the scale of float16's gradients, else empty
KEYS = {
    "run": dict, "start": dict, "history": list, "times": list, "best": int, "ends": list, "model": dict,
    "moments": dict, "scaler": dict,
}  # fmt: skip


def identity(options: settings.Settings, contents: dict[str, object]) -> dict[str, object]:
    """What has to be the same for a run to go on: the settings that shape its result, paintings, pretrained weights."""
    kept = {name: value for name, value in options.values().items() if name not in FREE_TO_CHANGE}
    paintings = contents["fingerprints"].numpy().tobytes() + json.dumps(contents["counts"]).encode()
    if isinstance(kept.get("pretrained"), str):  # what it holds makes the run, not its name
        digest = hashlib.sha256(Path(options.pretrained).read_bytes()).hexdigest()
        kept["pretrained"] = f"a file ({digest[:16]})"
    number = f"{len(contents['fingerprints'])} in {len(contents['counts'])} styles"
    return kept | {"paintings": f"{number} ({hashlib.sha256(paintings).hexdigest()[:16]})"}


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
    was, end, done = state["run"], state["ends"][-1], len(state["history"])
    differences = [
        f"{name} was {console.shown(was.get(name))} and is {console.shown(run.get(name))}"
        for name in {**run, **was}
        if console.shown(was.get(name)) != console.shown(run.get(name))
    ]
    if differences:
        raise UserError(f"{where}: belongs to another run: {'; '.join(differences)}; {FRESH}")
    if epochs < end and done < end:
        planned = f"the run was planned for {end} epochs and has finished {done}"
        raise UserError(f"{where}: {planned}: epochs is {epochs}, expected {end} or more; {FRESH}")
    if state["best"] < done and not is_kept(modelfile, state["history"][: state["best"]]):
        raise UserError(f"{console.printable(modelfile)}: is not epoch {state['best']} of the run, its best; {FRESH}")
    return state


def _is_consistent(state: dict[str, object]) -> bool:
    epochs = [row.get("epoch") if isinstance(row, dict) else None for row in state["history"]]
    done = len(epochs)
    counted = epochs == list(range(1, done + 1)) and len(state["times"]) == done
    return counted and 0 <= state["best"] <= done and bool(state["ends"]) and done <= state["ends"][-1]


def restore(
    state: dict[str, object], model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
    where: str,
) -> None:  # fmt: skip
    """Fill model, optimizer and scaler from a state. Raises UserError, beginning with `where`, when it does not fit."""
    try:
        model.load_state_dict(state["model"])
        groups = optimizer.state_dict()["param_groups"]  # these follow from the settings
        optimizer.load_state_dict({"state": state["moments"], "param_groups": groups})
        if state["scaler"]:
            scaler.load_state_dict(state["scaler"])
    except Exception as error:  # a damaged file can raise anything
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
