"""Mappings of mappings: the paths in them, and another value at one."""

from collections.abc import Iterator, Mapping
from typing import Any


def paths(node: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Of every key, a mapping's before those in it."""
    for key, value in node.items():
        yield (*above, key)
        if isinstance(value, Mapping):
            yield from paths(value, (*above, key))


def put(node: Mapping[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    key, *rest = path
    return {**node, key: put(node[key], tuple(rest), value) if rest else value}
