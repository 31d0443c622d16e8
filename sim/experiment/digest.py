"""Which code a result depends on."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import sim
import traces
from policies import registry

# What only talks to people, or belongs to another command, does not change a result. Files, and whole folders.
ASIDE = {
    "traces": {"cli.py", "inspect.py", "plots.py", "reuse.py", "stats.py", "version.py", "words.py", "__main__.py"},
    "sim": {
        *("__init__.py", "__main__.py", "bench.py", "cli.py", "curve.py", "finished.py", "fitting.py", "frame.py"),
        *("help.py", "policy_time.py", "progress.py", "runs.py", "side_by_side.py", "table.py", "titles.py"),
        *("twins.py", "compare", "sweep"),
        *("check", "pictures", "report"),
    },
}


@cache
def code_digest(policy: str | None = None) -> str:
    """Hash of the trace reader, the simulator, the bounds and reference rows, and the named policy's own files.

    The policy's files are those of its class and base classes, and all of ``policies`` that they import.
    """
    files = {path for package in (traces, sim) for path in _package(Path(str(package.__file__)).parent)}
    for path in (Path(inspect.getfile(registry)).parent / "bounds").glob("*.py"):
        files |= _with_imports(path)
    for name in {"lru", policy or "lru"}:  # the reference row infinite is LRU
        for base in registry.find(name).__mro__:
            if base.__module__ not in ("abc", "builtins"):
                files |= _with_imports(Path(inspect.getfile(base)))
    digest = hashlib.sha256()
    for content in sorted(path.read_bytes() for path in files):
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:16]


def _package(root: Path) -> Iterator[Path]:
    aside = ASIDE[root.name]
    inner = root.glob("*.py") if root.name == "traces" else root.rglob("*.py")
    found = ((path, path.relative_to(root)) for path in inner)
    return (path for path, within in found if within.as_posix() not in aside and within.parts[0] not in aside)


def _with_imports(path: Path) -> set[Path]:
    """A file, and the modules of ``policies`` that it imports, and theirs."""
    found, new = set[Path](), [path]
    root = Path(inspect.getfile(registry)).parent
    while new:
        path = new.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
            for name in names:
                package, _, rest = str(name).partition(".")
                module = root / (rest.replace(".", "/") + ".py")
                if package == "policies" and module.is_file():
                    new.append(module)
    return found
