"""Parts of a result as a person reads them, in a line: the room for experts, and what a policy decided."""

from collections.abc import Mapping
from typing import Any

from traces.kit.units import format_bytes

LONGEST = 16
"""Of a list that a person reads whole: beyond it, its range."""


def room_line(room: Mapping[str, Any]) -> str:
    """A line for people, from the document of a room."""
    return f"room for experts: {format_bytes(room['bytes'])} of {room_worded(room)}"


def room_worded(room: Mapping[str, Any]) -> str:
    """The sum behind the document of a room: ``24.0 GB, less 271 MB dense part, ...``."""
    parts = {
        "dense part": room["dense_bytes"],
        "embeddings and head": room["head_bytes"],
        f"KV of {room['kv_tokens']:,} tokens": room["kv_bytes"],
    }
    less = ", ".join(f"{format_bytes(nbytes)} {name}" for name, nbytes in parts.items() if nbytes)
    return f"{format_bytes(room['gpu_bytes'])}, {f'less {less}' if less else 'the rest of the model being unknown'}"


def decided_worded(decided: Mapping[str, Any]) -> str:
    """What a policy decided, as a person reads them, in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {_worded(value)}" for name, value in decided.items())


def _worded(value: object) -> str:
    if isinstance(value, list):
        if len(value) > LONGEST and all(type(item) in (int, float) for item in value):
            return f"{_worded(min(value))} to {_worded(max(value))} ({len(value)} values)"
        return " ".join(map(_worded, value)) or "none"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value) if isinstance(value, str) else f"{value:,}"
