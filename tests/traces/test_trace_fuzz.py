"""Mutated folders are opened or refused with a TraceError of one line; nothing else ever comes out."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traces import TraceError, open_trace

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOKENS = [b"-1", b"1e9", b"null", b"true", b'"', b",", b"\n", b"\r", b"\x00", b"\xff", b"[]", b"{}", b"9" * 30]
EDIT = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 12),
    st.one_of(st.binary(max_size=8), st.sampled_from(TOKENS)),
)


def mutate(raw: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for place, length, new in edits:
        start = int(place * len(raw))
        raw = raw[:start] + new + raw[start + length :]
    return raw


def opens_or_refuses(folder: Path) -> None:
    try:
        open_trace(folder)
    except TraceError as error:
        text = str(error)
        assert "\n" not in text
        text.encode()


@FUZZ
@given(edits=st.lists(EDIT, min_size=1, max_size=3))
def test_trace_json(tiny: Path, edits: list[tuple[float, int, bytes]]) -> None:
    original = (tiny / "trace.json").read_bytes()
    (tiny / "trace.json").write_bytes(mutate(original, edits))
    opens_or_refuses(tiny)
    (tiny / "trace.json").write_bytes(original)


@pytest.mark.parametrize("name", ["requests.csv", "steps.npy", "expert_ids.npy", "hidden.npy"])
@FUZZ
@given(edits=st.lists(EDIT, min_size=1, max_size=3), head=st.booleans())
def test_files_whose_hash_agrees(tiny: Path, name: str, edits: list[tuple[float, int, bytes]], head: bool) -> None:
    copy = tiny.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tiny, copy)
    raw = (copy / name).read_bytes()
    # Half of the edits hit the header, which a uniform choice of place would rarely do.
    raw = mutate(raw[:128], edits) + raw[128:] if head else mutate(raw, edits)
    (copy / name).write_bytes(raw)
    document = json.loads((copy / "trace.json").read_bytes())
    document["files"][name] |= {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    (copy / "trace.json").write_text(json.dumps(document))
    opens_or_refuses(copy)
