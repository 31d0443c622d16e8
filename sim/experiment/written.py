"""What a policy of a notebook or a script is made of: no file holds a notebook's, and a result depends on it (rule 9).

It is the source of the class, and of all that it names: functions and classes beside it, by their source in turn, plain
data by value, modules by name, those too that a method imports when it runs. What nobody can tell the content of is
refused. The files of the user's own modules, and of what these import, are added by :mod:`sim.experiment.code`.
"""

import dis
import inspect
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from policies.api import Policy
from traces.kit.errors import UserError, shown

MAIN = "__main__"
"""The module in which cells of a notebook, and the script that was started, define what they define."""
PLAIN = (type(None), bool, int, float, complex, str, bytes, range, np.generic, np.dtype)
OURS = ("policies", "sim", "traces")
"""Packages whose files are a part of the digest already."""
WRAPPED = {property: ("fget", "fset"), staticmethod: ("__func__",), classmethod: ("__func__",)}


def is_written(policy: type[Policy]) -> bool:
    """Whether a part of it is defined in a notebook or a script."""
    return any(base.__module__ == MAIN for base in policy.__mro__)


def written(policy: type[Policy]) -> bytes:
    """All that it is made of, as bytes: the same for the same sources and data. UserError for what has no content."""
    return "\0".join(_Walk(policy.name).of(policy.__qualname__, policy)).encode()


def modules_of(policy: type[Policy]) -> set[str]:
    """All modules that it names, and names that may be of modules. UserError as :func:`written`."""
    walk = _Walk(policy.name)
    for _ in walk.of(policy.__qualname__, policy):
        pass
    return walk.modules


class _Walk:
    """Each thing once, in the order in which it is first named."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.seen: dict[int, object] = {}  # with the objects, so that no id comes again
        self.modules: set[str] = set()

    def of(self, name: str, item: Any) -> Iterator[str]:
        yield name
        if isinstance(item, PLAIN):
            yield f"{type(item).__name__} {item!r}"
        elif isinstance(item, Enum):
            yield f"{type(item).__qualname__} {item.name}"
        elif id(item) in self.seen:
            yield "again"
        else:
            self.seen[id(item)] = item
            yield from self._new(name, item)

    def _new(self, name: str, item: Any) -> Iterator[str]:
        if isinstance(item, np.ndarray) and item.dtype != object:
            yield f"{item.dtype} {item.shape}"
            yield item.tobytes().hex()
        elif isinstance(item, Mapping):
            for key, value in item.items():
                yield from self.of(repr(key), value)
        elif isinstance(item, list | tuple):
            for value in item:
                yield from self.of("", value)
        elif isinstance(item, set | frozenset):
            yield from sorted("\1".join(self._apart().of("", value)) for value in item)
        elif isinstance(item, ModuleType):
            yield from self._module(item.__name__)
        elif type(item).__module__ in ("typing", "types") and not isinstance(item, FunctionType):
            yield repr(item)
        elif hasattr(item, "__qualname__") and item.__module__ not in (MAIN, None):
            yield f"{item.__module__} {item.__qualname__}"
            yield from self._module(item.__module__)
        elif isinstance(item, type):
            yield from self._class(item)
        elif isinstance(item, FunctionType):
            yield from self._function(item)
        elif (parts := WRAPPED.get(type(item))) is not None:
            for part in parts:
                yield from self.of(part, getattr(item, part))
        else:
            raise UserError(
                f"policy={self.policy}: reads {name}, {shown(item)}, whose content no result can name; allowed:"
                " functions, classes, modules, numbers, texts, and lists, tuples, dicts, sets and arrays of these"
            )

    def _apart(self) -> "_Walk":
        """For one member of a set: sets have no order, so no member may depend on those before it."""
        walk = _Walk(self.policy)
        walk.seen, walk.modules = dict(self.seen), self.modules
        return walk

    def _module(self, name: str) -> Iterator[str]:
        """A module's name; and the file of one that is neither Python's nor ours: it may be the user's own."""
        self.modules.add(name)
        yield name
        top = name.partition(".")[0]
        file = getattr(sys.modules.get(name), "__file__", None)
        if top not in sys.stdlib_module_names and top not in OURS and file is not None and Path(file).suffix == ".py":
            yield Path(file).read_text(encoding="utf-8", errors="replace")

    def _class(self, kind: type) -> Iterator[str]:
        for base in kind.__bases__:
            yield from self.of("base", base)
        yield repr(sorted((key, str(hint)) for key, hint in vars(kind).get("__annotations__", {}).items()))
        for key, value in sorted(vars(kind).items()):
            if not _is_pythons(key, value):
                yield from self.of(key, value)

    def _function(self, function: FunctionType) -> Iterator[str]:
        try:
            yield inspect.getsource(function)
        except (OSError, TypeError):
            raise UserError(
                f"policy={self.policy}: the source of {function.__qualname__} is not to be found; allowed: a class of a"
                " notebook's cell, of a script or of a module"
            ) from None
        yield from self.of("defaults", [function.__defaults__, function.__kwdefaults__])
        for cell in function.__closure__ or ():
            yield from self.of("closure", cell.cell_contents)
        names, imported, looked_up = _names(function.__code__)
        self.modules |= imported
        for name in sorted(names & function.__globals__.keys()):
            item = function.__globals__[name]
            yield from self.of(name, item)
            if isinstance(item, ModuleType):  # import package.module gives the package's name
                self.modules |= {f"{item.__name__}.{inner}" for inner in looked_up}


def _names(code: CodeType) -> tuple[set[str], set[str], set[str]]:
    """What it, and functions in it, read of its module; what they import when they run; what they read of objects."""
    names, imported, looked_up, base = set[str](), set[str](), set[str](), ""
    for it in dis.get_instructions(code):
        word = str(it.argval)
        if it.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(word)
        elif it.opname == "IMPORT_NAME":
            imported.add(base := word)
        elif it.opname == "IMPORT_FROM":
            imported.add(f"{base}.{word}")
        elif it.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            looked_up.add(word)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            for found, more in zip((names, imported, looked_up), _names(inner), strict=True):
                found |= more
    return names, imported, looked_up


def _is_pythons(key: str, value: object) -> bool:
    """Whether Python, an abstract class or a dataclass has made it, of what is told by the rest."""
    if inspect.ismemberdescriptor(value) or inspect.isgetsetdescriptor(value) or key == "_abc_impl":
        return True
    if not (key.startswith("__") and key.endswith("__")):
        return False
    plain = inspect.unwrap(value) if isinstance(value, FunctionType) else None
    made = isinstance(plain, FunctionType) and plain.__code__.co_filename.startswith("<string>")
    return made or not callable(value) or key.startswith("__annot")
