"""Which policies there are, and how to build one from a configuration.

A policy is found by itself: any class with a ``name`` in a module of ``policies`` or of a folder in it
(:mod:`policies.ours`), or behind an entry point of the group ``moe_offload.policies``. Nothing is imported before the
first question. Of a notebook a class is given (:mod:`policies.given`).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from policies import ours
from policies.api import Policy, Setup
from policies.given import GIVEN, check_given, is_name, is_policy
from traces.kit.errors import UserError, allowing, meant, one_of
from traces.kit.fields import MAX_INT

GROUP = "moe_offload.policies"
_NOUNS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", NoneType: "null"}
_TYPES = "bool, int, float, str, a Literal of texts, or one of them or None"
RESERVED = frozenset(
    name for base in Policy.__mro__ for name in (*vars(base), *vars(base).get("__annotations__", {})) if name[0] != "_"
) | {"setup"}
"""Names of every policy: its hooks and declarations, and what it is given."""


def names() -> list[str]:
    """All policies, sorted, the clairvoyant ones included."""
    return sorted({**_catalogue(), **GIVEN})


def find(name: str, key: str = "policy") -> type[Policy]:
    """The policy of that name, which was given for ``key``. UserError if there is none."""
    found = GIVEN.get(name) or (None if _others() else ours.named(name)) or _catalogue().get(name)
    if found is None:
        contenders = [known for known, policy in {**_catalogue(), **GIVEN}.items() if not policy.clairvoyant]
        raise UserError(f"{key}={name}: unknown; {allowing(name, sorted(contenders))}")
    return found


def register(policy: object) -> type[Policy]:
    """Make a class known by its name, in this process; of one name the last one given counts. UserError for others."""
    found = check_given(policy)
    if found.name in (known := _catalogue()) and known[found.name] is not found:
        raise UserError(f"policy={found.name}: the name of a policy that there is; allowed: a name of its own")
    GIVEN[found.name] = found
    return found


def build(name: str, setup: Setup, params: Mapping[str, Any], *, gpus: int = 1, alike: int = 1) -> Policy:
    """Make a policy. UserError for a parameter that it does not have or of another type, or for too small a budget.

    ``gpus``: of the machine, ``alike`` of which are one to the policy, each with a budget of ``setup``.
    """
    policy_type = find(name)
    hints, usual = parameters(name), defaults(name)
    for key, value in params.items():
        given = f"policy.{key}={_shown(value)}"
        if key not in hints:
            allowed = allowing(key, hints) if hints else "it has none"
            raise UserError(f"{given}: {name} has no such parameter; {allowed}")
        if not _is_of(value, hints[key]):
            huge = f", of at most {MAX_INT}" if isinstance(value, int) and abs(value) > MAX_INT else ""
            choices = [choice for choice in _alternatives(hints[key]) if isinstance(choice, str)]
            raise UserError(f"{given}: allowed: {_allowed_of(hints[key])}{meant(value, choices)}{huge}")
    for key in hints:
        if key not in params and key not in usual:
            raise UserError(f"policy.{key}: missing; allowed: {_allowed_of(hints[key])}")
    if missing := sorted(getattr(policy_type, "__abstractmethods__", ())):
        all_of = "a policy with every hook that policies.api.Policy wants"
        raise _wrong(policy_type, f"it has no {one_of(missing)}", all_of)
    own = "".join(f", {key}={_shown(value)}" for key, value in params.items() if value != usual.get(key))
    setup = versioned(name, setup, params)
    try:
        if setup.gpus > 1:  # asked as one that knows no others, which it need not be made for
            _check_several(policy_type(replace(setup, gpus=1, homes=()), **params), setup.gpus, own)
        policy = policy_type(setup, **params)
    except ValueError as error:  # Python's own word for a value that will not do
        raise UserError(f"policy={name}{own}: refused by it ({' '.join(str(error).split()) or 'ValueError'})") from None
    _check_made(policy, setup)
    if setup.host is None and policy.uses("place"):
        if gpus > 1:
            raise _not_with(policy, gpus, own, *_NO_HOST)
        allowed = "hardware.host.cpu_tflops and dram_gb_per_s, or its measured cpu_expert in this dtype; on one GPU"
        raise UserError(f"policy={name}: computes experts on the host, which has no price here; allowed: {allowed}")
    if setup.budget < policy.min_budget():
        least, on = alike * policy.min_budget(), f" on {gpus} GPUs, each with its part" if gpus > 1 else ""
        raise UserError(
            f"budget={alike * setup.budget}: too small for policy={name}{own}{on}; allowed: at least {least} bytes"
            f" ({-(-least // 1000) / 1000:.3f} MB)"
        )
    return policy


_NO_HOST = "it has the host compute, which no machine with several GPUs does so far", "hardware.gpus=1"


def _check_several(policy: Policy, gpus: int, own: str) -> None:
    """UserError for a policy that makes no sense where experts lie on several GPUs."""
    allowed = "hardware.gpus=1, or placement=replicate or shard"
    why = policy.one_gpu() or ("its experts are in several versions" if policy.setup.versions else "")
    if not why and (policy.uses("place") or policy.uses("precompute")):
        why, allowed = _NO_HOST
    if why:
        raise _not_with(policy, gpus, own, why, allowed)


def _not_with(policy: Policy, gpus: int, own: str, why: str, allowed: str) -> UserError:
    return UserError(f"policy={policy.name}{own}: not with experts on {gpus} GPUs: {why}; allowed: {allowed}")


def versioned(name: str, setup: Setup, params: Mapping[str, Any]) -> Setup:
    """The setup with the versions that a policy wants. UserError for a dtype that the model lacks, or that is none."""
    given = {**defaults(name), **params}
    wanted = {key: given[key] for key in find(name).versions if given[key] is not None}
    smaller = [dtype for dtype, sizes in setup.others.items() if sum(sizes) < sum(setup.expert_bytes)]
    for key, dtype in wanted.items():
        if dtype in smaller and list(wanted.values()).count(dtype) == 1:
            continue
        if dtype == setup.dtype:
            why = "the model's own"
        elif dtype in setup.others:
            why = f"no smaller than the model's own {setup.dtype}" if dtype not in smaller else "named twice"
        else:
            why = f"the model has no size of an expert in it, its own is {setup.dtype or 'not said'}"
        raise UserError(f"policy.{key}={dtype}: {why}; allowed: {one_of([*smaller, 'null'])}{meant(dtype, smaller)}")
    return setup.with_versions(list(wanted.values()))


def parameters(name: str) -> dict[str, Any]:
    """The parameters of a policy, with their types. UserError, in one line, for what no user could set."""
    policy = find(name)
    given = list(signature(policy.__init__).parameters.values())
    if len(given) < 2 or given[1].kind is not Parameter.POSITIONAL_OR_KEYWORD:
        raise _wrong(policy, "__init__ takes no setup", "__init__(self, setup, *, KEY: TYPE = DEFAULT)")
    for parameter in given[2:]:
        _check_name(policy, parameter)
    try:
        hints = get_type_hints(policy.__init__)
    except (NameError, TypeError, AttributeError) as error:
        raise _wrong(policy, f"a type annotation of __init__ is not understood ({error})", _TYPES) from None
    for parameter in given[2:]:
        _check_type(policy, parameter, hints[parameter.name])
    found = {parameter.name: hints[parameter.name] for parameter in given[2:]}
    if isinstance(policy.ahead, str) and policy.ahead and policy.ahead not in found:
        allowed = f"the name of a parameter ({one_of(found) or 'it has none'}), or a number of layers"
        raise _wrong(policy, f"ahead={policy.ahead!r}", allowed)
    return found


def defaults(name: str) -> dict[str, Any]:
    given = signature(find(name).__init__).parameters.values()
    return {p.name: p.default for p in list(given)[2:] if p.default is not p.empty}


def normal(given: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's name and all of its parameters, defaults included, whole numbers as floats where those are meant."""
    name = str(given["name"])
    params = {**defaults(name), **{key: value for key, value in given.items() if key != "name"}}
    hints = parameters(name)
    return {"name": name, **{k: float(v) if hints[k] is float else v for k, v in sorted(params.items())}}


def _check_made(policy: Policy, setup: object) -> None:
    """UserError for a policy whose constructor covered what every policy has."""
    kind = type(policy)
    if getattr(policy, "setup", None) is not setup:
        raise _wrong(kind, "its __init__ does not call super().__init__(setup)", "one that does, first")
    for name in vars(policy):
        if name in RESERVED - {"setup", "view", "actions"}:
            raise _wrong(kind, f"its __init__ sets self.{name}, which is every policy's own", f"self.own_{name}")


def _is_of(value: object, hint: Any) -> bool:
    """Whether a value is of a parameter's type: nothing is converted, but a whole number is a number."""
    return any(_is(value, kind) for kind in _alternatives(hint))


def _allowed_of(hint: Any) -> str:
    """The values of a parameter's type, in words."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_allowed_of, get_args(hint)))
    return one_of(get_args(hint)) if get_origin(hint) is Literal else _NOUNS[hint]


def _alternatives(hint: Any) -> Iterator[Any]:
    """What a parameter may be: types, and the choices of a Literal themselves."""
    if get_origin(hint) in (Union, UnionType, Literal):
        for item in get_args(hint):
            yield from _alternatives(item)
    else:
        yield hint


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)


def _check_name(policy: type[Policy], parameter: Parameter) -> None:
    name, kind = parameter.name, parameter.kind
    if kind in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL):
        stars = "**" if kind is Parameter.VAR_KEYWORD else "*"
        raise _wrong(policy, f"{stars}{name} in __init__ hides its parameters", "each by its name, KEY: TYPE = DEFAULT")
    if kind is Parameter.POSITIONAL_ONLY:
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


def _check_type(policy: type[Policy], parameter: Parameter, hint: Any) -> None:
    name, default = parameter.name, parameter.default
    if any((kind if isinstance(kind, type) else type(kind)) not in _NOUNS for kind in _alternatives(hint)):
        shown = getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
        raise _wrong(policy, f"parameter {name} is of type {shown}", _TYPES)
    if default is not parameter.empty and not _is_of(default, hint):
        raise _wrong(policy, f"parameter {name} has the default {_shown(default)}", _allowed_of(hint))


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


@cache
def _catalogue() -> dict[str, type[Policy]]:
    found: dict[str, type[Policy]] = {}
    for policy in (*ours.every(), *_others()):
        if policy.name in found:
            both = f"{_where(found[policy.name])} and {_where(policy)}"
            raise UserError(f"policy={policy.name}: defined twice, by {both}; allowed: one policy per name")
        found[policy.name] = policy
    return found


@cache
def _others() -> tuple[type[Policy], ...]:
    """Those of other packages. UserError for what is none."""
    return tuple(map(_loaded, sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))))


def _loaded(point: EntryPoint) -> type[Policy]:
    try:
        policy = point.load()
    except Exception as error:  # whatever their module does when it is imported
        why = " ".join(f"{type(error).__name__}: {error}".split())
        package = point.dist.name if point.dist else "its package"
        raise UserError(
            f"{GROUP}: {point.name}={point.value} cannot be loaded ({why}); mend or uninstall {package}"
        ) from error
    if not is_policy(policy):
        raise UserError(f"{GROUP}: {point.name}={point.value}: allowed: a class of policies.api.Policy with a name")
    if not is_name(policy.name):
        raise UserError(f"{GROUP}: {point.name}={point.value}: name={policy.name!r}; allowed: letters, digits and _")
    return policy


def _where(policy: type[Policy]) -> str:
    return f"{policy.__module__}.{policy.__qualname__}"
