"""What a training measures, a row per epoch and per fit: in words, in a CSV file while it runs, and as curves."""

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from support.system import console, files, plotting
from support.system.console import UserError
from support.training.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = ("accuracy", "f1")  # how the names of metrics end that are printed in per cent


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds: "2:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def in_words(row: dict[str, object]) -> str:
    """A row's metrics as text to print: "training loss 1.234  validation accuracy 56.7%"."""
    return "  ".join(
        f"{name.replace('_', ' ').replace('f1', 'F1')} {value:{'.1%' if name.endswith(SHARES) else '.4g'}}"
        for name, value in row.items()
        if name not in ("epoch", "kind", "learning_rate")
    )


def say_result(progress: Progress, score: str, modelfile: str) -> None:
    """Print how long a run has trained, and what it kept."""
    best = progress.rows[progress.best]
    when = f"after epoch {best['epoch']}" if best["epoch"] else "before training"
    kept = {"start": f"what was fitted {when}", "fitted": f"the head fitted {when}", "epoch": f"epoch {best['epoch']}"}
    reached = f" ({in_words({score: best[score]})})" if score in best else ""
    console.say(
        f"finished: {console.count(progress.done(), 'epoch')} trained; {modelfile} holds {kept[best['kind']]}{reached}"
    )


def write_csv(path: Path, rows: list[dict[str, object]], times: list[dict[str, float]], curves: Path) -> None:
    """Make a CSV file hold rows with their times, and remove the picture `curves` of other ones.

    What is missing is appended, so that `tail -f` shows it. A file that begins otherwise is written anew, whole. Raises
    UserError when it cannot be written.
    """
    merged = [row | time for row, time in zip(rows, times, strict=True)]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, max(merged, key=len), restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(merged)
    wanted = text.getvalue().encode()
    try:
        old = path.read_bytes() if path.exists() else b""
        if old != wanted or not rows[-1]["epoch"]:
            curves.unlink(missing_ok=True)
        if not old or not wanted.startswith(old) or not os.access(path, os.W_OK):  # another user's: replaced
            files.write_whole(path, lambda file: file.write(wanted))
        elif old != wanted:
            with open(path, "ab") as file:
                file.write(wanted[len(old) :])
    except OSError as error:
        raise UserError(f"{console.printable(path)}: cannot be written: {error.strerror}") from None


def draw(rows: list[dict[str, object]], panels: dict[str, dict[str, str]], title: str) -> "Figure":
    """Curves over epochs: a panel for each title in `panels`, a line for each of its columns, with its label.

    A fitted head has a mark of its own beside the curve of the head that is trained.
    """
    measured = {column for row in rows for column in row}
    panels = {label: columns for label, columns in panels.items() if measured & columns.keys()}
    figure = plotting.new(5.5 * len(panels), 4, dpi=120)
    figure.suptitle(title)
    for axes, (label, columns) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, (column, name) in enumerate(columns.items()):
            marks = {False: {"marker": "."}, True: {"marker": "D", "linestyle": "", "mfc": "none"}}
            for is_fit, style in marks.items():
                points = [(r["epoch"], r[column]) for r in rows if column in r and (r["kind"] == "fitted") == is_fit]
                if points:
                    name += ", fitted head" * is_fit
                    axes.plot(*zip(*points, strict=True), color=f"C{number}", label=name, **style)
        has_start = rows[0]["epoch"] == 0 and rows[0].keys() & columns.keys()
        axes.set(xlabel="epoch (0: before training)" if has_start else "epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=9, frameon=False)  # above the curves
    return figure
