"""What all figures share: how they are made, captioned and written. matplotlib is imported with the first figure."""

import io
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from support import console, files, processes, settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new(width: float, height: float, dpi: int) -> "Figure":
    """An empty figure, width and height in inches, at most 4,000 pixels a side.

    Default style and the Agg backend: a notebook's MPLBACKEND or a user's matplotlibrc (text.usetex) must not fail.
    """
    os.environ["MPLBACKEND"] = "agg"  # read when matplotlib is imported
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcdefaults()
    return Figure((width, height), dpi=min(dpi, 4000 / width, 4000 / height), layout="constrained")


def caption(style: str) -> str:
    """A style's name as figures show it: printable, and at most 40 characters."""
    text = console.printable(style.replace("_", " "))
    return text if len(text) <= 40 else text[:39] + "\N{HORIZONTAL ELLIPSIS}"


def write(path: str | os.PathLike, figure: "Figure") -> None:
    """Write a figure as PNG, whole or not at all."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # of a style's name: drawn as an empty box
        figure.savefig(picture, format="png")
    files.write_whole(path, lambda file: file.write(picture.getbuffer()))


def write_all(options: settings.Settings, pictures: dict[str, Callable[[], "Figure"]]) -> list[str]:
    """Draw figures and write them under their names into outputdir, from the first process only.

    Returns the names of those written: one that fails is a warning, since everything else must still be written.
    """
    written = []
    for name, draw in pictures.items() if processes.rank() == 0 else ():
        try:
            write(options.output(name), draw())
            written.append(name)
        except console.UserError:
            raise
        except Exception as error:
            console.warn(f"{name} is not drawn: {console.reason(error)}")
    return written
