"""Every policy there is, with its parameters in turn, for what must hold for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from policies import registry
from policies.api import Policy, Setup
from traces import conf

QUICK = {
    "fmoe": (("search_us", 0.02),),
    "moe_infinity": (("latency_us", 0.02),),
    "promoe": (("latency_us", 0.05),),
}
"""At the lab's prices what takes microseconds comes too late to matter: times that do not."""


@dataclass(frozen=True)
class Variant:
    """A policy with parameters."""

    name: str
    params: tuple[tuple[str, Any], ...] = ()
    title: str = field(default="", kw_only=True, compare=False)

    def __str__(self) -> str:
        return self.title or "-".join([self.name, *(f"{k}={v}" for k, v in self.params)])

    @property
    def layers(self) -> int:
        """Layers of a model to try it on: more than it looks ahead."""
        params = {**registry.defaults(self.name), **dict(self.params)}
        return int(max(3, params.get("distance", 1) + 1, params.get("stride", 1) + 1))

    def build(self, setup: Setup) -> Policy:
        return registry.build(self.name, setup, dict(self.params))

    def roomy(self, setup: Setup) -> Setup:
        """The setup, with the budget raised to what the policy needs."""
        policy: Policy = registry.find(self.name)(setup, **dict(self.params))
        return replace(setup, budget=max(setup.budget, policy.min_budget()))


def variants() -> Iterator[Variant]:
    """Every policy there is, with its defaults, with each parameter changed to each other value at hand, as shipped."""
    yield from dict.fromkeys(_variants())


def _variants() -> Iterator[Variant]:
    for name in registry.names():
        yield from of_one(name)
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


def of_one(name: str) -> Iterator[Variant]:
    """A policy with its defaults, and with each parameter changed to each other value at hand."""
    yield Variant(name)
    default = registry.defaults(name)
    for key, hint in registry.parameters(name).items():
        for other in _others(hint, default.get(key)):
            yield Variant(name, ((key, other), *(p for p in QUICK.get(name, ()) if p[0] != key)))


def shipped() -> Iterator[Variant]:
    """Every YAML that is not a policy's defaults."""
    for title in sorted(conf.names("policy")):
        path = conf.FOLDER / "policy" / f"{title}.yaml"
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        name = given.pop("name")
        own = tuple((k, v) for k, v in given.items() if v != registry.defaults(name).get(k))
        if own:
            yield Variant(name, own, title=title)


def _others(hint: Any, default: Any) -> list[Any]:
    if hint is bool:
        return [not default]
    if hint is int:
        return [default + 1]
    if hint is float:
        return [default + 0.1]
    if int in getattr(hint, "__args__", ()):  # or null
        return [2 if default is None else None]
    return [choice for choice in getattr(hint, "__args__", ()) if isinstance(choice, str) and choice != default]
