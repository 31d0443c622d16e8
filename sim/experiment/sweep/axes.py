"""Dense axes: lists inside one job, ``budget=[2GB,4GB,8GB]``, which cost Hydra no composition."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from traces.kit.errors import UserError, one_of

AXES = ("budget", "chunks", "warmup", "limit", "seed")
"""Keys that may be a list in a sweep: what is left of a cell when trace, model, machine and policy stand."""


def cells(composed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One configuration per combination of the lists, the last axis the fastest. UserError for a list elsewhere."""
    lists = {key: value for key, value in composed.items() if isinstance(value, list)}
    for key, values in lists.items():
        if key not in AXES:
            raise UserError(f"{key}={_shown(values)}: a list; allowed for: {one_of(AXES)}")
        if not values:
            raise UserError(f"{key}=[]: at least one value is wanted")
    for chosen in product(*lists.values()):
        yield {**composed, **dict(zip(lists, chosen, strict=True))}


def listed(composed: Mapping[str, Any]) -> None:
    """UserError if a key of a single run is a list."""
    for key, value in composed.items():
        if isinstance(value, list) and key in AXES:
            raise UserError(f"{key}={_shown(value)}: several values; add -m to run each")


def _shown(values: list[Any]) -> str:
    return f"[{','.join('null' if value is None else str(value) for value in values)}]"
