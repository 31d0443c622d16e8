"""KTransformers' masks and their change by a prompt, on traces written out by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies import registry
from policies.api import Setup
from policies.ktransformers import KTransformers
from sim.check.laws import Run, assert_causal, assert_keeps_the_rules, ready, run
from sim.check.synthetic import FakeSignals, FlatHost, Routing, draw, setup_of
from sim.check.variants import Variant
from sim.core.core import Core
from sim.core.state import CoreError
from sim.machine.machine import Machine
from tests.policies.scripted import SIZE, as_shipped, costs, held
from traces.kit.errors import UserError

L, E = 3, 8


class Popular:
    """Train requests of a popularity that is given."""

    def __init__(self, counts: dict[int, int]) -> None:
        self.counts = counts

    def popularity(self) -> Any:
        return np.array([self.counts.get(x, 0) for x in range(L * E)])

    def steps(self) -> Any:
        return iter(())


def routing(prompt: list[list[list[int]]], steps: list[list[list[int]]]) -> Routing:
    """A prompt of [row][layer][choice], then decode steps of [step][layer][choice]."""
    ids = np.array([*prompt, *steps], np.uint8)
    n = len(prompt)
    passes = [(True, 0, n), *((False, n + i, 1) for i in range(len(steps)))]
    return Routing(ids, passes, E, {"expert_ids": ids})


def prepared(trace: Routing, room: int, copy: int, host: int = 10**6, **params: Any) -> KTransformers:
    setup = replace(setup_of(trace, room * SIZE, costs=costs(copy)), host=FlatHost(host, None, workers=1))
    policy = registry.build("ktransformers", setup, params)
    assert isinstance(policy, KTransformers)
    return policy


def go(trace: Routing, room: int, copy: int = 1, host: int = 10**6, **params: Any) -> Run:
    return run(prepared(trace, room, copy, host, **params), trace)


def mask(policy: KTransformers) -> list[int]:
    return sorted(x for layer in policy.kept for x in layer)


# -- masks ------------------------------------------------------------------------------------------------------

ANY = routing([[[0, 1]] * L], [[[0, 1]] * L])


# By hand: 7 of 24 experts are 2 in each layer, and one more in the lowest; 24 are all.
@pytest.mark.parametrize(
    ("kind", "room", "wanted"),
    [
        ("uniform", 7, [0, 1, 2, 8, 9, 16, 17]),
        ("uniform", 2, [0, 8]),
        ("uniform", 24, [*range(24)]),
        ("front", 7, [0, 1, 2, 3, 4, 5, 6]),
        ("front", 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_what_is_on_the_gpu(kind: str, room: int, wanted: list[int]) -> None:
    policy = prepared(ANY, room, 1, mask=kind)
    assert mask(policy) == wanted
    assert policy.decided() == {"kept_per_layer": [sum(x // E == layer for x in wanted) for layer in range(L)]}
    assert not policy.wants_history()


# Of all layers, so that one may get nothing; of equals the lower number.
def test_the_most_popular_of_all_layers() -> None:
    policy = prepared(ANY, 4, 1, mask="frequency")
    policy.fit(Popular({17: 9, 3: 5, 23: 5, 16: 5, 22: 5, 9: 1}))
    assert mask(policy) == [3, 16, 17, 22]
    assert policy.decided() == {"kept_per_layer": [1, 0, 3]}
    assert policy.waiting == [17, 3, 16, 22]  # the most popular is loaded first
    with pytest.raises(UserError, match="the train requests demand no expert"):
        policy.fit(Popular({}))


def test_drawn_by_a_seed_of_its_own() -> None:
    masks = [mask(prepared(ANY, 12, 1, mask="random", mask_seed=seed)) for seed in (42, 42, 43)]
    assert masks[0] == masks[1] != masks[2]
    assert [len(set(x)) for x in masks] == [12] * 3
    drawn = [mask(prepared(ANY, 12, 1, mask="random", mask_seed=seed)) for seed in range(200)]
    often = np.bincount([x for one in drawn for x in one], minlength=L * E)
    assert abs(often - 100).max() < 4 * 50**0.5  # each expert in half of them, within four deviations


# -- a run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "frequency", "front", "random"])
def test_the_mask_stays_and_the_host_computes_all_others(kind: str) -> None:
    trace = draw(3, n_layers=L, n_experts=E)
    policy = prepared(trace, 11, copy=0, host=7, mask=kind)
    done = run(policy, trace)
    inside = set(mask(policy))
    demanded = [x for step in trace.passes() for layer in step.demand for x in layer]
    assert set(held(done)) == inside
    assert done.accounts.host_lookups == sum(x not in inside for x in demanded)
    assert done.accounts.speculative_bytes == 11 * SIZE  # each once
    assert done.accounts.demand_bytes == 0


# The link needs 11 x 10000 ns for the mask, the run some 3000: the host does what is not there.
def test_what_has_not_been_loaded_is_computed_by_the_host_and_nothing_waits() -> None:
    trace = draw(3, n_layers=L, n_experts=E)
    done = go(trace, 11, copy=10**4, host=7)
    assert done.accounts.host_lookups == done.lookups
    assert done.accounts.demand_bytes == 0
    assert done.accounts.stall_row()[:4] == [0, 0, 0, 0]


# -- changed by a prompt ----------------------------------------------------------------------------------------

PROMPT = [[[5, 7], [0, 1], [0, 1]], [[5, 6], [1, 3], [2, 3]], [[2, 3], [3, 7], [4, 5]]]
"""Tokens in layer 0: two of 5, one each of 2, 3, 6, 7; in layer 1: two of 1 and 3; in layer 2: one each of 0 to 5."""
AFTER = [[5, 2], [1, 3], [0, 1]]
BEFORE, BETWEEN, CHANGED = [0, 1, 8, 9, 16, 17], [2, 5, 8, 9, 16, 17], [2, 5, 9, 11, 16, 17]
"""By hand, with 2, 2 and 2: 5 and, of equals that are not in, the lowest; 1 and 3; 0 and 1, equals that are in."""
DYNAMIC = {"dynamic": True, "threshold": 3}


def test_each_layer_gets_the_experts_of_the_prompt() -> None:
    done = go(routing(PROMPT, [AFTER] * 3), 6, **DYNAMIC)
    assert isinstance(done.policy, KTransformers)
    assert mask(done.policy) == held(done) == CHANGED
    assert done.accounts.issued == 6 + 3
    assert done.accounts.demand_bytes == 0


# Its own prompt is computed with the mask as it was; each layer's changes when its own gate has run, not before.
def test_it_changes_when_the_layer_s_own_gate_has_run() -> None:
    trace = routing(PROMPT, [AFTER] * 3)
    policy = prepared(trace, 6, 0, host=1, **DYNAMIC)
    core = Core(policy, policy.setup, FakeSignals(trace.signals))
    seen: list[list[int]] = []
    slots: list[list[int]] = []

    def look(*_: object) -> None:
        seen.append(mask(policy))
        slots.append([x for x, slot in enumerate(core.state.slot) if slot])

    core.listen("gate", look)
    Machine(core, policy.setup.costs).run((), trace.passes())  # type: ignore[arg-type]
    assert seen == slots == [BEFORE, BETWEEN, *[CHANGED] * 10]
    # The prompt's 2, 3, 5, 6, 7, then 3 and 7, then 2, 3, 4, 5; after it everything is on the GPU.
    assert core.accounts.host_lookups == 5 + 2 + 4


@pytest.mark.parametrize("kind", ["uniform", "frequency", "front", "random"])
def test_a_shorter_prompt_changes_nothing(kind: str) -> None:
    trace = routing(PROMPT, [AFTER] * 3)
    still = go(trace, 6, mask=kind)
    short, long = (go(trace, 6, mask=kind, dynamic=True, threshold=n) for n in (4, 3))
    assert short.core.digest() == still.core.digest() != long.core.digest()
    assert short.accounts == still.accounts


# Of equals who is in stays, though others have lower numbers: nothing moves. Tokens that are generated change nothing.
def test_equals_do_not_move_and_only_prompts_count() -> None:
    tokens = [[[5, 0], [1, 0], [0, 1]], [[2, 1], [3, 2], [0, 1]], [[3, 4], [4, 5], [0, 1]]]
    ids = np.array([*PROMPT, *tokens, *[[[6, 7]] * L] * 3], np.uint8)
    trace = Routing(ids, [(True, 0, 3), (True, 3, 3), (False, 6, 3)], E, {"expert_ids": ids})
    done = go(trace, 6, **DYNAMIC)
    assert isinstance(done.policy, KTransformers)
    assert mask(done.policy) == held(done) == CHANGED
    assert done.accounts.issued == 6 + 3


# As many experts in each layer as before, whatever the mask was.
@pytest.mark.parametrize("kind", ["uniform", "frequency", "front", "random"])
def test_the_numbers_per_layer_stay(kind: str) -> None:
    trace = draw(5, n_layers=L, n_experts=E, prompts=4)
    policy = prepared(trace, 9, 50, mask=kind, dynamic=True, threshold=1)
    ready(policy, trace)
    before = policy.decided()
    done = run(policy, trace)
    assert policy.decided() == before
    assert set(held(done)) <= set(mask(policy))


# The first layer's gate runs at 10 ns, when 0 is on the link and 1 is queued, the second's at 3020, after six tokens on
# the host. With copies of 900 ns the link has then done 0, 5 and 2, and has 8, or the last half of it. One whose last
# chunk is on the link is complete when it goes (useless), another is not (cancelled). With copies of 35 ns 8 was there,
# and was used by the prompt.
@pytest.mark.parametrize(
    ("copy", "chunks", "useless", "cancelled"), [(900, 1, 2, 1), (900, 2, 1, 2), (35, 1, 1, 1), (35, 2, 0, 2)]
)
def test_what_has_not_come_and_is_not_wanted_is_dropped(copy: int, chunks: int, useless: int, cancelled: int) -> None:
    trace = routing(PROMPT, [AFTER] * 30)
    setup = replace(prepared(trace, 6, copy, host=500).setup, chunks=chunks)
    done = run(registry.build("ktransformers", setup, DYNAMIC), trace)
    assert held(done) == CHANGED
    assert done.accounts.fates == [9 - useless - cancelled, 0, useless, cancelled, 0]


# Prompts of the tests of all policies are shorter than any threshold that is worth its copies.
@pytest.mark.parametrize(("kind", "seed"), [("uniform", 0), ("frequency", 1), ("front", 2), ("random", 1)])
def test_the_rules_hold_where_every_prompt_changes_the_mask(kind: str, seed: int) -> None:
    variant = Variant("ktransformers", (("mask", kind), ("dynamic", True), ("threshold", 1)))
    assert_keeps_the_rules(variant, seed)
    assert_causal(lambda setup, _: variant.build(setup), seed, variant.world)


# -- what it wants ----------------------------------------------------------------------------------------------


def test_presets_and_what_they_learn_from() -> None:
    setup = setup_of(ANY, 6 * SIZE)
    for title, kind, learns in (
        ("ktransformers_front", "front", False),
        ("ktransformers_random", "random", False),
        ("ktransformers_frequency", "frequency", True),
        ("ktransformers_dynamic", "uniform", False),
    ):
        policy = registry.build("ktransformers", setup, as_shipped(title))
        assert isinstance(policy, KTransformers)
        assert (policy.mask, policy.wants_history()) == (kind, learns)
        changes = title == "ktransformers_dynamic"
        assert policy.dynamic == policy.uses("keep") == policy.uses("on_complete") == changes  # else they cost time
    unfitted = registry.build("ktransformers", setup, {"mask": "frequency"})
    with pytest.raises((RuntimeError, CoreError), match="was not fitted"):
        unfitted.on_step(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"threshold": 0}, r"policy\.threshold=0: allowed: at least 1 "),
        ({"mask": "random", "mask_seed": -1}, r"policy\.mask_seed=-1: allowed: at least 0 "),
        ({"mask": "uniform", "mask_seed": -1}, r"policy\.mask_seed=-1: allowed: at least 0 "),
        ({"mask": "popular"}, r"policy\.mask='popular': allowed: uniform, frequency, front, random"),
    ],
)
def test_a_slip_is_one_line(params: dict[str, Any], message: str) -> None:
    setup: Setup = setup_of(ANY, 6 * SIZE)
    with pytest.raises(UserError, match=message) as error:
        registry.build("ktransformers", setup, params)
    assert "\n" not in str(error.value)
