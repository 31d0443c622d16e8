"""Keyword arguments as the words of ``python -m sim run``: one grammar, and one place where a mistake is told."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np

from policies import registry
from policies.api import Policy
from sim.experiment.code import code_digest
from sim.experiment.overrides import value_word
from sim.experiment.words import Run
from traces.kit.errors import UserError, one_of, shown
from traces.kit.words import parse

Plain = str | int | float | bool | None | Path | Fraction | type[Policy]
Value = Plain | Mapping[str, "Value"] | Sequence["Value"]
"""Of a key: what its word would say; a class of policies; a group of keys as a mapping, in which ``name`` is the
group's own name (``workload={"name": "online", "rate": 1}``); in a sweep also several of these."""
ALLOWED = "a text, a finite number, True or False, None, a path, a class of policies, or a mapping of keys"


def run_words(words: Sequence[str], keys: Mapping[str, Value]) -> tuple[str, ...]:
    """The words of one run. UserError for a key that there is none of, or several values."""
    found = [*words]
    for key, value in keys.items():
        if _several(value) is not None:
            raise UserError(f"{key}={shown(value)}: several values; allowed: one, or sim.sweep, which runs each")
        found += _of(key, value)
    return _checked(found, "sim.run(KEY=VALUE, ...)")


def grid_words(words: Sequence[str], keys: Mapping[str, Value]) -> Iterator[tuple[str, ...]]:
    """The words of each grid that a sweep is made of: one, or one for each choice among mappings. UserError."""
    plain, choices = [*words], list[list[list[str]]]()
    for key, value in keys.items():
        if (several := _several(value)) is None:
            plain += _of(key, value)
            continue
        each = [_of(key, one) for one in several]
        if not each:
            raise UserError(f"{key}=[]: at least one value is wanted")
        if all(len(own) == 1 for own in each):
            plain.append(f"{key}={','.join(_quoted(key, own[0]) for own in each)}")
        else:
            choices.append(each)
    grids = [[*plain, *(word for own in chosen for word in own)] for chosen in product(*choices)]
    yield from (_checked(grid, "sim.sweep(KEY=[VALUE, ...], ...)") for grid in grids)


def budget_of(value: object) -> str | int:
    """A budget as a configuration has it. UserError for what is none."""
    text = _text("budget", value)
    return int(text) if text.isdecimal() else text


def _several(value: object) -> list[object] | None:
    """The values, where there are several; None for one."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray):
        return None
    return list(value)


def _of(key: str, value: object) -> list[str]:
    """The words of a key: several for a mapping."""
    if not isinstance(value, Mapping):
        return [f"{key}={_text(key, value)}"]
    given = dict(value)
    words = _of(key, given.pop("name")) if "name" in given else []
    for inner, own in given.items():
        if not isinstance(inner, str):
            raise UserError(f"{key}: a key {shown(inner)} in it; allowed: texts")
        if _several(own) is not None:
            raise UserError(
                f"{key}.{inner}={shown(own)}: several values; allowed: one, or a list as **{{'{key}.{inner}': [...]}}"
            )
        words += _of(f"{key}.{inner}", own)
    return words


def _text(key: str, value: object) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return value or "''"
    if isinstance(value, type | Policy):
        return policy_name(key, value)
    if isinstance(value, int | Path | Fraction) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    raise UserError(f"{key}={shown(value)}: of type {type(value).__name__}; allowed: {ALLOWED}")


def policy_name(key: str, policy: object) -> str:
    """The name by which a class is known from now on, with its code as it is now. UserError for what is none."""
    if key != "policy":
        raise UserError(f"{key}={shown(policy)}: allowed: {ALLOWED.replace(', a class of policies', '')}")
    name = registry.register(policy).name
    code_digest.cache_clear()
    return name


def _quoted(key: str, word: str) -> str:
    """A value among others, with nothing in it that would part it."""
    value = word.partition("=")[2]
    parting = any(mark in value for mark in ",()[]{}")
    return value_word(key, value).partition("=")[2] if parting and value != "''" else value


def _checked(words: Sequence[str], usage: str) -> tuple[str, ...]:
    """The words, if each begins with a key that a run has."""
    options = parse(Run, words, usage)
    own = [word for word in words if word not in options.rest]
    if own or any(word.lstrip("+~").startswith("hydra") for word in words):
        stray = own or [word for word in words if word.lstrip("+~").startswith("hydra")]
        raise UserError(f"{one_of(stray)}: a word of the command line; allowed: {usage}")
    return options.rest
