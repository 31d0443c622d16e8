"""What ``sim check`` tries a policy on follows from what the policy declares: gates ahead, predictors, types."""

from typing import Any, Literal

import pytest

from policies import registry
from policies.api import LayerEvent, Policy, Setup, Signal
from policies.lru import LRU
from sim.check.cli import _variants
from sim.check.laws import (
    assert_causal,
    assert_decided,
    assert_keeps_the_rules,
    assert_minimum,
    digests,
    everything,
    run,
)
from sim.check.synthetic import draw, setup_of
from sim.check.variants import Variant, named
from sim.check.variants import variants as every_variant
from tests.policies.turns import some
from traces.kit.errors import UserError


class Far(LRU):
    """Prefetch what the gate of a later layer wants. O(rows x K). Lossless."""

    name = "far"
    signals = frozenset({Signal.GATE_AHEAD})
    ahead = "reach"

    def __init__(self, setup: Setup, *, reach: int = 3, eagerness: float = 0.5, first: bool = True) -> None:
        super().__init__(setup)
        self.reach, self.eagerness, self.first = reach, eagerness, first

    def read(self) -> int:
        return self.reach

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        layer = event.layer + self.read()
        if layer < self.setup.n_layers:
            wanted = event.signals.gate_ahead(self.read()).ravel().tolist()
            for x in wanted if self.first else reversed(wanted):
                self.actions.prefetch(layer * self.setup.n_experts + x, self.eagerness)


class Five(Far):
    """As far, five layers and no parameter."""

    name = "five"
    ahead = 5

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, reach=5)


class Untold(Five):
    """As five, and does not say so."""

    name = "untold"
    ahead = ""


class Forty(Far):
    """It refuses models that are too small for it, and what is out of its bounds."""

    name = "forty"
    ahead = "gap"

    def __init__(self, setup: Setup, *, gap: int = 40) -> None:
        super().__init__(setup, reach=gap)
        if not 40 <= gap < setup.n_layers:
            raise UserError(f"policy.gap={gap}: allowed: 40 to {setup.n_layers - 1} (layers)")
        self.gap = gap


class Overreaches(Far):
    """Planted: reads further than it declares."""

    name = "overreaches"

    def read(self) -> int:
        return self.reach + 1


class OwnPredictor(LRU):
    """Reads a predictor of its own."""

    name = "own_predictor"

    def predictors(self) -> frozenset[str]:
        return frozenset({"mine"})

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        layer = event.layer + self.setup.predictors["mine"].stride
        if layer < self.setup.n_layers:
            for x in event.signals.predicted("mine").ravel().tolist():
                self.actions.prefetch(layer * self.setup.n_experts + x, 0.0)


class Peeks(Far):
    """Planted: decides by a request's whole future, which the signals of its world hold."""

    name = "peeks_far"

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        later: Any = event.signals
        for x in later.arrays["expert_ids"][-1, -1].tolist():
            self.actions.prefetch((self.setup.n_layers - 1) * self.setup.n_experts + x, 1.0)


class Demanding(LRU):
    """Every kind of parameter, none with a default."""

    name = "demanding"

    def __init__(self, setup: Setup, *, size: int, share: float, mode: Literal["a", "b"], on_time: bool) -> None:
        super().__init__(setup)
        if size < 4:
            raise UserError(f"policy.size={size}: allowed: at least 4")


PLANTED = (Far, Five, Untold, Forty, Overreaches, OwnPredictor, Peeks, Demanding)


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**registry._catalogue(), **{kind.name: kind for kind in PLANTED}}
    monkeypatch.setattr(registry, "_catalogue", lambda: known)


@pytest.mark.parametrize(
    ("kind", "layers", "ahead"), [(Far, 4, 3), (Five, 6, 5), (Untold, 9, 8), (Forty, 41, 40), (OwnPredictor, 3, 2)]
)
def test_a_valid_policy_passes_however_far_it_reads(kind: type[Policy], layers: int, ahead: int) -> None:
    variant = Variant(kind.name)
    assert (variant.world.layers, variant.world.ahead) == (layers, ahead)
    assert_causal(lambda setup, _: variant.build(setup), 1, variant.world)
    assert_keeps_the_rules(variant, 1)
    assert_minimum(variant)
    assert_decided(variant)
    assert len(digests([variant])) == 1
    routing = draw(1, n_layers=layers, world=variant.world)
    assert run(variant.build(setup_of(routing, 12 * 40)), routing).accounts.issued > 5  # what it reads was there


def test_every_parameter_is_tried_by_its_type_and_within_its_bounds() -> None:
    variants = {str(variant) for variant in named("far")}
    assert variants == {
        *("far", "far-reach=4", "far-reach=2", "far-reach=7", "far-first=False"),
        *("far-eagerness=0.25", "far-eagerness=0.75"),
        *("far-eagerness=0.25-first=False", "far-reach=4-eagerness=0.25-first=False"),  # drawn, the same every time
    }
    taken, refused = _variants("forty")
    assert [str(variant) for variant in taken] == ["forty", "forty-gap=41", "forty-gap=81"]
    assert refused == ["gap=39"]
    assert [Variant("far", (("reach", n),)).world.layers for n in (1, 4, 20)] == [3, 5, 21]


def test_parameters_without_a_default_get_values_that_it_takes() -> None:
    first, *others = (variant.params for variant in named("demanding"))
    assert dict(first) == {"size": 4, "share": 0.5, "mode": "a", "on_time": False}
    assert {key for params in others for key, value in params if dict(first)[key] != value} == {*dict(first)}


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (Variant("overreaches", (("reach", 1),)), "gate_ahead 2 layers ahead; it declares, and has, 1 to 1"),
        (Variant("overreaches"), "it reads gate_ahead 4 layers ahead; it declares, and has, 1 to 3"),
        (Variant("peeks_far"), "knowledge of later"),
    ],
)
def test_a_wrong_one_fails_however_far_it_reads(variant: Variant, message: str) -> None:
    """One that declares a single layer is tried where no second one is recorded."""
    with pytest.raises(AssertionError, match=message):
        assert_causal(lambda setup, _: variant.build(setup), 1, variant.world)


@pytest.mark.parametrize("name", ["fmoe", "gate_ahead", "mixtral_offloading", "moe_infinity", "promoe"])
def test_the_laws_are_tried_where_a_policy_prefetches(name: str) -> None:
    """Where predictions took longer than a pass, no law would ever see one."""
    variants = some([variant for variant in every_variant() if variant.name == name], 3, 0)
    issued = []
    for variant in variants:
        routing, setup = everything(1, variant.world)
        issued.append(run(variant.build(variant.roomy(setup)), routing).accounts.issued)
    assert issued[0] > 20
    assert sum(number > 10 for number in issued) > 0.7 * len(variants)
