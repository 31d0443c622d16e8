"""Every discipline against the oracle, step by step, and its laws; vLLM's arithmetic by hand."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from sim.workload.online import registry
from sim.workload.online.schedule import Arrival, Batch, Limits, Share
from tests.sim.workload.online.driving import Moment, drive, random_arrivals, random_limits
from tests.sim.workload.online.oracle import World
from traces.kit.errors import UserError

DISCIPLINES = registry.names()
SEEDS = range(40)
CASES = [(name, "chunk_major") for name in DISCIPLINES]
CASES += [(name, "layer_major") for name in DISCIPLINES if not registry.not_by_layer(name)]


@pytest.mark.parametrize(("name", "order"), CASES)
def test_each_step_is_the_oracles(name: str, order: str) -> None:
    preemptions = 0
    for seed in SEEDS:
        rng = Random(f"{name} {seed}")
        arrivals = random_arrivals(rng)
        limits = replace(random_limits(rng, arrivals), layer_major=order == "layer_major")
        scheduler, world = registry.build(name, limits), World(name, limits)
        for moment in drive(scheduler, arrivals, rng):
            for arrival in moment.came:
                world.arrive(arrival)
            tokens, admitted, preempted = world.step()
            assert [(it.id, it.tokens) for it in moment.batch.shares] == [(i, len(t)) for i, t in tokens.items()]
            assert (moment.batch.admitted, moment.batch.preempted) == (tuple(admitted), tuple(preempted))
            requests = {r.id: r for r in world.run}
            for share in moment.batch.shares:
                its, part = requests[share.id], tokens[share.id]
                assert its.known[share.start] == part[0]
                assert share.prompt_tokens == sum(t[0] == "p" or t in its.ever for t in part)
                assert share.yields == (part[-1] == its.known[-1])
            preemptions += len(preempted)
            assert moment.done == tuple(world.end())
            assert scheduler.free in (None, len(world.pool))
        assert not world.run
        assert not world.queue
    assert (preemptions > 10) == (name != "static"), "the cases are tight enough"


@pytest.mark.parametrize(("name", "order"), CASES)
def test_laws(name: str, order: str) -> None:
    for seed in SEEDS:
        rng = Random(f"laws of {name} {seed}")
        arrivals = random_arrivals(rng)
        limits = replace(random_limits(rng, arrivals), layer_major=order == "layer_major")
        scheduler = registry.build(name, limits)
        moments = list(drive(scheduler, arrivals, rng))
        each_is_served_once(moments, arrivals)
        tokens_in_are_tokens_out(moments, arrivals)
        the_limits_hold(moments, limits)
        nobody_waits_for_nothing(moments, arrivals)
        assert scheduler.free == limits.kv_blocks, "all blocks came back"
        assert not scheduler.waiting
        first = list(dict.fromkeys(i for m in moments for i in m.batch.admitted))
        for of in range(3) if name == "priority" else [None]:
            its = [i for i in first if of in (None, arrivals[i].priority)]
            assert its == sorted(its), "first come, first served, within a class"


def each_is_served_once(moments: Sequence[Moment], arrivals: Sequence[Arrival]) -> None:
    assert sorted(i for m in moments for i in m.done) == [it.id for it in arrivals]
    running: set[int] = set()
    for m in moments:
        # One who is preempted and admitted in the same pass was preempted first.
        assert set(m.batch.preempted) <= running
        running = running - set(m.batch.preempted) | set(m.batch.admitted)
        ids = [share.id for share in m.batch.shares]
        assert len(set(ids)) == len(ids)
        assert set(m.batch.admitted) <= set(ids) <= running
        running -= set(m.done)
    assert not running


def tokens_in_are_tokens_out(moments: Sequence[Moment], arrivals: Sequence[Arrival]) -> None:
    """Shares of a request follow each other, from 0 again after a preemption; each row is new once."""
    at, reached, yielded, new = Counter[int](), Counter[int](), Counter[int](), Counter[int]()
    of = {it.id: it for it in arrivals}
    for m in moments:
        for i in m.batch.preempted:
            at[i] = 0
        for share in m.batch.shares:
            assert share.start == at[share.id]
            at[share.id] = end = share.start + share.tokens
            assert 0 <= share.tokens - share.prompt_tokens <= 1
            decode = share.tokens - share.prompt_tokens
            assert decode == (end > max(of[share.id].prompt_tokens, reached[share.id]))
            new[share.id] += max(0, end - reached[share.id])
            reached[share.id] = max(reached[share.id], end)
            yielded[share.id] += share.yields
            assert share.yields == (end == of[share.id].prompt_tokens + yielded[share.id] - share.yields)
    for it in arrivals:
        assert (new[it.id], yielded[it.id]) == (it.tokens, it.output_tokens)


def the_limits_hold(moments: Sequence[Moment], limits: Limits) -> None:
    held = Counter[int]()
    running: set[int] = set()
    for m in moments:
        for piece in m.batch.pieces or (m.batch.shares,):
            assert 0 < sum(share.tokens for share in piece) <= limits.max_num_batched_tokens
            assert all(share.tokens <= (limits.long_prefill_token_threshold or share.tokens) for share in piece)
        for i in m.batch.preempted:
            del held[i]
        for share in m.batch.shares:
            held[share.id] = limits.blocks(share.start + share.tokens)
        running = running - set(m.batch.preempted) | set(m.batch.admitted)
        assert len(running) <= limits.max_num_seqs
        assert limits.kv_blocks is None or held.total() <= limits.kv_blocks
        for i in m.done:
            del held[i]
        running -= set(m.done)


def nobody_waits_for_nothing(moments: Sequence[Moment], arrivals: Sequence[Arrival]) -> None:
    """Work conservation: between two passes there is no time in which somebody who has arrived has not ended."""
    for before, after in pairwise(moments):
        if after.began > before.ended:
            ended = {i for m in moments if m.ended <= before.ended for i in m.done}
            assert all(it.id in ended for it in arrivals if it.time_ns < after.began)
            assert after.began in {it.time_ns for it in arrivals}


def test_what_comes_later_changes_nothing_before_it() -> None:
    for seed, name in enumerate(DISCIPLINES):
        arrivals = random_arrivals(Random(seed + 3))
        limits = random_limits(Random(seed), arrivals)
        until = arrivals[-1].time_ns
        whole, part = (list(drive(registry.build(name, limits), some, Random(5))) for some in (arrivals, arrivals[:-1]))
        same = [m for m in whole if m.began < until]
        assert [(m.batch, m.began) for m in same] == [(m.batch, m.began) for m in part[: len(same)]]


# By hand.


def batches(name: str, limits: Limits, arrivals: Sequence[Arrival]) -> list[Batch]:
    return [m.batch for m in drive(registry.build(name, limits), arrivals, Random(0))]


def at_once(*lengths: tuple[int, int], priorities: Sequence[int] = ()) -> list[Arrival]:
    return [Arrival(i, 0, i, p, n, priorities[i] if priorities else 0) for i, (p, n) in enumerate(lengths)]


def sizes(batch: Batch) -> dict[int, int]:
    return {share.id: share.tokens for share in batch.shares}


def test_a_budget_of_tokens_goes_to_output_first_and_cuts_the_prompt_that_is_left_over() -> None:
    got = batches("fcfs", Limits(max_num_batched_tokens=8), at_once((5, 3), (10, 2)))
    assert [sizes(b) for b in got] == [{0: 5, 1: 3}, {0: 1, 1: 7}, {0: 1, 1: 1}]
    assert got[0].shares == (Share(0, 0, 5, 5, True), Share(1, 0, 3, 3, False))
    assert got[1].shares == (Share(0, 5, 1, 0, True), Share(1, 3, 7, 7, True))
    assert got[2].shares == (Share(0, 6, 1, 0, True), Share(1, 10, 1, 0, True))
    assert [b.admitted for b in got] == [(0, 1), (), ()]


def test_a_threshold_cuts_every_prompt_and_leaves_room_for_the_next() -> None:
    limits = Limits(max_num_batched_tokens=8, long_prefill_token_threshold=3)
    got = batches("fcfs", limits, at_once((7, 1), (4, 1), (2, 1)))
    assert [sizes(b) for b in got] == [{0: 3, 1: 3, 2: 2}, {0: 3, 1: 1}, {0: 1}]


def test_without_chunks_a_prompt_waits_for_a_budget_of_its_size_and_all_behind_it() -> None:
    limits = Limits(max_num_batched_tokens=8, enable_chunked_prefill=False)
    got = batches("fcfs", limits, at_once((5, 2), (6, 1), (1, 1)))
    assert [sizes(b) for b in got] == [{0: 5}, {0: 1, 1: 6, 2: 1}]


def test_max_num_seqs_holds_the_queue_back() -> None:
    got = batches("fcfs", Limits(max_num_seqs=2), at_once((3, 2), (3, 1), (3, 1)))
    assert [sizes(b) for b in got] == [{0: 3, 1: 3}, {0: 1, 2: 3}]


def test_the_last_loses_its_blocks_and_nobody_is_admitted_in_that_step() -> None:
    # Two blocks each; the third of the first request is that of the second, which computes its 9 tokens again.
    limits = Limits(block_size=4, kv_blocks=4)
    got = batches("fcfs", limits, at_once((8, 3), (8, 1), (4, 1)))
    assert [sizes(b) for b in got] == [{0: 8, 1: 8}, {0: 1, 2: 4}, {0: 1}]
    got = batches("fcfs", limits, at_once((8, 3), (8, 2), (3, 1)))
    assert [sizes(b) for b in got] == [{0: 8, 1: 8}, {0: 1}, {0: 1}, {1: 9, 2: 3}]
    assert [b.preempted for b in got] == [(), (1,), (), ()]
    assert got[-1].shares[0] == Share(1, 0, 9, 8, True), "its prompt again, and the row of its first output token"


def test_priority_takes_blocks_from_the_least_urgent_even_if_it_was_given_tokens_in_this_step() -> None:
    limits = Limits(block_size=4, kv_blocks=4)
    got = batches("priority", limits, at_once((7, 4), (8, 3), priorities=(2, 1)))
    assert [sizes(b) for b in got] == [{1: 8, 0: 7}, {1: 1}, {1: 1}, {0: 8}, {0: 1}, {0: 1}]
    assert [b.preempted for b in got] == [(), (0,), (), (), (), ()]
    # The other way round in the list of those that run: 0 was admitted first, and is given its token before 1 asks.
    late = [Arrival(0, 0, 0, 4, 9, 2), Arrival(1, 1, 1, 8, 3, 1)]
    got = batches("priority", Limits(block_size=4, kv_blocks=4), late)
    taken = next(b for b in got if b.preempted)
    assert (taken.preempted, sizes(taken)) == ((0,), {1: 1})


def test_urgent_ones_leave_the_queue_first() -> None:
    got = batches("priority", Limits(max_num_seqs=1), at_once((2, 1), (2, 1), (2, 1), priorities=(1, 0, 1)))
    assert [sizes(b) for b in got] == [{1: 2}, {0: 2}, {2: 2}]


def test_prompts_first_makes_output_wait() -> None:
    arrivals = [Arrival(0, 0, 0, 4, 4), Arrival(1, 1, 1, 12, 2)]
    got = batches("prefill_first", Limits(max_num_batched_tokens=8), arrivals)
    assert [sizes(b) for b in got] == [{0: 4}, {1: 8}, {1: 4}, {0: 1, 1: 1}, {0: 1}, {0: 1}]


def test_output_first_and_prompts_in_turn() -> None:
    got = batches("decode_first_round_robin", Limits(max_num_batched_tokens=4), at_once((1, 5), (6, 1), (6, 1)))
    # 0 decodes; the rest of the budget is a chunk of 1 and one of 2 in turn.
    assert [sizes(b) for b in got] == [{0: 1, 1: 3}, {0: 1, 2: 3}, {0: 1, 1: 3}, {0: 1, 2: 3}, {0: 1}]
    limits = Limits(max_num_batched_tokens=6, long_prefill_token_threshold=3)
    got = batches("decode_first_round_robin", limits, at_once((6, 1), (6, 1), (6, 1)))
    assert [list(sizes(b)) for b in got] == [[0, 1], [2, 0], [1, 2]]


def test_a_static_batch_lets_nobody_join() -> None:
    got = batches("static", Limits(max_num_seqs=2, max_num_batched_tokens=6), at_once((4, 3), (4, 1), (4, 1)))
    assert [sizes(b) for b in got] == [{0: 4, 1: 2}, {1: 2}, {0: 1}, {0: 1}, {2: 4}]


def test_who_can_never_be_served_is_refused_at_once() -> None:
    limits = Limits(block_size=4, kv_blocks=3, max_num_batched_tokens=8)
    scheduler = registry.build("fcfs", limits)
    scheduler.arrive(Arrival(0, 0, 7, 10, 3), 0)  # 12 tokens fit
    with pytest.raises(UserError, match=r"^kv: request 7 \(10 prompt and 4 output tokens\) needs 4 blocks of 4 tokens"):
        scheduler.arrive(Arrival(1, 0, 7, 10, 4), 0)
    whole = registry.build("fcfs", Limits(max_num_batched_tokens=8, enable_chunked_prefill=False))
    whole.arrive(Arrival(0, 0, 7, 6, 3), 0)
    with pytest.raises(UserError, match=r"^workload\.max_num_batched_tokens=8: request 7 .*; allowed: at least 9, or"):
        whole.arrive(Arrival(1, 0, 7, 6, 4), 0)


def test_calls_out_of_order_are_errors() -> None:
    scheduler = registry.build("fcfs", Limits())
    with pytest.raises(ValueError, match="arrives at 5 ns, and it is 4 ns"):
        scheduler.arrive(Arrival(0, 5, 0, 1, 1), 4)
    scheduler.arrive(Arrival(0, 5, 0, 1, 1), 5)
    with pytest.raises(ValueError, match="has arrived already"):
        scheduler.arrive(Arrival(0, 5, 0, 1, 1), 5)
    batch = scheduler.next_pass(5)
    assert batch is not None
    with pytest.raises(RuntimeError, match="a pass is under way"):
        scheduler.next_pass(5)
    with pytest.raises(RuntimeError, match="another pass"):
        scheduler.done(Batch(batch.shares), 6)
    assert scheduler.done(batch, 6) == (0,)
    assert scheduler.next_pass(6) is None


def test_disciplines_are_found_by_their_files() -> None:
    assert {"fcfs", "priority", "prefill_first", "decode_first_round_robin", "static"} <= set(DISCIPLINES)
    with pytest.raises(UserError, match=r"^workload\.discipline=fcsf: allowed: .*; did you mean fcfs\?$"):
        registry.build("fcsf", Limits())
