"""A trace appears whole or not at all, and nothing that would not open is ever written."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from tests.traces.tiny_trace import MANIFEST, E, K, L, draw
from traces import DECODE, PREFILL, Request, TraceError, TraceWriter
from traces.format.manifest import Prompts
from traces.writing.growing import GrowingFile

GOOD = Request(0, 4, 2, None, None, "x")
STEPS = [(PREFILL, 4, 0), (DECODE, 1, 4)]


def write(target: Path, request: Request = GOOD, steps: Any = STEPS, manifest: Any = MANIFEST, **changes: Any) -> None:
    arrays = {name: draw(np.random.default_rng(0), 5, 255)[name] for name in ("expert_ids", "expert_weights")}
    with TraceWriter(target, n_layers=L, n_experts=E, top_k=K, signals={"expert_weights": (L, K)}) as out:
        out.add_request(request, steps=steps, **{**arrays, **changes})
        out.close(**manifest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request": Request(1, 4, 2, None, None, "x")}, "request is 1; allowed: 0"),
        ({"request": Request(0, 4, 2, -1.0, None, "x")}, "arrival_s"),
        ({"request": Request(0, 4, 2, None, None, "x\ny")}, "source|comma-separated"),
        ({"request": Request(0, 4, 0, None, None, "x")}, "output_tokens"),
        ({"steps": []}, "at least one step"),
        ({"steps": [(PREFILL, 5, 0), (DECODE, 0, 5)]}, "rows of step 1 is 0"),
        ({"steps": [(DECODE, 1, 4), (PREFILL, 4, 5)]}, "never followed by prefill"),
        ({"steps": [(PREFILL, 4, 0)]}, r"shape of the request's rows is \(5, 3, 2\); allowed: \(4"),
        ({"steps": [(2, 4, 0), (DECODE, 1, 4)]}, "0 or 1, rows, context"),
        ({"expert_ids": np.full((5, L, K), 256)}, "value is 256"),
        ({"expert_ids": np.full((5, L, K), -1)}, "value is -1"),
        ({"expert_ids": np.full((5, L, K), 3.0)}, "integers"),
        ({"expert_ids": np.broadcast_to([255, 3], (5, L, K))}, "absent entries come last"),
        ({"expert_ids": np.broadcast_to([3, 255], (5, L, K))}, "0 where the expert is absent"),
        ({"expert_weights": np.broadcast_to([0.25, 0.5], (5, L, K))}, "descending"),
        ({"expert_weights": np.broadcast_to([1e6, 0], (5, L, K))}, "is inf; allowed: finite"),
        ({"hidden": np.zeros((5, L, 4))}, "signals is .*hidden"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        write(tmp_path / "trace", **changes)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sizes", "signals", "message"),
    [
        ((0, 8, 2), {}, "n_layers is 0"),
        ((3, 70000, 2), {}, "n_experts is 70000"),
        ((3, 8, 9), {}, "top_k is 9"),
        ((3, 8, 2), {"logits": (3, 8)}, "signal is 'logits'"),
        ((3, 8, 2), {"router_probs": (3, 7)}, r"allowed: \(L=3, E=8\)"),
        ((3, 8, 2), {"hidden": (3, 0)}, "D'>=1"),
        ((2**13, 8, 2), {"hidden": (2**13, 2**12)}, "at most 16777216 values in a row"),
    ],
)
def test_impossible_shapes_are_refused(tmp_path: Path, sizes: Any, signals: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        TraceWriter(tmp_path / "t", n_layers=sizes[0], n_experts=sizes[1], top_k=sizes[2], signals=signals)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "model.name"),
        ({"prompts": Prompts("p\t.txt", None)}, "prompts.source"),
        ({"decoding": {}}, "decoding.mode"),
        ({"recording": "imagined"}, "recording"),
        ({"expert_bytes": [1, 2, 0]}, "model.expert_bytes"),
        ({"shapes": {"hidden": -1}}, "model.shapes"),
        ({"priced_as": ""}, "priced_as"),
    ],
)
def test_a_manifest_that_would_not_open(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """It is not written, and whether it would be can be asked before."""
    with pytest.raises(TraceError, match=f"trace.json: {message}"):
        write(tmp_path / "t", manifest={**MANIFEST, **change})
    with pytest.raises(TraceError, match=f"trace.json: {message}"), tiny(tmp_path) as out:  # noqa: PT012
        out.check(**MANIFEST)
        out.check(**{**MANIFEST, **change})
    assert list(tmp_path.iterdir()) == []


def tiny(folder: Path) -> TraceWriter:
    return TraceWriter(folder / "t", n_layers=L, n_experts=E, top_k=K)


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        (lambda _out: 1 / 0, ZeroDivisionError, "division"),
        (lambda _out: None, RuntimeError, "without close"),
        (lambda out: out.close(**MANIFEST), TraceError, "at least 1"),
        (lambda out: out.checkpoint(), RuntimeError, "no recipe"),
    ],
)
def test_a_block_that_is_not_whole_leaves_nothing(tmp_path: Path, block: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message), tiny(tmp_path) as out:
        block(out)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_never_touched(tmp_path: Path) -> None:
    target = tmp_path / "t"
    target.mkdir()
    with pytest.raises(TraceError, match="exists already"):
        write(target)
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(TraceError, match="no such folder"):
        write(tmp_path / "nowhere" / "t")


def test_a_fact_that_no_manifest_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="license"):
        write(tmp_path / "t", manifest={**MANIFEST, "license": "MIT"})


def test_a_disk_without_room_for_the_first_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GrowingFile, "begin", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(TraceError, match=r"cannot be written \(No space left on device\), nothing is kept"):
        write(tmp_path / "t")
    assert list(tmp_path.iterdir()) == []
