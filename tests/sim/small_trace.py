"""Tiny traces on disk, and a machine whose prices can be worked out by hand; other tests may import these."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sim.experiment.config import RunConfig
from sim.prices import ModelProfile
from traces import DECODE, PREFILL, Prompts, Recorder, Request, Trace, TraceWriter, open_trace

ABSENT = 255
SIZE = 12
"""Bytes of one expert: on MACHINE it takes 12 ns to copy and 4 ns to compute, and nothing else takes any time."""
SOURCED = (
    "memory_bytes hbm_gb_per_s tflops launch_us h2d_gb_per_s d2h_gb_per_s overhead_us pageable_gb_per_s dram_gb_per_s"
)
MACHINE: Mapping[str, Any] = {
    "name": "by_hand",
    "provenance": "published",
    "sources": dict.fromkeys(SOURCED.split(), "made up"),
    "gpu": {
        "memory_bytes": 10_000,
        "hbm_gb_per_s": 3,
        "tflops": {"bfloat16": 1},
        "launch_us": 0,
        "efficiency": {"flops": 1, "hbm": 1},
    },
    "link": {"h2d_gb_per_s": 1, "d2h_gb_per_s": 1, "overhead_us": 0, "depth": 1, "pageable_gb_per_s": None},
    "host": {"dram_gb_per_s": 2, "cpu_threads": None, "cpu_tflops": 1, "predictor_threads": 1},
    "software": {"layer_overhead_us": 0},
}


@dataclass(frozen=True)
class Plan:
    """One request: rows of each prefill step (none: only decoding was recorded, after ``prompt`` tokens)."""

    prefill: tuple[int, ...] = (1,)
    decode: int = 0
    prompt: int = 0
    split: str | None = None

    @property
    def rows(self) -> int:
        return sum(self.prefill) + self.decode


def write(
    path: Path,
    plans: Sequence[Plan],
    ids: ArrayLike,
    *,
    n_experts: int,
    signals: Mapping[str, ArrayLike] | None = None,
    priced_as: str | None = None,
    name: str = "tiny",
    revision: str | None = None,
    sizes: Sequence[int] | bool = True,
    modelled: Mapping[str, Mapping[str, Any]] | None = None,
) -> Trace:
    """Write requests whose rows follow each other in ``ids`` [N, L, K] and in each of ``signals``, and open them.

    ``sizes``: an expert's bytes by layer; True: SIZE; False: not told.
    """
    arrays = {"expert_ids": np.asarray(ids), **{name: np.asarray(a) for name, a in (signals or {}).items()}}
    _, n_layers, top_k = arrays["expert_ids"].shape
    trailing = {name: a.shape[1:] for name, a in arrays.items() if name != "expert_ids"}
    with TraceWriter(path, n_layers=n_layers, n_experts=n_experts, top_k=top_k, signals=trailing) as out:
        first = 0
        for number, plan in enumerate(plans):
            steps, context = [], plan.prompt
            for rows in plan.prefill:
                steps.append((PREFILL, rows, context))
                context += rows
            steps += [(DECODE, 1, context + i) for i in range(plan.decode)]
            request = Request(number, context, plan.decode + 1, None, plan.split, "made up")
            out.add_request(request, steps=steps, **{n: a[first : first + plan.rows] for n, a in arrays.items()})
            first += plan.rows
        out.close(
            name=name,
            revision=revision,
            recorder=Recorder("test", "1", None),
            decoding={"mode": "greedy"},
            recording="synthetic",
            prompts=Prompts("made up", "CC0"),
            expert_bytes=[SIZE] * n_layers if sizes is True else sizes or None,
            priced_as=priced_as,
            modelled=modelled or {},
        )
    assert first == len(arrays["expert_ids"]), "the plans do not cover the rows"
    return open_trace(path)


def some_absent(path: Path, plans: Sequence[Plan], n_layers: int, n_experts: int, seed: int) -> Trace:
    """Two experts per token, the first ones oftener or less often, and in a fifth of the rows one of them absent."""
    rng, rows = np.random.default_rng(seed), sum(plan.rows for plan in plans)
    ids = np.argsort(rng.random((rows, n_layers, n_experts)) ** rng.integers(1, 4), axis=-1)[..., :2].astype(np.uint8)
    ids[rng.random(rows) < 0.2, :, 1] = ABSENT
    return write(path, plans, ids, n_experts=n_experts)


def one_layer(path: Path, plans: Sequence[Plan], experts: Sequence[int], n_experts: int = 4) -> Trace:
    """One layer, and each row chooses one expert."""
    return write(path, plans, np.array(experts)[:, None, None], n_experts=n_experts)


def config(trace: Trace | Path, budget: int | str, *, policy: str = "lru", batch: int = 1, **changes: Any) -> RunConfig:
    """A run on MACHINE, the trace priced as itself."""
    given: dict[str, Any] = {
        "policy": {"name": policy},
        "model": {"name": "as_traced", "dtype": None},
        "hardware": MACHINE,
        "workload": {"name": "closed_loop", "batch": batch},
        "trace": str(trace.path if isinstance(trace, Trace) else trace),
        "budget": budget,
        "chunks": 1,
        "warmup": 0,
        "limit": None,
        "seed": 0,
        "bounds": False,
        "log": False,
        "timeline": False,
    }
    return RunConfig.from_dict(given | changes)


def in_two_dtypes(trace: Trace, lower: str = "int4") -> dict[str, Any]:
    """A trace's own model, which has a size in a lower dtype as well: a quarter of its smallest expert."""
    own = asdict(ModelProfile.from_manifest(asdict(trace.manifest.model)))
    known = {key: value for key, value in own.items() if key not in ("shapes_known", "dense_bytes")}
    (sizes,) = own["expert_bytes_per_layer"].values()
    return {**known, "expert_bytes": {lower: min(sizes) // 4}, "name": "in_two_dtypes", "title": "in two dtypes"}
