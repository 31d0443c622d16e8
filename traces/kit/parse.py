"""From the words behind a verb to its dataclass, and back; see :mod:`traces.kit.words`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from traces.kit.errors import UserError, brief, meant, one_of
from traces.kit.words import Flag, Key, Others, Position, keys_of

T = TypeVar("T")
HELP = frozenset({"-h", "--help"})


def parse(options: type[T], words: Sequence[str], usage: str) -> T:
    """The dataclass that the words fill. UserError for the first that is wrong, with what is allowed."""
    keys = keys_of(options)
    own = {key.name: key for key in keys if not key.mark(Position) and not key.mark(Others)}
    flags = {spelling: key for key in keys if (flag := key.mark(Flag)) for spelling in flag.spellings}
    others = next((key for key in keys if key.mark(Others)), None)
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
        elif _is_position(word, places, others is not None):
            positions.append(word)
        elif others is not None and name and (equals or word[0] in "~+"):
            rest.append(word)
        else:
            raise _unknown(word, own, usage)
    given |= _placed(places, positions, usage)
    if others is not None:
        _check_others(rest, own, others)
        given[others.name] = tuple(rest)
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


def _unknown(word: str, own: Mapping[str, Key], usage: str) -> UserError:
    name = word.partition("=")[0].lstrip("-~+")
    if not name:
        return UserError(f"{brief(word)}: not understood; usage: {usage}")
    return UserError(f"{brief(word)}: no such key; allowed: {one_of(own) or usage}{meant(name, own)}")


def _check_others(words: Sequence[str], own: Mapping[str, Key], others: Key) -> None:
    mark = others.mark(Others)
    known = mark.known if mark else ()
    every = dict.fromkeys([*known, *own])
    for word in words if known else ():
        root = re.split(r"[./=]", word.lstrip("+~"), maxsplit=1)[0]
        if root not in every:
            raise UserError(f"{brief(word)}: no such key; allowed: {one_of(every)}{meant(root, every)}")


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
