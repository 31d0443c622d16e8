"""HybriMoE's schedule, cache and streams, on cases worked out by hand and against exhaustive search."""

from dataclasses import replace
from heapq import heapreplace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import registry
from policies.hybrimoe import CODE_GPU, CODE_HOST, CODE_HOST_BEGINS, CODE_MOVE, HybriMoE, Job, deal
from policies.signals import Signal
from sim.check.laws import Run, run
from sim.check.synthetic import FlatHost, Routing, draw, setup_of
from tests.policies.scripted import SIZE, as_shipped, costs, held
from traces.kit.errors import UserError

# -- the schedule -----------------------------------------------------------------------------------------------


def by_code(there: list[int], missing: list[int]) -> list[Job]:
    """Experts 0, 1, ... of so many tokens each, at the code's constants."""
    moves = [*[0] * len(there), *[CODE_MOVE] * len(missing)]
    return [Job(x, CODE_GPU, CODE_HOST * n, moves[x]) for x, n in enumerate([*there, *missing])]


@pytest.mark.parametrize(
    ("there", "missing", "on_gpu", "on_host"),
    [
        # GPU 500, 1000, 1500 < host 790 + 1000; then GPU 2000 > 1790: the last goes to the host.
        ([1, 1, 1, 1], [], [0, 1, 2], [3]),
        # As before, for number 5; then GPU 2000, 2500 < host 1790 + 1000.
        ([1, 1, 1, 1, 1, 1], [], [0, 1, 2, 3, 4], [5]),
        # The link brings them at 418, 836, 1254: GPU 418 + 500 = 918, 918 + 500 = 1418; 1918 > 1790, so that the last
        # goes to the host; then 1918 < 2790.
        ([], [1, 1, 1, 1], [0, 1, 2], [3]),
        # Tokens make the host slower and not the GPU: 500, max(500, 418) + 500 = 1000, max(1000, 836) + 500 = 1500,
        # each < 790 + 1000.
        ([4], [2, 1], [0, 1, 2], []),
        ([], [1], [0], []),  # 418 + 500 = 918 < 1790
        ([], [], [], []),
    ],
)
def test_worked_by_hand_at_the_code_s_constants(
    there: list[int], missing: list[int], on_gpu: list[int], on_host: list[int]
) -> None:
    assert deal(by_code(there, missing), 1, CODE_HOST_BEGINS) == (on_gpu, on_host)


@pytest.mark.parametrize(
    ("line", "workers", "on_gpu", "on_host"),
    [
        # A slow link: the GPU would be done at 1100, the host at 250 and 500.
        ([Job(0, 100, 250, 1000), Job(1, 100, 250, 1000)], 1, [], [1, 0]),
        # What is there is computed at 100 < 250; of the others the last at 250, and then 1100 > 500.
        ([Job(0, 100, 250), Job(1, 100, 250, 1000), Job(2, 100, 250, 1000)], 1, [0], [2, 1]),
        # The link is serial and free from the start: brought at 150 and 300, done at 250 and 400.
        ([Job(0, 100, 900, 150), Job(1, 100, 900, 150)], 1, [0, 1], []),
        # Behind one that is there for 400: brought at 150, done at 500.
        ([Job(0, 400, 501), Job(1, 100, 501, 150)], 1, [0, 1], []),
        ([Job(0, 400, 499), Job(1, 100, 499, 150)], 1, [0], [1]),
        # A tie goes to the GPU.
        ([Job(0, 100, 100)], 1, [0], []),
        # Of two workers each takes one until 300; the third is done at 600, and by the GPU at 500.
        ([Job(x, 500, 300) for x in range(3)], 2, [0], [2, 1]),
        ([Job(x, 700, 300) for x in range(3)], 2, [], [2, 1, 0]),
    ],
)
def test_worked_by_hand_at_other_prices(line: list[Job], workers: int, on_gpu: list[int], on_host: list[int]) -> None:
    assert deal(line, workers) == (on_gpu, on_host)


def done(line: list[Job], k: int, workers: int, begins: int) -> int:
    """When all is done if the GPU computes the first k, and the host the others from the back."""
    gpu = link = 0
    for job in line[:k]:
        link += job.move
        gpu = max(gpu, link if job.move else 0) + job.gpu
    free = [begins] * workers
    ends = [0, gpu]
    for job in reversed(line[k:]):
        ends.append(free[0] + job.host)
        heapreplace(free, ends[-1])
    return max(ends)


ns = st.integers(1, 9)


# Both ends' times only grow, so that the smaller first is a merge of them, whose end no other cut of the line beats.
# Where several workers compute experts of unlike tokens, a time may be before the last one; then nothing is promised.
@given(st.lists(st.tuples(ns, ns, ns), max_size=5), st.lists(st.tuples(ns, ns, ns), max_size=5), st.integers(0, 9))
def test_no_other_cut_of_the_line_is_done_before(
    there: list[tuple[int, int, int]], missing: list[tuple[int, int, int]], begins: int
) -> None:
    costs = [*((gpu, host, 0) for gpu, host, _ in there), *missing]
    line = [Job(x, *each) for x, each in enumerate(costs)]
    on_gpu, on_host = deal(line, 1, begins)
    assert [*on_gpu, *reversed(on_host)] == [*range(len(line))]
    ends = [done(line, k, 1, begins) for k in range(len(line) + 1)]
    assert ends[len(on_gpu)] == min(ends)
    for workers in (2, 3):
        alike = [replace(job, host=4) for job in line]
        on_gpu, _ = deal(alike, workers, begins)
        ends = [done(alike, k, workers, begins) for k in range(len(line) + 1)]
        assert ends[len(on_gpu)] == min(ends)


# -- in a machine -----------------------------------------------------------------------------------------------


def routing(ids: list[list[list[int]]], prompt: int = 0, n_experts: int = 8, probs: Any = None) -> Routing:
    """Rows of [layer][choice], the first ``prompt`` of them a prompt; the gates give 1 / K to each choice."""
    chosen = np.array(ids, np.uint8)
    scores = np.zeros((*chosen.shape[:2], n_experts), np.float16)
    np.put_along_axis(scores, chosen.astype(int), np.float16(1 / chosen.shape[2]), axis=2)
    signals = {"expert_ids": chosen, "router_probs": scores if probs is None else np.array(probs, np.float16)}
    passes = [(True, 0, prompt)] * bool(prompt) + [(False, i, 1) for i in range(prompt, len(ids))]
    return Routing(chosen, passes, n_experts, signals)


def go(trace: Routing, slots: int, *, copy: int, host: int, workers: int = 1, chunks: int = 1, **params: Any) -> Run:
    """With so many slots per layer, and the buffer; the GPU takes 100 ns per token, the dense part 10."""
    setup = setup_of(trace, (slots * trace.ids.shape[1] + trace.n_experts) * SIZE, chunks=chunks, costs=costs(copy))
    setup = replace(setup, host=FlatHost(host, None, workers=workers))
    return run(registry.build("hybrimoe", setup, params), trace)


def policy_of(finished: Run) -> HybriMoE:
    assert isinstance(finished.policy, HybriMoE)
    return finished.policy


# A token whose experts are all missing, then the same again: by then the GPU's are there.
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize(("copy", "host"), [(60, 150), (30, 390), (300, 120), (999, 70), (3, 1000)])
def test_the_machine_takes_what_was_dealt_out(copy: int, host: int, chunks: int, workers: int) -> None:
    k = 4
    first = [Job(x, 100, host, copy) for x in range(k)]
    on_gpu, _ = deal(first, workers)
    cold = done(first, len(on_gpu), workers, 0)
    once = go(routing([[[*range(k)]]]), 4, copy=copy, host=host, chunks=chunks, workers=workers)
    assert once.accounts.end_ns == 10 + cold
    assert held(once) == on_gpu
    again = [*(Job(x, 100, host) for x in on_gpu), *first[len(on_gpu) :]]
    warm = done(again, len(deal(again, workers)[0]), workers, 0)
    twice = go(routing([[[*range(k)]]] * 2), 4, copy=copy, host=host, chunks=chunks, workers=workers)
    assert twice.accounts.end_ns == 20 + cold + warm


# The link takes ten times the GPU's time: the code's constants, which do not know that, have it copy all the same.
def test_the_code_s_constants_do_not_know_the_machine() -> None:
    trace = routing([[[0, 1]]] * 3)
    machine, code = (go(trace, 2, copy=1000, host=120, **p) for p in ({}, as_shipped("hybrimoe_code")))
    assert machine.accounts.host_lookups == 6
    assert (code.accounts.host_lookups, code.accounts.demand_bytes) == (0, 2 * SIZE)
    assert code.accounts.end_ns > machine.accounts.end_ns


# -- the cache --------------------------------------------------------------------------------------------------

SCORES = [[[0.5, 0.25, 0.125, 0.125]], [[0.125, 0.125, 0.25, 0.5]]]


# By hand, with the two largest of K = 1: (0.5, 0.25, 0, 0) / 2, then half of it and (0, 0, 0.25, 0.5) / 2. With
# alpha 0.25: (0.125, 0.0625, 0, 0), then three quarters of it and (0, 0, 0.0625, 0.125).
@pytest.mark.parametrize(
    ("alpha", "wanted"), [(0.5, [0.125, 0.0625, 0.125, 0.25]), (0.25, [0.09375, 0.046875, 0.0625, 0.125])]
)
def test_what_an_expert_is_worth(alpha: float, wanted: list[float]) -> None:
    trace = routing([[[0]], [[3]]], n_experts=4, probs=SCORES)
    assert policy_of(go(trace, 2, copy=50, host=50, alpha=alpha)).worth.tolist() == wanted


# Both tokens at once: the mean of (0.5, 0.25, 0, 0) and (0, 0, 0.25, 0.5), halved. Equals of the last count, too.
def test_of_several_tokens_and_of_equal_scores() -> None:
    trace = routing([[[0]], [[3]]], prompt=2, n_experts=4, probs=SCORES)
    assert policy_of(go(trace, 2, copy=50, host=50)).worth.tolist() == [0.125, 0.0625, 0.0625, 0.125]
    trace = routing([[[0]]], n_experts=4, probs=[[[0.4375, 0.25, 0.25, 0.0625]]])
    assert policy_of(go(trace, 2, copy=50, host=50)).worth.tolist() == [0.21875, 0.125, 0.125, 0]


# 0 is worth the most when 2 comes, and 1, the more recent, goes; with the scores turned round 0 goes.
@pytest.mark.parametrize(("scores", "stay"), [([0.75, 0.125, 0.125, 0], [0, 2]), ([0, 0.5, 0.25, 0.25], [1, 2])])
def test_what_is_worth_the_least_goes(scores: list[float], stay: list[int]) -> None:
    trace = routing([[[0]], [[1]], [[2]]], n_experts=4, probs=[[scores]] * 3)
    finished = go(trace, 2, copy=1, host=10**6)
    assert held(finished) == stay
    assert policy_of(finished).held == [2 * SIZE]


# Four misses and one slot: they wait in the buffer, each for its turn, and the one that is worth the most stays.
def test_more_than_a_layer_s_slots_at_once() -> None:
    trace = routing([[[0, 1, 2, 3]], [[0, 1, 2, 3]]], probs=[[[0.125, 0.125, 0.5, 0.125, 0.125, 0, 0, 0]]] * 2)
    finished = go(trace, 1, copy=1, host=10**6)
    assert held(finished) == [2]
    assert finished.accounts.demand_bytes == (4 + 3) * SIZE


# -- prompts ----------------------------------------------------------------------------------------------------


# A fast link: the first layer is waited for, every later one is there, and what it does not need has gone.
@pytest.mark.parametrize("slots", [1, 2, 7])
def test_a_prompt_is_the_gpu_s_and_the_next_layer_comes_whole(slots: int) -> None:
    trace = routing([[[0, 1], [6, 7], [3, 4]], [[2, 3], [5, 6], [4, 5]]], prompt=2)
    finished = go(trace, slots, copy=4, host=1)
    hits = finished.accounts.hits[0]
    assert finished.accounts.host_lookups == 0
    assert [row[3] for row in hits] == [0, 3, 3]  # complete
    assert finished.accounts.issued == 2 * 8
    assert finished.accounts.demand_bytes == 4 * SIZE
    # The first layer keeps what it demanded first, the others what came first, as far as there is room.
    room = [min(slots, 4), slots, slots]
    assert held(finished) == [8 * layer + x for layer, n in enumerate(room) for x in range(n)]
    assert not policy_of(finished).buffered


# A slow link: what the next layer does not need is dropped when its gate has run, what it needs is not copied twice.
def test_what_the_next_layer_does_not_need_is_dropped() -> None:
    trace = routing([[[0], [7]], [[1], [7]]], prompt=2)
    finished = go(trace, 1, copy=1000, host=1)
    # Two loads of the first layer; of the next 0, which is on the link and has the slot, and 7; six are not begun.
    assert finished.accounts.demand_bytes == 3 * SIZE
    assert finished.accounts.fates == [0, 1, 1, 6, 0]
    assert finished.accounts.host_lookups == 0


# Never more than a layer beyond the shares, at whatever price.
@pytest.mark.parametrize("copy", [3, 90, 2000])
def test_the_buffer_holds_one_layer(copy: int) -> None:
    trace = draw(4, n_layers=4, decode=6, prompts=4)
    setup = replace(setup_of(trace, (4 * 2 + 8) * SIZE, costs=costs(copy)), host=FlatHost(300, None))
    policy = registry.build("hybrimoe", setup, {"prefetch_size": 2})
    assert isinstance(policy, HybriMoE)
    most = 0
    heard = policy.on_slot

    def watched(expert: int) -> None:
        nonlocal most
        heard(expert)
        most = max(most, len(policy.buffered) + len(policy.coming))
        assert all(n <= 2 * SIZE for n in policy.held) or not policy.prefill

    policy.on_slot = watched  # type: ignore[method-assign]
    run(policy, trace)
    assert 6 <= most <= 8


# -- prefetching ------------------------------------------------------------------------------------------------

TWO = [[0.5, 0.25, 0.125, 0.125], [0.125, 0.125, 0.25, 0.5]]
"""Scores of two layers: 0 and 1 are the best of the first, 3 and 2 of the second."""


# At the first layer's gate the second's best are loaded, of the step before: 3 and then 2; no more than it has slots.
@pytest.mark.parametrize(
    ("size", "slots", "loaded", "there"),
    [(0, 2, [], []), (1, 2, [3], [0, 3]), (2, 2, [3, 2], [2, 3]), (2, 1, [3], [3]), (9, 2, [3, 2], [2, 3])],
)
def test_the_next_layer_s_best_are_loaded(size: int, slots: int, loaded: list[int], there: list[int]) -> None:
    trace = routing([[[0], [1]]] * 2, n_experts=4, probs=[TWO, TWO])
    policy = policy_of(go(trace, slots, copy=0, host=0, prefetch_size=size))
    asked: list[int] = []
    fresh = registry.build("hybrimoe", policy.setup, {"prefetch_size": size})
    assert isinstance(fresh, HybriMoE)
    forward = fresh._prefetch

    def watched(layer: int) -> None:
        forward(layer)
        asked.append(layer)
        asked.extend(x - 4 for x in fresh.prefetched)

    fresh._prefetch = watched  # type: ignore[method-assign]
    finished = run(fresh, trace)
    nothing_known = [0, 1, 2, 3][: len(loaded)]
    assert asked == ([1, *nothing_known, 1, *loaded] if size else [])
    assert finished.accounts.predicts == bool(size)
    assert held(finished) == [4 + x for x in there]


# -- what it wants ----------------------------------------------------------------------------------------------


def test_what_it_needs_and_states() -> None:
    setup = setup_of(routing([[[0]]] * 2), 100 * SIZE)
    policy = registry.build("hybrimoe", setup, {})
    assert policy.needs() == {Signal.ROUTER_PROBS}
    assert not policy.without
    assert policy.min_budget() == (8 + 1) * SIZE
    least = registry.build("hybrimoe", replace(setup, budget=(8 + 3) * SIZE + 5), {})
    assert least.decided() == {"slots_per_layer": [3]}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prefetch_size": -1}, r"policy\.prefetch_size=-1: allowed: at least 0 "),
        ({"alpha": 1.5}, r"policy\.alpha=1\.5: allowed: 0\.0 to 1\.0 "),
        ({"prices": "paper"}, r"policy\.prices='paper': allowed: machine, code"),
    ],
)
def test_a_slip_is_one_line(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        registry.build("hybrimoe", setup_of(routing([[[0]]]), 100 * SIZE), params)
    assert "\n" not in str(error.value)
