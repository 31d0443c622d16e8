"""Copy a recorded trace, with signals that it lacks made up beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from traces.format.layout import SIGNALS, Array
from traces.format.reader import Trace
from traces.kit.errors import UserError, one_of
from traces.synthesize.signals import REST, TOP_WEIGHT, WIDTH, check_recall, embedding, gate_ahead, scores
from traces.synthesize.words import MADE
from traces.writing.writer import TraceWriter

RECALL = (0.87, 0.79, 0.74)
_STREAMS = 2**21
"""Where its random numbers begin: those of synthesize, of the same seed, made the routing."""


def lacking(trace: Trace) -> tuple[str, ...]:
    """Which of the signals that can be made up ``trace`` does not have."""
    return tuple(name for name in MADE if not trace.has(name))


def augment(trace: Trace, target: Path, signals: Sequence[str], recall: Sequence[float], seed: int) -> Path:
    """Write ``trace`` into the new folder ``target``, with ``signals`` beside what it has; returns it. UserError.

    The ids of layers to come become known as a recorded gate_ahead's do. What wrong guesses name is drawn by the
    popularity among the train requests, of all experts alike where there are none; an embedding knows a request's
    source, and nothing of its routing.
    """
    if not lacking(trace):
        raise UserError(f"{trace.path}: has all that can be made up ({one_of(MADE)}); allowed: a trace that lacks some")
    if there_already := [name for name in signals if trace.has(name)]:
        had = one_of(there_already)
        raise UserError(f"signals={one_of(signals)}: the trace has {had} already; allowed: {one_of(lacking(trace))}")
    if "gate_ahead" in signals:
        check_recall(recall, trace.L, trace.E, trace.K)
    shapes: Mapping[str, tuple[int, ...]] = {
        "expert_weights": (trace.L, trace.K),
        "router_probs": (trace.L, trace.E),
        "gate_ahead": (trace.L, len(recall), trace.K),
        "embedding": (WIDTH,),
    }
    there = {name: getattr(trace, name) for name in SIGNALS if trace.has(name)}
    declared = {name: array.shape[1:] for name, array in there.items() if name != "expert_ids"}
    declared |= {name: shapes[name] for name in signals}
    with TraceWriter(target, n_layers=trace.L, n_experts=trace.E, top_k=trace.K, signals=declared) as out:
        chances = _chances(trace)
        topics = {name: number for number, name in enumerate(sorted({request.source for request in trace.requests}))}
        for request in trace.requests:
            steps = trace.steps[trace.steps_of(request.request)]
            rows = trace.rows_of(request.request)
            arrays = {name: np.asarray(array[rows]) for name, array in there.items()}
            ids = arrays["expert_ids"]

            def random(purpose: int, number: int = request.request) -> np.random.Generator:
                return np.random.default_rng([seed, _STREAMS + purpose, number])

            if "expert_weights" in signals or "router_probs" in signals:
                probs, weights = scores(ids, arrays.get("expert_weights"), chances, random(0))
                made = {"expert_weights": weights, "router_probs": probs}
                arrays |= {name: array for name, array in made.items() if name in signals}
            if "gate_ahead" in signals:
                arrays["gate_ahead"] = gate_ahead(ids, recall, chances, trace.absent, random(1))
            if "embedding" in signals:
                of_topic = random(2, topics[request.source]).standard_normal(WIDTH)
                of_request = random(3)
                arrays["embedding"] = embedding(of_topic, of_request.standard_normal(WIDTH), len(ids), of_request)
            out.add_request(request, steps=steps[["phase", "rows", "context"]].tolist(), **arrays)
        said = trace.manifest.about()
        said["modelled"] = {**trace.manifest.modelled, **_marks(signals, recall, seed)}
        return out.close(**said)


def _marks(signals: Sequence[str], recall: Sequence[float], seed: int) -> dict[str, dict[str, Any]]:
    about: dict[str, dict[str, Any]] = {
        "expert_weights": {"from": "expert_ids", "top_weight": TOP_WEIGHT},
        "router_probs": {"from": "expert_ids and expert_weights", "rest": REST},
        "gate_ahead": {"from": "expert_ids", "recall": [*recall]},
        "embedding": {"from": "source"},
    }
    return {name: {**about[name], "seed": seed} for name in signals}


def _chances(trace: Trace) -> Array:
    """How often the tokens of the train requests choose each expert [L, E]; all alike where there are none."""
    chosen: Array = np.ones((trace.L, trace.E))
    for request in trace.requests:
        if request.split != "train":
            continue
        rows = trace.rows_of(request.request)
        for layer in range(trace.L):
            ids = np.asarray(trace.expert_ids[rows, layer]).ravel()
            chosen[layer] += np.bincount(np.minimum(ids, trace.E), minlength=trace.E + 1)[: trace.E]
    return np.asarray(chosen / chosen.sum(axis=1, keepdims=True) * trace.K)
