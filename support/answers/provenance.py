"""How an evaluation came about: the `run` block of metrics_part1.json and metrics_auto.json."""

import hashlib
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

import torch

from support.system import devices, settings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "scikit-learn", "numpy", "pillow")


def run_block(
    options: settings.Settings, checkpoint: dict[str, object], device: torch.device, started: float
) -> dict[str, object]:
    """The network and its settings, its training paintings, the evaluation's folders, versions, device, time, memory.

    started: of the evaluation, by time.perf_counter.
    """
    trained = checkpoint["settings"]
    first = ("architecture" if checkpoint["part"] == 1 else "latent_dim", "image_size", "seed")
    paintings = sorted(zip(checkpoint["paths"], checkpoint["fingerprints"].tolist(), strict=True))
    return {
        **{name: trained.get(name) for name in first},
        "epoch": checkpoint["epoch"],
        "settings": {name: value for name, value in trained.items() if name not in first},
        "training_paintings": len(paintings),
        "training_digest": hashlib.sha256(repr(paintings).encode()).hexdigest(),  # of their paths and pixels
        "folders": {name: getattr(options, name) for name in settings.PATHS},
        "versions": {
            "python": platform.python_version(),
            **{package: package_version(package) for package in PACKAGES},
            "code": code_version(),
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "precision": "float32",  # whatever training computes in
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": devices.peak_memory(device),
    }


def package_version(package: str) -> str | None:
    """The version of an installed package, None where it has no metadata."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def code_version() -> str | None:
    """The commit of this project's own checkout, with "+changes" if its files differ; None without git or checkout."""
    command = ["git", f"--git-dir={ROOT / '.git'}", f"--work-tree={ROOT}", "describe", "--always", "--abbrev=40"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as hooks set
    try:
        done = subprocess.run(
            [*command, "--exclude=*", "--dirty=+changes"],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
