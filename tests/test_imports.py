"""The house: imports run one way between the rooms, in no circle, and no file has more than 300 lines.

Every import counts: those inside functions, and those for type checkers alone, which a reader follows as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("traces", "policies", "sim", "real")
"""In the order in which they may be imported: each by itself and by those behind it."""
LONGEST = 300

Graph = Mapping[str, Set[str]]


@cache
def modules() -> Mapping[str, Path]:
    """Every module of the rooms, by its dotted name."""
    found = {}
    for path in sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, text: str, known: Set[str]) -> Iterator[str]:
    """The modules of ``known`` that a module imports anywhere in its text; a name in a package may be a module."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative imports are not followed here"
            base = str(node.module)
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names]
        yield from (name for name in names if name in known and name != module)


@cache
def imports() -> Graph:
    """Which modules each module imports."""
    known = modules()
    return {name: set(imported(name, path.read_text(encoding="utf-8"), known.keys())) for name, path in known.items()}


@cache
def folders() -> Graph:
    """Which folders each folder below a room imports; what lies in the room itself is at its door, above them all."""
    found: dict[str, set[str]] = {}
    for name, others in imports().items():
        for other in others:
            ours, its = folder(name), folder(other)
            if ours and its and ours != its:
                found.setdefault(ours, set()).add(its)
    return found


def folder(module: str) -> str | None:
    """``sim.results`` of anything in ``sim/results/``, however deep; None of a file in ``sim/``."""
    parts = modules()[module].relative_to(ROOT).parts
    return ".".join(parts[:2]) if len(parts) > 2 else None


def circle(graph: Graph) -> list[str]:
    """A circle of the graph from its first member to it again; [] where there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_no_file_imports_itself_by_a_detour() -> None:
    assert circle(imports()) == []


def test_no_folder_imports_itself_by_a_detour() -> None:
    assert circle(folders()) == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_those_before_it_alone(room: str) -> None:
    behind = set(ROOMS[ROOMS.index(room) + 1 :])
    wrong = {f"{name} -> {other}" for name, found in imports().items() if name.split(".")[0] == room for other in found}
    assert {line for line in wrong if line.split(" -> ")[1].split(".")[0] in behind} == set()


def test_circles_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_files_can_be_read_at_one_sitting() -> None:
    long = {name: n for name, path in modules().items() if (n := len(path.read_text().splitlines())) > LONGEST}
    assert long == {}
