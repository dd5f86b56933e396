"""Bytes and seconds of a map of paintings (support/answers/map.py), and its frame rate in headless Chromium.

The paintings are those of a folder, taken again where it holds fewer; what they are laid out by is made: overlapping
clouds, one per style. The frame rate is that of panning with all paintings in the window, and of panning ten times
nearer. Needs a browser (`apt-get install chromium`).
"""

import itertools
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import measure
import numpy as np

sys.path.insert(0, str(measure.ROOT / "tests"))

import browser

from support.answers import map as painting_map
from support.paintings import folders

LIMITS = {"megabytes": "< 40", "seconds": "< 120", "first_picture": "< 3", "frames_far": "> 20", "frames_near": "> 20"}
PAN = """new Promise(done => {
  let count = 0;
  const begun = performance.now(), step = () => {
    if (count === 90) return done(1000 * count / (performance.now() - begun));
    pan(count % 30 < 15 ? 7 : -7, 3);
    count++;
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


def main(argv: list[str] | None = None) -> None:
    """Write a map of --count paintings of --folder and open it."""
    parser = measure.parser(__doc__, folder="data/sample/train", count=10_000, out="")
    arguments = parser.parse_args(argv)
    listed = [(os.path.join(arguments.folder, file.path), style)
              for style, files in folders.find_images(arguments.folder).items() for file in files]  # fmt: skip
    paths, styles = zip(*itertools.islice(itertools.cycle(listed), arguments.count), strict=True)
    random, names = np.random.default_rng(0), sorted(set(styles))
    groups = np.array([names.index(style) for style in styles])
    clouds = {name: 2 * random.normal(size=(len(names), size)) for name, size in (("style", 6), ("content", 122))}
    spaces = {name: cloud[groups] + random.normal(size=(len(groups), cloud.shape[1])) for name, cloud in clouds.items()}
    with tempfile.TemporaryDirectory() as folder:
        options = SimpleNamespace(output=Path(arguments.out or folder).joinpath, seed=0)
        seconds = measure.seconds(lambda: painting_map.write(options, paths, styles, spaces, groups))
        page = options.output("map.html")
        shown = browser.Browser()
        try:
            shown.open(page)
            first = int(shown.evaluate("document.body.dataset.ready")) / 1000
            far = shown.evaluate(PAN)
            shown.evaluate("zoom(10)")
            figures = {
                "machine": measure.machine(), "paintings": len(paths), "megabytes": page.stat().st_size / 1e6,
                "seconds": seconds, "first_picture": first, "frames_far": far, "frames_near": shown.evaluate(PAN),
            }  # fmt: skip
        finally:
            shown.close()
    measure.report(figures, arguments.json, LIMITS)


if __name__ == "__main__":
    main()
