"""The map of paintings: what is written, and what a person does with it in a real browser."""

import csv
import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes

import browser
import numpy as np
import pytest
from PIL import Image

from support.answers import map as painting_map
from support.system import files

HOSTILE = [  # a file's path must stay text: in the page, in links, in the CSV
    "Baroque</script><img src=x onerror=alert(1)>.png",
    "Baroque</\"quoted\" & 'single', with comma.png",
    "עברית_אמנות/\u202egnp.exe_صورة.png",
    "עברית_אמנות/🎨 100%41#?.png",
    "Ukiyo_e/new\nline_<b>bold.png",
]
STYLES = ("Abstract_Art", "Ukiyo_e", "Zen")
CLUSTERS = 4


def paint(folder: Path) -> list[str]:
    """Forty small paintings of different shapes, the first ones with hostile names."""
    names = HOSTILE + [f"{STYLES[i % 3]}/claude-monet_{i:02d}.png" for i in range(35 - 12)]
    names += [f"{STYLES[i % 3]}/DSC_{i:02d}.png" for i in range(12)]
    random = np.random.default_rng(0)
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, ((30, 20, 3), (20, 40, 3))[i % 2], np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return [str(folder / name) for name in names]


def spaces(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"style": random.normal(size=(count, 6)), "content": random.normal(size=(count, 9))}


def write(folder: Path, *what: object) -> None:
    painting_map.write(SimpleNamespace(output=folder.joinpath, seed=3), *what)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> SimpleNamespace:
    """The map of forty paintings, and what it was written from."""
    folder = tmp_path_factory.mktemp("map")
    paths, out = paint(folder / "paintings"), folder / "out of & here"
    styles = [Path(path).relative_to(folder / "paintings").parts[0] for path in paths]
    files.write_rows(out / "predictions.csv", [["path", "predicted", "probability"], [paths[7], "Zen", 0.256]])
    made = SimpleNamespace(paths=paths, styles=styles, spaces=spaces(40), clusters=np.arange(40) % CLUSTERS)
    write(out, made.paths, made.styles, made.spaces, made.clusters)
    made.path, made.data = out / "map.html", content(out / "map.html")
    return made


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    if not browser.find():
        pytest.skip("needs a browser: apt-get install chromium")
    opened = browser.Browser()
    opened.call("Emulation.setFocusEmulationEnabled", enabled=True)
    yield opened
    opened.close()


@pytest.fixture
def page(window, written):
    """The map, just opened; a message on its console fails the test."""
    window.messages.clear()
    window.open(written.path)
    yield window
    assert not window.messages


def content(path: Path) -> dict[str, object]:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


def click(page: browser.Browser, selector: str) -> None:
    page.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


def selected(page: browser.Browser, number: int) -> None:
    page.wait_for(f"document.body.dataset.selected === '{number}'")


def place(page: browser.Browser, i: int) -> tuple[float, float]:
    """Where a painting is on the screen."""
    page.wait_for("motion === null")
    return tuple(page.evaluate(f"[screenX(at[{2 * i}]), screenY(at[{2 * i + 1}])]"))


# What is written


def test_the_file_is_whole_and_names_nothing_outside(written):
    text = written.path.read_bytes().decode("utf-8")
    assert "://" not in text and "onerror" not in text.split("<script")[0]
    assert text.count("</script>") == text.count("<script") == 3  # data, a sheet, the program
    data = written.data
    assert data["paths"] == written.paths
    for link, path in zip(data["links"], written.paths, strict=True):
        assert os.path.samefile(os.path.join(os.fsencode(written.path.parent), unquote_to_bytes(link)), path)
    assert [data["groups"]["style"]["names"][k] for k in data["groups"]["style"]["of"]] == written.styles
    assert data["groups"]["cluster"]["of"] == written.clusters.tolist()
    assert {round(shape, 2) for shape in data["shapes"]} == {0.67, 2}
    assert data["artists"][5] == "claude-monet" and data["artists"][-1] == ""
    assert data["predictions"][7] == ["Zen", 0.256] and data["predictions"].count(None) == 39


def test_near_and_order_are_by_distance(written):
    data = written.data
    for name, points in written.spaces.items():
        distance = np.linalg.norm(points - points[4], axis=1)
        assert data["near"][name][4] == np.argsort(distance)[1:9].tolist()
    order, points = data["groups"]["cluster"]["order"], written.spaces["style"]
    assert [written.clusters[i] for i in order] == sorted(written.clusters)
    members = points[written.clusters == 0]
    assert np.allclose(points[order[0]], min(members, key=lambda point: np.linalg.norm(point - members.mean(0))))


def test_of_too_many_paintings_the_same_share_of_every_cluster_is_shown(written, tmp_path, monkeypatch):
    monkeypatch.setattr(painting_map, "MOST", 20)
    clusters = np.array([0] * 20 + [1] * 12 + [2] * 8)
    write(tmp_path, written.paths, written.styles, written.spaces, clusters)
    data = content(tmp_path / "map.html")
    assert data["total"] == 40 and len(data["paths"]) == len(set(data["paths"])) == 20
    shown = np.bincount(data["groups"]["cluster"]["of"])
    assert np.abs(shown - np.bincount(clusters) / 2).max() <= 1


@pytest.mark.parametrize("count", [2, 3, 5, 300])
def test_places_are_cells_of_their_own(count):
    points = np.repeat(np.random.default_rng(1).normal(size=(-(-count // 3), 2)), 3, 0)[:count]  # equal ones, too
    cells = painting_map.spread(painting_map.likeness(points, 0), 0)
    assert len({tuple(cell) for cell in cells}) == count
    assert cells.min() == 0 and cells.max() < 4 * count**0.5 + 8


def test_likeness_keeps_groups_together():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 50)
    points = 20 * random.normal(size=(4, 6))[groups] + random.normal(size=(200, 6))
    cells = painting_map.spread(painting_map.likeness(points, 0), 0)
    nearest = np.argsort(np.square(cells[:, None] - cells).sum(2))[:, 1:4]
    assert (groups[nearest] == groups[:, None]).mean() > 0.95
    assert np.array_equal(cells, painting_map.spread(painting_map.likeness(points, 0), 0))


def test_a_name_that_is_not_utf8_and_a_file_that_is_gone(tmp_path):
    paths = [os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.png"), str(tmp_path / "gone.png")]
    write(tmp_path, paths, ["a", "b"], spaces(2), np.array([0, 1]))
    data = content(tmp_path / "map.html")
    assert data["paths"][0].endswith("\\udce9.png") and data["links"] == ["%E9.png", "gone.png"]
    assert data["shapes"] == [1, 1]


def test_predictions_are_read_where_there_are_some(tmp_path):
    table = tmp_path / "predictions.csv"
    assert painting_map.read_predictions(table) == {}
    table.write_text("path,style,predicted,probability,a\nx/1.jpg,a,b,0.75,0.25\n")
    assert painting_map.read_predictions(table) == {"x/1.jpg": ("b", 0.75)}
    table.write_text("something,else\n1,2\n")
    assert painting_map.read_predictions(table) == {}


# In a browser


def test_every_layout_shows_all_paintings(page, written):
    assert page.evaluate("document.title") == "40 paintings"
    for layout in ("style", "cluster", "likeness"):
        click(page, f"input[name=layout][value={layout}]")
        page.wait_for(f"document.body.dataset.layout === '{layout}'")
        assert page.evaluate("document.body.dataset.drawn") == "40"
        places = page.evaluate("[...at]")
        assert len(set(zip(places[::2], places[1::2], strict=True))) == 40
    assert page.evaluate("context.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[3]") == 255


def test_the_legend_switches_dims_and_selects(page, written):
    click(page, "#legend section > div:nth-child(2) [aria-pressed]")
    page.wait_for("document.body.dataset.drawn === '30'")
    click(page, "#legend section > div:nth-child(3) button:last-child")
    selected(page, 10)
    click(page, "#switch")  # all on again
    page.wait_for("document.body.dataset.drawn === '40'")
    click(page, "input[name=frames][value=style]")
    names = page.evaluate("[...document.querySelectorAll('#legend .name')].map(e => e.textContent)")
    assert names == [name.replace("_", " ") for name in sorted(set(written.styles))]
    marks = page.evaluate("[...document.querySelectorAll('#legend .mark')].map(e => e.textContent)")
    assert len(set(marks)) == len(names)
    page.evaluate("document.querySelector('#legend section > div').dispatchEvent(new Event('pointerenter'))")
    assert page.evaluate("dimming") == 0
    click(page, "input[name=frames][value=none]")
    assert page.evaluate("document.querySelector('#legend').offsetWidth") == 0


def test_search_finds_files_artists_and_styles(page, written):
    for words, number in (("monet", 23), ("zen MONET", 7), ("dsc_03", 1), ("ukiyo e", 13), ("צ nobody", 0), ("", 0)):
        page.evaluate(f"$('search').value = {json.dumps(words)}; search()")
        selected(page, number)
        assert page.evaluate("$('status').textContent") == (
            f"{number} painting{'s' * (number != 1)} found" if words else ""
        )
    page.evaluate("$('search').focus()")
    page.call("Input.insertText", text="gnp")
    selected(page, 1)
    page.key("Enter", "\r")
    assert page.wait_for("view.scale > 100")
    page.key("Escape")
    selected(page, 0)


def test_rectangle_lasso_and_keys_of_the_pointer(page):
    page.drag((400, 300), (500, 300))
    assert page.evaluate("document.body.dataset.selected") == "0"  # it has panned
    click(page, "#all")
    places = [place(page, i) for i in range(40)]
    inside = [i for i, (x, y) in enumerate(places) if 300 < x < 800 and 90 < y < 500]
    click(page, "input[name=tool][value=rectangle]")
    page.drag((300, 90), (400, 300), (800, 500))
    selected(page, len(inside))
    assert page.evaluate("selection") == inside and 0 < len(inside) < 40
    click(page, "#unselect")
    click(page, "input[name=tool][value=lasso]")
    x, y = places[inside[0]]
    page.drag((x - 5, y - 5), (x + 5, y - 5), (x, y + 9))
    selected(page, 1)


def test_copied_paths_and_csv(page, written, tmp_path):
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.evaluate("choose(numbers)")
    bars = page.evaluate("[...document.querySelectorAll('.bar')].map(e => e.innerText.replace(/\\s+/g, ' '))")
    assert (
        len(bars) == len(set(written.styles)) + CLUSTERS and sum("25%" in bar for bar in bars[-CLUSTERS:]) == CLUSTERS
    )
    click(page, "#copy")
    page.wait_for("$('copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == "\n".join(written.paths)
    click(page, "#save")
    end = time.monotonic() + 30
    while not (tmp_path / "paintings.csv").exists() and time.monotonic() < end:
        time.sleep(0.01)
    with open(tmp_path / "paintings.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    expected = zip(written.paths, written.styles, map(str, written.clusters), strict=True)
    assert rows == [["path", "style", "cluster"], *map(list, expected)]


def test_hover_and_click_tell_what_a_painting_is(page, written):
    x, y = place(page, 7)
    page.mouse("Moved", x, y, button="none")
    text = page.wait_for("!$('tip').hidden && $('tip').innerText")
    for words in ("claude-monet_02.png", "Style: Zen", "Cluster 3", "Predicted: Zen (26%)"):
        assert words in text
    page.drag((x, y))
    page.wait_for("!$('painting').hidden && $('tip').hidden")
    assert page.evaluate("document.querySelectorAll('#painting .near button').length") == 16
    page.wait_for("document.querySelector('.large img')?.naturalWidth === 40")  # the file itself
    click(page, "#painting .near button")
    assert page.evaluate("opened") == written.data["near"]["style"][7][0]
    page.key("Escape")
    page.wait_for("$('painting').hidden && $('side').offsetWidth === 0")


def test_hostile_names_are_text(page, written):
    for i, path in enumerate(written.paths[: len(HOSTILE)]):
        page.evaluate(f"open({i}); choose([{i}])")
        assert page.evaluate("document.querySelector('#painting h2').textContent") == path.rsplit("/", 1)[1]
        page.wait_for("document.querySelector('.large img') !== null")
        assert page.evaluate("document.querySelectorAll('b, [onerror], script:not([type])').length") == 1  # the program


def test_the_state_is_in_the_address(page, written):
    click(page, "input[name=layout][value=cluster]")
    click(page, "input[name=frames][value=none]")
    page.evaluate("open(9); zoom(3)")
    page.wait_for("location.hash.includes('painting=9') && location.hash.includes('layout=cluster')")
    state, seen = page.evaluate("location.hash"), page.evaluate("[view.x, view.y, view.scale]")
    page.open(written.path, state)
    assert page.evaluate("[layout, frames, opened]") == ["cluster", "none", 9]
    assert page.evaluate("[view.x, view.y, view.scale]") == pytest.approx(seen, rel=0.01, abs=0.02)
    page.open(written.path, "#layout=nonsense&view=a,b&painting=4000")
    assert page.evaluate("[layout, frames, opened]") == ["likeness", "cluster", -1]


def test_keys_wheel_and_pinch_move_the_view(page):
    page.evaluate("canvas.focus()")
    x, scale = page.evaluate("[view.x, view.scale]")
    page.key("ArrowRight")
    assert page.evaluate("view.x") > x
    page.key("+", "+")
    assert page.evaluate("view.scale") == pytest.approx(1.3 * scale)
    page.key("-", "-")
    page.mouse("Wheel", 640, 400, deltaX=0, deltaY=-200)
    page.wait_for(f"view.scale > {1.2 * scale}")
    page.key("0", "0")
    page.wait_for(f"Math.abs(view.scale / {scale} - 1) < 0.01")
    for kind, apart in (("Start", 50), ("Move", 80), ("Move", 100)):
        points = [{"x": 640 + sign * apart, "y": 400, "id": (sign + 1) // 2} for sign in (-1, 1)]
        page.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.wait_for(f"view.scale > {1.5 * scale}")
    page.key("Enter", "\r")
    page.key("Tab")
    assert page.evaluate("document.activeElement.name") == "layout"


def test_high_density_dark_and_a_small_window(page):
    try:
        page.resize(700, 500, ratio=2, dark=True)
        page.wait_for("canvas.width === 1400 && document.body.dataset.drawn === '40'")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 20, 23)"
        page.wait_for("context.getImageData(5, 600, 1, 1).data[0] === 20")
    finally:
        page.resize(1280, 800)
