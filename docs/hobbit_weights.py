"""Give a trace of top-2 routing the gate weights of HOBBIT's figure for Mixtral-8x7B: python docs/hobbit_weights.py
FROM TO.

The second of two experts is above .6 of weight before it in 30 of 50 lookups and above .9 in 3 of 50 (arXiv 2411.01433,
section 3.2: 67, 30 and 3 % of all). Within these ranges weights are drawn evenly, whatever the expert and the layer, as
the paper shows no more. So the split is an assumption of the trace, and nothing that a run could confirm.
"""

import sys
from pathlib import Path

import numpy as np

from traces import Trace, TraceWriter, open_trace
from traces.format.layout import SIGNALS

EDGES, SHARES = (0.5, 0.6, 0.9, 1.0), (0.34, 0.60, 0.06)
"""Of the first expert's weight, and how often it lies between two of these."""
ABOUT = {"from": "HOBBIT's split for Mixtral-8x7B", "edges": [*EDGES], "shares": [*SHARES], "seed": 0}


def weighed(trace: Trace, target: Path) -> Path:
    """Write ``trace``, of top-2 routing, with other weights to the new folder ``target``; returns it."""
    kept = [name for name in SIGNALS if trace.has(name) and name not in ("expert_ids", "expert_weights")]
    shapes = {name: getattr(trace, name).shape[1:] for name in kept} | {"expert_weights": (trace.L, 2)}
    with TraceWriter(target, n_layers=trace.L, n_experts=trace.E, top_k=2, signals=shapes) as out:
        for request in trace.requests:
            rows = trace.rows_of(request.request)
            arrays = {name: np.asarray(getattr(trace, name)[rows]) for name in ("expert_ids", *kept)}
            arrays["expert_weights"] = drawn(len(arrays["expert_ids"]), trace.L, request.request)
            steps = trace.steps[trace.steps_of(request.request)]
            out.add_request(request, steps=steps[["phase", "rows", "context"]].tolist(), **arrays)
        said = trace.manifest.about()
        return out.close(**{**said, "modelled": {**trace.manifest.modelled, "expert_weights": ABOUT}})


def drawn(rows: int, layers: int, request: int) -> np.ndarray:
    """Weights of the first and the second expert, float32 [rows, layers, 2]."""
    random = np.random.default_rng([int(ABOUT["seed"]), request])  # type: ignore[call-overload]
    part = random.choice(len(SHARES), (rows, layers), p=SHARES)
    low, high = np.array(EDGES)[part], np.array(EDGES)[part + 1]
    first = low + (high - low) * random.random((rows, layers))
    return np.stack([first, 1 - first], axis=-1).astype(np.float32)


if __name__ == "__main__":
    source, copy = map(Path, sys.argv[1:])
    weighed(open_trace(source), copy)
