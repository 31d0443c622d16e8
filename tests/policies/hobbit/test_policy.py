"""HOBBIT as a whole: what it computes in which precision, whom it keeps, how far it looks."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import pytest

from policies import registry
from policies.api import Policy, Setup, Step
from policies.hobbit import Hobbit
from policies.lru import LRU
from sim.check.laws import run
from sim.check.synthetic import Routing, draw, setup_of
from sim.workload.passes import Pass
from traces.kit.errors import UserError

EQUAL = "0.25/0.25/0.25/0.25"
LAYERS, E = 3, 6
NO_SIZE = "the model has no size of an expert in it"


def build(setup: Setup, name: str = "hobbit", **given: Any) -> Policy:
    return registry.build(name, setup, {"weights": EQUAL, **given})


def decode_only(seed: int, k: int, steps: int = 40) -> Routing:
    """One request of single tokens."""
    drawn = draw(seed, n_layers=LAYERS, n_experts=E, k=k, decode=steps, prompts=1)
    n = steps
    signals = {name: array[-n:] for name, array in drawn.signals.items()}
    signals["expert_weights"] = -np.sort(-signals["expert_weights"], axis=-1)
    return Routing(signals["expert_ids"], [(False, i, 1) for i in range(n)], E, signals, drawn.world)


def shares(routing: Routing, *weights: float) -> Routing:
    """The same, where each token gives its experts these weights."""
    given = np.broadcast_to(np.array(weights, np.float16), routing.ids.shape).copy()
    return replace(routing, signals={**routing.signals, "expert_weights": given})


def quality(done: Any) -> Mapping[str, float]:
    row = done.accounts.quality_row()
    return dict(zip(("kept", "mass", "slots", "substituted", "skipped", "low", "unstated"), row, strict=True))


def test_last_use_alone_is_lru() -> None:
    """Of one request with one expert per layer and token: then uses have an order, and it is that of LRU."""
    routing = decode_only(1, k=1)
    setup = setup_of(routing, 12 * 7)
    ours = run(build(setup, "hobbit_lossless", depth=0, weights="1/0/0/0"), routing)
    lru = run(LRU(setup), routing)
    assert ours.core.digest() == lru.core.digest()
    assert ours.accounts.hit_row()[3] not in (0, ours.accounts.hit_row()[0])
    other = run(build(setup, "hobbit_lossless", depth=0, weights="0/0/0/1"), routing)
    assert other.core.digest() != lru.core.digest()


def test_without_a_lower_precision_and_with_nothing_skipped_it_is_the_lossless_one() -> None:
    routing = decode_only(2, k=3)
    setup = setup_of(routing, 12 * 8)
    lossless = run(build(setup, "hobbit_lossless"), routing)
    mixed = run(build(setup, low=None, thresholds="1/1"), routing)
    assert mixed.accounts.hits == lossless.accounts.hits
    assert mixed.accounts.wall_ns == lossless.accounts.wall_ns
    assert mixed.accounts.demand_bytes == lossless.accounts.demand_bytes
    assert quality(mixed)["low"] == quality(mixed)["skipped"] == 0


def test_what_is_missed_comes_by_its_rank_and_what_is_there_is_used() -> None:
    """Three experts of weights .5, .3, .2: the first as it is, the second in low, the third not at all."""
    routing = shares(decode_only(3, k=3), 0.5, 0.3, 0.2)
    setup = setup_of(routing, 16)  # a place for one expert in each version: whatever is in it is of another layer
    done = run(build(setup, thresholds="0.4/0.7", depth=0), routing)
    own, low = done.accounts.by_version
    events = 40 * LAYERS
    assert own.complete == low.complete == 0
    assert (own.lookups, own.copied_bytes) == (events, 12 * events)
    assert (low.lookups, low.copied_bytes) == (events, 4 * events)
    said = quality(done)
    assert (said["slots"], said["skipped"], said["low"]) == (3 * events, events, events)
    assert said["kept"] == pytest.approx(0.8 * said["mass"], abs=1e-2)


def test_with_room_for_all_nothing_is_low_or_skipped_that_was_once_needed() -> None:
    routing = shares(decode_only(4, k=2), 0.8, 0.2)
    done = run(build(setup_of(routing, 10**6), thresholds="0.5/1", depth=0), routing)
    firsts = [set(routing.ids[:, layer, 0].tolist()) for layer in range(LAYERS)]
    assert done.accounts.by_version[0].loads == sum(map(len, firsts))
    low = 0
    for layer in range(LAYERS):
        needed = set[int]()
        for first, second in routing.ids[:, layer].tolist():
            needed.add(first)
            low += second not in needed
    assert quality(done)["low"] == low


def test_less_is_copied_the_lower_the_thresholds() -> None:
    routing = decode_only(5, k=3, steps=20)
    setup = setup_of(routing, 12 * 6)
    copied = []
    for given in ("1/1", "0.5/1", "0/1", "0/0.5"):
        accounts = run(build(setup, thresholds=given, depth=0), routing).accounts
        copied.append(accounts.demand_bytes + accounts.speculative_bytes)
    assert copied == sorted(copied, reverse=True)
    assert len(set(copied)) == 4


def test_it_looks_a_layer_further_only_where_all_is_there() -> None:
    """And what it foresees stays: no layer of it is evicted for a prefetch."""
    routing = decode_only(6, k=2)
    routing.signals["gate_ahead"] = np.full((40, LAYERS, 2, 2), 255, np.uint8)
    for distance in (1, 2):
        routing.signals["gate_ahead"][:, : LAYERS - distance, distance - 1] = routing.ids[:, distance:]
    looked: list[tuple[int, int, bool]] = []

    class Watched(Hobbit):
        name = "watched"

        def _foresee(self, event: Any, distance: int) -> bool:
            found = super()._foresee(event, distance)
            items = self.shielded[event.layer + distance]
            looked.append((event.layer, distance, found))
            assert found == all(self.view.resident(x) for x in items)
            return found

        def on_evict(self, expert: int) -> None:
            super().on_evict(expert)
            self.lost = self.lost | {expert}

        lost: frozenset[int] = frozenset()

    setup = setup_of(routing, 12 * 14).with_versions(["int4"])
    done = run(Watched(setup, depth=2, weights=EQUAL, thresholds="1/1"), routing)
    second = {(layer, distance) for layer, distance, _ in looked}
    assert second == {(0, 1), (0, 2), (1, 1)}
    by_event = [found for layer, distance, found in looked if (layer, distance) == (0, 1)]
    assert sum(by_event) == sum((layer, distance) == (0, 2) for layer, distance, _ in looked)
    assert 0 < sum(by_event) < len(by_event)
    assert done.accounts.hit_row(1)[1] == 40 * 2 * (LAYERS - 1)  # all of what was foreseen was recalled
    assert done.accounts.fates[2] == 0  # nothing that was foreseen was thrown out before its use


@pytest.mark.parametrize("name", ["hobbit", "hobbit_lossless"])
def test_a_new_request_begins_with_no_record(name: str) -> None:
    class Two(Routing):
        def passes(self) -> list[Pass]:
            begun = accumulate(prefill for prefill, _, _ in self.steps)
            return [replace(step, requests=(n,)) for n, step in zip(begun, super().passes(), strict=True)]

    drawn = draw(8, n_layers=LAYERS, n_experts=E, k=2, decode=6, prompts=2)
    routing = Two(drawn.ids, drawn.steps, E, drawn.signals, drawn.world)
    policy = build(setup_of(routing, 12 * 8), name)
    run(policy, routing)
    begun = max(i for i, (prefill, _, _) in enumerate(routing.steps) if prefill)
    tokens = sum(rows for _, _, rows in routing.steps[begun:])
    counts = policy.records.counts  # type: ignore[attr-defined]
    assert policy.records.tokens == tokens - 1  # type: ignore[attr-defined]  # of the last pass they are not added
    assert counts[0].max() == tokens
    assert counts[1].sum() <= tokens * LAYERS * 2
    assert (counts[2] <= counts[1]).all()


def test_a_request_that_comes_back_is_no_new_one() -> None:
    """One that was preempted wiped the records of all."""
    routing = draw(0, n_layers=LAYERS, n_experts=E)
    policy: Any = build(setup_of(routing, 12 * 8), "hobbit_lossless")
    begun: list[Any] = []
    policy.records.begin = lambda: begun.append(step.requests)
    for requests in [(1,), (1, 2), (1,), (1, 2), (3,)]:
        step = Step(0, False, len(requests), requests, (1,) * len(requests), None)  # type: ignore[arg-type]
        policy.on_step(step)
    assert begun == [(1,), (1, 2), (3,)]


def test_each_precision_has_its_part_of_the_budget_and_room_for_one() -> None:
    routing = draw(0, n_layers=LAYERS, n_experts=E)
    for budget, share, expected in [(100, 0.25, [75, 25]), (100, 0, [96, 4]), (100, 1, [12, 88]), (16, 0.5, [12, 4])]:
        policy = build(setup_of(routing, budget), low_share=share)
        assert policy.version_budgets() == expected
    with pytest.raises(UserError, match=r"budget=15: too small for policy=hobbit.*at least 16 bytes"):
        build(setup_of(routing, 15))
    assert build(setup_of(routing, 15), low=None).version_budgets() is None


@pytest.mark.parametrize(
    ("low", "why"),
    [
        ("int3", f"{NO_SIZE}, its own is bfloat16; allowed: int4, null; did you mean int4?"),
        ("bfloat16", "the model's own; allowed: int4, null"),
        ("fp32", "no smaller than the model's own bfloat16; allowed: int4, null"),
    ],
)
def test_a_lower_precision_that_is_none(low: str, why: str) -> None:
    setup = setup_of(draw(0), 1000)
    setup = replace(setup, others={**setup.others, "fp32": (48,) * 4})
    with pytest.raises(UserError) as error:
        build(setup, low=low)
    assert str(error.value) == f"policy.low={low}: {why}"
