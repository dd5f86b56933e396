"""The search for near-duplicates: time and memory for all of WikiArt, and precision and recall on real paintings.

`--paintings FOLDER` (with train and test) makes copies of 200 of its paintings and lists the pairs that are found among
the paintings themselves, to be looked at. Without it, 81,444 made fingerprints are compared with each other in a
process of its own; a hundred of them are copies, every second one mirrored.
"""

import io
import json
import os
import subprocess
import sys
import time

import measure
import numpy as np
import torch
from PIL import Image, ImageOps

import wikiart
from support.paintings import duplicates, images

COUNT, COPIES, SAMPLE = 81_444, 100, 200
LIMITS = {"81444.seconds": "< 120", "81444.peak_mib": "< 1024", "81444.copies_found": "100"}
KINDS = (
    "quality 60",
    "crop 1%",
    "crop 2%",
    "crop 3%",
    "crop 3% of two sides",
    "resize",
    "one pixel narrower",
    "mirrored",
    "mirrored crop 2%",
)


def main(argv: list[str] | None = None) -> None:
    """Measure time and memory, or precision and recall with --paintings."""
    parser = measure.parser(__doc__, paintings="", size=128, seed=0, points=0)
    arguments = parser.parse_args(argv)
    if arguments.points:
        print(json.dumps(measure_one(arguments.points)))
        return
    figures = {"machine": measure.machine()}
    if arguments.paintings:
        figures |= measure_recall(arguments.paintings, arguments.size, arguments.seed)
        measure.report(figures, arguments.json, {})
        return
    command = [sys.executable, __file__, "--points", str(COUNT)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures[str(COUNT)] = json.loads(output.splitlines()[-1])
    measure.report(figures, arguments.json, LIMITS)


def measure_one(count: int) -> dict[str, float]:
    """Seconds and peak MiB of comparing `count` made fingerprints, smooth as paintings are, and the copies found."""
    generator = torch.Generator().manual_seed(0)
    rough = torch.fft.fftfreq(16).square()
    amplitude = (rough + rough[:, None] + 0.004).rsqrt()  # as 1/f
    made = torch.empty(count, 256)
    for part in made.split(4096):
        noise = torch.randn(len(part), 16, 16, generator=generator)
        part[:] = torch.fft.ifft2(torch.fft.fft2(noise) * amplitude).real.flatten(1)
    made[-COPIES:] = made[:COPIES] + 0.05 * made.std() * torch.randn(COPIES, 256, generator=generator)
    made[-COPIES::2] = made[-COPIES::2].view(-1, 16, 16).flip(2).flatten(1)
    made -= made.mean(1, keepdim=True)
    made /= made.norm(dim=1, keepdim=True)
    begun = time.process_time()
    found = []
    taken = measure.seconds(lambda: found.append(duplicates.near_duplicates(made)[0]))
    copies = int((found[0][:, 1] - found[0][:, 0] == count - COPIES).sum())
    return {
        "seconds": taken,
        "processor_seconds": time.process_time() - begun,
        "peak_mib": measure.peak_mib(),
        "copies_found": copies,
        "other_pairs": len(found[0]) - copies,
    }


def measure_recall(folder: str, size: int, seed: int) -> dict[str, object]:
    """Recall of each kind of copy, of `SAMPLE` paintings; how many copies resemble another; the pairs found."""
    train = wikiart.WikiArtDataset(os.path.join(folder, "train"), size)
    test = wikiart.WikiArtDataset(os.path.join(folder, "test"), size, train.classes)
    paths = [*train.paths, *test.paths]
    prints = torch.cat([duplicates.grey_fingerprints(part.images) for part in (train, test)])
    drawn = np.random.default_rng(seed).permutation(len(paths))[:SAMPLE].tolist()
    pairs, mirrored = duplicates.near_duplicates(prints)
    own = pairs.tolist()
    alike = {pair for i, j in own for pair in ((i, j), (j, i))}
    figures, wrong = {}, 0
    for kind in KINDS:
        copies = torch.cat([duplicates.grey_fingerprints(copy(paths[i], kind, size)) for i in drawn])
        found = duplicates.near_duplicates(copies, duplicates.unpack(duplicates.pack(prints)))[0].tolist()
        hits = sum(drawn[i] == j for i, j in found)
        wrong += sum(drawn[i] != j and (drawn[i], j) not in alike for i, j in found)
        figures[kind] = hits / SAMPLE
    listed = {"pairs": [], "mirrored_pairs": []}
    for (i, j), is_mirrored in zip(own, mirrored.tolist(), strict=True):
        names = f"{os.path.relpath(paths[i], folder)} {os.path.relpath(paths[j], folder)}"
        listed["mirrored_pairs" if is_mirrored else "pairs"].append(names)
    return {"recall": figures, "copies_taken_for_others": wrong, "paintings": len(paths), **listed}


def copy(path: str, kind: str, size: int) -> torch.Tensor:
    """A painting saved again in some way and decoded: uint8 [1, 3, S, S]."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    if "mirrored" in kind:
        image = ImageOps.mirror(image)
    if "crop" in kind:
        x, y = (round(side * int(kind[kind.index("%") - 1]) / 100) for side in (width, height))
        image = image.crop((x, y, width, height) if "two" in kind else (x, y, width - x, height - y))
    elif kind == "resize":
        image = image.resize((round(width * 0.6), round(height * 0.6)))
    elif kind == "one pixel narrower":
        image = image.crop((0, 0, width - 1, height))
    saved = io.BytesIO()
    image.save(saved, "JPEG", quality=60 if kind == "quality 60" else 85)
    return torch.from_numpy(images.decode_image(saved, size)[0])[None]


if __name__ == "__main__":
    main()
