"""Strict readers: a plain mapping in, a frozen dataclass out, or one line of error.

A dataclass annotates each key with its reader (``Annotated[int, whole(1)]``); :func:`record` applies
them. Nothing is defaulted or converted: every key is there, of its type and in its range, but for those that
the dataclass itself gives a default. Decimals become exact fractions.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, TypeVar, get_type_hints

from traces.kit.errors import UserError, allowing, one_of
from traces.kit.fields import MAX_INT

Reader = Callable[[Any, str], Any]
T = TypeVar("T")


def whole(at_least: int, at_most: int = MAX_INT) -> Reader:
    most = f" and at most {at_most}" if at_most < MAX_INT else ""

    def read(value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            raise refusal(value, where, f"a whole number of at least {at_least}{most}")
        if value > at_most:
            raise refusal(value, where, f"at most {at_most}")
        return value

    return read


SMALLEST = Fraction(1, 10**9)
LARGEST = 10**12
"""Of rates and delays in whatever unit: beyond them a figure is a slip, and times would leave 64 bits."""


def number(*, zero: bool = False, at_most: int = LARGEST) -> Reader:
    allowed = f"a finite number {'of at least' if zero else 'above'} 0"
    allowed += f" and at most {at_most}" if at_most < LARGEST else ""

    def read(value: Any, where: str) -> Fraction:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise refusal(value, where, allowed)
        try:
            exact = Fraction(str(value))  # the decimal as written: 0.1 is one tenth on every platform
        except ValueError:
            raise refusal(value, where, allowed) from None
        if exact < 0 or exact > at_most or (exact == 0 and not zero):
            more = f" and at most {at_most:g}" if at_most == LARGEST and exact > 0 else ""
            raise refusal(value, where, f"{allowed}{more}")
        if 0 < exact < SMALLEST:
            raise refusal(value, where, f"{allowed}, and of at least {float(SMALLEST):g}")
        return exact

    return read


def text(*choices: str) -> Reader:
    def read(value: Any, where: str) -> str:
        if not isinstance(value, str) or not value.strip() or (choices and value not in choices):
            raise refusal(value, where, one_of(choices) if choices else "a text that is not empty")
        return value

    return read


def by_name(item: Reader) -> Reader:
    def read(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not value or not all(isinstance(key, str) for key in value):
            raise refusal(value, where, "a mapping with at least one name")
        return {key: item(value[key], f"{where}.{key}") for key in value}

    return read


def each(item: Reader) -> Reader:
    def read(value: Any, where: str) -> tuple[Any, ...]:
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            raise refusal(value, where, "a list")
        return tuple(item(member, f"{where}[{i}]") for i, member in enumerate(value))

    return read


def nullable(item: Reader) -> Reader:
    def read(value: Any, where: str) -> Any:
        try:
            return None if value is None else item(value, where)
        except UserError as error:
            if not str(error).startswith(f"{where}="):  # of a key within
                raise
            raise UserError(f"{error}, or null") from None

    return read


def truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise refusal(value, where, "true, false")
    return value


def record(kind: type[T]) -> Callable[[Any, str], T]:
    """Read a mapping into the dataclass `kind`, whose annotations carry the reader of each key."""

    def read(value: Any, where: str) -> T:
        readers = _readers(kind)  # type: ignore[arg-type]
        if not isinstance(value, Mapping):
            raise refusal(value, where, f"a mapping with the keys {one_of(readers)}")
        at = {key: f"{where}.{key}".lstrip(".") for key in (*value, *readers)}
        for key in value:
            if key not in readers:
                raise UserError(f"{at[key]}={value[key]!r}: no such key; {allowing(key, readers)}")
        known: Mapping[str, Field[Any]] = getattr(kind, "__dataclass_fields__", {})
        required = [key for key in readers if known[key].default is known[key].default_factory is MISSING]
        for key in required:
            if key not in value:
                raise UserError(f"{at[key]} is missing; required: {one_of(required)}")
        return kind(**{key: readers[key](value[key], at[key]) for key in readers if key in value})

    return read


@cache
def _readers(kind: type[Any]) -> dict[str, Reader]:
    hints = get_type_hints(kind, include_extras=True)
    return {key: hint.__metadata__[0] for key, hint in hints.items() if hasattr(hint, "__metadata__")}


def refusal(value: Any, where: str, allowed: str) -> UserError:
    typed = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return UserError(f"{where}={typed}: allowed: {allowed}")


Text = Annotated[str, text()]
Threads = Annotated[int, whole(1, 2**16)]
Count = Annotated[int, whole(1)]
Params = Annotated[int, whole(0)]
Rate = Annotated[Fraction, number()]
Delay = Annotated[Fraction, number(zero=True)]
Share = Annotated[Fraction, number(at_most=1)]
