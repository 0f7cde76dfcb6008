"""Imports point one way: no circle among modules, no lower layer that imports a higher one."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

LAYERS = {
    "elvsm_core": set(),
    "elvsm_report": {"elvsm_core"},
    "training": {"elvsm_core", "elvsm_report"},
    "elvsm_ros": {"elvsm_core", "elvsm_report", "training"},
}
"""What each package may import of the others."""

Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    found = {}
    for package in LAYERS:
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of ours that a file imports, also inside functions and for types alone."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {
                name if name in known else source for name in (f"{source}.{a.name}" for a in node.names)
            }
    found = {name.replace("elvsm_training", "training", 1) for name in found}
    return {name for name in found if name in known and name != module}


@pytest.fixture(scope="module")
def graph(repository: Path) -> Graph:
    known = modules(repository)
    return {name: imports(name, path, known) for name, path in known.items()}


def test_no_module_imports_itself_by_way_of_others(graph: Graph) -> None:
    # A package's __init__ exports what its own modules hold, and these may import the package's other modules.
    inner = {name: {m for m in names if not name.startswith(f"{m}.")} for name, names in graph.items()}
    try:
        list(graphlib.TopologicalSorter(inner).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


def test_lower_packages_import_no_higher_ones(graph: Graph) -> None:
    for name, names in graph.items():
        package = name.split(".")[0]
        for other in {m.split(".")[0] for m in names} - {package}:
            assert other in LAYERS[package], f"{name} imports {other}"


def test_the_model_knows_nothing_of_what_makes_it_fast(graph: Graph) -> None:
    for name in ("model", "cache", "attention", "rays", "cameras", "checkpoint"):
        fast = {m for m in graph[f"elvsm_core.{name}"] if m.startswith("elvsm_core.cuda")}
        assert not fast, f"elvsm_core.{name} imports {fast}"


def test_rooms_stay_small(repository: Path) -> None:
    for package in LAYERS:
        for folder in [repository / package, *(p for p in (repository / package).rglob("*") if p.is_dir())]:
            files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
            limit = {"elvsm_ros": 10, "training": 10, "elvsm_core": 22}.get(folder.name, 14)
            assert len(files) <= limit, f"{folder.relative_to(repository)} holds {len(files)} modules"
