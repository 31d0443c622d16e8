"""Mutated folders are opened or refused in one line; nothing else ever comes out."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces.fuzz.mutate import EDITS, FUZZ, Edit, accepted_or_refused, mutated
from traces import open_trace
from traces.describe.inspect import as_json
from traces.describe.stats import describe


@FUZZ
@given(edits=EDITS)
def test_trace_json(tiny: Path, edits: list[Edit]) -> None:
    original = (tiny / "trace.json").read_bytes()
    (tiny / "trace.json").write_bytes(mutated(original, edits))
    accepted_or_refused(lambda: open_trace(tiny))
    (tiny / "trace.json").write_bytes(original)


@pytest.mark.parametrize("name", ["requests.csv", "steps.npy", "expert_ids.npy", "gate_ahead.npy", "hidden.npy"])
@FUZZ
@given(edits=EDITS, head=st.booleans())
def test_files_whose_hash_agrees(tiny: Path, name: str, edits: list[Edit], head: bool) -> None:
    copy = tiny.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tiny, copy)
    raw = (copy / name).read_bytes()
    # Half of the edits hit the header, which a uniform choice of place would rarely do.
    raw = mutated(raw[:128], edits) + raw[128:] if head else mutated(raw, edits)
    (copy / name).write_bytes(raw)
    document = json.loads((copy / "trace.json").read_bytes())
    document["files"][name] |= {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    (copy / "trace.json").write_text(json.dumps(document))
    if accepted_or_refused(lambda: open_trace(copy)):
        trace = open_trace(copy)
        json.loads(as_json(trace, describe(trace)))
