"""Time and memory of clustering made latents, each number of them in a process of its own.

The points are made as latents are: 27 overlapping clouds of 128 numbers. The peak counts the whole process, the
libraries' own some 400 MiB included. Ward itself sees at most testtrainauto.WARD_LIMIT points.
"""

import json
import subprocess
import sys

import measure
import numpy as np

import testtrainauto

COUNTS = [1_000, 5_000, 20_000, 81_444]
CLUSTERS, NUMBERS = 27, 128
LIMITS = {"81444.seconds": "< 180", "81444.peak_mib": "< 6144"}


def main(argv: list[str] | None = None) -> None:
    """Measure every number of points, or only that of --points."""
    parser = measure.parser(__doc__, points=0)
    arguments = parser.parse_args(argv)
    if arguments.points:
        print(json.dumps(measure_one(arguments.points)))
        return
    figures = {"machine": measure.machine(), "ward_limit": testtrainauto.WARD_LIMIT}
    for count in COUNTS:
        command = [sys.executable, __file__, "--points", str(count)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures[str(count)] = json.loads(output.splitlines()[-1])
    measure.report(figures, arguments.json, LIMITS)


def measure_one(count: int) -> dict[str, float]:
    """Seconds and peak MiB of clustering `count` points as testtrainauto.py does it, and how many clusters it made."""
    random = np.random.default_rng(0)
    middles = random.normal(size=(CLUSTERS, NUMBERS))
    points = middles[random.integers(CLUSTERS, size=count)] + 2 * random.normal(size=(count, NUMBERS))
    found = []
    taken = measure.seconds(lambda: found.append(testtrainauto.cluster(points, CLUSTERS, 0)))
    return {"seconds": taken, "peak_mib": measure.peak_mib(), "clusters": len(np.unique(found[0]))}


if __name__ == "__main__":
    main()
