"""Imports run one way: no circle among modules, and from room to room only down. Late ones and those of types count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("traces", "policies", "sim", "real")
"""Each may import those before it."""

TRACES = ("traces.version", "traces.kit", "traces.format", "traces.writing", "traces")
"""The same, of what all others rest on."""

SIM = ("sim.core", "sim.prices", "sim.workload", "sim.machine", "sim.results", "sim.experiment", "sim.check", "sim")
"""The same; ``sim`` is what lies in none of the others: the program."""


@cache
def modules() -> dict[str, Path]:
    paths = {
        path.relative_to(ROOT).with_suffix("").parts: path for name in PACKAGES for path in ROOT.glob(f"{name}/**/*.py")
    }
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for parts, path in paths.items()}


@cache
def graph() -> dict[str, set[str]]:
    """Of each module those of ours that it imports, wherever in it."""
    return {name: {it for it in _imports(name, path) if it in modules()} - {name} for name, path in modules().items()}


def _imports(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            own = [f"{base}.{alias.name}" for alias in node.names]
            yield from (it if it in modules() else base for it in own)


def room(module: str, rooms: tuple[str, ...]) -> int | None:
    return next((i for i, it in enumerate(rooms) if f"{module}.".startswith(f"{it}.")), None)


def test_no_module_imports_itself_by_way_of_others() -> None:
    TopologicalSorter(graph()).prepare()  # CycleError names the circle


@pytest.mark.parametrize("rooms", [PACKAGES, TRACES, SIM], ids=["packages", "traces", "sim"])
def test_a_room_imports_those_below_it_alone(rooms: tuple[str, ...]) -> None:
    edges = [(one, other, room(one, rooms), room(other, rooms)) for one, its in graph().items() for other in its]
    wrong = [f"{one} -> {other}" for one, other, a, b in edges if a is not None and b is not None and b > a]
    assert not wrong
