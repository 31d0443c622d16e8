"""Prompts that go through layers whole: who is in a pass, what is computed at a time, and what it demands."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from sim.workload.online import registry
from sim.workload.online.by_layer import pieces_of
from sim.workload.online.rows import Rows
from sim.workload.online.schedule import Arrival, Batch, Limits, Share
from tests.sim.small_trace import Plan, write
from tests.sim.workload.online.driving import drive, random_arrivals, random_limits
from traces.kit.errors import UserError

WHOLE = [name for name in registry.names() if not registry.not_by_layer(name)]


def served(name: str, limits: Limits, arrivals: list[Arrival], seed: int = 0) -> list[Batch]:
    return [moment.batch for moment in drive(registry.build(name, limits), arrivals, Random(seed))]


def sizes(batch: Batch) -> dict[int, int]:
    return {share.id: share.tokens for share in batch.shares}


@pytest.mark.parametrize("name", WHOLE)
def test_whoever_joins_is_computed_whole_and_pieces_are_the_passes_of_a_scheduler_with_chunks(name: str) -> None:
    several = 0
    for seed in range(30):
        rng = Random(f"pieces {name} {seed}")
        arrivals = random_arrivals(rng)
        limits = replace(random_limits(rng, arrivals), layer_major=True)
        for batch in served(name, limits, arrivals, seed):
            assert all(share.yields for share in batch.shares)
            *others, _ = batch.shares
            assert sum(share.tokens for share in others) < limits.max_num_batched_tokens, "the last found some left"
            # To a scheduler with chunks the same shares are prompts that are all there at once.
            chunked = replace(limits, layer_major=False, kv_blocks=None, max_num_seqs=len(batch.shares))
            alone = [Arrival(i, 0, 0, share.tokens, 1) for i, share in enumerate(batch.shares)]
            passes = [[it.tokens for it in its.shares] for its in served("fcfs", chunked, alone)]
            assert [[it.tokens for it in piece] for piece in batch.pieces] == (passes if len(passes) > 1 else [])
            several += bool(batch.pieces)
            at = {share.id: share.start for share in batch.shares}
            prompts, decodes, yields = Counter[int](), Counter[int](), Counter[int]()
            for share in (share for piece in batch.pieces for share in piece):
                assert share.start == at[share.id]
                at[share.id] += share.tokens
                prompts[share.id] += share.prompt_tokens
                decodes[share.id] += share.tokens - share.prompt_tokens
                yields[share.id] += share.yields
            for share in batch.shares if batch.pieces else ():
                assert at[share.id] == share.start + share.tokens
                assert prompts[share.id] == share.prompt_tokens
                assert decodes[share.id] == share.tokens - share.prompt_tokens
                assert yields[share.id] == 1
    assert several > 20, "the budgets are tight enough"


@pytest.mark.parametrize("name", WHOLE)
def test_where_nothing_would_be_cut_it_is_the_same(name: str) -> None:
    for seed in range(10):
        rng = Random(f"uncut {name} {seed}")
        arrivals = random_arrivals(rng)
        ample = replace(random_limits(rng, arrivals), max_num_batched_tokens=10**6, long_prefill_token_threshold=0)
        by_layer = replace(ample, layer_major=True)
        assert served(name, by_layer, arrivals, seed) == served(name, ample, arrivals, seed)


def test_a_prompt_that_finds_some_of_the_budget_joins_whole_and_nobody_after_it() -> None:
    limits = Limits(max_num_batched_tokens=8, layer_major=True)
    arrivals = [Arrival(0, 0, 0, 5, 3), Arrival(1, 0, 1, 10, 2), Arrival(2, 0, 2, 1, 1)]
    got = served("fcfs", limits, arrivals)
    assert [sizes(batch) for batch in got] == [{0: 5, 1: 10}, {0: 1, 1: 1, 2: 1}, {0: 1}]
    assert got[0].pieces == (
        (Share(0, 0, 5, 5, True), Share(1, 0, 3, 3, False)),
        (Share(1, 3, 7, 7, True),),
    )
    assert got[1].pieces == ()
    by_threes = served("fcfs", replace(limits, long_prefill_token_threshold=3), arrivals)
    pieces = [[(it.id, it.tokens) for it in piece] for piece in by_threes[0].pieces]
    assert pieces == [[(0, 3), (1, 3)], [(0, 2), (1, 3)], [(1, 3)], [(1, 1)]]


def test_blocks_are_for_the_whole_prompt_at_once() -> None:
    """By chunks the second prompt would begin in the one block that is left; whole it waits for the first's."""
    arrivals = [Arrival(0, 0, 0, 8, 3), Arrival(1, 0, 1, 8, 1)]
    limits = Limits(max_num_batched_tokens=12, block_size=4, kv_blocks=3)
    assert next(sizes(batch) for batch in served("fcfs", limits, arrivals)) == {0: 8, 1: 4}
    got = served("fcfs", replace(limits, layer_major=True), arrivals)
    assert [sizes(batch) for batch in got] == [{0: 8}, {0: 1}, {0: 1}, {1: 8}]
    # Who loses its blocks computes all of its tokens again, in pieces as before.
    tight = Limits(max_num_batched_tokens=4, block_size=4, kv_blocks=4, layer_major=True)
    got = served("fcfs", tight, [Arrival(0, 0, 0, 4, 6), Arrival(1, 1, 1, 7, 4)])
    again = next(batch for batch in got if 1 in batch.admitted and batch.shares[-1].tokens > 7)
    assert (sizes(again), [sizes(Batch(piece)) for piece in again.pieces]) == ({1: 9}, [{1: 4}, {1: 4}, {1: 1}])
    assert again.shares[-1].prompt_tokens == 8


def test_a_discipline_of_chunks_says_that_it_is_one() -> None:
    said = "workload.prefill_order=layer_major: allowed: chunk_major, as discipline=decode_first_round_robin serves"
    with pytest.raises(UserError) as caught:
        registry.build("decode_first_round_robin", Limits(layer_major=True))
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith("or discipline=fcfs, prefill_first, priority, static")


def test_tokens_of_pieces_are_counted_row_by_row(tmp_path: Path) -> None:
    """A decode row, a prompt in two pieces and one that is computed again and was cut (so that its rows are two
    runs): what each expert has of each piece, and what each piece reads."""
    ids = np.argsort(np.random.default_rng(8).random((18, 2, 6)), axis=-1)[..., :2]
    trace = write(tmp_path / "t", [Plan((4,), 3), Plan((6,)), Plan((3,), 2)], ids, n_experts=6)
    arrivals = {7: Arrival(7, 0, 0, 4, 4), 8: Arrival(8, 0, 1, 6, 1), 9: Arrival(9, 0, 2, 2, 3)}
    shares = (Share(7, 5, 1, 0, True), Share(8, 0, 6, 6, True), Share(9, 0, 3, 2, True))
    batch = Batch(shares, pieces=pieces_of(shares, Limits(max_num_batched_tokens=5)))
    rows = [[5, 7, 8, 9, 10], [11, 12, 13, 14, 16]]
    step = Rows(trace).step(batch, arrivals)
    for layer, (demand, by_piece) in enumerate(zip(step.demand, step.piece_tokens, strict=True)):
        counts = [Counter(np.asarray(trace.expert_ids)[its, layer].ravel().tolist()) for its in rows]
        assert by_piece == [[count[x % 6] for count in counts] for x in demand]
        assert [sum(its) for its in by_piece] == step.tokens[layer]
    whole = Rows(trace).step(Batch(shares), arrivals)
    assert (whole.demand, whole.pieces, whole.piece_tokens) == (step.demand, (), ())
    assert [its.rows for its in step.pieces] == [5, 5]
    assert [its.kv_tokens for its in step.pieces] == [6 + 4, 6 + 3]
    assert sum(its.pairs for its in step.pieces) == step.pairs
    assert [its.requests for its in step.pieces] == [2, 3]
