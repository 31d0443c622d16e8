"""Files of strangers: text in its everyday wrappings is read as if it had none, whatever else it is is named, and what
is hostile is refused by every importer in one line, without a hang and in bounded memory."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.traces.importers.imported import refuse, take
from traces import TraceError
from traces.format.npy import header_bytes
from traces.importers import Importer, Options
from traces.importers.cli import OURS
from traces.importers.counts import are_counts, is_histogram
from traces.importers.files import json_lines

ROWS: list[dict[str, Any]] = [
    {"model": "mine", "n_experts": 20},
    *(
        {"token": token, "layer": layer, "ids": [token, layer + 3], "phase": "decode"}
        for token in range(3)
        for layer in (0, 1)
    ),
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
    assert (trace.manifest.model.name, trace.E) == ("mine", 20)
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
    refuse(tmp_path, "jsonl", text, "made.file: line 15, object 3, layer is -1")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b": a comment\n" + TEXT, 1),
        (TEXT + b"id: 7\n", 8),
        (TEXT + b"data: " + TEXT, 8),
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


IMPORTERS = [pytest.param(importer, id=importer.name) for importer in OURS]
RAW = {
    "nothing": b"",
    "NUL": b"\0" * 100,
    "BOM": b"\xef\xbb\xbf{}\n",
    "CRLF": b"\r\n" * 10,
    "not UTF-8": b'{"token": "\xff"}',
    "surrogate": b'{"\\ud800": "\\udfff"}',
    "nested": b"[" * 10**6,
    "nested objects": b'{"a":' * 10**5,
    "integer": b'{"token": ' + b"9" * 10**5 + b"}",
    "one line": b"{" * 2**22,
    "pickle": b"\x80\x04\x95" + b"x" * 100,
    "npy": header_bytes(np.dtype("u1"), (10**12, 24, 4)) + b"\0" * 100,
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "zip end": b"PK\5\6" + b"\xff" * 18,
}


@pytest.mark.parametrize("importer", IMPORTERS)
@pytest.mark.parametrize("name", RAW)
def test_raw_bytes(tmp_path: Path, importer: Importer, name: str) -> None:
    (tmp_path / "source").write_bytes(RAW[name])
    refused(tmp_path, importer)


@pytest.mark.parametrize("importer", IMPORTERS)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "broken"])
def test_what_is_no_regular_file(tmp_path: Path, importer: Importer, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "pipe":
        os.mkfifo(source)
    elif kind == "folder":
        source.mkdir()
    else:
        source.symlink_to({"device": "/dev/zero", "loop": "source", "broken": "nowhere"}[kind])
    refused(tmp_path, importer)


def refused(folder: Path, importer: Importer) -> None:
    with pytest.raises(TraceError) as caught:
        importer.run(folder / "source", folder / "trace", Options())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    str(caught.value).encode("ascii")
    assert [path.name for path in folder.iterdir()] == ["source"]


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    """Model hubs keep files behind links; and the user named this one."""
    (tmp_path / "a").write_text('{"token": 0, "layer": 0, "ids": [1]}\n')
    (tmp_path / "b").symlink_to("a")
    assert OURS[2].run(tmp_path / "b", tmp_path / "trace", Options()).is_dir()


def test_a_request_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traces.importers.files.MAX_REQUEST_IDS", 5)
    archive = {"experts": np.zeros((3, 2, 1), np.uint8), "req_prefill": [3]}
    refuse(tmp_path, "npz", archive, "one request is '3 tokens x 2 layers x 1 slots'; allowed: at most 5 ids")
    lines = ["# route_trace v1", "# model=m arch=x n_layer=1 n_expert=2 n_expert_used=2"]
    lines += ["# layer=0 expert_bytes=9 dense_bytes=5", "turn,phase,step,layer,slot,expert"]
    lines += [f"0,0,{step},0,{slot},{slot}" for step in range(3) for slot in range(2)]
    refuse(tmp_path, "route_trace", lines, "one request is '3 tokens x 1 layers x 2 slots'")
    monkeypatch.setattr("traces.importers.route_trace._MAX_ENTRIES", 2)
    refuse(tmp_path, "route_trace", lines, "line 7, rows of one turn is 3; allowed: at most 2")


def bombs(folder: Path) -> dict[str, tuple[str, Path]]:
    """Small or dear files: what each makes an importer allocate is bounded by its limits only."""
    found = {}
    for name, experts in (("zeros", (2**11, 2**8, 2**6)), ("one row", (1, 2**13, 2**12))):
        found[name] = ("npz", folder / f"{name}.npz")
        np.savez_compressed(found[name][1], experts=np.zeros(experts, np.uint8), req_prefill=np.zeros(1, np.uint8))
    lines = {
        "lists": b'{"prompt_tokens":1,"routed_experts":[[' + b"[999]," * (2**20 - 9) + b"[999]]]}",
        "items": b'{"prompt_tokens":1,"routed_experts":[[[' + b"999," * (2**23 - 9) + b"999]]]}",
        "objects": b'{"prompt_tokens":1,"x":[' + b'{"":1.5},' * (2**19 - 9) + b"0]}",
        "strings": b'{"prompt_tokens":1,"x":[' + b'"ab",' * (2**23 - 9) + b'0],"y":' + b"[" * 900 + b"]" * 900 + b"}",
        "text": b'{"prompt_tokens":1,"routed_experts":"' + b"AAAA" * (2**24 - 99) + b'"}',
    }
    row = json.dumps({"token": 0, "layer": 65533, "ids": list(range(60000))})
    for name, raw in (lines | {"wide": row.encode()}).items():
        found[name] = ("jsonl" if name == "wide" else "routed_experts", folder / f"{name}.jsonl")
        found[name][1].write_bytes(raw)
    return found


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_memory_is_bounded(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from traces import TraceError
from traces.importers import Options
from traces.importers.cli import importers
try:
    importers()[sys.argv[1]].run(Path(sys.argv[2]), Path(sys.argv[3]), Options(own={"n_layers": 1, "top_k": 1}))
except TraceError as error:
    (peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(len(str(error).splitlines()), int(peak) // 1024)
"""
    root = Path(__file__).resolve().parents[3]
    for name, (kind, source) in bombs(tmp_path).items():
        command = [sys.executable, "-c", code, kind, str(source), str(tmp_path / "trace")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, timeout=60)
        lines, mebibytes = map(int, done.stdout.split())
        assert lines == 1, name
        assert mebibytes < 900, name
        source.unlink()
