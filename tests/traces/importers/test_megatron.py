"""Megatron's router trace: passes of one request after the other, or of training; parts of passes are refused."""

from pathlib import Path
from typing import Any

import pytest

from tests.traces.importers.imported import ids, refuse, steps, take
from traces.importers import Options

Layer = list[list[int]]


def record(step: int, layer: int, top: Layer, **more: Any) -> dict[str, Any]:
    """One line as RouterTracer writes it."""
    where = {"step": step, "stage": "pre_dispatch", "block": "decoder", "layer": layer, "rank": 0}
    return {**where, "num_tokens": len(top), "topk": len(top[0]), "top_indices": top, **more}


def trace_of(*passes: tuple[int, Layer, Layer], **more: Any) -> list[dict[str, Any]]:
    return [record(step, layer, top, **more) for step, *tops in passes for layer, top in zip((1, 2), tops, strict=True)]


A = (0, [[0, 3], [1, 2], [0, 9]], [[4, 5], [4, 6], [4, 7]])
B = (1, [[2, 3]], [[5, 6]])
C = (2, [[1, 4]], [[0, 1]])
D = (3, [[0, 1], [2, 3]], [[6, 7], [8, 9]])


def test_one_request_after_the_other(tmp_path: Path) -> None:
    found = take(tmp_path, "megatron", trace_of(A, B, C, D))
    trace = found.trace
    assert (trace.L, trace.E, trace.K) == (2, 12, 2)
    assert steps(trace) == [(0, 0, 3, 0), (0, 1, 1, 3), (0, 1, 1, 4), (1, 0, 2, 0)]
    assert ids(trace)[:4] == [[[0, 3], [4, 5]], [[1, 2], [4, 6]], [[0, 9], [4, 7]], [[2, 3], [5, 6]]]
    assert trace.manifest.decoding["order_within_k"] == "as written, not by weight"
    said = "\n".join(found.notes)
    for part in ("passes of several tokens; a pass of one token is", "this file's rank", "layer 0 of the 3"):
        assert part in said


def test_training_steps_and_chunks_are_prompts(tmp_path: Path) -> None:
    # Two micro-batches in step 3.
    trace = take(tmp_path, "megatron", trace_of(A, B, D, D), Options(limit=3), mode="training").trace
    assert steps(trace) == [(0, 0, 3, 0), (1, 0, 1, 0), (2, 0, 2, 0)]
    trace = take(tmp_path, "megatron", trace_of(A, (1, *D[1:]), (2, *B[1:])), chunk=3).trace
    assert steps(trace) == [(0, 0, 3, 0), (0, 0, 2, 3), (0, 1, 1, 5)]


def test_what_is_no_decoder_is_left_out(tmp_path: Path) -> None:
    sidecars = {"hs_offset": 0, "hs_bytes": 9, "hs_shape": [3, 2]}
    sidecars |= {"logit_offset": 0, "logit_bytes": 1, "logit_shape": [3]}
    mtp = record(0, 1, [[0, 1]] * 3, block="mtp", mtp_idx=0)
    found = take(tmp_path, "megatron", [*trace_of(A, **sidecars), mtp, *trace_of(B)])
    assert steps(found.trace) == [(0, 0, 3, 0), (0, 1, 1, 3)]
    assert found.notes[-1] == "1 lines of block mtp are left out: layers of multi-token prediction"


def test_absent_entries_and_the_least_of_fields(tmp_path: Path) -> None:
    least = {"step": 0, "layer": 0, "num_tokens": 2, "topk": 2, "top_indices": [[-1, 2], [-1, -1]]}
    trace = take(tmp_path, "megatron", [least], Options(n_experts=8)).trace
    assert ids(trace) == [[[2]], [[-1]]]
    assert trace.E == 8


GOOD = record(0, 1, [[0, 1]])


@pytest.mark.parametrize(
    ("lines", "own", "message"),
    [
        ([], {}, "line 1, content is 'no routing of a decoder'"),
        ([{"step": 0}], {}, "line 1, keys is 'step'; allowed: step, layer, num_tokens, topk, top_indices"),
        ([{**GOOD, "request": 1}], {}, "line 1, keys"),
        ([{**GOOD, "stage": "post"}], {}, "line 1, stage is 'post'; allowed: pre_dispatch"),
        ([{**GOOD, "block": "encoder"}], {}, "line 1, block is 'encoder'; allowed: decoder, mtp"),
        ([GOOD, {**GOOD, "rank": 1}], {}, "line 2, rank is 1; allowed: 0, as above: a file has the passes of one rank"),
        ([{**GOOD, "step": 1}, GOOD], {}, "line 2, step is 0; allowed: at least 1"),
        ([{**GOOD, "num_tokens": 2}], {}, "line 1, length of top_indices is 1; allowed: 2, the num_tokens"),
        ([{**GOOD, "num_tokens": 0, "top_indices": []}], {}, "line 1, num_tokens is 0"),
        ([{**GOOD, "topk": 3}], {}, "line 1, length of top_indices of token 0 is 2; allowed: 3, the topk"),
        ([{**GOOD, "top_indices": [[0, 65534]]}], {}, "line 1, top_indices of token 0 is 65534"),
        ([record(0, 1, [[0, 0], [1, 2]])], {}, "line 1 on: expert ids of token row 0, layer 1 is [0, 0]"),
        ([{"layer": 0, "expert_counts": [1, 2]}], {}, "line 1, content is 'counts per expert, without an order'"),
        # Parts of passes: cut off, a lost line, recomputed activations, layers of other tokens.
        (trace_of(A, B)[:-1], {}, "line 3, layer 2 of the pass from here on (step 1) is 'missing'; allowed: the la"),
        (trace_of(A, B)[:1] + trace_of(A, B)[2:], {}, "line 2, layer 2 of the pass from here on (step 1) is 'there'"),
        ([*trace_of(A), record(0, 2, A[2]), record(0, 1, A[1])], {"mode": "training"}, "line 3, layer 1 of the pass"),
        ([record(0, 1, A[1]), record(0, 2, B[2])], {}, "line 2, num_tokens is 1; allowed: 3, as in layer 1"),
        # Passes that fit no request.
        (trace_of(A, D), {}, "line 3, a pass is '2 tokens after a pass of 3'; allowed: decode steps of one token"),
        (trace_of(A, D), {"chunk": 2}, "line 1, tokens of a pass is 3; allowed: at most 2"),
        (trace_of(A, B), {"chunk": 3}, "line 3, a pass is '1 token after a full chunk of 3'"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: list[dict[str, Any]], own: dict[str, Any], message: str) -> None:
    refuse(tmp_path, "megatron", lines, message, **own)
