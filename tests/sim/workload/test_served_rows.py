"""Which rows of a trace a scheduler's batch computes, and what these demand: against a reading row by row."""

import numpy as np
import pytest

from sim.workload.online.rows import Rows, unions
from sim.workload.online.schedule import Arrival, Batch, Share
from sim.workload.passes import DemandReader, ordered_union
from tests.sim.small_trace import ABSENT, Plan, write
from traces import Trace

E = 6


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Prompts of 4 (in two steps) and 3, with 3 and 2 decode rows; some rows miss a layer, or a choice."""
    rng = np.random.default_rng(3)
    ids = np.argsort(rng.random((12, 3, E)), axis=-1)[..., :2]
    ids[rng.random(ids.shape[:2]) < 0.2] = ABSENT
    ids[5, 0, 1] = ABSENT
    return write(tmp_path_factory.mktemp("rows") / "t", [Plan((3, 1), 3), Plan((3,), 2)], ids, n_experts=E)


def by_hand(trace: Trace, rows: list[int], of_prompts: list[bool]) -> tuple[list[dict[int, list[int]]], int]:
    """Per layer, expert numbers in order of last use, with (tokens, tokens of prompts)."""
    layers: list[dict[int, list[int]]] = [{} for _ in range(trace.L)]
    for row, prompt in zip(rows, of_prompts, strict=True):
        for layer, counts in enumerate(layers):
            for x in trace.expert_ids[row, layer].tolist():
                if x != ABSENT:
                    number = layer * E + x
                    tokens, theirs = counts.pop(number, [0, 0])
                    counts[number] = [tokens + 1, theirs + prompt]
    return layers, len(rows)


BATCHES = {
    "a chunk, and who decodes": ([Share(7, 0, 2, 2, False), Share(9, 4, 1, 0, True)], [0, 1, 11], [1, 1, 0]),
    "a prompt across its recorded steps": ([Share(7, 2, 2, 2, True)], [2, 3], [1, 1]),
    "decode rows alone": ([Share(9, 3, 1, 0, True), Share(7, 5, 1, 0, True)], [10, 5], [0, 0]),
    "one decode row": ([Share(7, 6, 1, 0, True)], [6], [0]),
    "computed again, with the row that is new": ([Share(7, 0, 6, 5, True)], [0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 1, 0]),
    "the same request twice": ([Share(7, 1, 1, 1, False), Share(8, 1, 1, 1, False)], [1, 1], [1, 1]),
}
ARRIVALS = {7: Arrival(7, 0, 0, 4, 4), 8: Arrival(8, 0, 0, 4, 4), 9: Arrival(9, 0, 1, 3, 3)}


@pytest.mark.parametrize(("shares", "rows", "of_prompts"), BATCHES.values(), ids=BATCHES)
def test_rows_and_unions(trace: Trace, shares: list[Share], rows: list[int], of_prompts: list[bool]) -> None:
    step = Rows(trace).step(Batch(tuple(shares)), ARRIVALS)
    layers, total = by_hand(trace, rows, of_prompts)
    assert [row for first, n in step.parts for row in range(first, first + n)] == rows
    assert step.rows == total
    assert step.demand == [list(counts) for counts in layers]
    assert step.tokens == [[tokens for tokens, _ in counts.values()] for counts in layers]
    assert step.requests == tuple(share.id for share in shares)
    assert step.prefill == any(of_prompts)
    if any(of_prompts) and not all(of_prompts):
        assert step.prompt_rows == tuple(share.prompt_tokens for share in shares)
        assert step.prompt_tokens == [[theirs for _, theirs in counts.values()] for counts in layers]
        assert step.kind == 2
    else:
        assert (step.prompt_rows, step.prompt_tokens) == ((), ())
    assert step.kv_tokens == sum(share.start + share.tokens for share in shares)
    assert step.pairs == sum(p + 1 for share in shares for p in range(share.start, share.start + share.tokens))


def test_a_prompt_that_was_cut_goes_on_with_its_output(trace: Trace) -> None:
    """Two prompt rows of four, computed again with both output tokens: two runs of rows, of one request."""
    cut = {7: Arrival(7, 0, 0, 2, 4)}
    step = Rows(trace).step(Batch((Share(7, 1, 3, 2, True),)), cut)
    assert (step.requests, step.parts) == ((7, 7), [(1, 1), (4, 2)])
    assert step.prompt_rows == (1, 1)
    assert Rows(trace).step(Batch((Share(7, 3, 1, 0, True),)), cut).parts == [(5, 1)]
    assert Rows(trace).step(Batch((Share(7, 0, 2, 2, True),)), cut).parts == [(0, 2)]


@pytest.mark.parametrize("seed", range(20))
def test_unions_of_all_layers_are_those_of_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, n_layers, n_experts = int(rng.integers(1, 9)), int(rng.integers(1, 4)), int(rng.integers(2, 9))
    ids = np.argsort(rng.random((rows, n_layers, n_experts)), axis=-1)[..., : int(rng.integers(1, n_experts))]
    numbers = (ids + np.arange(n_layers)[:, None] * n_experts).astype(np.int32)
    numbers[rng.random(ids.shape) < 0.2] = n_layers * n_experts
    demand, tokens = unions(numbers, n_experts)
    each = [ordered_union(numbers[:, layer], n_layers * n_experts) for layer in range(n_layers)]
    assert (demand, tokens) == ([d for d, _ in each], [t for _, t in each])


def test_a_whole_prompt_is_what_a_closed_loop_reads(trace: Trace) -> None:
    step = Rows(trace).step(Batch((Share(7, 0, 4, 4, True),)), ARRIVALS)
    assert (step.demand, step.tokens) == DemandReader(trace).union([(0, 4)])
