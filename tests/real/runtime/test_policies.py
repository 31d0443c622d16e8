"""Every policy on a device: its decisions follow from the log of facts, and a lossless one changes no bit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import yaml

from policies.api import LayerEvent
from policies.api import Routing as PolicyRouting
from policies.lru import LRU
from real.runtime.offloaded import Offloaded
from sim.check.laws import ready
from sim.check.synthetic import Routing, World, draw
from sim.check.variants import Variant
from sim.core.core import Core
from sim.core.state import CoreError
from tests.real.runtime.rig import CPU, All, Ran, Rig, follow, passes_of
from tests.sim.machine.restless import Lossy, Restless, Unruly
from tests.traces.models.tiny import E, K, tiny
from traces.kit import conf
from traces.kit.errors import UserError

SHIPPED = [
    Variant(given.pop("name"), tuple(given.items()), title=path.stem)
    for path in sorted((conf.FOLDER / "policy").glob("*.yaml"))
    if (given := yaml.safe_load(path.read_text()))
]
"""Every YAML of conf/policy."""
PREDICTORS = {it.name: it for variant in SHIPPED for it in variant.world.predictors}
WORLD = World(predictors=tuple(PREDICTORS.values()))


def rig_of(layers: int) -> Rig:
    model = tiny("olmoe", num_hidden_layers=layers)
    return Rig(Offloaded(model, CPU), chunks=2, depth=2, predictors=PREDICTORS)


@dataclass(frozen=True)
class Case:
    """A model, a routing, and what comes out when everything is resident."""

    rig: Rig
    routing: Routing
    whole: Ran


@pytest.fixture(scope="module")
def case_of() -> Callable[[int], Case]:
    @cache
    def case(layers: int) -> Case:
        rig, routing = rig_of(layers), draw(3, layers, E, K, decode=4, world=WORLD)
        setup = rig.setup(rig.experts * rig.nbytes)
        return Case(rig, routing, follow(rig, All(setup), All(setup), routing).check())

    return case


@pytest.mark.parametrize("variant", SHIPPED, ids=str)
def test_decisions_follow_from_the_log_of_facts(variant: Variant, case_of: Callable[[int], Case]) -> None:
    case = case_of(variant.world.layers)
    rig, routing = case.rig, case.routing
    for held in (rig.experts // 4, rig.experts // 2, rig.experts):
        setup = variant.roomy(rig.setup(held * rig.nbytes))
        policy, fresh = (ready(variant.build(setup), routing) for _ in range(2))
        ran = follow(rig, policy, fresh, routing).check()
        assert ran.core.state.peak <= setup.budget - policy.gpu_bytes()
        assert ran.machine.pool.slots * rig.nbytes <= setup.budget - policy.gpu_bytes()
        assert all(scores.isfinite().all() for scores in ran.logits)
        if policy.lossless:
            assert ran.same_logits(case.whole), held


# A layer that saw no token was told as an event without demand, which the simulator leaves out, and passed on what
# had entered it.
def test_a_layer_that_saw_nothing_has_no_event(case_of: Callable[[int], Case]) -> None:
    class Counting(Core):
        events = 0

        def gate(self, *args: Any) -> LayerEvent:
            self.events += 1
            return super().gate(*args)

    rig = replace(case_of(3).rig, core_type=Counting)
    drawn = draw(4, 3, E, K, decode=4)
    drawn.ids[-3:, 2] = drawn.ids[-2, 1, 1:] = 255
    seen = []
    for held, policy in ((1, LRU), (rig.experts, LRU), (rig.experts, All)):
        setup = rig.setup(held * rig.nbytes)
        seen.append(follow(rig, policy(setup), policy(setup), drawn).check())
        lookups = sum(len(demand) for step in passes_of(drawn) for demand in step.demand)
        assert seen[-1].core.accounts.hit_row()[0] == lookups
        assert seen[-1].core.events == sum(bool(demand) for step in passes_of(drawn) for demand in step.demand)
        assert seen[-1].same_logits(seen[0])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [Restless, Unruly])
def test_whatever_a_policy_may_do(kind: type[Restless], seed: int, case_of: Callable[[int], Case]) -> None:
    case = case_of(3)
    for held in (1, 5, case.rig.experts):
        setup = replace(case.rig.setup(held * case.rig.nbytes), seed=seed)
        ran = follow(case.rig, kind(setup), kind(setup), case.routing).check()
        assert ran.same_logits(case.whole), held


# -- lossy ------------------------------------------------------------------------------------------------------


# Tokens were computed by whatever lay where the experts that a policy had left out would have been.
def test_a_lossy_policy_says_who_computes_which_token(case_of: Callable[[int], Case]) -> None:
    case = case_of(3)
    setup = case.rig.setup(5 * case.rig.nbytes)
    with pytest.raises(CoreError, match="policy lossy does not say who computes which token"):
        follow(case.rig, Lossy(setup), Lossy(setup), case.routing)


def test_what_is_skipped_is_nothing(case_of: Callable[[int], Case]) -> None:
    case = case_of(3)
    outputs = []

    class Skip(LRU):
        lossless = False

        def on_gate(self, event: LayerEvent) -> None:
            assert not event.demand

        def route(self, event: LayerEvent) -> PolicyRouting:
            rows = sum(event.counts)
            chosen = np.full((rows, K), E), np.zeros((rows, K), np.float32)
            return PolicyRouting([], [], 0.0, 1.0, rows * K, 0, rows * K, 0, chosen)

    module = case.rig.model.moe.layers[1].experts
    hook = module.register_forward_hook(lambda module, args, output: outputs.append(output))
    setup = case.rig.setup(5 * case.rig.nbytes)
    follow(case.rig, Skip(setup), Skip(setup), case.routing).check()
    hook.remove()
    assert len(outputs) == len(case.routing.steps)
    assert not any(output.any() for output in outputs)


# -- budget -----------------------------------------------------------------------------------------------------


def test_below_the_least_budget_it_is_refused(case_of: Callable[[int], Case]) -> None:
    for variant in SHIPPED:
        rig = case_of(variant.world.layers).rig
        least = variant.roomy(rig.setup(1)).budget
        with pytest.raises(UserError, match=rf"budget={least - 1}: too small .* at least {least} bytes"):
            variant.build(rig.setup(least - 1))
