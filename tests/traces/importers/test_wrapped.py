"""Text in its everyday wrappings is read as if it had none; whatever else it is, is named."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tests.traces.importers.imported import refuse, take
from traces.importers.counts import are_counts, is_histogram
from traces.importers.files import json_lines

ROWS = [
    {"token": token, "layer": layer, "ids": [token, layer + 3], "phase": "decode"}
    for token in range(3)
    for layer in (0, 1)
]
LINES = [json.dumps(row) for row in ROWS]
TEXT = "".join(f"{line}\n" for line in LINES).encode()
WRAPPED = {
    "gzip": gzip.compress(TEXT),
    "gzip in two members": gzip.compress(TEXT[:50]) + gzip.compress(TEXT[50:]),
    "BOM": b"\xef\xbb\xbf" + TEXT,
    "BOM inside gzip": gzip.compress(b"\xef\xbb\xbf" + TEXT),
    "blank lines": b"\n \n" + TEXT.replace(b"\n", b"\n\n\t\n"),
    "CR LF": TEXT.replace(b"\n", b"\r\n"),
    "no end": TEXT[:-1],
    "array": f"[{', '.join(LINES)}]".encode(),
    "array over lines": json.dumps(ROWS, indent=2).encode(),
    "array after blanks": b"\n\n  " + json.dumps(ROWS, indent=1).encode() + b"\n\n",
    "array inside gzip": gzip.compress(json.dumps(ROWS).encode()),
    "objects over lines": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "events": b": hello\n\n"
    + b"".join(b"event: x\nid: 7\nretry: 9\ndata: " + line.encode() + b"\n\n" for line in LINES)
    + b"data: [DONE]\n\n",
    "events without spaces": b"".join(b"data:" + line.encode() + b"\r\n\r\n" for line in LINES),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapping_changes_nothing(tmp_path: Path, name: str) -> None:
    trace = take(tmp_path, "jsonl", WRAPPED[name]).trace
    assert [node for _, node in json_lines(tmp_path / "made.file")] == ROWS
    assert trace.expert_ids[:, 0].tolist() == [[token, 3] for token in range(3)]


@pytest.mark.parametrize("name", ["blank lines", "CR LF", "events", "BOM", "gzip"])
def test_lines_keep_their_numbers(tmp_path: Path, name: str) -> None:
    raw = gzip.decompress(WRAPPED[name]) if name == "gzip" else WRAPPED[name]
    raw = raw.replace(b'"token": 2, "layer": 0', b'"token": 2, "layer": -1')
    number = raw[: raw.index(b'"layer": -1')].count(b"\n") + 1
    raw = gzip.compress(raw) if name == "gzip" else raw
    refuse(tmp_path, "jsonl", raw, f"made.file: line {number}, layer is -1")


def test_an_object_of_an_array_is_named_with_its_line(tmp_path: Path) -> None:
    text = json.dumps(ROWS, indent=1).replace('"layer": 1', '"layer": -1', 1)
    refuse(tmp_path, "jsonl", text, "made.file: line 11, object 2, layer is -1")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b": a comment\n" + TEXT, 1),
        (TEXT + b"id: 7\n", 7),
        (TEXT + b"data: " + TEXT, 7),
        (b"data: " + TEXT, 2),
    ],
)
def test_a_stream_of_events_is_one_to_its_end(tmp_path: Path, text: bytes, number: int) -> None:
    """Else a line that was damaged would pass for a comment."""
    refuse(tmp_path, "jsonl", text, f"made.file: line {number}, content")


OTHERS = {
    "UTF-16 text": TEXT.decode().encode("utf-16"),
    "UTF-16 text ": TEXT.decode().encode("utf-16-le"),
    "gzip, inside gzip": gzip.compress(gzip.compress(TEXT)),
    "a zip archive": b"PK\3\4" + bytes(30),
    "a .npy array": b"\x93NUMPY\1\0" + bytes(30),
    "Parquet": b"PAR1" + bytes(30),
    "a pickle, which is never read": b"\x80\4\x95" + bytes(30),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(30),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["jsonl", "route_trace", "npz"])
def test_what_is_no_text_is_named(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "npz" and name in ("a zip archive", "gzip, inside gzip"):
        pytest.skip("it is read further")
    refuse(tmp_path, kind, OTHERS[name], name.strip())


@pytest.mark.parametrize("cut", [12, -9, -1])
def test_a_gzip_file_that_is_cut_off_or_damaged(tmp_path: Path, cut: int) -> None:
    packed = gzip.compress(TEXT)
    for raw in (packed[:cut], packed[:20] + b"\0\0" + packed[22:]):
        refuse(tmp_path, "jsonl", raw, "made.file: gzip is .*allowed: a gzip file that is whole")


@pytest.mark.parametrize("unit", [b"\n", b" ", b'{"x": 1}\n'])
def test_a_gzip_bomb_is_refused(tmp_path: Path, unit: bytes) -> None:
    bomb = gzip.compress(unit * (2**25 // len(unit)), 1)
    refuse(tmp_path, "jsonl", bomb, "gzip is 'over .* bytes, more than 100 times its size'|keys|length")


COUNTED = {
    "layer,expert,count": b"layer,expert,count\n0,3,12\n0,1,5\n",
    "histogram": b"expert_id,layer_idx,num_tokens\r\n3,0,12\r\n",
    "lines": b'{"layer": 0, "expert": 3, "count": 12}\n{"layer": 0, "expert": 1, "count": 5}\n',
    "by layer": b'{"0": [12, 5, 0], "1": [3, 3, 11]}',
    "by layer and expert": json.dumps({f"layer_{n}": {"3": 12, "1": 5} for n in range(3)}, indent=1).encode(),
    "in one line": b'{"layer_0": {"0": 5, "1": 7}, "layer_1": {"0": 2}}',
    "in a list": b'{"layer": 0, "expert_counts": [1, 2, 3]}',
    "words": b"Layer ID,Expert ID,Count\n1,2,3\n",
    "named": b'{"logical_count": [[12, 5], [3, 3]]}',
}


@pytest.mark.parametrize("kind", ["route_trace", "npz", "jsonl", "routed_experts", "llama_cpp", "moe_beyond"])
@pytest.mark.parametrize("name", COUNTED)
def test_counts_are_refused_as_counts(tmp_path: Path, kind: str, name: str) -> None:
    if kind in ("route_trace", "llama_cpp", "moe_beyond") and name == "by layer and expert":
        pytest.skip("its first line is no object")
    content = {"expert_counts": np.zeros((2, 8), int)} if kind == "npz" else COUNTED[name]
    refuse(tmp_path, kind, content, "counts per expert|a list of numbers")


def test_numbers_without_names_are_named(tmp_path: Path) -> None:
    message = "line 1, content is 'a list of numbers'; allowed: objects with the experts of"
    refuse(tmp_path, "routed_experts", "[[12, 5], [3, 3]]", message)


def test_routing_is_not_taken_for_counts() -> None:
    routing = [
        {"token": 0, "layer": 0, "ids": [1], "count": 3},
        {"prompt_tokens": 3, "completion_tokens": 3, "routed_experts": []},
        {"usage": {}, "choices": [], "id": "x", "created": 3, "load": 1, "expert": 2},
        {"type": "route", "req_id": "r0", "token_idx": 0, "layer": 2, "topk_ids": [3, 1]},
        {"step": 0, "layer": 0, "num_tokens": 2, "topk": 2, "top_indices": [[1, 2]]},
        {"model": "m", "layers": 27, "expert_count": 64},
        {"model": "m", "n_layers": 2, "n_experts": 8, "top_k": 2},
        {},
    ]
    assert not any(is_histogram(node) for node in routing)
    assert not are_counts(["layer", "expert"])
    assert not are_counts(["turn", "phase", "step", "layer", "slot", "expert", "weight", "expert_bytes"])
