"""What a training measures, a row per epoch: printed, kept in a CSV file while it runs, and drawn as curves."""

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from support.system import console, files, plotting, settings
from support.system.console import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = ("accuracy", "macro_f1")  # figures printed in per cent


def say_epoch(row: dict[str, float], epochs: int, rate: float, left: float, saved: str) -> None:
    """Print an epoch's metrics; rate: paintings per second; left: seconds to the end."""
    clock = f"{int(left) // 60}:{int(left) % 60:02d}"
    console.say(f"epoch {row['epoch']}/{epochs}  {in_words(row)}  {rate:,.0f} paintings/s  {clock} left{saved}")


def say_result(rows: list[dict[str, float]], best: int, score: str, modelfile: str) -> None:
    """Print how long a run has trained and what it kept; rows: the metrics before the first epoch and of each epoch."""
    kept = best or "0 (before training)"
    reached = f", {in_words({score: rows[best][score]})}" if score in rows[best] else ""
    console.say(f"finished: {console.count(len(rows) - 1, 'epoch')} trained, {modelfile} is epoch {kept}{reached}")


def in_words(row: dict[str, float]) -> str:
    """An epoch's metrics as text to print: "training loss 1.234  accuracy 56.7%"."""
    return "  ".join(
        f"{name.replace('_', ' ')} {value:.1%}" if name in SHARES else f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in row.items()
        if name not in ("epoch", "learning_rate")
    )


def write_csv(
    path: Path, history: list[dict[str, float]], times: list[dict[str, float]], curves: Path | None = None
) -> None:
    """Make a CSV file hold the history with its times, a row per epoch.

    What is missing is appended, so that `tail -f` shows it. A file that begins otherwise is written anew, whole;
    without epochs there is none. The picture `curves` of another history is removed before. Raises UserError when it
    cannot be written.
    """
    text, last = io.StringIO(newline=""), history[-1] | times[-1] if history else {}
    table = csv.DictWriter(text, last, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(row | time for row, time in zip(history, times, strict=True))
    wanted = text.getvalue().encode()
    try:
        old = path.read_bytes() if path.exists() else b""
        if curves and (old != wanted or not history):
            curves.unlink(missing_ok=True)
        if not history:
            path.unlink(missing_ok=True)
        elif not old or not wanted.startswith(old) or not os.access(path, os.W_OK):  # another user's: replaced
            files.write_whole(path, lambda file: file.write(wanted))
        elif old != wanted:
            with open(path, "ab") as file:
                file.write(wanted[len(old) :])
    except OSError as error:
        raise UserError(f"{console.printable(path)}: cannot be written: {error.strerror}") from None


def write_curves(
    options: settings.Settings, name: str, start: dict[str, float], history: list[dict[str, float]],
    panels: dict[str, dict[str, str]], title: str,
) -> None:  # fmt: skip
    """Draw a history and the metrics before it (`start`) into a file beside `modelfile`; none if there is no epoch."""
    place, rows = str(Path(options.modelfile).with_name(name)), [{"epoch": 0, **start}, *history]
    plotting.write_all(options, {place: lambda: draw(rows, panels, title)} if history else {})


def draw(history: list[dict[str, float]], panels: dict[str, dict[str, str]], title: str) -> "Figure":
    """Curves over epochs: a panel for each title in `panels`, a line for each of its columns, with its label."""
    measured = {column for row in history for column in row}
    panels = {label: columns for label, columns in panels.items() if measured & columns.keys()}
    figure = plotting.new(5.5 * len(panels), 4, dpi=120)
    figure.suptitle(title)
    for axes, (label, columns) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for column, name in columns.items():
            rows = [row for row in history if column in row]
            if rows:
                axes.plot([row["epoch"] for row in rows], [row[column] for row in rows], marker=".", label=name)
        has_start = history[0]["epoch"] == 0 and history[0].keys() & columns.keys()
        axes.set(xlabel="epoch (0: before training)" if has_start else "epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=9, frameon=False)  # above the curves
    return figure
