"""What a training measures, a row per epoch: printed, kept in a CSV file while it runs, and drawn as curves."""

import csv
import io
import os
from pathlib import Path

from support import console, figures, files, processes

SHARES = ("accuracy", "macro_f1")  # figures printed in per cent


def say_epoch(row: dict[str, float], epochs: int, rate: float, left: float, saved: str) -> None:
    """Print an epoch's figures; rate: paintings per second; left: seconds to the end."""
    texts = [
        f"{name.replace('_', ' ')} {value:.1%}" if name in SHARES else f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in row.items()
        if name not in ("epoch", "learning_rate")
    ]
    clock = f"{int(left) // 60}:{int(left) % 60:02d}"
    console.say(f"epoch {row['epoch']}/{epochs}  {'  '.join(texts)}  {rate:,.0f} paintings/s  {clock} left{saved}")


def write_csv(path: Path, history: list[dict[str, float]], times: dict[int, dict[str, float]]) -> None:
    """Write the history as CSV, whole; `times` holds seconds and images per second by epoch, where they are known.

    Times that an earlier run wrote are kept. Only the first process writes.
    """
    if processes.rank() != 0 or not history:
        return
    columns = [*history[-1], "images_per_second", "seconds"]
    old = {}
    if os.path.exists(path):
        with open(path, newline="") as file:
            old = {row.get("epoch"): row for row in csv.DictReader(file)}
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
    table.writeheader()
    for row in history:
        earlier = old.get(str(row["epoch"]), {})
        kept = {name: earlier[name] for name in columns[-2:] if earlier.get(name)}
        table.writerow(kept | row | times.get(row["epoch"], {}))
    files.write_whole(path, lambda file: file.write(text.getvalue().encode()))


def draw(history: list[dict[str, float]], panels: dict[str, dict[str, str]], title: str, path: Path) -> None:
    """Draw curves over epochs: a panel for each title in `panels`, a line for each of its columns, with its label."""
    if processes.rank() != 0:
        return
    figure = figures.new(5.5 * len(panels), 4, dpi=120)
    figure.suptitle(title)
    for axes, (label, columns) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for column, name in columns.items():
            rows = [row for row in history if column in row]
            if rows:
                axes.plot([row["epoch"] for row in rows], [row[column] for row in rows], marker=".", label=name)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figures.write(path, figure)
