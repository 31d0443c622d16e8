"""The tiny trace, and outputs of a predictor beside it: changed behind their backs, and refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.traces.tiny_trace import E, K, L
from traces import Trace, TraceError, open_trace
from traces.format.npy import header_bytes
from traces.writing.predicted import write_predicted

ABSENT, STRIDE = 255, 1
NO_JSON = (b"", b"[]", b"{", b"\xff", b'{"schema": 1, "schema": 1}', b'{"schema": NaN}', b'{"schema": 1e999}')
NO_JSON += (b"[" * 10**5, b"9" * 10**4)
"""What none of our readers takes for a document."""
FACTS: dict[str, Any] = {"kind": "promoe", "input": "hidden", "stride": STRIDE, "top_k": K, "fit": {"seed": 0}}


def outputs(trace: Trace, seed: int = 0, stride: int = STRIDE, wide: int = K) -> np.ndarray:
    ids = np.argsort(np.random.default_rng(seed).random((trace.N, L, E)), axis=-1)[..., :wide].astype(np.uint8)
    ids[:, L - stride :] = ABSENT
    return ids


def add(folder: Path, name: str = "mlp", seed: int = 0, **changes: Any) -> Path:
    trace = open_trace(folder)
    write_predicted(trace, [outputs(trace, seed)], name=name, **{**FACTS, **changes})
    return folder / "predicted" / name


def refused(folder: Path, message: str, verify: str = "full") -> None:
    with pytest.raises(TraceError, match=message) as caught:
        open_trace(folder, verify=verify)
    assert "\n" not in str(caught.value)


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a JSON file says."""
    document = json.loads(file.read_bytes())
    change(document)
    file.write_text(json.dumps(document))


def forge(home: Path, ids: np.ndarray) -> None:
    """Other outputs, with a hash and a size that agree."""
    raw = header_bytes(ids.dtype, ids.shape) + ids.tobytes()
    (home / "expert_ids.npy").write_bytes(raw)
    entry = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "dtype": "|u1", "shape": list(ids.shape)}
    edit(home / "predictor.json", lambda document: document["files"].update({"expert_ids.npy": entry}))
