"""The words after a verb: named positions, then options as key=value, each parsed by its key's function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from traces.kit.errors import UserError, allowing, meant, shown

Parser = Callable[[str], Any]
Words = dict[str, Any]


def parse_words(
    args: list[str], names: tuple[str, ...], keys: Mapping[str, Parser]
) -> tuple[list[str], dict[str, Any]]:
    """Split the words into the positions and the options; raises UserError with the allowed set."""
    paths, words = args[: len(names)], args[len(names) :]
    if len(paths) < len(names):
        raise UserError(f"arguments are {shown(' '.join(args))}; allowed: {' '.join(names)} [key=value ...]")
    options: Words = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in keys or key in options:
            allowed = ", ".join(f"{key}=..." for key in keys) or "no further words"
            raise UserError(f"option is {shown(word)}; allowed, once each: {allowed}{_hint(key, options, keys)}")
        options[key] = keys[key](value)
    return paths, options


def _hint(key: str, given: Words, keys: Mapping[str, Parser]) -> str:
    return f"; {key} is given twice" if key in given else "" if key in keys else meant(key, keys)


def member(key: str, allowed: tuple[str, ...]) -> Parser:
    """Return a parser of one of ``allowed``."""

    def parse(word: str) -> str:
        if word not in allowed:
            raise UserError(f"{key} is {shown(word)}; {allowing(word, allowed)}")
        return word

    return parse


def integer(key: str, low: int, high: int) -> Parser:
    """Return a parser of whole numbers."""

    def parse(word: str) -> int:
        if not (word.isascii() and word.isdigit() and len(word) < 12 and low <= int(word) <= high):
            raise UserError(f"{key} is {shown(word)}; allowed: an integer, {low} to {high}")
        return int(word)

    return parse


def text(key: str) -> Parser:
    """Return a parser of printable text."""

    def parse(word: str) -> str:
        if not word or not word.isprintable():
            raise UserError(f"{key} is {shown(word)}; allowed: printable text")
        return word

    return parse


def share(word: str) -> Fraction:
    """Parse a share between 0 and 1, exactly."""
    try:
        value = Fraction(word) if len(word) < 20 else Fraction(0)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value < 1:
        raise UserError(f"split is {shown(word)}; allowed: a share between 0 and 1, such as 0.7")
    return value


def folder(key: str) -> Parser:
    """Return a parser of a folder that exists or can be made."""

    def parse(word: str) -> Path:
        path = Path(word)
        if not word or not (path.is_dir() or (path.parent.is_dir() and not path.exists())):
            raise UserError(f"{key} is {shown(word)}; allowed: a folder, or a new one in an existing folder")
        return path

    return parse
