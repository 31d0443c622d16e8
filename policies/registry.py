"""Which policies there are, and how to build one from a configuration.

A policy is found by itself: any class with a ``name`` in a module of ``policies`` or ``policies.bounds``, or behind
an entry point of the group ``moe_offload.policies``. Nothing is imported before the first question.
"""

from __future__ import annotations

import inspect
import math
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from policies.api import Policy, Setup
from traces.errors import UserError, one_of
from traces.fields import MAX_INT

GROUP = "moe_offload.policies"
PACKAGES = ("policies", "policies.bounds")
_NOUNS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", NoneType: "null"}


def names() -> list[str]:
    """All policies, sorted, the clairvoyant ones included."""
    return sorted(_catalogue())


def find(name: str, key: str = "policy") -> type[Policy]:
    """The policy of that name, which was given for ``key``. UserError if there is none."""
    found = _catalogue().get(name)
    if found is None:
        contenders = [known for known, policy in _catalogue().items() if not policy.clairvoyant]
        raise UserError(f"{key}={name}: unknown; allowed: {one_of(sorted(contenders))}")
    return found


def build(name: str, setup: Setup, params: Mapping[str, Any]) -> Policy:
    """Make a policy. UserError for a parameter that it does not have or of another type, or for too small a budget."""
    policy_type = find(name)
    hints = parameters(name)
    for key, value in params.items():
        if key not in hints:
            raise UserError(f"policy.{key}={_shown(value)}: {name} has no such parameter; allowed: {one_of(hints)}")
        if not _is(value, hints[key]):
            huge = f", of at most {MAX_INT}" if isinstance(value, int) and abs(value) > MAX_INT else ""
            raise UserError(f"policy.{key}={_shown(value)}: allowed: {_allowed(hints[key])}{huge}")
    for key in hints:
        if key not in params and key not in defaults(name):
            raise UserError(f"policy.{key}: missing; allowed: {_allowed(hints[key])}")
    policy = policy_type(setup, **params)
    least = policy.min_budget()
    if setup.budget < least:
        own = "".join(f", {key}={_shown(value)}" for key, value in params.items() if value != defaults(name).get(key))
        raise UserError(
            f"budget={setup.budget}: too small for policy={name}{own}; allowed: at least {least} bytes"
            f" ({-(-least // 1000) / 1000:.3f} MB)"
        )
    return policy


def parameters(name: str) -> dict[str, Any]:
    """The parameters of a policy, with their types. UserError if one has none: its values could not be checked."""
    init = find(name).__init__
    hints = get_type_hints(init)
    keys = list(inspect.signature(init).parameters)[2:]
    for key in keys:
        if key not in hints:
            allowed = "bool, int, float, str, a Literal of texts, or one of them or None"
            raise UserError(f"policy={name}: parameter {key} has no type annotation; allowed: {allowed}")
    return {key: hints[key] for key in keys}


def defaults(name: str) -> dict[str, Any]:
    """The parameters of a policy that have a default, with it."""
    given = inspect.signature(find(name).__init__).parameters.values()
    return {p.name: p.default for p in list(given)[2:] if p.default is not p.empty}


def normal(given: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's name and all of its parameters, defaults included, whole numbers as floats where those are meant."""
    name = str(given["name"])
    params = {**defaults(name), **{key: value for key, value in given.items() if key != "name"}}
    hints = parameters(name)
    return {"name": name, **{k: float(v) if hints[k] is float else v for k, v in sorted(params.items())}}


@cache
def _catalogue() -> dict[str, type[Policy]]:
    found: dict[str, type[Policy]] = {}
    for policy in (*_ours(), *_others()):
        if policy.name in found:
            both = f"{_where(found[policy.name])} and {_where(policy)}"
            raise UserError(f"policy={policy.name}: defined twice, by {both}; allowed: one policy per name")
        found[policy.name] = policy
    return found


def _ours() -> Iterator[type[Policy]]:
    for package in PACKAGES:
        for info in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
            if not info.ispkg:
                module = import_module(info.name)
                yield from (c for c in vars(module).values() if _is_policy(c) and c.__module__ == info.name)


def _others() -> Iterator[type[Policy]]:
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        try:
            policy = point.load()
        except Exception as error:  # whatever their module does when it is imported
            why = " ".join(f"{type(error).__name__}: {error}".split())
            package = point.dist.name if point.dist else "its package"
            raise UserError(
                f"{GROUP}: {point.name}={point.value} cannot be loaded ({why}); mend or uninstall {package}"
            ) from error
        if not _is_policy(policy):
            raise UserError(f"{GROUP}: {point.name}={point.value}: allowed: a class of policies.api.Policy with a name")
        yield policy


def _is_policy(item: object) -> bool:
    return isinstance(item, type) and issubclass(item, Policy) and "name" in vars(item)


def _where(policy: type[Policy]) -> str:
    return f"{policy.__module__}.{policy.__qualname__}"


def _is(value: object, hint: Any) -> bool:
    """Whether a value is of a parameter's type: nothing is converted, but a whole number is a number."""
    if get_origin(hint) in (Union, UnionType):
        return any(_is(value, h) for h in get_args(hint))
    if get_origin(hint) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(hint))
    if isinstance(value, int) and abs(value) > MAX_INT:
        return False
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    if hint in _NOUNS:
        return type(value) is hint
    raise TypeError(f"a parameter of type {hint}: allowed: bool, int, float, str, Literal, X | None")


def _allowed(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_allowed, get_args(hint)))
    return one_of(get_args(hint)) if get_origin(hint) is Literal else _NOUNS[hint]


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)
