"""Hostile sources: every importer refuses them in one line, without a hang and in bounded memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.traces.importers.imported import refuse
from traces import TraceError
from traces.format.npy import header_bytes
from traces.importers import Options
from traces.importers.cli import OURS

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
def test_raw_bytes(tmp_path: Path, importer: object, name: str) -> None:
    (tmp_path / "source").write_bytes(RAW[name])
    refused(tmp_path, importer)


@pytest.mark.parametrize("importer", IMPORTERS)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "broken"])
def test_what_is_no_regular_file(tmp_path: Path, importer: object, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "pipe":
        os.mkfifo(source)
    elif kind == "folder":
        source.mkdir()
    else:
        source.symlink_to({"device": "/dev/zero", "loop": "source", "broken": "nowhere"}[kind])
    refused(tmp_path, importer)


def refused(folder: Path, importer: object) -> None:
    with pytest.raises(TraceError) as caught:
        importer.run(folder / "source", folder / "trace", Options())  # type: ignore[attr-defined]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    str(caught.value).encode("ascii")
    assert [path.name for path in folder.iterdir()] == ["source"]


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    """Model hubs keep files behind links; and the user named this one."""
    (tmp_path / "a").write_text('{"token": 0, "layer": 0, "ids": [1]}\n')
    (tmp_path / "b").symlink_to("a")
    OURS[2].run(tmp_path / "b", tmp_path / "trace", Options())
    assert (tmp_path / "trace").is_dir()


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
