"""JSON, strictly. Of strangers: unique keys, finite numbers, and every fault is a ValueError."""

import json
from math import isfinite
from typing import Any

from traces.kit.errors import one_of


def load_json(raw: bytes) -> Any:
    """Parse ``raw``, UTF-8 without a byte order mark; raises ValueError with one reason for whatever is wrong."""
    try:
        return json.loads(raw.decode("utf-8"), **_HOOKS)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dump_json(document: object) -> str:
    """Write ``document`` as people read it; raises ValueError for NaN and infinities."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError(f"a key that occurs twice among {one_of(key for key, _ in pairs)}")
    return keys


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"the number {text} is too large")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"the number {name}")


_HOOKS: dict[str, Any] = {
    "object_pairs_hook": _no_duplicates,
    "parse_constant": _no_constant,
    "parse_float": _finite,
}
DECODER = json.JSONDecoder(**_HOOKS)
"""As strict as load_json, for text that is read piece by piece."""
