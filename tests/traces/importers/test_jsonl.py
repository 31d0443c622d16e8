"""JSON Lines: what a recorder writes comes back, and what is odd is said with its line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.traces.importers.imported import refuse, take
from traces.importers import Options


def row(token: int, layer: int, ids: list[int], **more: Any) -> dict[str, Any]:
    return {"token": token, "layer": layer, "ids": ids, **more}


GOOD = [row(0, 0, [1, 2], phase="prefill"), row(0, 1, [3, 0], phase="prefill"), row(1, 0, [4, 1], phase="decode")]


def test_what_a_recorder_writes_comes_back(tmp_path: Path) -> None:
    rows = [{"model": "m", "n_layers": 3, "n_experts": 10, "top_k": 2, "expert_bytes": [7, 8, 9]}]
    for request in (3, 5):
        for token in range(4):
            more = {"request": request, "phase": "decode" if token > 1 else "prefill", "token_id": 10 * request + token}
            rows.append(row(token, 0, [token, 9], weights=[0.25, 0.75], **more))
            if token != 2:
                rows.append(row(token, 2, [token + 1], weights=[1], **more))
    trace = take(tmp_path, "jsonl", rows).trace
    # No token has an expert in layer 1: it is left out, lest a budget be shared with it.
    assert (trace.L, trace.E, trace.K, trace.N, trace.manifest.model.name) == (2, 10, 2, 8, "m")
    assert trace.manifest.model.expert_bytes == (7, 9)
    assert trace.manifest.decoding["layers"] == "0,2 of the 3 in the file"
    assert trace.steps.tolist()[:3] == [(0, 0, 0, 2, 0), (0, 1, 2, 1, 2), (0, 1, 3, 1, 3)]
    assert [(item.prompt_tokens, item.output_tokens) for item in trace.requests] == [(2, 3), (2, 3)]
    # Sorted by weight; layer 2 of token 2 is absent.
    assert trace.expert_ids[2].tolist() == [[9, 2], [255, 255]]
    assert trace.expert_ids[7].tolist() == [[9, 3], [4, 255]]
    assert trace.expert_weights[7].tolist() == [[0.75, 0.25], [1, 0]]
    assert trace.token_ids.tolist() == [30, 31, 32, 33, 50, 51, 52, 53]


def test_without_a_header_sizes_come_from_the_lines(tmp_path: Path) -> None:
    trace = take(tmp_path, "jsonl", "".join(f"{json.dumps(one)}\r\n" for one in GOOD)).trace
    assert (trace.L, trace.E, trace.K, trace.manifest.model.name) == (2, 8, 2, "made")
    assert trace.expert_weights is None
    assert trace.expert_ids.tolist() == [[[1, 2], [3, 0]], [[4, 1], [255, 255]]]


def test_without_phases_every_token_is_a_decode_step(tmp_path: Path) -> None:
    trace = take(tmp_path, "jsonl", [row(7, 0, [1]), row(8, 0, [0])], Options(n_experts=64)).trace
    assert trace.E == 64
    assert trace.steps.tolist() == [(0, 1, 0, 1, 7), (0, 1, 1, 1, 8)]
    assert (trace.requests[0].prompt_tokens, trace.requests[0].output_tokens) == (7, 3)
    assert trace.manifest.decoding["phases"] == "not recorded: all decode"


def test_limit_leaves_the_rest_unread(tmp_path: Path) -> None:
    rows = [row(0, 0, [1], request=0), row(0, 0, [2], request=1), "not read"]
    assert take(tmp_path, "jsonl", rows, Options(limit=1)).trace.N == 1


def test_tokens_that_a_cache_held_are_context(tmp_path: Path) -> None:
    trace = take(tmp_path, "jsonl", [row(5, 0, [1], phase="prefill"), row(6, 0, [1], phase="decode")]).trace
    assert trace.steps.tolist() == [(0, 0, 0, 1, 5), (0, 1, 1, 1, 6)]
    assert trace.requests[0].prompt_tokens == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "line 1, content is 'nothing'"),
        ([{}], "line 1, content is 'nothing'"),
        ([{"model": "m"}], "line 1, content is 'no routing'"),
        ([{"model": 3}, *GOOD], "line 1, model is 3; allowed: printable"),
        ([{"model": "m", "layers": 2}, *GOOD], "line 1, keys is 'model, layers'"),
        ([{"prompt_tokens": 3, "routed_experts": []}], "line 1, keys .*servers are read by import routed_experts"),
        ([{"n_layers": 0}, *GOOD], "line 1, n_layers is 0"),
        ([{"n_layers": 1}, *GOOD], "line 3, layer is 1; allowed: at most 0, as the header says"),
        ([{"top_k": 1}, *GOOD], "line 2, number of ids is 2; allowed: at most 1"),
        ([{"n_experts": 4}, *GOOD], "line 4, ids is 4; allowed: an integer, -1 to 3"),
        ([{"expert_bytes": [1]}, *GOOD], "line 3, layer is 1; allowed: at most 0, as the header says"),
        ([{"n_layers": 2, "expert_bytes": [1]}, *GOOD], "line 1, length of expert_bytes is 1; allowed: 2"),
        ([{"expert_bytes": [1, 0]}, *GOOD], "expert_bytes of layer 1 is 0; allowed: more, since tokens"),
        ([*GOOD, "[]"], "line 4, content is .*allowed: one JSON object"),
        ([*GOOD, "", "x"], "line 5, content"),
        ([*GOOD, '{"token": 1, "token": 1}'], "line 4, content is .a key that occurs twice"),
        ([*GOOD, "[" * 100_000], "line 4, content is 'nested too deeply'"),
        ([*GOOD, {"token": 2}], "line 4, keys is 'token'; allowed: token, layer, ids"),
        ([*GOOD, row(2, 0, [1], phase="decode", gate=1)], "line 4, keys"),
        ([*GOOD, row(2, 0, [1])], "line 4, keys .* those of line 1"),
        ([*GOOD, row(2, 0, [1], phase="decode", weights=[1])], "line 4, keys"),
        ([*GOOD, row(2, 0, [1], phase="decode", request=1)], "line 4, keys"),
        ([*GOOD, row(2, 0, [1], phase="prefill")], "line 4, phase is 'prefill'; allowed: decode"),
        ([*GOOD, row(2, 0, [1], phase="verify")], "line 4, phase is 'verify'; allowed: prefill, decode"),
        ([*GOOD, row(1, 1, [1], phase="prefill")], "line 4, phase or token_id"),
        ([*GOOD, row(3, 0, [1], phase="decode")], "line 4, token is 3; allowed: 2"),
        ([*GOOD, row(0, 1, [1], phase="decode")], "line 4, token is 0"),
        ([*GOOD, row(1, 0, [1], phase="decode")], "line 4, layer is 0; allowed: above 0"),
        ([*GOOD, row(1, -1, [1], phase="decode")], "line 4, layer is -1"),
        ([*GOOD, row(1, True, [1], phase="decode")], "line 4, layer is True"),
        ([*GOOD, row(1, 1, [], phase="decode")], "line 4, ids is"),
        (
            [*GOOD, row(1, 1, [2, 2], phase="decode")],
            "line 1: expert ids of token row 1, layer 1 is .2, 2.; .*at most once",
        ),
        ([*GOOD, row(1, 1, [2.0], phase="decode")], "line 4, ids is 2.0"),
        ([row(0, 0, [1], weights=[0.5, 0.5])], "line 1, weights"),
        ([row(0, 0, [1, 2], weights=[0.5])], "line 1, length of weights is 1; allowed: 2"),
        ([row(0, 0, [1], weights=[70000])], "line 1, weights is 70000"),
        (['{"token": 0, "layer": 0, "ids": [1], "weights": [1e999]}'], "line 1, content is .the number 1e999"),
        ([row(0, 0, [1], request=1), row(0, 0, [1], request=0)], "line 2, request is 0; allowed: above 1"),
        ([row(0, 0, [1], request=0), row(0, 1, [1])], "line 2, keys"),
        ([row(0, 0, [1], request=0), row(0, 0, [1], request=1, token_id=1)], "line 2, keys .* of the file"),
        ([row(0, 65533, list(range(300)))], "one request is '1 tokens x 65534 layers x 300 slots'"),
        (['{"ids": ' + "[" * (2**18 + 1) + "}"], r"line 1, content is 'over 262144 times \["),
    ],
)
def test_bad_files_name_line_and_field(tmp_path: Path, rows: list[Any], message: str) -> None:
    refuse(tmp_path, "jsonl", rows, f"made.file: .*{message}")


def test_a_request_of_many_lines_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traces.importers.jsonl.MAX_REQUEST_IDS", 5)
    refuse(tmp_path, "jsonl", GOOD, "line 3, ids of one request")
