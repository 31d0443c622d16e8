"""The house: imports run one way, in no circle, and no file has more than 300 lines.

Every import counts: those inside functions, and those for type checkers alone, which a reader follows as well.
"""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

from sim.experiment.code import code_of, import_statements

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("traces", "policies", "sim", "real")
"""Each may import those before it."""
ROOMS = ("sim.core", "sim.prices", "sim.workload", "sim.machine", "sim.results", "sim.experiment", "sim.check", "sim")
"""The same; ``sim`` is what lies in none of the others: the program."""
LONGEST = 300


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
    for node in import_statements(path.read_bytes()):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            own = [f"{base}.{alias.name}" for alias in node.names]
            yield from (it if it in modules() else base for it in own)


def folders() -> dict[str, set[str]]:
    """The same of the folders in a package, however deep their files lie; what lies beside them is above them all."""
    found: dict[str, set[str]] = {}
    for name, others in graph().items():
        places = {folder(other) for other in others} - {folder(name), None}
        if (own := folder(name)) is not None:
            found.setdefault(own, set()).update(map(str, places))
    return found


def folder(module: str) -> str | None:
    parts = modules()[module].relative_to(ROOT).parts
    return ".".join(parts[:2]) if len(parts) > 2 else None


def room(module: str, rooms: tuple[str, ...]) -> int | None:
    return next((i for i, it in enumerate(rooms) if f"{module}.".startswith(f"{it}.")), None)


@pytest.mark.parametrize("arrows", [graph, folders])
def test_nothing_imports_itself_by_way_of_others(arrows: object) -> None:
    assert callable(arrows)
    TopologicalSorter(arrows()).prepare()  # CycleError names the circle


def test_the_core_knows_what_a_policy_is_and_no_part_of_one() -> None:
    core = [others for name, others in graph().items() if room(name, ("sim.core",)) is not None]
    assert {it for others in core for it in others if it.startswith("policies")} == {
        "policies.api",
        "policies.registry",
    }


def test_a_circle_is_found() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"b"}}).prepare()


@pytest.mark.parametrize("rooms", [PACKAGES, ROOMS], ids=["packages", "sim"])
def test_a_room_imports_those_below_it_alone(rooms: tuple[str, ...]) -> None:
    edges = [(one, other, room(one, rooms), room(other, rooms)) for one, its in graph().items() for other in its]
    assert len(edges) > 500
    assert not [f"{one} -> {other}" for one, other, a, b in edges if a is not None and b is not None and b > a]


ODD = (
    '"""A docstring that would\nfrom sim.core import what\nimport only\n"""\nimport a\n',
    "from sim.core import (  # both :)\n    log,\n    state as its,\n)\n",
    "from sim.core import (\n    log,\n)\nif a: import b.c\nelse:\n\tfrom .d import e\n",
    "x = 1; import f\n",
    "def g():\n    from . import h, \\\n        i\n    # import nothing\n    print('; from text')\n",
    "import j\rimport k\n",
    "\ufeffimport l\r\nfrom m import *\r\n",
    "x = 1; \\\nimport n\n",
)
"""Sources whose imports are hard to tell by their lines, or look like some that are none."""


def test_every_import_is_found_by_its_line_or_else_by_parsing() -> None:
    """Also what a result's address is made of: the files that are imported."""
    ours = sorted(code_of("next_use"))[::4]  # parsing all takes long
    assert len(ours) > 25
    for source in (*(path.read_bytes() for path in ours), *map(str.encode, ODD)):
        found = [node for node in import_statements(source) if isinstance(node, ast.Import | ast.ImportFrom)]
        every = [it for it in ast.walk(ast.parse(source)) if isinstance(it, ast.Import | ast.ImportFrom)]
        assert sorted(map(ast.unparse, found)) == sorted(map(ast.unparse, every)), source


def test_every_file_can_be_read_at_one_sitting() -> None:
    assert {name: n for name, path in modules().items() if (n := len(path.read_text().splitlines())) > LONGEST} == {}
