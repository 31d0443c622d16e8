"""Draw a whole trace from figures, and write it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from traces.format.layout import DECODE, PREFILL, Array, Request, absent_id
from traces.format.manifest import Prompts, Recorder
from traces.synthesize.draw import Source, largest
from traces.synthesize.figures import Figures
from traces.synthesize.fit import law_of
from traces.synthesize.signals import WIDTH, check_recall, embedding, gate_ahead, softmax, steepness
from traces.version import __version__
from traces.writing.writer import TraceWriter


@dataclass(frozen=True)
class Model:
    """What a trace says of its model."""

    name: str
    layers: int
    experts: int
    top_k: int
    priced_as: str | None = None
    expert_bytes: Sequence[int] | None = None
    shapes: dict[str, int] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Drawn:
    """One request to draw."""

    prompt: int
    output: int
    topic: int
    split: str | None
    arrival_s: float | None


@dataclass(frozen=True)
class Plan:
    """What to draw: requests like ``figures``, which are of the model's shape, and the signals beside their ids."""

    model: Model
    figures: Figures
    requests: Sequence[Drawn]
    signals: Sequence[str]
    recall: Sequence[float]
    seed: int
    said: dict[str, Any] = field(default_factory=dict)
    """Figures that the user stated otherwise, for the record."""


def synthesize(plan: Plan, target: Path) -> Path:
    """Write the trace into the new folder ``target``, request by request; returns it. UserError."""
    model, figures = plan.model, plan.figures
    L, E, K = model.layers, model.experts, model.top_k
    if "gate_ahead" in plan.signals:
        check_recall(plan.recall, L, E, K)
    shapes: dict[str, tuple[int, ...]] = {
        "expert_weights": (L, K),
        "router_probs": (L, E),
        "gate_ahead": (L, len(plan.recall), K),
        "embedding": (WIDTH,),
    }
    signals = {name: shapes[name] for name in plan.signals}
    with TraceWriter(target, n_layers=L, n_experts=E, top_k=K, signals=signals) as out:
        source = Source(law_of(figures, plan.seed), plan.seed)
        scored = {"expert_weights", "router_probs"} & {*plan.signals}
        factor = _steepness(source, figures, K) if scored else 1.0
        for number, drawn in enumerate(plan.requests):
            prefill = [(PREFILL, drawn.prompt, 0)] if figures.prompt_rows else []
            steps = prefill + [(DECODE, 1, drawn.prompt + index) for index in range(drawn.output - 1)]
            rows = sum(step[1] for step in steps)
            label = f"topic {drawn.topic}"
            request = Request(number, drawn.prompt, drawn.output, drawn.arrival_s, drawn.split, label)
            out.add_request(request, steps=steps, **_arrays(plan, source, factor, number, rows, drawn.topic))
        modelled = {"figures": figures.name, "of": figures.source, "assumed": [*figures.assumed], "seed": plan.seed}
        said = {key: [*value] if isinstance(value, tuple) else value for key, value in plan.said.items()}
        return out.close(
            name=model.name,
            recorder=Recorder("synthesize", __version__, None),
            decoding={"mode": "unknown"},
            recording="synthetic",
            prompts=Prompts(None, None),
            expert_bytes=model.expert_bytes,
            shapes=model.shapes,
            dtype=model.dtype,
            scoring="softmax",
            priced_as=model.priced_as,
            modelled={name: {**modelled, **said} for name in ("expert_ids", *plan.signals)}
            | ({"gate_ahead": {"recall": [*plan.recall], "seed": plan.seed}} if "gate_ahead" in plan.signals else {}),
        )


def _arrays(plan: Plan, source: Source, factor: float, number: int, rows: int, topic: int) -> dict[str, Array]:
    """All of one request."""
    model, wanted = plan.model, plan.signals
    ids = np.empty((rows, model.layers, model.top_k), np.int64)
    found: dict[str, Array] = {
        "expert_weights": np.empty((rows, model.layers, model.top_k), np.float32),
        "router_probs": np.empty((rows, model.layers, model.experts), np.float16),
    }
    arrays = {name: array for name, array in found.items() if name in wanted}
    for layer, states in enumerate(source.states(number, rows, topic)):
        ids[:, layer] = largest(states, model.top_k)
        if "expert_weights" in wanted:
            chosen = np.take_along_axis(states, ids[:, layer], axis=1)
            arrays["expert_weights"][:, layer] = softmax(factor * chosen)
        if "router_probs" in wanted:
            arrays["router_probs"][:, layer] = softmax(factor * states)
    if "gate_ahead" in wanted:
        chances = source.chances(model.top_k)
        arrays["gate_ahead"] = gate_ahead(
            ids, plan.recall, chances, absent_id(model.experts), source.random_of(number, 1)
        )
    if "embedding" in wanted:
        of_topic = source.random_of(topic, 2).standard_normal(WIDTH)
        random = source.random_of(number, 3)
        arrays["embedding"] = embedding(of_topic, random.standard_normal(WIDTH), rows, random)
    return {"expert_ids": ids, **arrays}


def _steepness(source: Source, figures: Figures, top_k: int) -> float:
    """The factor of states at which the scores are as uneven as the figures say."""
    if figures.top_weight is None:
        return 1.0
    states = np.concatenate([*source.states(0, 512, 0)])
    return steepness(np.take_along_axis(states, largest(states, top_k), axis=1), figures.top_weight)
