"""Plain words, composed without Hydra: the same configuration in a hundredth of the time.

Hydra's import, its own settings and its grammar take longer than all else before a run, and what most people ask for
needs none of them: names of files in ``conf/``, and plain values of keys that are there. Whatever is not plain, a
mistake too, is left to Hydra (:mod:`sim.experiment.by_hydra`); the tests hold one against the other.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # where yaml was built without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]

from sim.experiment.config import GROUPS
from traces.kit import conf

Node = dict[str, Any]
PROFILES = ("model", "hardware")
"""Groups of which a file may be given."""
PACKAGES = {"host": "hardware"}
"""Where a group's files say ``@package``, since they are merged into another group."""
HEADER = re.compile(r"^\s*#\s*@(.*)$", re.MULTILINE)
NUMBER = re.compile(r"(?=.*[0-9])[-+0-9.eE_:]+")
KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
PATH = re.compile(r"[\w./-]+", re.ASCII)
WORDS = {"null": None, "true": True, "false": False}
VALUES: dict[re.Pattern[str], type] = {
    re.compile(r"-?(0|[1-9][0-9]{0,17})"): int,
    re.compile(r"-?(0|[1-9][0-9]{0,14})\.[0-9]{1,15}"): float,
    re.compile(r"(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?([KMGT]?i?B|%)"): str,
    re.compile(r"(?!(?i:null|true|false|inf|nan)$)[A-Za-z_]\w*", re.ASCII): str,
}
"""Values that Hydra reads in the same way. There are more; none of them is plain."""


class _NotPlainError(Exception):
    """Hydra is to be asked."""


def composed_plainly(words: Sequence[str]) -> Node | None:
    """What Hydra composes of ``conf/`` and the words; None where one of them, or a file, is not plain."""
    try:
        return _composed(words)
    except (_NotPlainError, OSError, ValueError):  # ValueError: of a path that no file can have
        return None


def _composed(words: Sequence[str]) -> Node:
    given = dict(word.partition("=")[::2] for word in words)
    usual, own = _root()
    if len(given) < len(words) or not all(map(KEY.fullmatch, given)):
        raise _NotPlainError
    composed: Node = {}
    for group, name in usual.items():
        if (chosen := given.pop(group, name)) is not None:
            _merge(composed.setdefault(PACKAGES.get(group, group), {}), _chosen(group, chosen))
    composed |= own
    for key, value in given.items():
        *parents, last = key.split(".")
        node: Any = composed
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node or (isinstance(node[last], dict | list) and value != "null"):
            raise _NotPlainError
        if key == "trace" and not PATH.fullmatch(value):  # a text, be it [1]
            raise _NotPlainError
        node[last] = value if key == "trace" else _value(value)
    return composed


def _value(word: str) -> Any:
    if word[:1] == "[" and word[-1] == "]":
        return [_value(one) for one in word[1:-1].split(",")]
    if word in WORDS:
        return WORDS[word]
    for pattern, read in VALUES.items():
        if pattern.fullmatch(word):
            return read(word)
    raise _NotPlainError


def _merge(into: Node, more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _root() -> tuple[Node, Node]:
    """Of ``config.yaml``: what each group is by default, in the order in which they are merged, and its own keys."""
    own = _file(conf.FOLDER / "config.yaml", None)
    own.pop("hydra", None)
    entries = [entry for entry in own.pop("defaults", []) if isinstance(entry, dict)]
    named = (item for entry in entries for item in entry.items())
    usual: Node = {key: name for key, name in named if not key.startswith("override hydra/")}
    known = {*usual} == {*GROUPS, "host", "experiment"} and usual.pop("experiment") is None
    if not known or {*usual} & {*own}:
        raise _NotPlainError
    return usual, own


def _chosen(group: str, name: str) -> Node:
    """What a name in a group stands for, or a profile's file."""
    if group in PROFILES and name.endswith((".yaml", ".yml")):
        found = _file(Path(name), None)
    elif name in conf.names(group):
        found = _file(conf.FOLDER / group / f"{name}.yaml", f"package {PACKAGES[group]}" if group in PACKAGES else None)
    else:
        raise _NotPlainError
    if "defaults" in found:
        raise _NotPlainError
    return found


def _file(path: Path, package: str | None) -> Node:
    """What a file says, the caller's own."""
    said, content = _read(path.read_text(encoding="utf-8"))
    if said != package:
        raise _NotPlainError
    found: Node = _copied(content)
    return found


def _copied(node: Any) -> Any:
    """The same, where what YAML's aliases repeat stands at each place for itself, as in Hydra's."""
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [*map(_copied, node)] if isinstance(node, list) else node


@cache
def _read(text: str) -> tuple[str | None, Node]:
    """A file's ``@package``, and its content. By its text: a file may change while a notebook runs, or its folder."""
    found: Any = None
    try:
        loader = SafeLoader(text)
        node = loader.get_single_node()
        if node is not None and not _is_twice(node):
            found = loader.construct_document(node)
        plain = isinstance(found, dict) and all(map(_is_plain, _leaves(found)))
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError):  # as YAML has it of 2026-13-01, say
        plain = False
    if not plain:
        raise _NotPlainError
    said = HEADER.findall(text)
    if said and (len(said) > 1 or not HEADER.match(text.lstrip())):  # Hydra reads it at the top alone
        raise _NotPlainError
    return said[0].strip() if said else None, found


def _is_twice(node: yaml.Node) -> bool:
    """Whether a key stands twice in it, of which YAML takes the last, or others are merged in."""
    if not isinstance(node, yaml.MappingNode):
        return isinstance(node, yaml.SequenceNode) and any(map(_is_twice, node.value))
    keys = [str(key.value) for key, _ in node.value]
    return len({*keys}) < len(keys) or "<<" in keys or any(_is_twice(value) for _, value in node.value)


def _leaves(node: object) -> Iterator[object]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value) if isinstance(key, str) else [()]  # a text is wanted, and a tuple is not plain
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value)
    else:
        yield node


def _is_plain(leaf: object) -> bool:
    """Whether Hydra takes it as it stands: nothing is interpolated or missing, or a number where YAML has a text."""
    if isinstance(leaf, str):
        return "${" not in leaf and leaf != "???" and not NUMBER.fullmatch(leaf)
    return leaf is None or isinstance(leaf, bool | int | float)
