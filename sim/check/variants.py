"""Every policy there is, with its parameters in turn, for what must hold for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice, product
from typing import Any

import numpy as np
import yaml

from policies import registry
from policies.api import Policy, Predictor, Setup, Signal
from sim.check.synthetic import PLAIN, PREDICTORS, Routing, World, setup_of
from sim.check.values import at_first, one_other, others
from traces.kit import conf
from traces.kit.errors import UserError, allowing

QUICK = {
    "fmoe": (("search_us", 0.02),),
    "moe_infinity": (("latency_us", 0.02),),
    "promoe": (("latency_us", 0.05),),
}
"""At the lab's prices what takes microseconds comes too late to matter: times that do not."""
UNDECLARED = 9
"""Layers for a policy that reads the gates ahead and does not say how far."""
LARGEST = 257
"""Layers of the largest model that is tried, where a policy refuses smaller ones."""


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

    @property
    def layers(self) -> int:
        """Layers of a model to try it on."""
        return self.world.layers

    def build(self, setup: Setup) -> Policy:
        return registry.build(self.name, setup, dict(self.params))

    def roomy(self, setup: Setup) -> Setup:
        """The setup, with the budget raised to what the policy needs."""
        policy: Policy = registry.find(self.name)(setup, **dict(self.params))
        return replace(setup, budget=max(setup.budget, policy.min_budget()))


@cache
def _world(variant: Variant) -> World:
    policy = _smallest(variant, PLAIN)
    declared, reads = policy.layers_ahead(), Signal.GATE_AHEAD in policy.needs()
    own = sorted(policy.predictors() - set(PREDICTORS))
    predictors = (*PREDICTORS.values(), *(Predictor(name, 1, 3) for name in own))
    if own:
        _smallest(variant, World(predictors=predictors))  # it may refuse a predictor that was made up
    if declared is None and reads:
        return World(UNDECLARED, UNDECLARED - 1, predictors)
    strides = (PREDICTORS[name].stride + 1 for name in policy.predictors() if name in PREDICTORS)
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
    """Every policy there is, with its defaults, with each parameter changed to each other value at hand, as shipped."""
    alone = (variant for name in registry.names() for variant in of_one(name))
    yield from dict.fromkeys([*alone, *_by_hand()])


def known_names() -> list[str]:
    """The names of policies, and of their files."""
    return sorted({*registry.names(), *conf.names("policy")})


def named(name: str) -> list[Variant]:
    """Of a policy, every variant, with more values of each parameter than :func:`variants` has; or of a YAML, that one.

    UserError where there is neither.
    """
    known = name in registry.names()
    if name not in known_names():
        raise UserError(f"policy={name}: unknown; {allowing(name, known_names())}")
    by_hand = [variant for variant in _by_hand() if name in (variant.name, variant.title)]
    return list(dict.fromkeys([*of_one(name, others), *by_hand] if known else by_hand))


def of_one(name: str, values: Callable[[Any, Any], list[Any]] = one_other) -> Iterator[Variant]:
    """A policy with its defaults, and with each parameter changed to each other value at hand."""
    base = _required(name)
    yield Variant(name, base)
    default = {**registry.defaults(name), **dict(base)}
    for key, hint in registry.parameters(name).items():
        for other in values(hint, default.get(key)):
            changed = {**dict(base), key: other} | {k: v for k, v in QUICK.get(name, ()) if k != key}
            yield Variant(name, tuple(changed.items()))


@cache
def _required(name: str) -> tuple[tuple[str, Any], ...]:
    """Parameters without a default, at the first values that the policy takes."""
    usual = registry.defaults(name)
    keys = {key: at_first(hint) for key, hint in registry.parameters(name).items() if key not in usual}
    tried = [tuple(zip(keys, values, strict=True)) for values in islice(product(*keys.values()), 500)]
    for params in tried[:-1]:
        try:
            _smallest(Variant(name, params), PLAIN)
        except UserError:
            continue
        return params
    return tried[-1]


def _by_hand() -> Iterator[Variant]:
    yield from shipped()
    for variant in (Variant("fmoe"), *shipped()):
        if variant.name in QUICK:
            own = dict(variant.params) | dict(QUICK[variant.name])
            yield Variant(variant.name, tuple(own.items()), title=f"{variant}-quick")
    yield Variant("gate_ahead", (("latency_us", 0.15), ("blocking", True)))
    yield Variant("gate_ahead", (("distance", 2), ("outstanding", 3), ("overlap_aware", True), ("latency_us", 0.02)))
    quick = ("latency_us", 0.05)  # at this lab's prices all that takes 200 us comes too late
    yield Variant("promoe", (quick,))
    yield Variant("promoe", (quick, ("preemption", False)))
    yield Variant("promoe", (("latency_us", 0.0), ("reordering", False), ("scope", "global")))
    yield Variant("promoe", (quick, ("predictor", "gate_ahead"), ("preemption", False), ("reordering", False)))
    yield Variant("promoe", (quick, ("predictor", "routing"), ("blocking", True)))


def shipped() -> Iterator[Variant]:
    """Every YAML that is not a policy's defaults."""
    for title in sorted(conf.names("policy")):
        path = conf.FOLDER / "policy" / f"{title}.yaml"
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        name = given.pop("name")
        own = tuple((k, v) for k, v in given.items() if v != registry.defaults(name).get(k))
        if own:
            yield Variant(name, own, title=title)
