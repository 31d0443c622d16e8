"""The words behind a verb, as a dataclass declares them, read into it: positions, ``key=value``, flags, others' words.

A field ``name: Annotated[TYPE, "what it is"]`` is a key of the command; a field without such a text is no word. TYPE is
str, int, float, bool, Path, Fraction or a Literal, each also ``| None`` (not given). Its marks say the rest::

    folder: Annotated[Path, Position("DIR"), "of a trace"]
    threads: Annotated[int, Between(0, 4096), "CPU threads; 0: torch's choice"] = 0

An empty value is taken where the default is the empty text, and nowhere else.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from inspect import get_annotations
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from traces.kit.errors import UserError, brief, check_choice, meant, one_of

T = TypeVar("T")
HELP = frozenset({"-h", "--help"})


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
        noun = {int: "a whole number", float: "a number", Fraction: "a number, such as 0.7 or 2/3"}.get(self.kind)
        between = self.mark(Between)
        return one_of(self.choices) or ", ".join(str(part) for part in (noun or "a text", between) if part)

    def read(self, value: str) -> Any:
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
        spelling, make = _READERS[self.kind]
        try:
            found = make(value) if re.fullmatch(spelling, value) else None
        except (ValueError, ZeroDivisionError):
            found = None
        between = self.mark(Between)
        if found is None or (between and not between.low <= found <= between.high):
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


def parse(options: type[T], words: Sequence[str], usage: str) -> T:
    """The dataclass that the words fill. UserError for the first that is wrong, with what is allowed."""
    keys = keys_of(options)
    own = {key.name: key for key in keys if not key.mark(Position) and not key.mark(Others)}
    flags = {spelling: key for key in keys if (flag := key.mark(Flag)) for spelling in flag.spellings}
    others, known = next(((key.name, mark.known) for key in keys if (mark := key.mark(Others))), ("", ()))
    places = [key for key in keys if key.mark(Position)]
    given: dict[str, Any] = {}
    positions: list[str] = []
    rest: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if word in flags:
            key = flags[word]
            name, equals, value = key.name, "=", "true" if key.kind is bool else next(left, "")
            if not value:
                raise UserError(f"{word}: a value is wanted behind it; usage: {usage}")
            word = f"{word} {value}"
        if equals and name in own:
            if name in given:
                raise UserError(f"{brief(word)}: {name} is given twice")
            given[name] = own[name].read(value)
        elif _is_position(word, places, bool(others)):
            positions.append(word)
        elif others and name and (equals or word[0] in "~+"):
            rest.append(word)
        elif not (root := name.lstrip("-~+")):
            raise UserError(f"{brief(word)}: not understood; usage: {usage}")
        else:
            raise _unknown(word, root, own, usage)
    given |= _placed(places, positions, usage)
    if others:
        given[others] = tuple(rest)
    every = dict.fromkeys([*known, *own])
    for word in rest if known else ():
        if (root := re.split(r"[./=]", word.lstrip("+~"), maxsplit=1)[0]) not in every:
            raise _unknown(word, root, every, usage)
    if missing := [key.shown for key in keys if key.needed and key.name not in given]:
        raise UserError(f"missing {one_of(missing)}; usage: {usage}")
    return options(**given)


def _is_position(word: str, places: Sequence[Key], others: bool) -> bool:
    """A word without "=", or a path that holds one: a key of others never has a folder before it."""
    name, equals, _ = word.partition("=")
    if not equals and not word.startswith(("-", "~", "+")):
        return True
    return bool(places) and ("/" in name or (not others and Path(word).exists()))


def _placed(keys: Sequence[Key], words: Sequence[str], usage: str) -> dict[str, Any]:
    """The positions by name. UserError for a word too many; what is missing is left out."""
    found: dict[str, Any] = {}
    left = list(words)
    for key in keys:
        if get_origin(key.kind) is tuple:
            each = Key(key.name, get_args(key.kind)[0], key.text, MISSING, key.marks)
            if left:
                found[key.name] = tuple(each.read(word) for word in left)
            left = []
        elif left:
            found[key.name] = key.read(left.pop(0))
    if left:
        raise UserError(f"{brief(left[0])}: not understood; usage: {usage}")
    return found


def _unknown(word: str, root: str, known: Collection[str], usage: str) -> UserError:
    return UserError(f"{brief(word)}: no such key; allowed: {one_of(known) or usage}{meant(root, known)}")


def names_of(keys: Iterable[Key]) -> list[str]:
    """How a usage line names them: the positions and what must be given, in their order."""
    shown = []
    for key in keys:
        if key.mark(Position):
            several = f" [{key.shown} ...]" if get_origin(key.kind) is tuple else ""
            shown.append(f"{key.shown}{several}" if key.needed else f"[{key.shown}]")
        elif key.needed:
            shown.append(f"{key.shown}...")
    return shown


def words_of(options: Any) -> list[str]:
    """The words that fill a dataclass so: positions, then what is not as it is by default, then those of others."""
    first, own, last = list[str](), list[str](), list[str]()
    for key in keys_of(type(options)):
        value = getattr(options, key.name)
        if key.mark(Position):
            first += map(str, value if isinstance(value, tuple) else [] if value is None else [value])
        elif key.mark(Others):
            last += value
        elif value != key.default:
            own.append(f"{key.name}={str(value).lower() if isinstance(value, bool) else value}")
    return [*first, *own, *last]


_READERS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: (r"[-+]?[0-9]{1,20}", int),
    float: (r"[-+.0-9a-zA-Z]{1,40}", float),  # spaces and underscores are what Python lets pass
    Fraction: (r"(?s).{1,19}", Fraction),
    Path: (r"(?s).+", lambda value: Path(os.path.expanduser(value))),  # noqa: PTH111 - no shell does it behind "="
    str: (r"(?s).+", str),
}
"""By type: how a value may be spelt, and what makes one of it."""
