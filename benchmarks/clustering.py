"""Time and memory of Ward's clustering (support/answers/ward.py) of made latents.

Each number of latents has a process of its own.

The points are 27 overlapping clouds of 128 numbers, many more than the six that testtrainauto.py clusters. The
yardstick is fastcluster's linkage_vector, exact and in linear memory too, on 20,000 points of 64 numbers: `ratio` is
its seconds over ours. The two run in turns and have to agree in heights and in the sizes of 27 clusters. The peak
counts the whole process, the libraries' own some 400 MiB included. Where other processes keep the cores busy, set
OMP_WAIT_POLICY=PASSIVE: else threads that wait for each other take the cores from those that work.
"""

import json
import subprocess
import sys

import fastcluster
import measure
import numpy as np
import torch

from support.answers.ward import cut_tree, ward_linkage

COUNTS = [1_000, 5_000, 20_000, 81_444]
NUMBERS, CLUSTERS = 128, 27
YARDSTICK = (20_000, 64)
WAYS = {"ours": ward_linkage, "fastcluster": lambda points, device: fastcluster.linkage_vector(points, "ward")}
LIMITS = {"81444.seconds": "< 600", "81444.peak_mib": "< 2048"}


def main(argv: list[str] | None = None) -> None:
    """Measure every number of points, or only that of --points."""
    parser = measure.parser(__doc__, points=0, numbers=NUMBERS, way="ours", rounds=1, device="cpu")
    arguments = parser.parse_args(argv)
    if arguments.points:
        device = torch.device(arguments.device)
        print(json.dumps(measure_one(arguments.way, arguments.points, arguments.numbers, device)))
        return

    def run(way: str, points: int, numbers: int) -> dict[str, object]:
        command = [sys.executable, __file__, "--way", way, "--points", str(points), "--numbers", str(numbers)]
        command += ["--device", arguments.device]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        print(way, points, numbers, output, flush=True)
        return json.loads(output)

    figures = {"machine": measure.machine(torch.device(arguments.device))}
    runs = {way: [] for way in WAYS}
    for number in range(arguments.rounds):
        for way in list(WAYS)[:: -1 if number % 2 else 1]:
            runs[way].append(run(way, *YARDSTICK))
    for name in ("height", "sizes"):
        if not np.allclose(runs["ours"][0][name], runs["fastcluster"][0][name], rtol=1e-6):
            raise SystemExit(f"ours and fastcluster's differ in {name}")
    seconds = {way: [each["seconds"] for each in runs[way]] for way in WAYS}
    figures |= {"x".join(map(str, YARDSTICK)): {way: runs[way][0] for way in WAYS}}
    figures["ratio"] = measure.ratio(seconds["fastcluster"], seconds["ours"])
    for count in COUNTS:
        figures[str(count)] = run("ours", count, NUMBERS)
    measure.report(figures, arguments.json, LIMITS)


def measure_one(way: str, count: int, numbers: int, device: torch.device) -> dict[str, object]:
    """Seconds and peak MiB of clustering `count` points, the sum of the heights and the sizes of 27 clusters."""
    random = np.random.default_rng(0)
    middles = random.normal(size=(CLUSTERS, numbers))
    points = middles[random.integers(CLUSTERS, size=count)] + 2 * random.normal(size=(count, numbers))
    found = []
    taken = measure.seconds(lambda: found.append(WAYS[way](points, device)), device)
    sizes = np.bincount(cut_tree(found[0], CLUSTERS)).tolist()
    return {"seconds": taken, "peak_mib": measure.peak_mib(), "height": found[0][:, 2].sum(), "sizes": sizes}


if __name__ == "__main__":
    main()
