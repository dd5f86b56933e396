"""What a run leaves behind to go on from, and which run may go on from it."""

import hashlib
import json
import os
from pathlib import Path

from support import checkpoints, console, files, settings
from support.console import UserError

FREE_TO_CHANGE = {"testingdir", "outputdir", "cachedir", "device", "modelfile", "clusters", "epochs"}
FRESH = "--fresh starts a new run"


def identity(options: settings.Settings, contents: dict[str, object]) -> dict[str, object]:
    """What has to be the same for a run to go on: all settings that shape its result, and the paintings."""
    kept = {name: value for name, value in options.values().items() if name not in FREE_TO_CHANGE}
    paintings = contents["fingerprints"].numpy().tobytes() + json.dumps(contents["counts"]).encode()
    return kept | {"paintings": hashlib.sha256(paintings).hexdigest()[:16]}


def write(path: Path, state: dict[str, object]) -> None:
    """Write a resume file: run (its identity), ends (the last epoch of each schedule), history, model, moments."""
    files.write_tensors(path, {"version": checkpoints.VERSION, **state})


def read(path: Path, modelfile: Path, run: dict[str, object], epochs: int) -> dict[str, object] | None:
    """The state in a resume file, None where there is none; `epochs` is how many the run shall have.

    Raises UserError for the file of another run (with each difference), of another version and a damaged one, and when
    there is only one of resume file and checkpoint.
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
    kinds = {"run": dict, "history": list, "model": dict}
    if not isinstance(state, dict) or not all(isinstance(state.get(key), kind) for key, kind in kinds.items()):
        raise UserError(f"{where}: is not a resume file; {FRESH}")
    checkpoints.check_version(state, f"{where}: ", FRESH)
    was, now, ends, done = dict(state["run"]), dict(run), state.get("ends"), len(state["history"])
    if not ends or [row.get("epoch") for row in state["history"]] != list(range(1, done + 1)):
        raise UserError(f"{where}: is damaged; {FRESH}")
    if ends[-1] > epochs > done:  # in the middle of a longer schedule
        was["epochs"], now["epochs"] = ends[-1], epochs
    differences = [
        f"{name} was {console.shown(was.get(name))} and is {console.shown(now.get(name))}"
        for name in {**now, **was}
        if was.get(name) != now.get(name)
    ]
    if differences:
        raise UserError(f"{where}: belongs to another run: {'; '.join(differences)}; {FRESH}")
    if not os.path.exists(modelfile):
        raise UserError(f"{console.printable(modelfile)}: the best epoch of the run is missing; {FRESH}")
    return state
