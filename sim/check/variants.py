"""Every policy there is, with its parameters in turn at values of their types, for what must hold for all of them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice, product
from random import Random
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import yaml

from policies import registry
from policies.api import Policy, Predictor, Setup, Signal
from sim.check.synthetic import PLAIN, PREDICTORS, Routing, World, setup_of
from traces.kit import conf
from traces.kit.errors import UserError, allowing

UNDECLARED = 9  # layers for a policy that reads the gates ahead and does not say how far
LARGEST = 257  # layers of the largest model that is tried, where a policy refuses smaller ones
TOGETHER = 2  # variants of a policy of which any number of parameters are changed at once


def one_other(hint: Any, default: Any) -> list[Any]:
    """The first of these per kind, and every choice: what the tests of all policies can afford."""
    found = others(hint, default)
    return found if get_origin(hint) is Literal else list({type(value): value for value in reversed(found)}.values())


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


@dataclass(frozen=True)
class Variant:
    """A policy with parameters."""

    name: str
    params: tuple[tuple[str, Any], ...] = ()
    title: str = field(default="", kw_only=True, compare=False)

    def __str__(self) -> str:
        return self.title or "-".join([self.name, *(f"{k}={v}" for k, v in self.params)])

    @property
    def world(self) -> World:
        """What to try it on: more layers than it looks ahead, and the gates and predictors that it declares."""
        return _world(self)

    def build(self, setup: Setup) -> Policy:
        return registry.build(self.name, setup, dict(self.params))

    def roomy(self, setup: Setup) -> Setup:
        """The setup, with the budget raised to what the policy needs."""
        params = dict(self.params)
        policy: Policy = registry.find(self.name)(registry.versioned(self.name, setup, params), **params)
        return replace(setup, budget=max(setup.budget, policy.min_budget()))


@cache
def _world(variant: Variant) -> World:
    policy = _smallest(variant, PLAIN)
    declared, reads = policy.layers_ahead(), Signal.GATE_AHEAD in policy.needs()
    own = sorted(policy.predictors() - set(PREDICTORS))
    predictors = (*PREDICTORS.values(), *(Predictor(name, declared or 1, 3) for name in own))
    if own:
        _smallest(variant, World(predictors=predictors))  # it may refuse a predictor that was made up
    if declared is None and reads:
        return World(UNDECLARED, UNDECLARED - 1, predictors)
    strides = (it.stride + 1 for it in predictors if it.name in policy.predictors())
    farthest = declared or 1
    return World(max(3, farthest + 1, *strides), farthest if reads else 2, predictors)


def _smallest(variant: Variant, world: World) -> Policy:
    """It, for the smallest model that it takes, with that world's predictors; UserError where it takes none."""
    layers = 3
    while True:
        try:
            ids = np.zeros((1, layers, 2), np.uint8)
            return variant.build(setup_of(Routing(ids, [(False, 0, 1)], 8, world=world), 10**9))
        except UserError:
            layers = 2 * layers - 1
            if layers > LARGEST:
                raise


def variants() -> Iterator[Variant]:
    """Every policy there is, with its defaults, with parameters changed to other values at hand, and as shipped."""
    alone = (variant for name in registry.names() for variant in of_one(name, without=registry.find(name).of_mixed))
    yield from dict.fromkeys([*alone, *shipped()])


def of_mixed() -> Iterator[Variant]:
    """Those that change nothing but what is made of a mixed pass, which :func:`variants` leaves out."""
    for name in registry.names():
        if changed := registry.find(name).of_mixed:
            keys = registry.parameters(name).keys() - changed
            yield from (variant for variant in of_one(name, without=keys) if variant.params != _required(name))


def named(name: str) -> list[Variant]:
    """Of a policy, every variant, with more values of each parameter than :func:`variants` has; or of a YAML, that one.

    UserError where there is neither.
    """
    known = registry.names()
    if name not in (every := sorted({*known, *conf.names("policy")})):
        raise UserError(f"policy={name}: unknown; {allowing(name, every)}")
    given = [variant for variant in shipped() if name in (variant.name, variant.title)]
    return list(dict.fromkeys([*of_one(name, others), *given] if name in known else given))


def of_one(
    name: str, values: Callable[[Any, Any], list[Any]] = one_other, without: Collection[str] = ()
) -> Iterator[Variant]:
    """A policy with its defaults, with each parameter changed to each other value at hand, and with several at once;
    but for those ``without``, which stay."""
    base = dict(_required(name))
    yield Variant(name, tuple(base.items()))
    default = {**registry.defaults(name), **base}
    other = {
        key: values(hint, default.get(key)) for key, hint in registry.parameters(name).items() if key not in without
    }
    for key, value in ((key, value) for key, found in other.items() for value in found):
        yield Variant(name, tuple({**base, key: value}.items()))
    yield from islice(_together(name, base, other), TOGETHER if len(other) > 1 else 0)


def _together(name: str, base: Mapping[str, Any], other: Mapping[str, list[Any]]) -> Iterator[Variant]:
    """What the policy takes of combinations that are drawn, the same ones every time."""
    draw = Random(name)
    for _ in range(20 * TOGETHER):
        chosen = {key: draw.choice(found) for key, found in other.items() if found and draw.random() < 0.5}
        variant = Variant(name, tuple({**base, **chosen}.items()))
        if len(chosen) > 1 and _taken(variant):
            yield variant


def _taken(variant: Variant) -> bool:
    try:
        _world(variant)
    except UserError:
        return False
    return True


@cache
def _required(name: str) -> tuple[tuple[str, Any], ...]:
    """Parameters without a default, at the first values that the policy takes."""
    usual = registry.defaults(name)
    keys = {key: at_first(hint) for key, hint in registry.parameters(name).items() if key not in usual}
    tried = [tuple(zip(keys, values, strict=True)) for values in islice(product(*keys.values()), 500)]
    return next((params for params in tried[:-1] if _taken(Variant(name, params))), tried[-1])


def shipped() -> Iterator[Variant]:
    """Every YAML that is not a policy's defaults."""
    for title in sorted(conf.names("policy")):
        path = conf.FOLDER / "policy" / f"{title}.yaml"
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        name = given.pop("name")
        own = tuple((k, v) for k, v in given.items() if v != registry.defaults(name).get(k))
        if own:
            yield Variant(name, own, title=title)
