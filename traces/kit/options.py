"""`key=value` arguments, checked on entry against a dataclass of defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from traces.kit.errors import UserError, allowing, meant, one_of, shown

T = TypeVar("T")
Ranges = Mapping[str, tuple[float, float]]


def parse_options(cls: type[T], args: list[str]) -> T:
    """Build dataclass `cls` from `key=value` arguments.

    A field's annotation (`str`, `int`, `float`) says how its value is read; a field without a default must be
    given. Raises UserError for an unknown, repeated, missing or unreadable key, naming the allowed set: for numbers,
    what `RANGES` of the class says of them, (lowest, highest) by key; :func:`check_ranges` holds them to it.
    """
    ranges: Ranges = getattr(cls, "RANGES", {})
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for arg in args:
        key, equals, value = arg.partition("=")
        if not equals:
            raise UserError(f"{arg!r} is not key=value; allowed keys: {one_of(known)}{meant(key, known)}")
        if key not in known:
            raise UserError(f"unknown key {key!r} in {arg!r}; {allowing(key, known)}")
        if key in given:
            raise UserError(f"{key!r} is given twice")
        given[key] = _read(key, value, getattr(known[key].type, "__name__", str(known[key].type)), ranges.get(key))
    missing = [f.name for f in known.values() if f.default is MISSING and f.name not in given]
    if missing:
        raise UserError(f"missing {one_of(f'{name}=' for name in missing)}; allowed keys: {one_of(known)}")
    return cls(**given)


def _read(key: str, value: str, kind: str, between: tuple[float, float] | None) -> object:
    readers = {"str": str, "int": int, "float": float}
    try:
        if kind != "str" and not re.fullmatch(r"[-+.0-9a-zA-Z]+", value):
            raise ValueError("spaces and underscores, which Python lets pass")
        read = readers[kind](value)
    except ValueError:
        noun = "a whole number" if kind == "int" else "a number"
        allowed = f"; allowed: {_between(*between)}" if between else ""
        raise UserError(f"{key}={shown(value)} is not {noun}{allowed}") from None
    if between and isinstance(read, int):
        check_range(key, read, *between)
    return read


def check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UserError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{key}={shown(value)} is not known; {allowing(value, allowed)}")


def check_text(key: str, value: str) -> None:
    """Raise UserError unless `value` can be printed on one line."""
    if not value.isprintable():
        raise UserError(f"{key}={shown(value)}; allowed: printable text")


def check_range(key: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise UserError unless low <= value <= high (NaN is refused too)."""
    if not low <= value <= high:
        given = f"{value:g}" if isinstance(value, float) else shown(value)
        raise UserError(f"{key}={given} is out of range; allowed: {_between(low, high)}")


def check_ranges(options: object, ranges: Ranges) -> None:
    """Raise UserError unless each of these numbers is in its range."""
    for key, (low, high) in ranges.items():
        check_range(key, getattr(options, key), low, high)


def _between(low: float, high: float) -> str:
    return f"at least {low:g}" if high == float("inf") else f"{low:.12g} to {high:.12g}"
