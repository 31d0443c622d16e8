"""Values to try a parameter at, from its type and its default alone."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


def one_other(hint: Any, default: Any) -> list[Any]:
    """One other value per kind of a parameter, and every choice: what the tests of all policies can afford."""
    if hint is bool:
        return [not default]
    if hint is int:
        return [default + 1]
    if hint is float:
        return [default + 0.1]
    if int in getattr(hint, "__args__", ()):  # or null
        return [2 if default is None else None]
    return [choice for choice in getattr(hint, "__args__", ()) if isinstance(choice, str) and choice != default]


def others(hint: Any, default: Any) -> list[Any]:
    """More of them: on both sides of the default, without a change of sign; shares stay between 0 and 1.

    A policy refuses what is out of its own bounds. Of free texts nothing is known, so they stay as they are.
    """
    if get_origin(hint) in (Union, UnionType):
        kinds = get_args(hint)
        plain = [kind for kind in kinds if kind not in (NoneType, str)]
        start = [default] if default is not None else []
        found = [value for kind in plain for value in (start and others(kind, default)) or at_first(kind)[:2]]
        return [value for value in (*found, *([None] if NoneType in kinds else [])) if value != default]
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if choice != default or type(choice) is not type(default)]
    if hint is bool:
        return [not default]
    if hint is int:
        near = [default + 1, default - 1, 2 * default + 1] if default > 0 else [default + 1]
        return [value for value in dict.fromkeys(near) if value > 0 or default <= 0]
    if hint is float:
        if 0 < default < 1:
            return [default / 2, (1 + default) / 2]
        return [default + 0.1, default / 2, 2 * default] if default else [0.1, 1.0]
    return []


def at_first(hint: Any) -> list[Any]:
    """What to begin with where there is no default."""
    if get_origin(hint) in (Union, UnionType):
        kinds = get_args(hint)
        return [*([None] if NoneType in kinds else []), *(x for k in kinds if k is not NoneType for x in at_first(k))]
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    firsts: dict[Any, list[Any]] = {
        bool: [False, True],
        int: [1, 2, 4, 16, 0],
        float: [0.5, 1.0, 10.0, 0.0],
        str: ["x"],
    }
    return firsts.get(hint, [])
