"""Rows that repeat the row before: counted exactly, and warned of where chance cannot have made them."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces.tiny_trace import MANIFEST
from traces import DECODE, Request, Trace, TraceWriter, open_trace
from traces.cli import main
from traces.describe.repeats import Repeats, repeats_of
from traces.format.layout import Array

ABSENT = 9


def by_hand(requests: list[Array]) -> tuple[int, int, int]:
    """Pairs, equal ones, and the longest run of them, one row at a time."""
    pairs = equal = longest = 0
    for rows in requests:
        run = 0
        for before, row in pairwise(rows):
            there = bool((row != ABSENT).any())
            same = there and bool((before == row).all())
            pairs, equal, run = pairs + there, equal + same, run + 1 if same else 0
            longest = max(longest, run)
    return pairs, equal, longest


REQUESTS = st.lists(st.lists(st.sampled_from([0, 1, ABSENT]), min_size=1, max_size=12), min_size=1, max_size=5)


@given(REQUESTS, st.integers(1, 7))
def test_any_cut_counts_the_same(requests: list[list[int]], chunk: int) -> None:
    rows = [np.array(request).reshape(-1, 1, 1) for request in requests]
    whole = Repeats()
    for request in rows:
        whole.add(request, ABSENT)
    assert (whole.pairs, whole.equal, whole.longest) == by_hand(rows)
    cut, ids = Repeats(), np.concatenate(rows)
    owner = np.repeat(np.arange(len(rows)), [len(request) for request in rows])
    for start in range(0, len(ids) - 1, chunk):
        part = slice(start, start + chunk + 1)
        cut.add(ids[part], ABSENT, owner[part][1:] == owner[part][:-1])
    assert (cut.pairs, cut.equal, cut.longest) == (whole.pairs, whole.equal, whole.longest)
    assert cut.by_layer.sum() == whole.by_layer.sum()


def test_layers_that_repeat_by_themselves_are_no_sign() -> None:
    """A top-1 router of few layers repeats often; a recorder that is stuck repeats all layers at once."""
    rng = np.random.default_rng(0)
    sticky = np.zeros((4000, 4, 1), np.int64)
    for layer in range(4):
        moves = rng.random(4000) < 0.45
        sticky[:, layer, 0] = np.cumsum(moves * rng.integers(1, 16, 4000)) % 16
    natural, stuck = Repeats(), Repeats()
    natural.add(sticky, -1)
    assert natural.share is not None
    assert 0.05 < natural.share < 0.12
    assert not natural.suspicious
    sticky[1000:1040] = sticky[1000]
    stuck.add(sticky, -1)
    assert stuck.longest >= 39
    assert stuck.suspicious


def write(folder: Path, ids: Array) -> Trace:
    with TraceWriter(folder, n_layers=ids.shape[1], n_experts=16, top_k=ids.shape[2]) as out:
        steps = [(DECODE, 1, 5 + index) for index in range(len(ids))]
        out.add_request(Request(0, 5, len(ids), None, None, "x"), steps=steps, expert_ids=ids)
        out.close(**{**MANIFEST, "expert_bytes": None})
    return open_trace(folder)


def test_import_check_and_inspect_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = np.argsort(np.random.default_rng(0).random((40, 3, 16)), axis=-1)[..., :2]
    ids[10:20] = ids[10]
    trace = write(tmp_path / "stuck", ids)
    assert (repeats_of(trace).equal, repeats_of(trace).longest) == (9, 9)
    assert main(["check", str(trace.path)]) == 0
    out, err = capsys.readouterr()
    assert "top-2, 9 repeated rows, sha256" in out
    assert err.startswith("warning: rows that repeat the row before in every layer: 9 of 39 (23.1 %), longest run 9;")
    assert main(["inspect", str(trace.path), "format=json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)["repeated_rows"]
    assert (told["equal"], told["longest_run"]) == (9, 9)
    assert told["suspicious"] is True
    assert err.count("warning: ") == 1
    assert main(["inspect", str(trace.path)]) == 0
    assert "9 of 39 (23.1 %), longest run 9, suspicious" in capsys.readouterr().out
    answer = {"prompt_tokens": 1, "completion_tokens": 40, "routed_experts": ids.tolist()}
    (tmp_path / "served.jsonl").write_text(json.dumps(answer))
    assert main(["import", "routed_experts", str(tmp_path / "served.jsonl"), str(tmp_path / "imported")]) == 0
    assert "\nwarning: rows that repeat the row before in every layer: 9 of 39" in capsys.readouterr().err


def test_what_is_not_stuck_is_not_warned_of(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tiny)]) == 0
    assert capsys.readouterr().err == ""
    sample = open_trace(Path(__file__).resolve().parents[3] / "traces" / "sample", verify="shape")
    assert (repeats_of(sample).equal, repeats_of(sample).suspicious) == (0, False)
