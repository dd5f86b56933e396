"""What several figures share."""

import io
import os
import warnings
from pathlib import Path

from support import console, files, processes


def caption(style: str) -> str:
    """A style's name as figures show it: what any font can draw, and not too long for an axis."""
    text = console.printable(style.replace("_", " "))
    return text if len(text) <= 40 else text[:39] + "\N{HORIZONTAL ELLIPSIS}"


def write_figure(path: str | os.PathLike, figure: object) -> None:
    """Write a matplotlib figure as PNG, whole or not at all."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # of a style's name: drawn as an empty box
        figure.savefig(picture, format="png")
    files.write_whole(path, lambda file: file.write(picture.getbuffer()))


def draw_history(history: list[dict[str, float]], panels: dict[str, list[str]], title: str, path: Path) -> None:
    """Draw curves over epochs: a panel for each title in `panels`, a line for each of its columns in `history`."""
    if processes.rank() != 0:  # one process writes
        return
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained", dpi=120)
    figure.suptitle(title)
    for axes, (label, columns) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for column in columns:
            rows = [row for row in history if column in row]
            if rows:
                name = column.replace("_", " ").replace("f1", "F1")
                axes.plot([row["epoch"] for row in rows], [row[column] for row in rows], marker=".", label=name)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    write_figure(path, figure)
