"""The layout that the design asks for: short files, short functions, and imports that run one way."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import vermin

import wikiart

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {  # a folder may import those before it, and inside a folder a room those before it
    "system": ["signals", "processes", "console", "files", "locks", "settings", "devices", "workers", "plotting"],
    "paintings": ["formats", "folders", "images", "cache", "artists", "duplicates"],
    "training": [
        "balance", "batches", "augmentation", "checkpoints", "progress", "history", "epochs", "resume", "runs"
    ],
    "networks": ["pretrained", "levels", "histograms", "description", "pca", "features", "heads", "discriminant"],
    "answers": [
        "provenance", "report", "heatmaps", "pictures_part1", "ward", "clustering", "pictures_part2", "similar", "map",
        "suspects",
    ],
}  # fmt: skip
ORDER = [room for rooms in FLOORS.values() for room in rooms]
ROOMS = sorted(path for path in (ROOT / "support").rglob("*.py") if path.name != "__init__.py")
SCRIPTS = [ROOT / f"{name}.py" for name in ("trainpart1", "testtrainpart1", "trainauto", "testtrainauto")]
PROGRAM = [ROOT / "wikiart.py", *ROOMS, *SCRIPTS]
EVERYTHING = [path for path in sorted(ROOT.rglob("*.py")) if ".venv" not in path.parts]
OURS = {"support", *FLOORS, *ORDER, *(path.stem for path in EVERYTHING)}


def imports(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Each imported module's full name, and the names that are taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", [alias.name for alias in node.names]


def imported(tree: ast.AST) -> set[str]:
    """The project's own files that a file imports: a room by its name, others as they are called."""
    found = set()
    for module, taken in imports(tree):
        first, *inside = module.split(".")
        found |= {first} if first != "support" else {inside[1]} if len(inside) > 1 else set(taken)
    return found & OURS


def test_imports_run_one_way():
    """A room imports only rooms before it, wikiart.py only rooms, and a script no other script."""
    assert {path.relative_to(ROOT / "support").as_posix() for path in ROOMS} == {
        f"{folder}/{room}.py" for folder, rooms in FLOORS.items() for room in rooms
    }
    allowed = {path: set(ORDER[: ORDER.index(path.stem)]) for path in ROOMS} | {ROOT / "wikiart.py": set(ORDER)}
    allowed |= {path: {"wikiart", *ORDER} for path in SCRIPTS}
    wrong = {path.name: imported(ast.parse(path.read_text())) - allowed[path] for path in PROGRAM}
    assert not {name: names for name, names in wrong.items() if names}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def underscored(tree: ast.AST) -> list[str]:
    """Names with a leading underscore that a file takes from another file of the project."""
    modules, found = set(), []
    for module, taken in imports(tree):
        if module.split(".")[0] in OURS:
            found += [f"{module}.{name}" for name in taken if name.startswith("_")]
            modules |= {module.split(".")[-1], *taken}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found += [node.attr] if is_private(node.attr) and set(ast.unparse(node.value).split(".")) & modules else []
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr" and len(node.args) > 1:
            name = str(getattr(node.args[1], "value", ""))  # monkeypatch.setattr(module, "_name", ...)
            found += [name] if is_private(name) and set(ast.unparse(node.args[0]).split(".")) & modules else []
    return found


def test_nobody_uses_an_underscored_name_of_another_file():
    found = {str(path.relative_to(ROOT)): underscored(ast.parse(path.read_text())) for path in EVERYTHING}
    assert not {name: names for name, names in found.items() if names}


def test_every_name_that_is_taken_from_a_room_exists():
    """Also in what seldom runs: the tests that need a GPU, and the benchmarks."""
    rooms = {name: importlib.import_module(f"support.{folder}.{name}") for folder in FLOORS for name in FLOORS[folder]}
    rooms["wikiart"] = wikiart
    missing = []
    for path in EVERYTHING:
        tree = ast.parse(path.read_text())
        taken = {"wikiart", *(name for module, names in imports(tree) if "support." in module for name in names)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                room = node.value.id
                if room in taken & set(rooms) and not hasattr(rooms[room], node.attr):
                    missing.append(f"{path.name}: {room}.{node.attr}")
    assert not missing


def test_files_and_functions_are_short():
    lines = {path.name: len(path.read_text().splitlines()) for path in PROGRAM}
    assert lines["wikiart.py"] <= 450
    assert not {path.name: lines[path.name] for path in ROOMS if lines[path.name] > 200}
    long = [
        f"{path.name}: {node.name}"
        for path in PROGRAM
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60
    ]
    assert not long


def test_python_3_10_has_all_that_is_used():
    config = vermin.Config()
    config.add_exclusion("long")  # a Tensor's method, not Python 2's type
    newer = []
    for path in EVERYTHING:
        versions = vermin.detect(path.read_text(), config)
        newer += [(path.name, version) for version in versions if version and version > (3, 10)]
    assert not newer
