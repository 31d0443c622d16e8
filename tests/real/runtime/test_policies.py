"""Every policy on a device: its decisions follow from the log of facts, and a lossless one changes no bit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import yaml

from policies import registry
from policies.api import LayerEvent, Policy
from policies.api import Routing as PolicyRouting
from policies.lru import LRU
from real.runtime.offloaded import Offloaded
from real.runtime.runner import device_machine
from sim.check.laws import ready
from sim.check.synthetic import Routing, World, draw
from sim.check.variants import Variant
from sim.core.core import Core
from sim.core.state import CoreError
from tests.real.runtime.rig import CPU, All, Ran, Rig, follow, hosted, passes_of
from tests.sim.machine.cases import NoSignals
from tests.sim.machine.restless import Lossy
from tests.traces.models.tiny import E, K, tiny
from traces.kit import conf
from traces.kit.errors import UserError

SHIPPED = [
    Variant(given.pop("name"), tuple(given.items()), title=path.stem)
    for path in sorted((conf.FOLDER / "policy").glob("*.yaml"))
    if (given := yaml.safe_load(path.read_text()))
    and (kind := registry.find(given["name"])).precompute is Policy.precompute
    and not kind.modified
    and not any(given.get(key) for key in kind.versions)
]
"""Every YAML of conf/policy that a device runs: none that wants a modified model, the host to begin
early, or experts in several dtypes."""
PREDICTORS = {it.name: it for variant in SHIPPED for it in variant.world.predictors}
WORLD = World(predictors=tuple(PREDICTORS.values()))


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
        model, routing = tiny("olmoe", num_hidden_layers=layers), draw(3, layers, E, K, decode=4, world=WORLD)
        rig = Rig(Offloaded(model, CPU), chunks=2, depth=2, predictors=PREDICTORS)
        return Case(rig, routing, follow(rig, All, rig.experts, routing).check())

    return case


@pytest.mark.parametrize("variant", SHIPPED, ids=str)
def test_decisions_follow_from_the_log_of_facts(variant: Variant, case_of: Callable[[int], Case]) -> None:
    case = case_of(variant.world.layers)
    rig, routing = case.rig, case.routing
    hosts = registry.find(variant.name).place is not Policy.place
    if hosts:
        rig = hosted(rig, 2)
    held = rig.experts // (2 + 2 * (SHIPPED.index(variant) % 2))  # with more or less room, in turn
    ran = follow(rig, lambda setup: ready(variant.build(variant.roomy(setup)), routing), held, routing).check()
    policy = ran.core.policy
    room = policy.setup.budget - policy.gpu_bytes()
    assert ran.core.state.peak <= room
    assert ran.machine.pool.slots * rig.nbytes <= room
    assert all(scores.isfinite().all() for scores in ran.logits)
    if policy.lossless:
        assert ran.same_logits(case.whole), held
    assert bool(ran.accounts.host_lookups) <= hosts


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
        seen.append(follow(rig, policy, held, drawn).check())
        lookups = sum(len(demand) for step in passes_of(drawn) for demand in step.demand)
        assert seen[-1].core.accounts.hit_row()[0] == lookups
        assert seen[-1].core.events == sum(bool(demand) for step in passes_of(drawn) for demand in step.demand)
        assert seen[-1].same_logits(seen[0])


# What the host is to begin before a gate would be begun after it, and be another result than the simulator's.
def test_who_precomputes_is_refused_in_one_line(case_of: Callable[[int], Case]) -> None:
    class Early(LRU):
        lossless = False

        def precompute(self, event: LayerEvent) -> dict[int, int]:
            return {}

    rig = case_of(3).rig
    with pytest.raises(UserError, match=r"policy=lru: has the host begin experts before their gate.*; allowed: ") as it:
        device_machine(rig.model, Early(rig.setup(rig.experts)), NoSignals())
    assert "\n" not in str(it.value)


# -- lossy ------------------------------------------------------------------------------------------------------


# Tokens were computed by whatever lay where the experts that a policy had left out would have been.
def test_a_lossy_policy_says_who_computes_which_token(case_of: Callable[[int], Case]) -> None:
    case = case_of(3)
    with pytest.raises(CoreError, match="does not say who computes which token"):
        follow(case.rig, Lossy, 5, case.routing)


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
    follow(case.rig, Skip, 5, case.routing).check()
    hook.remove()
    assert len(outputs) == len(case.routing.steps)
    assert not any(output.any() for output in outputs)
