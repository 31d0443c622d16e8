"""Routing loggers of vLLM: what token_idx counts, where prompts end, and logs of which parts are missing."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.traces.importers.imported import ids, refuse, steps, take
from traces.importers import Options

META: dict[str, Any] = {"type": "meta", "model_id": "Qwen/Qwen1.5-MoE-A2.7B-Chat", "vllm_version": "0.15.1"}
META |= {"device": "cuda", "seed": 1234, "layers_logged": [1, 3], "top_k": 2, "num_experts": 60}


def route(request: str, token: int, layer: int, **more: Any) -> dict[str, Any]:
    """The experts go by request, token and layer; weights rise, so that an import turns them round."""
    first = 10 * int(request[1:]) + token + 20 * (layer == 3)
    line = {"type": "route", "req_id": request, "token_idx": token, "layer": layer}
    return {**line, "topk_ids": [first, first + 1], "topk_weights": [0.25, 0.5], **more}


def call(request: str, layer: int, *tokens: int) -> list[dict[str, Any]]:
    return [route(request, token, layer) for token in tokens]


def one_pass(request: str, *tokens: int) -> list[dict[str, Any]]:
    return [*call(request, 1, *tokens), *call(request, 3, *tokens)]


def text(*lines: dict[str, Any], meta: dict[str, Any] | None = META) -> str:
    return "".join(json.dumps(line) + "\n" for line in ([meta, *lines] if meta else lines))


def row(request: int, token: int) -> list[list[int]]:
    first = 10 * request + token
    return [[first + 1, first], [first + 21, first + 20]]


BATCHED = [
    # Two prompts in one pass, the second in chunks, and a decode pass of both.
    *[*call("r0", 1, 0, 1, 2), *call("r1", 1, 0, 1), *call("r0", 3, 0, 1, 2), *call("r1", 3, 0, 1)],
    *[*call("r0", 1, 3), *call("r1", 1, 2, 3), *call("r0", 3, 3), *call("r1", 3, 2, 3)],
    *[*call("r1", 1, 4), *call("r0", 1, 4), *call("r1", 3, 4), *call("r0", 3, 4)],
]


def test_requests_that_alternate(tmp_path: Path) -> None:
    found = take(tmp_path, "vllm_log", text(*BATCHED))
    trace = found.trace
    assert (trace.L, trace.E, trace.K) == (2, 60, 2)
    assert trace.manifest.model.name == "Qwen/Qwen1.5-MoE-A2.7B-Chat"
    assert steps(trace) == [
        *[(0, 0, 3, 0), (0, 1, 1, 3), (0, 1, 1, 4)],
        *[(1, 0, 2, 0), (1, 0, 2, 2), (1, 1, 1, 4)],
    ]
    assert ids(trace) == [row(0, token) for token in range(5)] + [row(1, token) for token in range(5)]
    assert trace.expert_weights is not None
    assert trace.expert_weights[:2].tolist() == [[[0.5, 0.25]] * 2] * 2
    said = "\n".join(found.notes)
    assert "layers 0,2 of the 4" in said
    assert "the first passes of several rows of each req_id" in said


def test_a_cached_prefix_is_context(tmp_path: Path) -> None:
    trace = take(tmp_path, "vllm_log", text(*one_pass("r0", 5, 6), *one_pass("r0", 7), *one_pass("r1", 4))).trace
    assert steps(trace) == [(0, 0, 2, 5), (0, 1, 1, 7), (1, 1, 1, 4)]


def test_a_second_run_in_one_file_has_requests_of_its_own(tmp_path: Path) -> None:
    run = text(*one_pass("r0", 0), *one_pass("r0", 1))
    trace = take(tmp_path, "vllm_log", run + run).trace
    assert steps(trace) == [(0, 0, 1, 0), (0, 1, 1, 1), (1, 0, 1, 0), (1, 1, 1, 1)]


def test_one_layer_needs_where_prompts_end(tmp_path: Path) -> None:
    lines = [route("r0", token, 1) for token in range(3)] + [route("r1", token, 1) for token in range(2)]
    bare = [{key: value for key, value in line.items() if key not in ("topk_weights", "type")} for line in lines]
    content = text(*bare, meta=None)
    found = take(tmp_path, "vllm_log", content, prompt_tokens=2)
    assert steps(found.trace) == [(0, 0, 2, 0), (0, 1, 1, 2), (1, 0, 2, 0)]
    assert ids(found.trace)[0] == [[0, 1]]
    assert found.trace.E == 16
    assert not found.trace.has("expert_weights")
    assert steps(take(tmp_path, "vllm_log", content, prompt_tokens=0).trace)[0] == (0, 1, 1, 0)
    refuse(tmp_path, "vllm_log", content, "with one layer logged, the file does not say where a prompt ends")


def test_token_idx_of_forward_passes(tmp_path: Path) -> None:
    # A constant req_id; then one per pass, as loggers write it that know of no requests.
    passes = [one_pass("r0", 0, 1, 2), one_pass("r0", 0), one_pass("r0", 0), one_pass("r0", 0, 1), one_pass("r0", 0)]
    constant = [line for one in passes for line in one]
    each = [{**line, "req_id": f"r{number}"} for number, one in enumerate(passes) for line in one]
    expected = [(0, 0, 3, 0), (0, 1, 1, 3), (0, 1, 1, 4), (1, 0, 2, 0), (1, 1, 1, 2)]
    for lines in (constant, each):
        trace = take(tmp_path, "vllm_log", text(*lines), token_idx="pass").trace
        assert steps(trace) == expected
        assert ids(trace)[:4] == [row(0, 0), row(0, 1), row(0, 2), row(0, 0)]
        assert trace.expert_weights is not None
    warm = [*one_pass("r0", *range(9)), *one_pass("r0", 0, 1)]
    refuse(tmp_path, "vllm_log", text(*warm, *constant), "'2 tokens after a pass of 9'", token_idx="pass")
    assert steps(take(tmp_path, "vllm_log", text(*warm, *constant), token_idx="pass", skip=2).trace) == expected
    single = [line for line in constant if line["layer"] == 1]
    assert steps(take(tmp_path, "vllm_log", text(*single), token_idx="pass").trace) == expected


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    whole = text(*one_pass("r0", 0, 1), *one_pass("r0", 2), *one_pass("r1", 0), *one_pass("r1", 1))
    cut = whole[:-20]
    assert steps(take(tmp_path, "vllm_log", cut, Options(limit=1)).trace) == [(0, 0, 2, 0), (0, 1, 1, 2)]
    refuse(tmp_path, "vllm_log", cut, "line 11, content")
    refuse(tmp_path, "vllm_log", cut, "line 11, content", Options(limit=2))


def test_chunks_and_absent_experts(tmp_path: Path) -> None:
    lines = [*one_pass("r0", 0, 1), *one_pass("r0", 0, 1), *one_pass("r0", 0)]
    lines[0] = {**lines[0], "topk_ids": [5, -1]}
    own = {**IN_PASSES, "chunk": 2, "prompt_tokens": 4}
    trace = take(tmp_path, "vllm_log", text(*lines), Options(n_experts=64), **own).trace
    assert steps(trace) == [(0, 0, 2, 0), (0, 0, 2, 2), (0, 1, 1, 4)]
    assert ids(trace)[0] == [[5, -1], [21, 20]]
    assert trace.E == 64


TWO = [*one_pass("r0", 0, 1), *one_pass("r0", 2)]
IN_PASSES = {"token_idx": "pass"}


@pytest.mark.parametrize(
    ("lines", "own", "message"),
    [
        ([], {}, "line 1, content is 'no routing'"),
        ([{"type": "stats"}], {}, "line 2, type is 'stats'; allowed: meta, route"),
        ([{"type": "route", "layer": 1}], {}, "line 2, keys is 'type, layer'; allowed: token_idx, layer, topk_ids"),
        ([route("r0", 0, 1, req_id=[1])], {}, "line 2, req_id is [1]"),
        ([route("r0", 0, 4096)], {}, "line 2, layer is 4096; allowed: an integer, 0 to 4095"),
        ([route("r0", 0, 1, topk_ids=[60, 1])], {}, "line 2, topk_ids is 60; allowed: an integer, -1 to 59"),
        ([route("r0", 0, 1, topk_ids=[1, 2, 3])], {}, "line 2, topk_ids is [1, 2, 3]; allowed: a list of 1 to 2 items"),
        ([route("r0", 0, 1, topk_ids=[1, 1]), route("r0", 0, 3)], {}, "line 2 on: expert ids of token row 0, layer 1"),
        ([route("r0", 0, 1, topk_weights=[0.5])], {}, "line 2, length of topk_weights is 1"),
        ([TWO[0], {**TWO[1], "topk_weights": None}], {}, "line 3, topk_weights is 'missing'; allowed: on every line"),
        ([*TWO, {**META, "top_k": 4}], {}, "line 8, model_id, num_experts, top_k"),
        # Duplicates, replays, lost and missing lines.
        ([TWO[0], *TWO], {}, "line 3, token_idx is 0; allowed: 1, the next one of req_id 'r0' in layer 1: each token"),
        ([*TWO, *one_pass("r0", 0, 1)], {}, "line 8, token_idx is 0; allowed: 3"),
        ([TWO[0], *TWO[2:]], {}, "line 5, token_idx is 2; allowed: 1, the next one"),
        (TWO[:-1], {}, "line 2, tokens of req_id 'r0' in layer 3 is 2; allowed: 3, as in other layers"),
        (
            [*call("r0", 1, 0, 1), *call("r0", 3, 0), *call("r0", 1, 2), *call("r0", 3, 1, 2)],
            {},
            "line 4, pass of req_id 'r0', layer 3 is '1 in 2 layers'; allowed: 2 tokens in each of the 2 layers",
        ),
        ([*one_pass("r0", 0), *one_pass("r0", 1), *one_pass("r0", 2, 3)], {}, "is '2 tokens after a decode step'"),
        # Options that the file contradicts.
        ([*call("r0", 1, 0, 1)], {"prompt_tokens": 5}, "tokens of req_id 'r0' is 2; allowed: at least 5, the prompt_"),
        (TWO, {"prompt_tokens": 2}, "prompt_tokens is 2; allowed: only with a file with one layer"),
        (TWO, {"chunk": 2}, "chunk is 2; allowed: only with token_idx=pass"),
        (TWO, {"skip": 2}, "skip is 2; allowed: only with token_idx=pass"),
        ([*one_pass("r0", 0)], {**IN_PASSES, "skip": 9}, "content is nothing; allowed: at least one request"),
        (TWO, {**IN_PASSES, "prompt_tokens": 2}, "prompt_tokens is 2; allowed: only with chunk="),
        (TWO, IN_PASSES, "line 6, token_idx is 2; allowed: 0, or 2 in layer 3: rows of a pass ascend by one"),
        (TWO[1:], IN_PASSES, "line 2, token_idx is 1; allowed: 0: the first row of a pass"),
        ([*TWO[:4], TWO[0]], IN_PASSES, "line 6, rows of the pass from here on in layer 3 is 0"),
        ([*one_pass("r0", 0, 1)] * 2, IN_PASSES, "line 6, a pass is '2 tokens after a pass of 2'"),
        ([*TWO[:4], TWO[0], TWO[2]], {**IN_PASSES, "chunk": 2}, "line 6, a pass is '1 token after a full"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: list[dict[str, Any]], own: dict[str, Any], message: str) -> None:
    refuse(tmp_path, "vllm_log", text(*lines), message, **own)
