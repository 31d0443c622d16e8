"""What is written is what is read."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces.tiny_trace import MANIFEST, SIGNALS, E, K, L, draw
from traces import DECODE, PREFILL, Request, TraceError, TraceWriter, UserError, by_descending_weight, open_trace
from traces.format import npy as npy_module


def test_every_field_comes_back(tiny: Path) -> None:
    trace = open_trace(tiny)
    assert (trace.L, trace.E, trace.K, trace.N, trace.absent) == (L, E, K, 15, 255)
    assert trace.requests[1] == Request(1, 4, 2, 0.5, "train", 'a, "b"')
    prompts, decodes = [(0, 0, 0, 4, 0), (1, 0, 4, 4, 0), (2, 0, 9, 4, 0)], [(1, 1, 8, 1, 4), (2, 1, 13, 1, 4)]
    assert trace.steps.tolist() == sorted([*prompts, *decodes, (2, 1, 14, 1, 5)])
    assert [trace.steps_of(request) for request in range(3)] == [slice(0, 1), slice(1, 3), slice(3, 6)]
    model = trace.manifest.model
    assert (model.name, model.expert_bytes, model.shapes) == ("tiny", (10, 20, 30), None)
    assert trace.manifest.decoding == {"mode": "greedy", "max_new_tokens": 3}
    assert sorted(path.name for path in tiny.parent.iterdir()) == ["tiny"]


def test_bytes_of_the_dense_part_come_back_and_a_trace_without_them_has_no_such_key(tiny: Path, tmp_path: Path) -> None:
    plain = open_trace(tiny)
    assert plain.manifest.model.dense_bytes is None
    assert "dense_bytes" not in json.loads((tiny / "trace.json").read_text())["model"]
    with TraceWriter(tmp_path / "known", n_layers=L, n_experts=E, top_k=K, signals={}) as out:
        ids = draw(np.random.default_rng(0), 1, out.absent)["expert_ids"]
        out.add_request(Request(0, 1, 2, None, None, "x"), steps=[(DECODE, 1, 1)], expert_ids=ids)
        out.close(**{**MANIFEST, "dense_bytes": np.array([7, 0, 9])})
    known = open_trace(tmp_path / "known").manifest
    assert known.model.dense_bytes == (7, 0, 9)
    assert known.about().get("dense_bytes") == (7, 0, 9), "what a copy says of itself"


def test_arrays_come_back_rounded_to_the_formats_dtypes(tiny: Path) -> None:
    trace = open_trace(tiny)
    rng = np.random.default_rng(0)
    rows = [draw(rng, 4 + number, trace.absent) for number in range(3)]
    for name in ("expert_ids", *SIGNALS):
        stored = getattr(trace, name)
        expected = np.concatenate([part[name] for part in rows]).astype(stored.dtype)
        np.testing.assert_array_equal(stored, expected)
        assert not stored.flags.writeable
        assert trace.has(name)


def test_unknown_names_and_numbers_are_errors(tiny: Path) -> None:
    trace = open_trace(tiny)
    with pytest.raises(UserError, match=r"router_scores.*router_probs"):
        trace.has("router_scores")
    with pytest.raises(UserError, match="0 to 2"):
        trace.steps_of(3)
    with pytest.raises(UserError, match="full, hash, shape"):
        open_trace(tiny, verify="none")


def test_small_chunks_give_the_same_verdict_and_the_same_row(
    tiny: Path, forge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy_module, "_CHUNK", 1)
    open_trace(tiny)
    raw = bytearray((tiny / "expert_ids.npy").read_bytes())
    raw[-1] = 200
    forge(tiny, "expert_ids.npy", bytes(raw))
    with pytest.raises(TraceError, match="row 14, layer 2, slot 1 is 200; allowed: 0 to 7"):
        open_trace(tiny)


@st.composite
def _requests(draw_from: st.DrawFn) -> list[tuple[int, list[int], int]]:
    """Per request: unrecorded prompt tokens, rows of its prefill steps, decode steps; at least one step."""
    prompt = st.lists(st.integers(1, 5), max_size=3)
    request = st.tuples(st.integers(0, 9), prompt, st.integers(0, 4)).filter(lambda item: item[1] or item[2])
    return draw_from(st.lists(request, min_size=1, max_size=4))


@settings(max_examples=40)
@given(_requests(), st.integers(1, 3), st.sampled_from([1, 2, 254, 255, 300]), st.integers(0, 99))
def test_any_valid_trace_survives(
    plan: list[tuple[int, list[int], int]], n_layers: int, n_experts: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    top_k = int(rng.integers(1, min(n_experts, 4) + 1))
    written = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "trace"
        with TraceWriter(target, n_layers=n_layers, n_experts=n_experts, top_k=top_k) as out:
            for number, (before, prompt, decoded) in enumerate(plan):
                contexts = before + np.cumsum([0, *prompt])
                steps = [(PREFILL, size, int(at)) for size, at in zip(prompt, contexts, strict=False)]
                steps += [(DECODE, 1, int(contexts[-1]) + index) for index in range(decoded)]
                rows = sum(prompt) + decoded
                ids = np.argsort(rng.random((rows, n_layers, n_experts)), axis=-1)[..., :top_k]
                ids[rng.random((rows, n_layers)) < 0.2, rng.integers(0, top_k) :] = out.absent
                request = Request(number, int(contexts[-1]), decoded, None, None, "drawn")
                out.add_request(request, steps=steps, expert_ids=ids)
                written.append(ids)
            out.close(**{**MANIFEST, "expert_bytes": None})
        trace = open_trace(target)
        assert trace.expert_ids.dtype == (np.uint8 if n_experts < 255 else np.uint16)
        np.testing.assert_array_equal(trace.expert_ids, np.concatenate(written))
        assert int(trace.steps["rows"].sum()) == trace.N
        assert trace.absent >= n_experts


def test_sorting_keeps_ties_and_puts_absent_last() -> None:
    ids, weights = by_descending_weight(np.array([[9, 1, 2, 3]]), np.array([[-1, 0.25, 0.5, 0.25]]))
    assert ids.tolist() == [[2, 1, 3, 9]]
    assert weights.tolist() == [[0.5, 0.25, 0.25, -1]]
