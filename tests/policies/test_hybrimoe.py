"""HybriMoE's schedule, on cases worked out by hand, against exhaustive search, and in a machine."""

from dataclasses import replace
from heapq import heapreplace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.api import LayerEvent, Schedule
from policies.hybrimoe import CODE_GPU, CODE_HOST, CODE_HOST_BEGINS, CODE_MOVE, Job, deal
from tests.policies.hybrimoe_by_hand import go, policy_of, routing
from tests.policies.scripted import SIZE, as_shipped, held

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


# Complete ones first, then most tokens first. By the constants the GPU is done with 1 at 500, 0 at 1000 and 2 at 1500 <
# 790 + 1000, and 3 goes to the host, as 2000 is more; of three that are missing 1918 is, which 1500 would not be.
@pytest.mark.parametrize(
    ("tokens", "on_gpu", "on_host"),
    [({2: 3, 0: 1, 3: 1, 1: 2}, [1, 0, 2], [3]), ({5: 1, 4: 1, 6: 1}, [5, 4], [6]), ({7: 1, 0: 1}, [0, 7], [])],
)
def test_the_line(tokens: dict[int, int], on_gpu: list[int], on_host: list[int]) -> None:
    finished = go(routing([[[0, 1]]]), 2, copy=1, host=1000, prices="code")
    assert held(finished) == [0, 1]
    policy, signals = policy_of(finished), finished.core.step.signals
    event = LayerEvent(0, False, list(tokens), list(tokens.values()), (0,), (1,), signals)
    assert list(policy.place(event)) == on_host
    assert policy.schedule(event) == Schedule(compute=on_gpu)


# Two tokens want 1, one 0, which stands before it in token order. 1 comes first, at 500, and takes 200; 0 comes at
# 1000, and takes 100. The other way round it would be 1200.
def test_the_line_s_order_is_kept() -> None:
    trace = routing([[[0]], [[1]], [[1]]])
    trace.steps = [(False, 0, 3)]
    assert go(trace, 2, copy=500, host=10**6).accounts.end_ns == 10 + 1100


# The second layer's first expert is prefetched in two chunks, at 510 and 1010; its gate runs at 720, when the host has
# done the first layer's. The other 500 and 100 are less than the host's 700, all 1000 would be more.
def test_what_has_come_of_an_expert_need_not_be_waited_for() -> None:
    finished = go(routing([[[5], [0]]]), 1, copy=1000, host=700, chunks=2, prefetch_size=1)
    assert finished.accounts.host_lookups == 1
    assert finished.accounts.fates == [0, 1, 0, 0, 0]
    assert finished.accounts.end_ns == 1010 + 100
