"""Prompts in chunks: which passes they make, layer by layer or chunk by chunk, and what these cost."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.registry import build
from sim.core.accounts import LOOKUPS
from sim.core.core import Core
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.floor import compute_floor_ns
from sim.experiment.run import run_config, simulate
from sim.results.document import Outcome
from sim.workload.passes import ClosedLoop, Pass
from tests.sim.machine.cases import FlatCosts, make_setup
from tests.sim.machine.cases import simulate as replayed
from tests.sim.small_trace import MACHINE, Plan, config, one_layer, write
from traces import Trace


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Two requests, one of which was recorded in chunks of 5 and 4, of two layers that choose 2 of 16."""
    rng = np.random.default_rng(7)
    ids = np.argsort(rng.random((24, 2, 16)), axis=-1)[..., :2]
    return write(tmp_path_factory.mktemp("chunks") / "t", [Plan((5, 4), 3), Plan((11,), 1)], ids, n_experts=16)


def passes(trace: Trace, **given: Any) -> list[Pass]:
    return list(ClosedLoop(trace, **given).passes(range(len(trace.requests))))


def spans(found: list[Pass]) -> list[list[tuple[int, int]]]:
    return [step.parts for step in found if step.prefill]


def test_a_prompt_is_cut_wherever_it_was_recorded(trace: Trace) -> None:
    assert spans(passes(trace)) == [[(0, 5)], [(5, 4)], [(12, 11)]]
    assert spans(passes(trace, prefill_chunk=4)) == [[(0, 4)], [(4, 4)], [(8, 1)], [(12, 4)], [(16, 4)], [(20, 3)]]
    assert spans(passes(trace, prefill_chunk=100)) == [[(0, 9)], [(12, 11)]]


def test_keys_and_pairs_of_chunks_are_those_of_their_context(trace: Trace) -> None:
    first, second, third = passes(trace, prefill_chunk=4)[:3]
    assert [first.kv_tokens, second.kv_tokens, third.kv_tokens] == [4, 8, 9]
    # 1 + 2 + 3 + 4; 5 + 6 + 7 + 8; 9: each row attends to all before it, and to itself.
    assert [first.pairs, second.pairs, third.pairs] == [10, 26, 9]


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_layer_major_is_one_union_whose_compute_is_that_of_its_chunks(trace: Trace, chunk: int | None) -> None:
    by_chunk, by_layer = (
        passes(trace, prefill_chunk=chunk, prefill_order=order) for order in ("chunk_major", "layer_major")
    )
    whole = passes(trace, prefill_chunk=100)
    assert [(p.parts, p.demand, p.tokens, p.prefill) for p in by_layer] == [
        (p.parts, p.demand, p.tokens, p.prefill) for p in whole
    ]
    for step in by_layer:
        assert sum(piece.rows for piece in step.pieces) in (0, step.rows)
        assert all(
            [sum(n) for n in layer] == tokens
            for layer, tokens in zip(step.piece_tokens, step.tokens, strict=bool(step.pieces))
        )
    costs: Any = FlatCosts(layer_overhead_ns=13)
    assert compute_floor_ns(by_layer, costs) == compute_floor_ns(by_chunk, costs)


def run(trace: Trace, policy: str, **workload: Any) -> Outcome:
    """With room for 18 of 32 experts, any event among them, on a machine on which everything takes time."""
    hardware = {**MACHINE, "gpu": {**MACHINE["gpu"], "launch_us": 0.011}, "software": {"layer_overhead_us": 0.003}}
    given = config(trace, 18 * 12, policy=policy, hardware=hardware)
    cell = make_cell(replace(given, workload={**given.workload, **workload}))
    return simulate(cell, make_policy(cell))


@pytest.mark.parametrize("policy", ["lru", "on_demand"])
def test_layer_major_copies_as_one_pass_and_computes_as_its_chunks(trace: Trace, policy: str) -> None:
    by_chunk = run(trace, policy, prefill_chunk=3)
    by_layer = run(trace, policy, prefill_chunk=3, prefill_order="layer_major")
    whole = run(trace, policy, prefill_chunk=100)
    assert by_layer.accounts.hits == whole.accounts.hits
    assert by_layer.accounts.compute_ns == by_chunk.accounts.compute_ns > whole.accounts.compute_ns
    once, again = by_layer.accounts.demand_bytes, by_chunk.accounts.demand_bytes
    assert once == whole.accounts.demand_bytes
    assert once < again if policy == "on_demand" else once <= again
    assert by_chunk.timings.requests[0].prefill_rows == by_layer.timings.requests[0].prefill_rows == 9


def test_the_bound_of_compute_holds_for_pieces(trace: Trace, tmp_path: Path) -> None:
    given = config(trace, 72, bounds=True)
    given = replace(given, workload={**given.workload, "prefill_chunk": 2, "prefill_order": "layer_major"})
    document = run_config(given, tmp_path).document
    assert document["bounds"]["time_lower_bound"]["compute_ms"] * 1e6 == pytest.approx(document["totals"]["compute_ns"])
    assert document["bounds"]["time_lower_bound"]["gap"] >= 1
    assert document["config"]["workload"]["prefill_order"] == "layer_major"


def touched(tokens: int, top_k: int, n_experts: int) -> float:
    """Experts that the tokens of a chunk choose on average where routing is uniform."""
    return float(n_experts * (1 - (1 - top_k / n_experts) ** tokens))


@pytest.mark.parametrize("chunk", [4, 16, 64])
def test_a_chunk_touches_as_many_experts_as_uniform_routing_says(chunk: int, tmp_path: Path) -> None:
    """On demand each chunk copies them all: of 128 experts and 8 per token nearly all with 64 tokens, whatever came
    before."""
    rng, n_experts, top_k, rows = np.random.default_rng(chunk), 128, 8, 1024
    ids = np.argsort(rng.random((rows, 1, n_experts)), axis=-1)[..., :top_k]
    found = passes(write(tmp_path / "t", [Plan((rows,))], ids, n_experts=n_experts), prefill_chunk=chunk)
    setup = make_setup([1], n_experts, n_experts)
    accounts, core = replayed(build("on_demand", setup, {}), setup, found)
    assert isinstance(core, Core)
    copied = accounts.demand_bytes / len(found)
    assert (
        copied == accounts.hit_row()[LOOKUPS] / len(found) == pytest.approx(touched(chunk, top_k, n_experts), rel=0.02)
    )


def test_a_request_without_a_prompt_is_as_it_was(tmp_path: Path) -> None:
    alone = one_layer(tmp_path / "t", [Plan((), 2, prompt=3)], [0, 1])
    assert passes(alone, prefill_chunk=1, prefill_order="layer_major") == passes(alone)
