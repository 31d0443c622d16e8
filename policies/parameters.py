"""What a policy declares: its parameters with types and defaults, and whether one can be given from a command line."""

import inspect
import math
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from policies.api import Policy
from traces.kit.errors import UserError, one_of
from traces.kit.fields import MAX_INT

_NOUNS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", NoneType: "null"}
_TYPES = "bool, int, float, str, a Literal of texts, or one of them or None"
RESERVED = frozenset(
    name for base in Policy.__mro__ for name in (*vars(base), *vars(base).get("__annotations__", {})) if name[0] != "_"
) | {"setup"}
"""Names of every policy: its hooks and declarations, and what it is given."""


def declared(policy: type[Policy]) -> dict[str, Any]:
    """The parameters of a policy, with their types. UserError, in one line, for what no user could set."""
    signature = list(inspect.signature(policy.__init__).parameters.values())
    if len(signature) < 2 or signature[1].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        raise _wrong(policy, "__init__ takes no setup", "__init__(self, setup, *, KEY: TYPE = DEFAULT)")
    for parameter in signature[2:]:
        _check_name(policy, parameter)
    try:
        hints = get_type_hints(policy.__init__)
    except (NameError, TypeError, AttributeError) as error:
        raise _wrong(policy, f"a type annotation of __init__ is not understood ({error})", _TYPES) from None
    for parameter in signature[2:]:
        _check_type(policy, parameter, hints[parameter.name])
    found = {parameter.name: hints[parameter.name] for parameter in signature[2:]}
    if isinstance(policy.ahead, str) and policy.ahead and policy.ahead not in found:
        allowed = f"the name of a parameter ({one_of(found) or 'it has none'}), or a number of layers"
        raise _wrong(policy, f"ahead={policy.ahead!r}", allowed)
    return found


def check_complete(policy: type[Policy]) -> None:
    """UserError for a policy that lacks what none can do without."""
    if missing := sorted(getattr(policy, "__abstractmethods__", ())):
        raise _wrong(policy, f"it has no {one_of(missing)}", "a policy with every hook that policies.api.Policy wants")


def check_made(policy: Policy, setup: object) -> None:
    """UserError for a policy whose constructor covered what every policy has."""
    kind = type(policy)
    if getattr(policy, "setup", None) is not setup:
        raise _wrong(kind, "its __init__ does not call super().__init__(setup)", "one that does, first")
    for name in vars(policy):
        if name in RESERVED - {"setup", "view", "actions"}:
            raise _wrong(kind, f"its __init__ sets self.{name}, which is every policy's own", f"self.own_{name}")


def is_of(value: object, hint: Any) -> bool:
    """Whether a value is of a parameter's type: nothing is converted, but a whole number is a number."""
    return any(_is(value, kind) for kind in alternatives(hint))


def allowed_of(hint: Any) -> str:
    """The values of a parameter's type, in words."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(allowed_of, get_args(hint)))
    return one_of(get_args(hint)) if get_origin(hint) is Literal else _NOUNS[hint]


def alternatives(hint: Any) -> Iterator[Any]:
    """What a parameter may be: types, and the choices of a Literal themselves."""
    if get_origin(hint) in (Union, UnionType, Literal):
        for item in get_args(hint):
            yield from alternatives(item)
    else:
        yield hint


def shown_value(value: object) -> str:
    """A value as a command line has it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)


def _check_name(policy: type[Policy], parameter: inspect.Parameter) -> None:
    name, kind = parameter.name, parameter.kind
    if kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
        stars = "**" if kind is inspect.Parameter.VAR_KEYWORD else "*"
        raise _wrong(policy, f"{stars}{name} in __init__ hides its parameters", "each by its name, KEY: TYPE = DEFAULT")
    if kind is inspect.Parameter.POSITIONAL_ONLY:
        raise _wrong(policy, f"parameter {name} has no keyword", "parameters behind *")
    if name in RESERVED:
        raise _wrong(policy, f"parameter {name} is a name of every policy's own", f"another name, such as own_{name}")
    unfit = {
        "begins with _": name.startswith("_"),
        "is a word of Hydra's": name == "defaults",
        "is no text in YAML": yaml.safe_load(name) != name,
    }
    for why in (why for why, so in unfit.items() if so):
        raise _wrong(policy, f"parameter {name} {why}", f"another name, such as own_{name.strip('_')}")
    if parameter.annotation is parameter.empty:
        raise _wrong(policy, f"parameter {name} has no type annotation", _TYPES)


def _check_type(policy: type[Policy], parameter: inspect.Parameter, hint: Any) -> None:
    name, default = parameter.name, parameter.default
    if any((kind if isinstance(kind, type) else type(kind)) not in _NOUNS for kind in alternatives(hint)):
        shown = getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
        raise _wrong(policy, f"parameter {name} is of type {shown}", _TYPES)
    if default is not parameter.empty and not is_of(default, hint):
        raise _wrong(policy, f"parameter {name} has the default {shown_value(default)}", allowed_of(hint))


def _is(value: object, kind: Any) -> bool:
    if not isinstance(kind, type):
        return type(value) is type(kind) and value == kind
    if isinstance(value, int) and abs(value) > MAX_INT:
        return False
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    return type(value) is kind


def _wrong(policy: type[Policy], what: str, allowed: str) -> UserError:
    return UserError(f"policy={policy.name}: {what}; allowed: {allowed}")
