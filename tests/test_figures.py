"""Figures: drawing never loses a training, whatever the user's matplotlib says; curves and printed epochs."""

import jobs
import matplotlib
import numpy as np
import pytest
from PIL import Image

from support import figures, history

pytestmark = pytest.mark.figures

ROWS = [{"epoch": i, "training_loss": 1 / i, "accuracy": 0.1 * i} for i in (1, 2, 3)]
PANELS = {"loss": {"training_loss": "training", "validation_loss": "never measured"}, "share": {"accuracy": "accuracy"}}


def test_a_users_matplotlib_settings_do_not_matter(tmp_path):
    """LaTeX that is not installed, and another size and format (test_processes.py has a backend that is missing)."""
    figures.write(tmp_path / "plain.png", history.draw(ROWS, PANELS, "title $x"))
    matplotlib.rcParams.update({"text.usetex": True, "figure.dpi": 7, "savefig.format": "svg"})
    figures.write(tmp_path / "users.png", history.draw(ROWS, PANELS, "title $x"))
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "users.png").read_bytes()


def test_a_figure_that_fails_is_a_warning_and_the_training_is_kept(tmp_path, monkeypatch):
    real, paintings = figures.write, jobs.paint(tmp_path / "train", {"Baroque": 9, "Cubism": 4})

    def write(path, figure):
        if path.name == "training_part1.png":
            raise RuntimeError("latex was not found\nsee the log")
        real(path, figure)

    monkeypatch.setattr(figures, "write", write)
    done = jobs.call("trainpart1", *jobs.flags(paintings, tmp_path, "--architecture", "three_conv"))
    assert (done.status, done.err) == (0, "warning: training_part1.png is not drawn: latex was not found see the log\n")
    assert (tmp_path / "wikiart.pth").exists() and not (tmp_path / "training_part1.png").exists()


def test_a_figure_has_a_bounded_size(tmp_path):
    for width, height, dpi in (5, 4, 100), (500, 4, 8), (4, 800, 5):
        assert figures.new(width, height, 100).dpi == pytest.approx(dpi)


def test_any_name_is_drawn(tmp_path, recwarn):
    assert figures.caption("Ukiyo_e") == "Ukiyo e" and figures.caption("a\nb\x1b[31m").isprintable()
    assert len(figures.caption("x" * 200)) == 40 and figures.caption("x" * 40) == "x" * 40
    figure = figures.new(2, 2, 50)
    figure.suptitle("\N{KANGXI RADICAL ONE}", parse_math=False)
    figures.write(tmp_path / "a.png", figure)
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.size) == ("PNG", (100, 100))


def test_curves_show_what_was_measured():
    left, right = history.draw(ROWS, PANELS, "A title").axes
    (line,) = left.lines  # what was never measured has no line
    assert line.get_label() == "training"
    assert np.allclose(line.get_xydata(), [[row["epoch"], row["training_loss"]] for row in ROWS])
    assert (left.get_ylabel(), right.get_ylabel()) == ("loss", "share")
    (only,) = history.draw([{"epoch": 1, "training_loss": 1.0}], PANELS, "A title").axes  # nothing was held out
    before = history.draw([{"epoch": 0, "accuracy": 0.5}, *ROWS], PANELS, "A title").axes
    assert [axes.get_xlabel() for axes in before] == ["epoch", "epoch (0: before training)"]
    assert only.get_ylabel() == "loss" and [tick for tick in only.get_xticks() if tick % 1] == []


def test_an_epoch_is_one_printed_line(capsys):
    row = {"epoch": 2, "learning_rate": 0.1, "training_loss": 0.51234567, "macro_f1": 0.25}
    history.say_epoch(row, 9, 1234.5, 75, "  -> wikiart.pth")
    line = "epoch 2/9  training loss 0.5123  macro f1 25.0%  1,234 paintings/s  1:15 left  -> wikiart.pth\n"
    assert capsys.readouterr().out == line
