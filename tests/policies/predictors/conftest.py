"""Small traces whose later layers follow from earlier hidden states, so that there is something to learn; and fits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.predictors import fitting, saved
from policies.predictors.saved import Fitted
from policies.promoe.fit import MLP, Options, ProMoEFitter
from tests.sim import small_trace
from tests.sim.small_trace import Plan
from traces import Trace
from traces.format.predicted import Predicted

L, E, K, D = 4, 8, 2, 6
PROMPT, DECODED = 8, 8
ROWS = PROMPT + DECODED
STRIDE = 2
SPLITS = ("train",) * 14 + ("test",) * 6
Arrays = dict[str, np.ndarray]
PROMOE = ProMoEFitter("promoe")


def draw(seed: int = 0, requests: int = len(SPLITS)) -> Arrays:
    """Hidden states, and gates of layer l + 2 that read those of layer l (of layer l, for the first two)."""
    rng, n = np.random.default_rng(seed), requests * ROWS
    hidden = rng.normal(size=(n, L, D)).astype(np.float16)
    gates = np.random.default_rng(7).normal(size=(L, D, E)) * 2
    scores = np.stack([hidden[:, max(0, l - STRIDE)].astype(float) @ gates[l] for l in range(L)], axis=1)  # noqa: E741
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    probs = (probs / probs.sum(-1, keepdims=True)).astype(np.float16)
    ids = np.argsort(-scores, axis=-1)[..., :K]
    return {
        "expert_ids": ids,
        "router_probs": probs,
        "hidden": hidden,
        "token_ids": rng.integers(0, 1000, n).astype(np.int32),
    }


def write(
    path: Path, arrays: Arrays, splits: Sequence[str | None] = SPLITS, leave: Sequence[str] = (), **manifest: Any
) -> Trace:
    """Write requests of PROMPT and DECODED rows, without the signals in ``leave``."""
    signals = {name: array for name, array in arrays.items() if name not in (*leave, "expert_ids")}
    plans = [Plan((PROMPT,), DECODED, split=split) for split in splits]
    return small_trace.write(path, plans, arrays["expert_ids"], n_experts=E, signals=signals, **manifest)


def fit(trace: Trace, out: Path, *, others: Any = (), **changes: Any) -> Fitted:
    pytest.importorskip("torch")
    quick: dict[str, Any] = {"hidden": 16, "epochs": 25, "patience": 25, "batch": 32, "rate": 1e-2, "tokens": 10**6}
    return fitting.fit(PROMOE, Options(trace=str(trace.path), out=out, **quick | changes), trace, others)


def save(fitted: Fitted, path: Path) -> Path:
    """Where its package is installed; else the test is skipped."""
    pytest.importorskip("safetensors")
    saved.save(fitted, path)
    return path


def apply(fitted: Fitted, trace: Trace, **given: Any) -> Predicted:
    return fitting.apply(PROMOE, fitted, trace, **given)


def by_hand() -> Fitted:
    """Not fitted at all: whatever comes, layer l names experts l and l + 1, for l + 2."""
    zero, layers = np.zeros(D, np.float32), []
    for layer in range(L - STRIDE):
        scores = np.zeros(E, np.float32)
        scores[[layer, layer + 1]] = 2, 1
        layers.append(MLP(zero, zero + 1, np.zeros((D, 3), np.float32), zero[:3], np.zeros((3, E), np.float32), scores))
    about = {"kind": "promoe", "input": "hidden", "stride": STRIDE, "top_k": K, "layers": L, "experts": E}
    return Fitted({**about, "model": ["tiny", None], "prompts": None, "fit": {}}, tuple(layers))


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return write(tmp_path_factory.mktemp("fit") / "trace", draw())


@pytest.fixture(scope="session")
def fitted(trace: Trace) -> Fitted:
    """Its file is ``fitted.safetensors`` beside the trace."""
    return fit(trace, trace.path.parent / "fitted.safetensors")
