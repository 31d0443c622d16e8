"""What servers really answer: cached prefixes, absent entries, rows of zeros, streams, failed requests."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.traces.importers.imported import Imported, ids, raw_of, refuse, steps, take
from traces.importers import Options

ROWS = np.argsort(np.random.default_rng(1).random((10, 4, 15)), axis=-1)[..., :2] + 1
"""6 tokens of a prompt, 4 decode passes; no expert 0."""
COUNTS = {"prompt_tokens": 6, "completion_tokens": 5}


def filled(rows: slice, fill: int, layers: Any = slice(None)) -> list[Any]:
    """The rows, some of them (or some of their layers) filled with what is no routing."""
    found = ROWS.copy()
    found[rows, layers] = fill
    return found.tolist()


def imported(folder: Path, *responses: Any, **options: Any) -> Imported:
    return take(folder, "routed_experts", list(responses), Options(**options))


def refused(folder: Path, message: str, *responses: Any, **options: Any) -> None:
    refuse(folder, "routed_experts", list(responses), message, Options(**options))


def routed(rows: Any, **more: Any) -> dict[str, Any]:
    """An answer that has these rows; ``more``: other counts of tokens."""
    return COUNTS | {"routed_experts": rows if isinstance(rows, dict) else np.asarray(rows).tolist()} | more


CACHED = {
    "all rows are there": routed(ROWS, cached_tokens=4),
    "SGLang": {"meta_info": routed(ROWS, cached_tokens=4)},
    "OpenAI": {
        "usage": COUNTS | {"prompt_tokens_details": {"cached_tokens": 4}},
        "choices": [{"routed_experts": ROWS.tolist()}],
    },
    "rows of -1": routed(filled(slice(4), -1)),
    "rows of 0": routed(filled(slice(4), 0)),
    "rows of 0, counted": routed(filled(slice(4), 0), cached_tokens=4),
    "left out": routed(ROWS[4:], cached_tokens=4),
    "left out on demand": routed(ROWS[4:], routed_experts_start_len=4),
    "left out on demand, vLLM": routed(ROWS[4:], routed_experts_prompt_start=4),
    "left out, without completion_tokens": routed(ROWS[4:], prompt_tokens=12, cached_tokens=10, completion_tokens=None),
    "prompt apart, -1": {
        "usage": COUNTS,
        "prompt_routed_experts": filled(slice(4), -1)[:6],
        "choices": [{"routed_experts": ROWS[6:].tolist()}],
    },
    "prompt apart, left out": routed(ROWS[6:], cached_tokens=4, prompt_routed_experts=ROWS[4:6].tolist()),
}


@pytest.mark.parametrize("name", CACHED)
def test_a_cached_prefix_is_context(tmp_path: Path, name: str) -> None:
    trace, notes = imported(tmp_path, CACHED[name])
    prompt = CACHED[name].get("prompt_tokens", 6)
    assert steps(trace) == [(0, 0, 2, prompt - 2)] + [(0, 1, 1, prompt + i) for i in range(4)]
    assert (trace.requests[0].prompt_tokens, trace.requests[0].output_tokens) == (prompt, 5)
    assert ids(trace) == ROWS[4:].tolist()
    assert any("before the first row: 1 request;" in note for note in notes)


def test_a_prefix_that_may_have_been_left_out_is_asked_for(tmp_path: Path) -> None:
    """Six rows of a prompt of six tokens: or two of it and four decode passes, as here."""
    for more in ({}, {"cached_tokens": 4}):
        answer = {"prompt_tokens": 6, **more, "routed_experts": ROWS[4:].tolist()}
        refused(tmp_path, "line 1, completion_tokens is None; allowed: how many tokens were generated", answer)
    answer = {"prompt_tokens": 6, "cached_tokens": 0, "routed_experts": ROWS[:6].tolist()}
    assert steps(imported(tmp_path, answer).trace) == [(0, 0, 6, 0)]


@pytest.mark.parametrize("output", [5, 4])
def test_both_row_counts_are_taken(tmp_path: Path, output: int) -> None:
    """One row per token that was fed; or one for the last token, too."""
    counts = {"prompt_tokens": 6, "completion_tokens": output}
    apart = {"prompt_routed_experts": ROWS[:6].tolist(), "choices": [{"routed_experts": ROWS[6:].tolist()}]}
    for answer in ({"usage": counts, **apart}, routed(ROWS, **counts)):
        trace, _ = imported(tmp_path, answer)
        assert (len(trace.steps), trace.requests[0].output_tokens) == (5, output)


@pytest.mark.parametrize("fill", [0, -1])
def test_a_row_that_was_filled_for_the_last_token_is_none(tmp_path: Path, fill: int) -> None:
    answer = routed(filled(slice(9, 10), fill), completion_tokens=4)
    assert ids(imported(tmp_path, answer).trace) == ROWS[:9].tolist()


def test_only_generated_rows_are_decode_passes(tmp_path: Path) -> None:
    answer = {"usage": COUNTS, "prompt_routed_experts": None, "choices": [{"routed_experts": ROWS[6:].tolist()}]}
    trace, _ = imported(tmp_path, answer)
    assert steps(trace) == [(0, 1, 1, 6 + i) for i in range(4)]


@pytest.mark.parametrize(
    ("rows", "layers"),
    [(slice(3, 4), slice(None)), (slice(8, 9), slice(None)), (slice(2, 3), 1), (slice(2, 9), slice(1, 3))],
)
def test_later_minus_ones_are_absent_entries(tmp_path: Path, rows: slice, layers: Any) -> None:
    trace, notes = imported(tmp_path, routed(filled(rows, -1, layers)))
    assert steps(trace)[0] == (0, 0, 6, 0)
    assert ids(trace) == filled(rows, -1, layers)
    assert any("without an expert in any layer" in note for note in notes) == (layers == slice(None))


def test_a_slot_of_minus_one_is_a_smaller_k(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[3, :, 1], rows[7, 2, 0] = -1, -1
    found = ids(imported(tmp_path, routed(rows)).trace)
    assert found[3] == [[first, -1] for first in ROWS[3, :, 0].tolist()]
    assert found[7][2] == [ROWS[7, 2, 1], -1]  # absent entries come last


def test_layers_may_have_a_top_k_of_their_own(tmp_path: Path) -> None:
    rows = [[layers[0], layers[1][:1], *layers[2:]] for layers in ROWS.tolist()]
    found = ids(imported(tmp_path, COUNTS | {"routed_experts": rows}).trace)
    assert [row[1] for row in found] == [[first, -1] for first in ROWS[:, 1, 0].tolist()]


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_prompt_of_zeros_is_named_and_the_rest_can_be_had(tmp_path: Path, top_k: int) -> None:
    answer = routed(np.array(filled(slice(6), 0))[..., :top_k])
    refused(tmp_path, "line 1: routed_experts of the prompt is 'zeros alone in all 6 rows: not recorded", answer)
    trace, notes = imported(tmp_path, answer, phases="decode")
    assert steps(trace) == [(0, 1, 1, 6 + i) for i in range(4)]
    assert any("no prompts; 4 decode passes" in note for note in notes)
    assert trace.manifest.decoding["phases"] == "decode alone: prompts were left out"


def test_a_top_1_router_may_choose_expert_0(tmp_path: Path) -> None:
    """Zeros are no sign of anything where decode passes have them, too: but a layer of nothing else is told."""
    rows = np.zeros((10, 1, 1), int)
    trace, notes = imported(tmp_path, routed(rows), n_experts=4)
    assert trace.N == 10
    assert any("layer 0 (counted from 0): every token has expert 0" in note for note in notes)
    rows[6:, 0, 0] = [0, 1, 0, 0]
    assert imported(tmp_path, routed(rows)).trace.N == 10


@pytest.mark.parametrize("fill", [0, -1])
def test_layers_without_experts_can_be_left_out(tmp_path: Path, fill: int) -> None:
    """Dense layers need not lead. Zeros are refused until they are named; -1 says for sure that nothing is there."""
    answer = routed(filled(slice(None), fill, [0, 2]))
    if fill == 0:
        refused(tmp_path, "layers 0,2 .* zeros alone, .*allowed: without_layers=0,2, which", answer)
        refused(tmp_path, "layer 2 .*allowed: without_layers=0,2, which", answer, without_layers=frozenset({0}))
        trace, notes = imported(tmp_path, answer, without_layers=frozenset({0, 2}))
    else:
        trace, notes = imported(tmp_path, answer)
        assert any("left out: layers 0,2 of the 4" in note and "without_layers=0,2" in note for note in notes)
    assert (trace.L, trace.manifest.decoding["layers"]) == (2, "1,3 of the 4 in the file")
    np.testing.assert_array_equal(trace.expert_ids, ROWS[:, [1, 3]])


def test_layers_left_out_take_their_k_and_e_along(tmp_path: Path) -> None:
    answer = COUNTS | {"routed_experts": [[[3], [100, 2], [1]] for _ in range(10)]}
    trace, _ = imported(tmp_path, answer, without_layers=frozenset({1}))
    assert (trace.L, trace.E, trace.K) == (2, 4, 1)
    refused(tmp_path, "without_layers names '7'; allowed: 0 to 2, its layers", answer, without_layers=frozenset({7}))


def test_zeros_elsewhere_are_named(tmp_path: Path) -> None:
    row = routed(filled(slice(7, 8), 0))
    refused(tmp_path, r"token row 7, layer 0 is \[0, 0\]; .*zeros stand for what was not recorded", row)
    layer = routed(filled(slice(None), 0, 1))
    refused(tmp_path, "line 2: layer 1 is 'zeros alone'; allowed: routing, as in other requests", GOOD, layer)
    refused(tmp_path, "line 1: routed_experts is 'zeros alone'", routed(0 * ROWS))
    refused(tmp_path, "line 1: routing is 'missing from every row'|no token has an expert", routed(0 * ROWS - 1))


def test_ids_that_wrapped_are_named(tmp_path: Path) -> None:
    """260 does not fit into 8 bits and comes back as 4."""
    raw = base64.b64encode(np.full((10, 4, 2), 4, np.uint8).tobytes()).decode()
    answer = routed({"data": raw, "shape": [10, 4, 2], "dtype": "uint8"})
    refused(tmp_path, "ids above 255 do not fit into uint8 and come back as others", answer)
    message = "dtype of routed_experts is 'uint8, which ends at 255'; allowed: ids to 511"
    refused(tmp_path, message, answer, n_experts=512)


DATA = {"data": base64.b64encode(ROWS.astype("u1").tobytes()).decode(), "shape": [10, 4, 2], "dtype": "uint8"}


@pytest.mark.parametrize("dtype", ["uint8", "torch.int16", "int32", "<i8"])
def test_data_with_shape_and_dtype(tmp_path: Path, dtype: str) -> None:
    raw = base64.b64encode(ROWS.astype(dtype.removeprefix("torch.")).tobytes()).decode()
    trace, _ = imported(tmp_path, routed({"data": raw, "shape": [10, 4, 2], "dtype": dtype}))
    np.testing.assert_array_equal(trace.expert_ids, ROWS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float32"}, r"dtype of routed_experts is 'floats \(<f4\)'"),
        ({"dtype": ">i2"}, "big-endian"),
        ({"dtype": "bfloat16"}, "dtype of routed_experts is 'bfloat16'; allowed: the name of integers"),
        ({"dtype": None}, "dtype of routed_experts is None"),
        ({"dtype": "uint16"}, "bytes of routed_experts is 80; allowed: 160"),
        ({"shape": [10, 8]}, "shape of routed_experts"),
        ({"shape": "10"}, "shape of routed_experts is '10'"),
        ({"shape": [10**9, 10**9, 10**9]}, "shape of routed_experts"),
        ({"data": 3}, "data of routed_experts is 3; allowed: base64"),
        ({"order": "F"}, "keys of routed_experts is 'data, shape, dtype, order'"),
        ({"encoding": "zstd"}, "keys of routed_experts"),
    ],
)
def test_bad_data(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    refused(tmp_path, message, routed(DATA | change))


def test_a_stream_is_one_response(tmp_path: Path) -> None:
    """Text comes first, the routing in the last part, the usage after it."""
    parts = [
        {"id": "a", "choices": [{"index": 0, "delta": {"content": "x"}, "routed_experts": None}], "usage": None},
        {"id": "a", "choices": [{"index": 0, "delta": {}}], "usage": {"prompt_tokens": 6, "completion_tokens": 2}},
        {"id": "a", "choices": [{"index": 0, "finish_reason": "stop", "routed_experts": ROWS.tolist()}]},
        {"id": "a", "choices": [], "usage": COUNTS},
    ]
    other = [part | {"id": "b"} for part in parts]
    text = ["event: message", ": a comment", *(f"data: {json.dumps(part)}\n" for part in parts + other), "data: [DONE]"]
    trace, _ = imported(tmp_path, *text)
    assert [request.output_tokens for request in trace.requests] == [5, 5]
    np.testing.assert_array_equal(trace.expert_ids, np.concatenate([ROWS, ROWS]))


def test_a_batchs_output_and_lists_of_tokens_are_read(tmp_path: Path) -> None:
    body = {"usage": COUNTS, "choices": [{"routed_experts": ROWS.tolist()}]}
    batch = {"custom_id": "x", "response": {"status_code": 200, "body": body}, "error": None}
    engine = {"prompt_token_ids": [7] * 6, "outputs": [{"token_ids": [8] * 5, "routed_experts": ROWS.tolist()}]}
    trace, _ = imported(tmp_path, batch | {"id": "r0"}, batch | {"id": "r1"}, engine)
    assert [(request.prompt_tokens, request.output_tokens) for request in trace.requests] == [(6, 5)] * 3


def test_a_prefill_alone(tmp_path: Path) -> None:
    """Nothing was generated: some servers have all rows then, some all but the last."""
    for rows in (6, 5):
        trace, _ = imported(tmp_path, routed(ROWS[:rows], completion_tokens=0))
        assert steps(trace) == [(0, 0, rows, 0)]
        assert (trace.requests[0].prompt_tokens, trace.requests[0].output_tokens) == (6, 0)


GOOD = routed(ROWS)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([GOOD, {"error": {"message": "no memory", "code": 500}}], "line 2, error is 'no memory'; allowed: answers"),
        ([GOOD, {"object": "error", "message": "no", "code": 400}], "line 2, error is 'no'"),
        ([{"response": {"status_code": 500, "body": {}}, "error": {"message": "x"}}], "line 1, error is 'x'"),
        ([GOOD, "null"], "line 2, content is 'None'; allowed: one JSON object"),
        ([GOOD | {"id": "a"}, GOOD, GOOD | {"id": "a"}], "line 3, id is 'a'; allowed: each response once"),
        ([GOOD | {"id": "a"}, GOOD | {"id": "a"}], "line 2, id is 'a'; allowed: each response once"),
        ([GOOD, json.dumps(GOOD)[:-40]], "line 2, content is .*the file ends in this line.*limit=N takes the N"),
        ([GOOD | {"completion_tokens": None, "cached_tokens": 7}], "cached_tokens is 7; allowed: an integer, 0 to 6"),
        ([GOOD | {"choices": [GOOD, GOOD]}], "choices is .*one object: with several"),
        ([{"token": 0, "layer": 0, "ids": [1]}], "keys is 'token, layer, ids'; .*such lines are read by import jsonl"),
        ([{"id": "a", "choices": []}, GOOD | {"id": "b"}], "line 1, keys is .*the parts of one stream follow each oth"),
    ],
)
def test_what_went_wrong_is_said_with_its_line(tmp_path: Path, answers: list[Any], message: str) -> None:
    refuse(tmp_path, "routed_experts", raw_of(answers)[:-1], message)


def test_what_was_inferred_is_said(tmp_path: Path) -> None:
    """Replicated experts have physical ids above the model's own: E is then too large unless it is stated."""
    rows = ROWS.copy()
    rows[4, 2, 0] = 17
    assert imported(tmp_path, routed(rows)).notes == [
        "20 experts per layer: the largest id is 17, rounded up to a multiple of 4; n_experts=E states it",
        "layers 4, top-k 2: what the tokens of the file have",
        "1 request: 6 tokens of prompts, one pass per request; 4 decode passes; rows that repeat the one before: 0 of "
        "9 (0.0 %), longest run 0",
    ]
    refused(tmp_path, "token row 4, layer 2, slot 0 is 17; allowed: 0 to 15", routed(rows), n_experts=16)


def test_an_archive_may_count_what_was_cached(tmp_path: Path) -> None:
    counts = {"prompt_tokens": [6], "completion_tokens": [5], "cached_tokens": [4]}
    assert steps(take(tmp_path, "routed_experts", {**counts, "a": ROWS[4:]}).trace)[:2] == [(0, 0, 2, 4), (0, 1, 1, 6)]
    trace, notes = take(tmp_path, "routed_experts", {"a": np.asfortranarray(ROWS), "prompt_tokens": [6]})
    np.testing.assert_array_equal(trace.expert_ids, ROWS)
    assert sum("completion_tokens [R] or cached_tokens [R]" in note for note in notes) == 1
