"""What servers really answer: cached prefixes, absent entries, rows of zeros, streams, failed requests."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from traces import Trace, TraceError, open_trace
from traces.importers import Options
from traces.importers.routed_experts import import_trace

ROWS = np.argsort(np.random.default_rng(1).random((10, 4, 15)), axis=-1)[..., :2] + 1
"""6 tokens of a prompt, 4 decode passes; no expert 0."""
COUNTS = {"prompt_tokens": 6, "completion_tokens": 5}
ZEROS, ABSENT = np.zeros_like(ROWS), np.full_like(ROWS, -1)


def filled(rows: slice, fill: int, layers: Any = slice(None)) -> list[Any]:
    """The rows, some of them (or some of their layers) filled with what is no routing."""
    ids = ROWS.copy()
    ids[rows, layers] = fill
    return ids.tolist()


def imported(folder: Path, responses: Iterable[Any], **options: Any) -> tuple[Trace, list[str]]:
    """The trace of a file of these responses, and what was said of it."""
    notes: list[str] = []
    source = folder / "served.jsonl"
    source.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in responses))
    return open_trace(import_trace(source, folder / "trace", Options(**options, note=notes.append))), notes


def ids_of(trace: Trace) -> Any:
    """The ids as the file has them."""
    return np.where(np.asarray(trace.expert_ids) == trace.absent, -1, np.asarray(trace.expert_ids).astype(int))


CACHED = {
    "all rows are there": COUNTS | {"cached_tokens": 4, "routed_experts": ROWS.tolist()},
    "SGLang": {"meta_info": COUNTS | {"cached_tokens": 4, "routed_experts": ROWS.tolist()}},
    "OpenAI": {
        "usage": COUNTS | {"prompt_tokens_details": {"cached_tokens": 4}},
        "choices": [{"routed_experts": ROWS.tolist()}],
    },
    "rows of -1": COUNTS | {"routed_experts": filled(slice(4), -1)},
    "rows of 0": COUNTS | {"routed_experts": filled(slice(4), 0)},
    "rows of 0, counted": COUNTS | {"cached_tokens": 4, "routed_experts": filled(slice(4), 0)},
    "left out": COUNTS | {"cached_tokens": 4, "routed_experts": ROWS[4:].tolist()},
    "left out, without completion_tokens": {
        "prompt_tokens": 12,
        "cached_tokens": 10,
        "routed_experts": ROWS[4:].tolist(),
    },
    "prompt apart, -1": {
        "usage": COUNTS,
        "prompt_routed_experts": filled(slice(4), -1)[:6],
        "choices": [{"routed_experts": ROWS[6:].tolist()}],
    },
    "prompt apart, left out": COUNTS
    | {"cached_tokens": 4, "prompt_routed_experts": ROWS[4:6].tolist(), "routed_experts": ROWS[6:].tolist()},
}


@pytest.mark.parametrize("name", CACHED)
def test_a_cached_prefix_is_context(tmp_path: Path, name: str) -> None:
    trace, notes = imported(tmp_path, [CACHED[name]])
    prompt = CACHED[name].get("prompt_tokens", 6)
    expected = [(0, 0, 0, 2, prompt - 2)] + [(0, 1, 2 + i, 1, prompt + i) for i in range(4)]
    assert trace.steps.tolist() == expected
    assert (trace.requests[0].prompt_tokens, trace.requests[0].output_tokens) == (prompt, 5)
    np.testing.assert_array_equal(ids_of(trace), ROWS[4:])
    assert any("before the first row: 1 request;" in note for note in notes)


def test_a_prefix_that_may_have_been_left_out_is_asked_for(tmp_path: Path) -> None:
    """Six rows of a prompt of six tokens: or two of it and four decode passes, as here."""
    for more in ({}, {"cached_tokens": 4}):
        with pytest.raises(TraceError, match="line 1, completion_tokens is None; allowed: how many tokens were gen"):
            imported(tmp_path, [{"prompt_tokens": 6, **more, "routed_experts": ROWS[4:].tolist()}])
    trace, _ = imported(tmp_path, [{"prompt_tokens": 6, "cached_tokens": 0, "routed_experts": ROWS[:6].tolist()}])
    assert trace.steps.tolist() == [(0, 0, 0, 6, 0)]


@pytest.mark.parametrize(("rows", "output"), [(10, 5), (10, 4)])
def test_both_row_counts_are_taken(tmp_path: Path, rows: int, output: int) -> None:
    """One row per token that was fed; or one for the last token, too."""
    counts = {"prompt_tokens": 6, "completion_tokens": output}
    apart = {"prompt_routed_experts": ROWS[:6].tolist(), "choices": [{"routed_experts": ROWS[6:rows].tolist()}]}
    for answer in ({"usage": counts, **apart}, counts | {"routed_experts": ROWS[:rows].tolist()}):
        trace, _ = imported(tmp_path, [answer])
        assert (len(trace.steps), trace.requests[0].output_tokens) == (1 + rows - 6, output)
        shutil.rmtree(trace.path)


@pytest.mark.parametrize("fill", [0, -1])
def test_a_row_that_was_filled_for_the_last_token_is_none(tmp_path: Path, fill: int) -> None:
    trace, _ = imported(
        tmp_path, [{"prompt_tokens": 6, "completion_tokens": 4} | {"routed_experts": filled(slice(9, 10), fill)}]
    )
    assert trace.N == 9
    np.testing.assert_array_equal(ids_of(trace), ROWS[:9])


def test_only_generated_rows_are_decode_passes(tmp_path: Path) -> None:
    answer = {"usage": COUNTS, "prompt_routed_experts": None, "choices": [{"routed_experts": ROWS[6:].tolist()}]}
    trace, _ = imported(tmp_path, [answer])
    assert trace.steps.tolist() == [(0, 1, i, 1, 6 + i) for i in range(4)]


@pytest.mark.parametrize(
    ("rows", "layers"),
    [(slice(3, 4), slice(None)), (slice(8, 9), slice(None)), (slice(2, 3), 1), (slice(2, 9), slice(1, 3))],
)
def test_later_minus_ones_are_absent_entries(tmp_path: Path, rows: slice, layers: Any) -> None:
    trace, notes = imported(tmp_path, [COUNTS | {"routed_experts": filled(rows, -1, layers)}])
    assert trace.steps.tolist()[0] == (0, 0, 0, 6, 0)
    np.testing.assert_array_equal(ids_of(trace), np.array(filled(rows, -1, layers)))
    assert any("without an expert in any layer" in note for note in notes) == (layers == slice(None))


def test_a_slot_of_minus_one_is_a_smaller_k(tmp_path: Path) -> None:
    ids = ROWS.copy()
    ids[3, :, 1], ids[7, 2, 0] = -1, -1
    trace, _ = imported(tmp_path, [COUNTS | {"routed_experts": ids.tolist()}])
    assert ids_of(trace)[3].tolist() == [[first, -1] for first in ROWS[3, :, 0].tolist()]
    assert ids_of(trace)[7, 2].tolist() == [ROWS[7, 2, 1], -1]  # absent entries come last


def test_layers_may_have_a_top_k_of_their_own(tmp_path: Path) -> None:
    rows = [[layers[0], layers[1][:1], *layers[2:]] for layers in ROWS.tolist()]
    trace, _ = imported(tmp_path, [COUNTS | {"routed_experts": rows}])
    assert ids_of(trace)[:, 1].tolist() == [[first, -1] for first in ROWS[:, 1, 0].tolist()]


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_prompt_of_zeros_is_named_and_the_rest_can_be_had(tmp_path: Path, top_k: int) -> None:
    ids = np.array(filled(slice(6), 0))[..., :top_k].tolist()
    answer = COUNTS | {"routed_experts": ids}
    with pytest.raises(
        TraceError, match=r"line 1: routed_experts of the prompt is 'zeros alone in all 6 rows: not rec"
    ):
        imported(tmp_path, [answer])
    trace, notes = imported(tmp_path, [answer], phases="decode")
    assert trace.steps.tolist() == [(0, 1, i, 1, 6 + i) for i in range(4)]
    assert any("no prompts; 4 decode passes" in note for note in notes)
    assert trace.manifest.decoding["phases"] == "decode alone: prompts were left out"


def test_a_top_1_router_may_choose_expert_0(tmp_path: Path) -> None:
    """Zeros are no sign of anything where decode passes have them, too: but a layer of nothing else is told."""
    ids = np.zeros((10, 1, 1), int)
    trace, notes = imported(tmp_path, [COUNTS | {"routed_experts": ids.tolist()}], n_experts=4)
    assert trace.N == 10
    assert any("layer 0 (counted from 0): every token has expert 0" in note for note in notes)
    ids[6:, 0, 0] = [0, 1, 0, 0]
    (tmp_path / "trace").rename(tmp_path / "first")
    assert imported(tmp_path, [COUNTS | {"routed_experts": ids.tolist()}])[0].N == 10


@pytest.mark.parametrize("fill", [0, -1])
def test_layers_without_experts_can_be_left_out(tmp_path: Path, fill: int) -> None:
    """Dense layers need not lead. Zeros are refused until they are named; -1 says for sure that nothing is there."""
    answer = COUNTS | {"routed_experts": filled(slice(None), fill, [0, 2])}
    if fill == 0:
        with pytest.raises(TraceError, match=r"layers 0,2 .* zeros alone, .*allowed: without_layers=0,2, which"):
            imported(tmp_path, [answer])
        with pytest.raises(TraceError, match=r"layer 2 .*allowed: without_layers=0,2, which"):
            imported(tmp_path, [answer], without_layers=frozenset({0}))
        trace, notes = imported(tmp_path, [answer], without_layers=frozenset({0, 2}))
    else:
        trace, notes = imported(tmp_path, [answer])
        assert any("left out: layers 0,2 of the 4" in note and "without_layers=0,2" in note for note in notes)
    assert (trace.L, trace.manifest.decoding["layers"]) == (2, "1,3 of the 4 in the file")
    np.testing.assert_array_equal(trace.expert_ids, ROWS[:, [1, 3]])


def test_layers_left_out_take_their_k_and_e_along(tmp_path: Path) -> None:
    rows = [[[3], [100, 2], [1]] for _ in range(10)]
    trace, _ = imported(tmp_path, [COUNTS | {"routed_experts": rows}], without_layers=frozenset({1}))
    assert (trace.L, trace.E, trace.K) == (2, 4, 1)
    with pytest.raises(TraceError, match="without_layers names '7'; allowed: 0 to 2, its layers"):
        imported(tmp_path / "..", [COUNTS | {"routed_experts": rows}], without_layers=frozenset({7}))


def test_zeros_elsewhere_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"token row 7, layer 0 is \[0, 0\]; .*zeros stand for what was not recorded"):
        imported(tmp_path, [COUNTS | {"routed_experts": filled(slice(7, 8), 0)}])
    with pytest.raises(TraceError, match=r"line 2: layer 1 is 'zeros alone'; allowed: routing, as in other requests"):
        imported(tmp_path, [GOOD, COUNTS | {"routed_experts": filled(slice(None), 0, 1)}])
    with pytest.raises(TraceError, match=r"line 1: routed_experts is 'zeros alone'"):
        imported(tmp_path, [COUNTS | {"routed_experts": ZEROS.tolist()}])
    with pytest.raises(TraceError, match=r"line 1: routing is 'missing from every row'|no token has an expert"):
        imported(tmp_path, [COUNTS | {"routed_experts": ABSENT.tolist()}])


def test_ids_that_wrapped_are_named(tmp_path: Path) -> None:
    """260 does not fit into 8 bits and comes back as 4."""
    raw = base64.b64encode(np.full((10, 4, 2), 4, np.uint8).tobytes()).decode()
    answer = COUNTS | {"routed_experts": {"data": raw, "shape": [10, 4, 2], "dtype": "uint8"}}
    with pytest.raises(TraceError, match=r"ids above 255 do not fit into uint8 and come back as others"):
        imported(tmp_path, [answer])
    with pytest.raises(TraceError, match=r"dtype of routed_experts is 'uint8, which ends at 255'; allowed: ids to 511"):
        imported(tmp_path, [answer], n_experts=512)


DATA = {"data": base64.b64encode(ROWS.astype("u1").tobytes()).decode(), "shape": [10, 4, 2], "dtype": "uint8"}


def test_data_with_shape_and_dtype(tmp_path: Path) -> None:
    for number, dtype in enumerate(("uint8", "torch.int16", "int32", "<i8")):
        raw = ROWS.astype(dtype.removeprefix("torch."))
        payload = {"data": base64.b64encode(raw.tobytes()).decode(), "shape": [10, 4, 2], "dtype": dtype}
        trace, _ = imported(tmp_path, [COUNTS | {"routed_experts": payload}])
        np.testing.assert_array_equal(trace.expert_ids, ROWS)
        (tmp_path / "trace").rename(tmp_path / str(number))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float32"}, r"dtype of routed_experts is 'floats \(<f4\)'"),
        ({"dtype": ">i2"}, "big-endian"),
        ({"dtype": "bfloat16"}, "dtype of routed_experts is 'bfloat16'; allowed: the name of integers"),
        ({"dtype": "i2,i2"}, "dtype of routed_experts is"),
        ({"dtype": None}, "dtype of routed_experts is None"),
        ({"dtype": "uint16"}, "bytes of routed_experts is 80; allowed: 160"),
        ({"shape": [10, 8]}, "shape of routed_experts"),
        ({"shape": "10"}, "shape of routed_experts is '10'"),
        ({"shape": [10**9, 10**9, 10**9]}, "shape of routed_experts"),
        ({"data": 3}, "data of routed_experts is 3; allowed: base64"),
        ({"data": "%"}, "allowed: base64"),
        ({"order": "F"}, "keys of routed_experts is 'data, shape, dtype, order'"),
        ({"encoding": "zstd"}, "keys of routed_experts"),
    ],
)
def test_bad_data(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        imported(tmp_path, [COUNTS | {"routed_experts": DATA | change}])


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
    trace, _ = imported(tmp_path, text)
    assert [request.output_tokens for request in trace.requests] == [5, 5]
    np.testing.assert_array_equal(trace.expert_ids, np.concatenate([ROWS, ROWS]))


def test_a_batchs_output_is_read(tmp_path: Path) -> None:
    body = {"usage": COUNTS, "choices": [{"routed_experts": ROWS.tolist()}]}
    rows = [
        {"id": f"r{n}", "custom_id": "x", "response": {"status_code": 200, "body": body}, "error": None} for n in (0, 1)
    ]
    assert len(imported(tmp_path, rows)[0].requests) == 2


def test_counts_may_be_the_lengths_of_lists(tmp_path: Path) -> None:
    answer = {"prompt_token_ids": [7] * 6, "outputs": [{"token_ids": [8] * 5, "routed_experts": ROWS.tolist()}]}
    trace, _ = imported(tmp_path, [answer])
    assert (trace.requests[0].prompt_tokens, trace.requests[0].output_tokens) == (6, 5)


def test_a_prefill_alone(tmp_path: Path) -> None:
    """Nothing was generated: some servers have all rows then, some all but the last."""
    for rows in (6, 5):
        answer = {"prompt_tokens": 6, "completion_tokens": 0, "routed_experts": ROWS[:rows].tolist()}
        trace, _ = imported(tmp_path, [answer])
        assert trace.steps.tolist() == [(0, 0, 0, rows, 0)]
        assert (trace.requests[0].prompt_tokens, trace.requests[0].output_tokens) == (6, 0)
        (tmp_path / "trace").rename(tmp_path / str(rows))


GOOD = COUNTS | {"routed_experts": ROWS.tolist()}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [GOOD, {"error": {"message": "out of memory", "code": 500}}],
            "line 2, error is 'out of memory'; allowed: ans",
        ),
        ([GOOD, {"object": "error", "message": "no", "code": 400}], "line 2, error is 'no'"),
        ([{"response": {"status_code": 500, "body": {}}, "error": {"message": "x"}}], "line 1, error is 'x'"),
        ([GOOD, "null"], "line 2, content is 'None'; allowed: one JSON object"),
        ([GOOD | {"id": "a"}, GOOD, GOOD | {"id": "a"}], "line 3, id is 'a'; allowed: each response once"),
        ([GOOD | {"id": "a"}, GOOD | {"id": "a"}], "line 2, id is 'a'; allowed: each response once"),
        ([GOOD, json.dumps(GOOD)[:-40]], "line 2, content is .*the file ends in this line.*limit=N takes the N"),
        ([GOOD | {"routed_experts": [[["3"]]]}], "row 0 is '3'; allowed: integers"),
        ([GOOD | {"completion_tokens": None, "cached_tokens": 7}], "cached_tokens is 7; allowed: an integer, 0 to 6"),
        ([GOOD | {"choices": [GOOD, GOOD]}], "choices is .*one object: with several"),
        ([{"token": 0, "layer": 0, "ids": [1]}], "keys is 'token, layer, ids'; .*such lines are read by import jsonl"),
        (
            [{"id": "a", "choices": []}, GOOD | {"id": "b"}],
            "line 1, keys is .*the parts of one stream follow each other",
        ),
    ],
)
def test_what_went_wrong_is_said_with_its_line(tmp_path: Path, answers: list[Any], message: str) -> None:
    source = tmp_path / "served.jsonl"
    text = "\n".join(answer if isinstance(answer, str) else json.dumps(answer) for answer in answers)
    source.write_text(text)
    with pytest.raises(TraceError, match=message) as caught:
        import_trace(source, tmp_path / "trace", Options())
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_what_was_inferred_is_said(tmp_path: Path) -> None:
    """Replicated experts have physical ids above the model's own: E is then too large unless it is stated."""
    ids = ROWS.copy()
    ids[4, 2, 0] = 17
    trace, notes = imported(tmp_path, [COUNTS | {"routed_experts": ids.tolist()}])
    shutil.rmtree(trace.path)
    assert notes == [
        "20 experts per layer: the largest id is 17, rounded up to a multiple of 4; n_experts=E states it",
        "layers 4, top-k 2: what the tokens of the file have",
        "1 request: 6 tokens of prompts, one pass per request; 4 decode passes; rows that repeat the one before: 0 of "
        "9 (0.0 %), longest run 0",
    ]
    with pytest.raises(TraceError, match=r"token row 4, layer 2, slot 0 is 17; allowed: 0 to 15"):
        imported(tmp_path, [COUNTS | {"routed_experts": ids.tolist()}], n_experts=16)


def test_an_archive_may_count_what_was_cached(tmp_path: Path) -> None:
    notes: list[str] = []
    np.savez(tmp_path / "x.npz", ROWS[4:], prompt_tokens=[6], completion_tokens=[5], cached_tokens=[4])
    trace = open_trace(import_trace(tmp_path / "x.npz", tmp_path / "trace", Options()))
    assert trace.steps.tolist()[:2] == [(0, 0, 0, 2, 4), (0, 1, 2, 1, 6)]
    np.savez(tmp_path / "y.npz", np.asfortranarray(ROWS), prompt_tokens=[6])
    trace = open_trace(import_trace(tmp_path / "y.npz", tmp_path / "other", Options(note=notes.append)))
    np.testing.assert_array_equal(trace.expert_ids, ROWS)
    assert "completion_tokens [R] or cached_tokens [R]" in notes[0]
