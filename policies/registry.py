"""Which policies there are, and how to build one from a configuration.

A policy is found by itself: any class with a ``name`` in a module of ``policies`` or of a folder in it, or behind an
entry point of the group ``moe_offload.policies``. Nothing is imported before the first question.
"""

import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import Any

import policies
from policies.api import Policy, Setup
from policies.parameters import (
    allowed_of,
    alternatives,
    check_complete,
    check_made,
    declared,
    is_of,
    shown_value,
)
from traces.kit.errors import UserError, allowing, meant
from traces.kit.fields import MAX_INT

GROUP = "moe_offload.policies"


def names() -> list[str]:
    """All policies, sorted, the clairvoyant ones included."""
    return sorted(_catalogue())


def find(name: str, key: str = "policy") -> type[Policy]:
    """The policy of that name, which was given for ``key``. UserError if there is none."""
    found = _catalogue().get(name)
    if found is None:
        contenders = [known for known, policy in _catalogue().items() if not policy.clairvoyant]
        raise UserError(f"{key}={name}: unknown; {allowing(name, sorted(contenders))}")
    return found


def build(name: str, setup: Setup, params: Mapping[str, Any]) -> Policy:
    """Make a policy. UserError for a parameter that it does not have or of another type, or for too small a budget."""
    policy_type = find(name)
    hints, usual = parameters(name), defaults(name)
    for key, value in params.items():
        given = f"policy.{key}={shown_value(value)}"
        if key not in hints:
            allowed = allowing(key, hints) if hints else "it has none"
            raise UserError(f"{given}: {name} has no such parameter; {allowed}")
        if not is_of(value, hints[key]):
            huge = f", of at most {MAX_INT}" if isinstance(value, int) and abs(value) > MAX_INT else ""
            choices = [choice for choice in alternatives(hints[key]) if isinstance(choice, str)]
            raise UserError(f"{given}: allowed: {allowed_of(hints[key])}{meant(value, choices)}{huge}")
    for key in hints:
        if key not in params and key not in usual:
            raise UserError(f"policy.{key}: missing; allowed: {allowed_of(hints[key])}")
    check_complete(policy_type)
    own = "".join(f", {key}={shown_value(value)}" for key, value in params.items() if value != usual.get(key))
    try:
        policy = policy_type(setup, **params)
    except ValueError as error:  # Python's own word for a value that will not do
        raise UserError(f"policy={name}{own}: refused by it ({' '.join(str(error).split()) or 'ValueError'})") from None
    check_made(policy, setup)
    least = policy.min_budget()
    if setup.budget < least:
        raise UserError(
            f"budget={setup.budget}: too small for policy={name}{own}; allowed: at least {least} bytes"
            f" ({-(-least // 1000) / 1000:.3f} MB)"
        )
    return policy


def parameters(name: str) -> dict[str, Any]:
    """The parameters of a policy, with their types. UserError for one whose values could not be given or checked."""
    return declared(find(name))


def defaults(name: str) -> dict[str, Any]:
    """The parameters of a policy that have a default, with it."""
    given = signature(find(name).__init__).parameters.values()
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
    for info in pkgutil.walk_packages(policies.__path__, "policies."):
        if not info.name.endswith(".__main__"):
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
        if not isinstance(policy.name, str) or not re.fullmatch(r"[A-Za-z]\w*", policy.name, re.ASCII):
            raise UserError(
                f"{GROUP}: {point.name}={point.value}: name={policy.name!r}; allowed: letters, digits and _"
            )
        yield policy


def _is_policy(item: object) -> bool:
    return isinstance(item, type) and issubclass(item, Policy) and "name" in vars(item)


def _where(policy: type[Policy]) -> str:
    return f"{policy.__module__}.{policy.__qualname__}"
