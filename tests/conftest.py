"""What the tests share: a painter of tiny data sets, a runner of scripts in this process, and the real paintings."""

import os
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType

import jobs
import pytest
import torch

import wikiart
from support.system import devices, plotting

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "wikiart7"
STARTS_PROCESSES = "test_console", "test_dataset", "test_files", "test_processes", "test_resume", "test_windows"


def pytest_itemcollected(item):
    """Each file runs in one worker; files that start processes share one: a fork server takes seconds to start."""
    name = item.module.__name__
    item.add_marker(pytest.mark.xdist_group("processes" if name in STARTS_PROCESSES else name))


def pytest_collection_modifyitems(items):
    """TEST_ORDER: the files, and the tests of each, in the random order of this seed."""
    if seed := os.environ.get("TEST_ORDER"):
        items.sort(key=lambda item: [Random(seed + name).random() for name in (item.module.__name__, item.nodeid)])


@pytest.fixture(autouse=True, scope="session")
def machine():
    """TEST_THREADS, in each process, and TEST_PRECISION of the CPU: by default one thread, and what the CPU is fast at.

    One thread does the same sums in the same order on any machine. Another machine is tried by tests/machines.sh.
    """
    torch.set_num_threads(jobs.THREADS)
    if kind := os.environ.get("TEST_PRECISION"):
        jobs.compute_in(getattr(torch, kind))


@pytest.fixture(params=["float32", "bfloat16"])
def precision(request, monkeypatch) -> torch.dtype:
    """The test runs in both precisions that CPUs have, whatever this one is fast at; jobs.start's processes too."""
    kind = getattr(torch, request.param)
    monkeypatch.setattr(devices, "precision", lambda device: kind)
    return kind


@pytest.fixture(autouse=True, scope="session")
def small_networks():
    """Our networks have few channels, except in modules that use `full_networks`."""
    jobs.narrow()


@pytest.fixture(scope="module")
def full_networks():
    """Our networks as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wikiart, "OWN_TRUNKS", wikiart.OWN_TRUNKS | {"residual": wikiart.Residual})
        patch.setattr(wikiart, "Correction", wikiart.Correction.func)
        yield


@pytest.fixture(autouse=True)
def no_figures(request, monkeypatch):
    """Figures are empty files, except in tests marked `figures` and in fixtures of wider scope."""
    if not request.node.get_closest_marker("figures"):
        monkeypatch.setattr(plotting, "write", jobs.write_nothing)


@pytest.fixture(scope="session")
def paint():
    """jobs.paint with JPEGs, whose names are 000.jpg, 001.jpg, ..."""
    return partial(jobs.paint, name="{:03d}.jpg")


@pytest.fixture(scope="session")
def run():
    """run(script, *arguments) runs a script's main in this process: .status, .out, .err; a traceback is raised."""
    return jobs.call


@pytest.fixture(scope="module")
def paintings(tmp_path_factory) -> Path:
    """A folder of tiny noise paintings."""
    return jobs.paint(tmp_path_factory.mktemp("paintings") / "train")


@pytest.fixture(scope="session")
def refused(run):
    """refused(script, *arguments) expects exit status 2 and returns the one line, warnings aside, on standard error."""

    def refused(script: ModuleType, *arguments: object) -> str:
        result = run(script, *arguments)
        assert result.status == 2, (result.status, result.out, result.err)
        lines = [line for line in result.err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1 and lines[0].strip(), result.err
        return lines[0]

    return refused


@pytest.fixture(scope="session")
def listing():
    """listing(folder): every file below it with its content and time, to show that nothing was touched."""

    def listing(folder: Path) -> dict[str, tuple[bytes, int]]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    return listing


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> Path:
    """An empty current folder, so that relative paths touch nothing else."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def real_paintings() -> Path:
    """The folder of real paintings, with train and test parts; a test that needs it is skipped where it is not."""
    if not (REAL / "train").is_dir():
        pytest.skip("needs the real paintings in ../shared/wikiart7")
    return REAL


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a script has written, by name, instead of files."""
    written = {}
    monkeypatch.setattr(plotting, "write", lambda path, figure: written.update({path.name: figure}))
    return written
