"""DAOP, on traces written out by hand: placement, swaps, predicted routing, what the host begins early."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies import registry
from policies.api import LayerEvent
from policies.daop import Daop
from sim.check.laws import Run, Witness, run
from sim.check.synthetic import ABSENT, FlatHost, Routing, setup_of
from sim.workload.passes import Pass
from tests.policies.scripted import SIZE, costs, held
from traces.kit.errors import UserError

E = 6
Ids = Sequence[Sequence[Sequence[int]]]


def trace(ids: Ids, steps: list[tuple[bool, int]], *, said: Ids | None = None, probs: Sequence[float] = ()) -> Routing:
    """Rows [row][layer][k] in steps of (prefill, rows), and what each gate says of the next layer.

    Every router gives the scores ``probs``; the weights of a row are 1/2, 1/4, ...
    """
    chosen = np.array(ids, np.uint8)
    n, layers, k = chosen.shape
    ahead = np.full((n, layers, 1, k), ABSENT, np.uint8)
    if said is not None:
        ahead[:, :-1, 0] = np.array(said, np.uint8)
    signals = {
        "expert_ids": chosen,
        "expert_weights": np.broadcast_to(0.5 ** np.arange(1, k + 1), chosen.shape).astype(np.float16),
        "router_probs": np.broadcast_to(probs or [0.0] * E, (n, layers, E)).astype(np.float16),
        "gate_ahead": ahead,
    }
    firsts = np.cumsum([0, *(rows for _, rows in steps)]).tolist()
    return Routing(
        chosen, [(prefill, at, rows) for (prefill, rows), at in zip(steps, firsts, strict=False)], E, signals
    )


class Seen(Witness):
    """Notes what each event has computed, and where."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.events: list[tuple[dict[int, int], set[int]]] = []

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> LayerEvent:
        event = super().gate(layer, demand, tokens, now)
        assert self.places is not None
        self.events.append((dict(zip(event.demand, event.tokens, strict=True)), set(self.places.experts)))
        return event


def go(routing: Routing, *, each: int, copy: int = 0, host: int = 1, **params: Any) -> Run:
    """With room for ``each`` experts per layer and the one that is staged; an expert takes 100 on the GPU."""
    setup = setup_of(routing, (each * routing.ids.shape[1] + 1) * SIZE, costs=costs(copy))
    setup = replace(setup, host=FlatHost(host, None, workers=1))
    return run(registry.build("daop", setup, {"start": "index", **params}), routing, core_type=Seen)


def events(done: Run) -> list[tuple[dict[int, int], set[int]]]:
    assert isinstance(done.core, Seen)
    return done.core.events


# -- who is on the GPU ------------------------------------------------------------------------------------------


# A layer that has more than its share because its experts are more popular, or ties by chance.
def test_each_layer_has_as_many_and_the_rest_goes_to_the_most_popular() -> None:
    setup = setup_of(trace([[[0], [0]]], [(False, 1)]), 6 * SIZE, costs=costs(0))
    popularity = [5, 1, 4, 4, 0, 0, 9, 8, 7, 0, 0, 0]
    assert list(Daop(setup).chosen(popularity)) == [6, 7, 8, 0, 2]  # two of each, and 8; the lower of 2 and 3


PROMPT = [[[x]] for x, n in enumerate([2, 4, 0, 3, 5, 2]) for _ in range(n)]


# 0, 1 and 2 are there. By tokens, the hottest of the host are 4, 3, 5 (5, 3, 2), the coldest of the GPU 2, 0, 1
# (0, 2, 4): the first two pairs change places, if two may, and 3 is more than so many times 2.
@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, {1, 3, 4}),
        ({"swap_in_out": 1.5}, {0, 1, 4}),
        ({"swap_in_out": 1.49}, {1, 3, 4}),
        ({"swaps": 1}, {0, 1, 4}),
        ({"swaps": 0}, {0, 1, 2}),
    ],
)
@pytest.mark.parametrize("copy", [0, 40, 500])  # all are there before the gate, or are still to come
def test_a_prompt_swaps_the_hot_for_the_cold(params: dict[str, Any], kept: set[int], copy: int) -> None:
    routing = trace([*PROMPT, *[[[1]]] * 200], [(True, len(PROMPT)), *[(False, 1)] * 200])
    done = go(routing, each=3, copy=copy, **params)
    assert isinstance(done.policy, Daop)
    assert set(done.policy.kept or ()) == set(held(done)) == kept
    _, hosted = events(done)[0]
    assert not hosted & (kept - {0, 1, 2}), "what is swapped in is fetched, however slowly"
    assert {5} | {0, 1, 2} - kept - {2} <= hosted, "what goes is the host's"


# By hand, at the gate at 10: 0 is on its way and 1 is next, 2 is never begun; 4 and 3 are fetched.
def test_what_goes_before_it_is_there_is_not_copied() -> None:
    routing = trace([*PROMPT, *[[[1]]] * 200], [(True, len(PROMPT)), *[(False, 1)] * 200])
    a = go(routing, each=3, copy=500).accounts
    assert (a.speculative_bytes, a.demand_bytes) == (2 * SIZE, 2 * SIZE)


# Not on the GPU, and not swapped in: by hand 30 to fetch and 200 to compute for two tokens.
@pytest.mark.parametrize(("host", "on_host"), [(114, True), (115, False), (116, False)])
def test_the_rest_of_a_prompt_goes_where_it_is_done_first(host: int, on_host: bool) -> None:
    done = go(trace(PROMPT, [(True, len(PROMPT))]), each=3, copy=30, host=host, preload=False)
    assert (5 in events(done)[0][1]) == on_host
    assert 5 not in held(done)


# -- decoding ---------------------------------------------------------------------------------------------------


# 0 and 1 of each layer are on the GPU. Layer 0 is computed as its gate says, layer 1 as the gate before said.
@pytest.mark.parametrize(
    ("said", "computed", "on_host", "kept", "substituted"),
    [
        ([0, 1], {6: 1, 7: 1}, set(), 0.0, 2),
        ([4, 0], {10: 1, 6: 1}, {10}, 0.5, 1),
        ([4, 5], {10: 1, 7: 1}, {10}, 0.5, 1),  # 5 is replaced by 1, whose score is above that of 0
        ([5, 4], {11: 1, 7: 1}, {11}, 0.25, 1),
        ([5, ABSENT], {11: 1}, {11}, 0.25, 0),
        ([ABSENT, ABSENT], {}, set(), 0.0, 0),
    ],
)
def test_the_prediction_is_the_routing(
    said: list[int], computed: dict[int, int], on_host: set[int], kept: float, substituted: int
) -> None:
    routing = trace([[[0, 4], [4, 5]]], [(False, 1)], said=[[said]], probs=[0.1, 0.3, 0.0, 0.0, 0.2, 0.4])
    done = go(routing, each=2, first_predicted=1)
    assert events(done) == [({0: 1, 4: 1}, {4}), (computed, on_host)]
    a = done.accounts
    assert a.quality[1] == [0.75 + kept, 1.5, 4, substituted, 2 - len(computed), 0, 0]
    assert (a.stale[1], a.precomputed_fates) == (len(on_host), [len(on_host), 0, 0])


# A layer without enough on the GPU to replace all but the first: 2, 3 and 4 are wanted, and 0 is all that there is.
def test_as_many_are_replaced_as_the_gpu_has() -> None:
    rows = [[[0, 1, 2], [2, 3, 4]]]
    for each, computed, on_host in ((1, {8, 9, 6}, {8, 9}), (2, {8, 7, 6}, {8}), (0, {8, 9, 10}, {8, 9, 10})):
        done = go(trace(rows, [(False, 1)], said=[[[2, 3, 4]]]), each=each, first_predicted=1)
        assert (set(events(done)[1][0]), events(done)[1][1]) == (computed, on_host)


# Tokens of a pass that are routed alike by one decision, or an expert that is begun for one of two.
def test_each_token_of_a_pass_has_its_own() -> None:
    said = [[[4, 0]], [[4, 5]], [[5, 1]]]
    routing = trace([[[0, 1], [2, 3]]] * 3, [(False, 3)], said=said, probs=[0.1, 0.3, 0, 0, 0, 0])
    done = go(routing, each=2, first_predicted=1)
    computed, on_host = events(done)[1]
    assert (computed, on_host) == ({6: 1, 10: 2, 11: 1, 7: 2}, {10, 11})
    assert list(computed) == [6, 10, 11, 7]  # the last token's last
    assert (done.accounts.precomputed, done.accounts.stale) == (2, [0, 3])


# A layer that no token of the pass sees: what was said of it is taken for what is said of the layer after.
def test_what_was_said_of_a_layer_without_an_event_is_forgotten() -> None:
    routing = trace([[[0, 1], [ABSENT, ABSENT], [2, 3]]], [(False, 1)], said=[[[0, 1], [4, 5]]])
    routing.passes = lambda: [Pass(False, (0,), [(0, 1)], 1, 1, 1, [[0, 1], [], [14, 15]], [[1, 1], [], [1, 1]])]  # type: ignore[method-assign]
    done = go(routing, each=2, first_predicted=1)
    assert events(done) == [({0: 1, 1: 1}, set()), ({14: 1, 15: 1}, {14, 15})]


# Each layer wants one of either side, and was foretold: 100 on the GPU, 105 on the host, gates 10 after the layer
# before. What begins at its gate delays its layer by 5; what begins at the gate before delays none.
@pytest.mark.parametrize(("first", "end", "waited"), [(1, 445, 5), (2, 450, 10), (3, 455, 15)])
def test_the_host_begins_at_the_gate_before(first: int, end: int, waited: int) -> None:
    rows = [[[0, 4]] * 4]
    done = go(trace(rows, [(False, 1)], said=[[[0, 4]] * 3]), each=1, host=105, first_predicted=first)
    assert (done.accounts.end_ns, done.accounts.stall_row()) == (end, [0, 0, 0, 0, waited])
    assert done.accounts.stale == [0, 4 - first]
    assert done.accounts.quality[1][3] == 0


# 6 comes to the GPU after the host has begun it (at 210, its copy ends at 120, the gates are at 10 and 220): begun is
# begun, or the host has worked in vain.
def test_what_the_host_has_begun_stays_there() -> None:
    done = go(trace([[[0, 1], [0, 4]]], [(False, 1)], said=[[[0, 4]]]), each=1, copy=60, host=100, first_predicted=1)
    assert events(done) == [({0: 1, 1: 1}, {0, 1}), ({6: 1, 10: 1}, {6, 10})]
    assert done.core.state.slot[6]
    assert done.accounts.precomputed_fates == [2, 0, 0]


# A prompt that is routed by a prediction.
def test_prompts_are_computed_as_their_gates_say() -> None:
    done = go(trace([[[0, 4], [2, 3]]], [(True, 1)], said=[[[0, 1]]]), each=2, first_predicted=1)
    assert [set(computed) for computed, _ in events(done)] == [{0, 4}, {8, 9}]
    assert (done.accounts.precomputed, done.accounts.stale) == (0, [0, 0])


@pytest.mark.parametrize(("layers", "first"), [(1, 1), (2, 1), (4, 2), (9, 4), (16, 5), (32, 5)])
def test_where_prediction_begins_unless_it_is_said(layers: int, first: int) -> None:
    setup = setup_of(trace([[[0]] * layers], [(False, 1)]), 10_000)
    assert Daop(setup).first_predicted == first
    with pytest.raises(UserError, match=rf"policy.first_predicted={layers + 1}: allowed: 1 to {max(1, layers - 1)}"):
        Daop(setup, first_predicted=layers + 1)
