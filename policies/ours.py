"""The policies of this folder: any class with a ``name`` in a module of it, or of a folder in it."""

import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import policies
from policies.api import Policy
from policies.given import is_policy


def every() -> Iterator[type[Policy]]:
    """All of them; every module is imported."""
    for info in pkgutil.walk_packages(policies.__path__, "policies."):
        if not info.name.endswith(".__main__"):
            yield from _of(info.name)


def named(name: str) -> type[Policy] | None:
    """The one of that name, with no other's module imported, which would take longer than all else before a run.

    None where no file says the name at a class's beginning, or where several do: :func:`every` has whatever there is.
    """
    modules = _modules().get(name, ())
    return next((policy for policy in _of(modules[0]) if policy.name == name), None) if len(modules) == 1 else None


def _of(module: str) -> Iterator[type[Policy]]:
    known = vars(import_module(module)).values()
    return (item for item in known if is_policy(item) and item.__module__ == module)


_SAYS = re.compile(r"""^[ \t]+name(?:: *[^=\n]+?)? *= *["'](\w+)["']""", re.MULTILINE)


@cache
def _modules() -> dict[str, list[str]]:
    """Which modules say a name, by their text."""
    found: dict[str, list[str]] = {}
    root = Path(policies.__path__[0])
    for path in root.rglob("*.py"):
        module = ".".join(("policies", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for said in _SAYS.findall(path.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(said, []).append(module)
    return found
