"""Figures: drawing never loses a training, whatever the user's matplotlib says; curves and printed epochs."""

import dataclasses
import io
import warnings

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from PIL import Image

from support.system import console, plotting, settings
from support.training import history

pytestmark = pytest.mark.figures

ROWS = [{"epoch": i, "kind": "epoch", "training_loss": 1 / i, "accuracy": 0.1 * i} for i in (1, 2, 3)]
PANELS = {"loss": {"training_loss": "training", "validation_loss": "never measured"}, "share": {"accuracy": "accuracy"}}


def test_a_users_matplotlib_settings_do_not_matter(tmp_path):
    """LaTeX that is not installed, and another size and format (test_processes.py has a backend that is missing)."""
    plotting.write(tmp_path / "plain.png", history.draw(ROWS, PANELS, "title $x"))
    matplotlib.rcParams.update({"text.usetex": True, "figure.dpi": 7, "savefig.format": "svg"})
    plotting.write(tmp_path / "users.png", history.draw(ROWS, PANELS, "title $x"))
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "users.png").read_bytes()


def test_an_error_does_not_keep_other_figures_from_being_written(tmp_path):
    (tmp_path / "folder.png").mkdir()
    options = settings.read("classifier", "", ["--outputdir", str(tmp_path)])
    pictures = {"folder.png": lambda: plotting.new(1, 1, 50), "bug.png": lambda: 1 / 0}
    for name, error in [("folder.png", console.UserError), ("bug.png", ZeroDivisionError)]:
        with pytest.raises(error):
            plotting.write_all(options, {name: pictures[name], f"after {name}": lambda: plotting.new(1, 1, 50)})
        assert (tmp_path / f"after {name}").exists()


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """A list of fonts of the test's own, and none that is known already."""
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", list(manager.ttflist))
    monkeypatch.setattr(plotting, "FAMILIES", {})
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path) for path in tmp_path.glob("*.ttf")])
    return manager


def drawn(folder, *texts):
    """Write a figure with texts, and draw it again: the characters that no font had."""
    figure = plotting.new(3, 2, 50)
    axes = figure.subplots()
    axes.set_title(texts[0], parse_math=False)
    axes.set_yticks(range(len(texts)), texts, parse_math=False)
    plotting.write(folder / "a.png", figure)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(io.BytesIO())
    return [str(warning.message) for warning in caught if "Glyph" in str(warning.message)]


def make_font(path, characters):
    """The default font under another name, with more characters."""
    font = TTFont(font_manager.findfont("DejaVu Sans"))
    for table in (table for table in font["cmap"].tables if table.isUnicode()):
        table.cmap |= dict.fromkeys(map(ord, characters), "A")
    for record in font["name"].names:
        record.string = path.stem if record.nameID in (1, 16) else record.string
    font.save(path)


def test_a_name_that_the_font_lacks_is_drawn_with_an_installed_one(tmp_path, fonts, capsys):
    """Installed after matplotlib made its list; more than one font is needed; a damaged one does no harm."""
    make_font(tmp_path / "Squares.ttf", "\u65e5\u672c")
    make_font(tmp_path / "Others.ttf", "\ud55c")
    (tmp_path / "broken.ttf").write_text("no font")
    fonts.ttflist.append(dataclasses.replace(fonts.ttflist[0], name="Gone", fname=str(tmp_path / "gone.ttf")))
    assert drawn(tmp_path, "Ukiyo-e \u65e5\u672c", "\ud55c\u65e5", "Baroque") == []
    assert set(plotting.FAMILIES.values()) == {"Squares", "Others"} and capsys.readouterr().err == ""


def test_a_font_that_is_missing_is_named_once_and_none_is_looked_for_without_need(
    tmp_path, fonts, monkeypatch, capsys, recwarn
):
    for text in "\u65e5\u672c", "\u65e5\ud55c":
        assert drawn(tmp_path, text, "Baroque")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "\u65e5" in line and "fonts-noto-cjk" in line
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: 1 / 0)
    assert drawn(tmp_path, "Caf\xe9 \u0416\u03a9 $x", "\u65e5") and capsys.readouterr().err == ""


def test_captions_and_figures_are_of_bounded_size(tmp_path):
    assert plotting.caption("Ukiyo_e") == "Ukiyo e" and plotting.caption("a\nb\x1b[31m").isprintable()
    assert len(plotting.caption("x" * 200)) == 40 and plotting.caption("x" * 40) == "x" * 40
    plotting.write(tmp_path / "a.png", plotting.new(400, 2, 50))
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.size) == ("PNG", (4000, 20))


def test_curves_show_what_was_measured():
    rows = [{"epoch": 0, "kind": "fitted", "accuracy": 0.5}, *ROWS, {"epoch": 3, "kind": "fitted", "accuracy": 0.6}]
    left, right = history.draw(rows, PANELS, "A title").axes
    (line,) = left.lines  # what was never measured has no line
    assert line.get_label() == "training" and (left.get_ylabel(), right.get_ylabel()) == ("loss", "share")
    assert np.allclose(line.get_xydata(), [[row["epoch"], row["training_loss"]] for row in ROWS])
    trained, fitted = right.lines
    assert np.allclose(fitted.get_xydata(), [[0, 0.5], [3, 0.6]]) and list(trained.get_xdata()) == [1, 2, 3]
    assert fitted.get_label().endswith("fitted head") and fitted.get_marker() != trained.get_marker()
    assert [axes.get_xlabel() for axes in (left, right)] == ["epoch", "epoch (0: before training)"]
    (only,) = history.draw([{"epoch": 1, "kind": "epoch", "training_loss": 1.0}], PANELS, "A title").axes
    assert only.get_ylabel() == "loss" and [tick for tick in only.get_xticks() if tick % 1] == []
