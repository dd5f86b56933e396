"""What all figures share: how they are made, captioned and written. matplotlib is imported with the first figure."""

import contextlib
import io
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from support.system import console, files, processes, settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAMILIES: dict[str, str] = {}  # a character that the default font lacks -> a font's family that has it, if any


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
    _add_fonts(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # drawn as an empty box; `_add_fonts` has said so
        figure.savefig(picture, format="png")
    files.write_whole(path, lambda file: file.write(picture.getbuffer()))


def _add_fonts(figure: "Figure") -> None:
    """Let texts with characters that the default font lacks use installed fonts too; warns, once, if there is none."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    default = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    texts = figure.findobj(Text)
    lacking = {c for text in texts for c in text.get_text() if c.isprintable() and not default.get_char_index(ord(c))}
    if new_ones := lacking - FAMILIES.keys():
        families = _find_families(new_ones)
        if len(families) < len(new_ones) and "" not in FAMILIES.values():
            console.warn(
                f"figures show boxes for what no installed font has, such as {min(new_ones - families.keys())}; on "
                "Debian and Ubuntu fonts-noto-cjk brings Chinese, Japanese and Korean, fonts-noto-core most others"
            )
        FAMILIES.update(dict.fromkeys(new_ones, "") | families)
    if families := sorted({FAMILIES[character] for character in lacking} - {""}):
        for text in texts:
            text.set_fontfamily([*text.get_fontfamily(), *families])


def _find_families(characters: set[str]) -> dict[str, str]:
    """Character -> an installed font's family that has it, one without serifs before others."""
    from matplotlib.font_manager import findSystemFonts, fontManager
    from matplotlib.ft2font import FT2Font

    for path in set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}:
        with contextlib.suppress(Exception):  # a damaged font can raise anything
            fontManager.addfont(path)  # matplotlib's list is older
    families = {}
    for font in sorted(fontManager.ttflist, key=lambda font: "Sans" not in font.name):
        if "lastresort" not in font.name.replace(" ", "").lower():  # it has a box for each
            with contextlib.suppress(OSError, RuntimeError):  # removed or damaged
                face = FT2Font(font.fname)
                has = {c for c in characters - families.keys() if face.get_char_index(ord(c))}
                families |= dict.fromkeys(has, font.name)
    return families


def write_all(options: settings.Settings, pictures: dict[str, Callable[[], "Figure"]]) -> None:
    """Draw figures and write them under their names into outputdir, from the first process only.

    The first error is raised after the others are drawn: UserError for a file that cannot be written.
    """
    errors = []
    for name, draw in pictures.items() if processes.rank() == 0 else ():
        try:
            write(options.output(name), draw())
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
