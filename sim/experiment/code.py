"""The code that a result depends on, and a hash of it."""

import ast
import hashlib
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.util import resolve_name
from pathlib import Path

from policies import registry
from sim.experiment.written import MAIN, OURS, is_written, modules_of, written

CODE = ("traces/format", "sim/core", "sim/machine", "sim/prices", "sim/workload", "policies/bounds")
"""Folders of which every file counts for the digest of the code."""
RUN, OF_A_RUN = "sim.experiment.run", ("sim.experiment", "sim.results", "sim.machine", "policies")
"""And all that a run imports of these rooms, the bounds and reference rows among it."""
ASIDE = ("sim", "sim.experiment.compose", "sim.results.wording")
"""But for what turns words into a configuration, which a result has by value, and what only talks to people."""

PLAIN = re.compile(
    r"^[ \t\f]*(?:from[ \t]+[.\w]+[ \t]+import[ \t]*(?:\([^)]*\)|[^\n(]+)|import[ \t]+[^\n]+)", re.MULTILINE
)
"""An import statement at the beginning of a line."""
ELSEWHERE = re.compile(r"(?:[;:]|\\\n)[ \t\f]*(?:from|import)[ \t\\]|\r", re.ASCII)
"""What may be one at another place, and lines that end otherwise."""
TEXT = re.compile(r'("""|\'\'\').*?\1', re.DOTALL)

INSTALLED = {"site-packages", "dist-packages"}
"""Folders whose modules no user writes."""


@cache
def code_digest(policy: str | None = None) -> str:
    """Hash of the code that a result depends on; None: of what all policies share, bounds and reference rows.

    A policy's own code is the modules of its class and base classes, and all that they import of ``policies``, of the
    top-level packages that they are from, be these somebody else's, of what was installed together with it, and of
    files that nobody installed. Of a class of a notebook or a script it is what :mod:`sim.experiment.written` finds,
    and the modules named in that, with all that they import; but none of Python's and of installed packages.
    """
    digest = hashlib.sha256()
    contents = [path.read_bytes() for path in code_of(policy)]
    if policy is not None and is_written(registry.find(policy)):
        contents.append(written(registry.find(policy)))
    for content in sorted(contents):
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:16]


def digest_of(module: str) -> str:
    """Hash of a module alone: of what looks at a run, and is no part of it."""
    path = _file(module)
    assert path is not None
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def code_of(policy: str | None = None) -> set[Path]:
    """The files behind :func:`code_digest`."""
    root = Path(__file__).resolve().parents[2]
    files = {path for folder in CODE for path in (root / folder).rglob("*.py")}
    bounds = [f"policies.bounds.{path.stem}" for path in (root / "policies/bounds").glob("*.py")]
    files |= _imported([RUN, *bounds], _in(OF_A_RUN))
    if policy is not None:
        own = {base.__module__ for base in registry.find(policy).__mro__}
        own = {name for name in own if name != MAIN and name.partition(".")[0] not in sys.stdlib_module_names}
        packages = {name.partition(".")[0] for name in own}
        files |= _imported(own, _of_a_policy(packages | (_installed_with(policy) if packages - {*OURS} else set())))
        if is_written(registry.find(policy)):
            files |= _imported(filter(_is_the_users, modules_of(registry.find(policy))), _is_the_users)
    return files


def _in(packages: Collection[str]) -> Callable[[str], bool]:
    return lambda module: any(f"{module}.".startswith(f"{package}.") for package in packages)


def _of_a_policy(packages: Collection[str]) -> Callable[[str], bool]:
    named = _in(packages)
    return lambda module: named(module) or _is_the_users(module)


def _installed_with(policy: str) -> set[str]:
    """The top-level packages and modules of the distributions that say to have the policy."""
    found = [entry.dist for entry in entry_points(group=registry.GROUP, name=policy)]
    files = [file for dist in found if dist is not None for file in dist.files or ()]
    return {file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py"} - {".."}


def _is_the_users(module: str) -> bool:
    """Whether a module may be a file that somebody edits; those of ``policies``, too, as it may name any of them."""
    top = module.partition(".")[0]
    if top == "policies":
        return True
    file = None if top in sys.stdlib_module_names or top in OURS or top == MAIN else _file(module)
    return file is not None and not INSTALLED & set(file.parts)


def _imported(modules: Iterable[str], within: Callable[[str], bool]) -> set[Path]:
    """The files of modules, and of all that they import of those that are ``within``, at whatever place in them."""
    found: dict[str, Path] = {}
    new = list(modules)
    while new:
        name = new.pop()
        path = None if name in found or name in ASIDE else _file(name)
        if path is None:
            continue
        found[name] = path
        new += filter(within, _imports(name, path, path.stat().st_mtime_ns))
    return set(found.values())


@cache
def _imports(module: str, path: Path, _changed_ns: int) -> frozenset[str]:
    """What may be modules among the names that a module imports, with the packages around them.

    ``_changed_ns``: a user's file may change while a notebook runs.
    """
    if path.suffix != ".py":  # compiled
        return frozenset()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = [f"{module}."]
    for node in import_statements(path.read_bytes()):
        if isinstance(node, ast.Import):
            names += [f"{alias.name}." for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names += [f"{base}.{alias.name}." for alias in node.names]
    return frozenset(name[:i] for name in names for i, c in enumerate(name) if c == ".")


def import_statements(source: bytes) -> Iterable[ast.AST]:
    """Every import in a source, perhaps among other statements.

    Its lines tell them in a tenth of the time that parsing takes, which is done where a line might mislead.
    """
    try:
        text = source.decode("utf-8-sig")
        if not ELSEWHERE.search(text) and not any(PLAIN.search(found[0]) for found in TEXT.finditer(text)):
            return ast.parse("\n".join(found[0].strip() for found in PLAIN.finditer(text))).body
    except (UnicodeDecodeError, SyntaxError):  # a comment within parentheses, say
        pass
    return _statements(ast.parse(source))


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Every statement at whatever place: an import is one, and expressions, most of a tree, have none."""
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):  # of a lambda or a conditional expression it is none
                nodes += inner


def _file(module: str) -> Path | None:
    """Where a module lies; None for what is none. Nothing is imported for it."""
    if (known := getattr(sys.modules.get(module), "__file__", None)) is not None:
        return Path(known)
    top, _, rest = module.partition(".")
    spec = None if top in sys.modules else PathFinder.find_spec(top)
    if not rest:
        return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
    folders = getattr(sys.modules.get(top), "__path__", ()) if spec is None else spec.submodule_search_locations or ()
    place = rest.replace(".", "/")
    for folder in folders:
        for path in (Path(folder, f"{place}.py"), Path(folder, place, "__init__.py")):
            if path.is_file():
                return path
    return None
