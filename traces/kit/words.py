"""The words behind a verb, as a dataclass declares them: positions, ``key=value``, flags, and what others read.

A field ``name: Annotated[TYPE, "what it is"]`` is a key of the command; a field without such a text is no word. TYPE is
str, int, float, bool, Path, Fraction or a Literal, each also ``| None`` (not given). Its marks say the rest::

    folder: Annotated[Path, Position("DIR"), "of a trace"]
    threads: Annotated[int, Between(0, 4096), "CPU threads; 0: torch's choice"] = 0

An empty value is taken where the default is the empty text, and nowhere else.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from inspect import get_annotations
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from traces.kit.errors import UserError, brief, check_choice, one_of

T = TypeVar("T")


class Between(NamedTuple):
    """A number lies between these two, both included (NaN lies nowhere)."""

    low: float
    high: float = float("inf")

    def __str__(self) -> str:
        return f"at least {self.low:g}" if self.high == float("inf") else f"{self.low:.12g} to {self.high:.12g}"


class Position(NamedTuple):
    """A word without a key, in the order of the fields; of a field that is a tuple, one word or more."""

    shown: str


class Flag:
    """Other spellings of a key: of a truth, it is true; of anything else, the next word is its value."""

    def __init__(self, *spellings: str) -> None:
        self.spellings = spellings


@dataclass(frozen=True)
class Others:
    """The field, a tuple of texts, takes the ``key=value`` words of keys that are not the command's own.

    ``known``: what they may begin with; none: whoever reads the words is to judge. ``page()``: what the help page says
    of them.
    """

    known: Collection[str] = ()
    page: Callable[[], Mapping[str, str]] | None = None


@dataclass(frozen=True)
class Key:
    """One field of a command's dataclass."""

    name: str
    kind: Any
    text: str
    default: Any
    marks: tuple[Any, ...]

    def mark(self, kind: type[T]) -> T | None:
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)

    @property
    def needed(self) -> bool:
        return self.default is MISSING and self.mark(Others) is None

    @property
    def shown(self) -> str:
        """As an error or a page names it: DIR of a position, ``out=`` of a key."""
        position = self.mark(Position)
        return position.shown if position else f"{self.name}="

    @property
    def choices(self) -> tuple[str, ...]:
        if self.kind is bool:
            return ("true", "false")
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def allowed(self) -> str:
        """What its value may be."""
        noun = {int: "a whole number", float: "a number", Fraction: "a number, such as 0.7 or 2/3"}.get(self.kind)
        between = self.mark(Between)
        return one_of(self.choices) or ", ".join(str(part) for part in (noun or "a text", between) if part)

    def read(self, value: str) -> Any:
        """Its value; UserError with what is allowed."""
        if value == self.default == "":
            return value
        try:
            return self._read(value)
        except ValueError as error:
            raise UserError(f"{self.name}={brief(value)}: allowed: {error}") from None

    def _read(self, value: str) -> Any:
        for mark in self.marks:
            if callable(mark):
                return mark(value)
        if self.choices:
            check_choice(self.name, value, self.choices)
            return value == "true" if self.kind is bool else value
        try:
            found = _READERS[self.kind](value)
        except (ValueError, ZeroDivisionError):
            raise ValueError(self.allowed) from None
        between = self.mark(Between)
        if between and not between.low <= found <= between.high:
            raise ValueError(self.allowed)
        return found


def printable(value: str) -> str:
    """A mark: text that can be shown on one line."""
    if not value or not value.isprintable():
        raise ValueError("printable text")
    return value


def plain_name(value: str) -> str:
    """A mark: the name of a file or a profile, without a folder."""
    if not re.fullmatch(r"[\w.-]+", value):
        raise ValueError("letters, digits, '.', '_' and '-'")
    return value


def folder(value: str) -> Path:
    """A mark: a folder, which is made where it is not there."""
    path = Path(os.path.expanduser(value))  # noqa: PTH111
    if not value or (path.exists() and not path.is_dir()):
        raise ValueError("a folder, or one yet to be made")
    return path


def keys_of(options: Any) -> tuple[Key, ...]:
    """The keys of a dataclass, in the order of its fields, and then of those that it inherits."""
    hints = get_type_hints(options, include_extras=True)
    found = []
    own = get_annotations(options)
    for field in sorted(fields(options), key=lambda field: field.name not in own):
        kind, *marks = get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else (None,)
        texts = [mark for mark in marks if isinstance(mark, str)]
        if texts:
            if get_origin(kind) in (Union, UnionType):
                kind = next(arg for arg in get_args(kind) if arg is not NoneType)
            marks = [mark for mark in marks if not isinstance(mark, str)]
            found.append(Key(field.name, kind, texts[-1], field.default, tuple(marks)))
    return tuple(found)


def _whole(value: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,20}", value):
        raise ValueError("no whole number")
    return int(value)


def _number(value: str) -> float:
    if not re.fullmatch(r"[-+.0-9a-zA-Z]{1,40}", value):  # spaces and underscores are what Python lets pass
        raise ValueError("no number")
    return float(value)


def _fraction(value: str) -> Fraction:
    return Fraction(value if len(value) < 20 else "")


def _text(value: str) -> str:
    if not value:
        raise ValueError("no text")
    return value


_READERS: dict[Any, Callable[[str], Any]] = {
    int: _whole,
    float: _number,
    Fraction: _fraction,
    Path: lambda value: Path(os.path.expanduser(_text(value))),  # noqa: PTH111 - no shell does it behind "="
    str: _text,
}
