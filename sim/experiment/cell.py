"""One cell: a checked configuration made real, as plain data: the open trace, prices, budget, requests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import Predictor, Setup
from sim.experiment.config import RunConfig
from sim.experiment.inputs import Inputs
from sim.experiment.room import Context, Room, budget_bytes
from sim.prices import HardwareProfile, ModelProfile
from sim.prices.chosen import model_of
from sim.prices.costs import Costs
from sim.workload.passes import Selection, select
from traces import Trace, find_trace
from traces.kit.errors import UserError

LONGEST_COPY_NS = 10**13
"""Of one expert: beyond it a link is a slip, and sums of times would leave 64 bits."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """The outputs of a fitted predictor for this cell's trace."""

    predictor: Predictor
    ids: NDArray[np.integer[Any]]
    """[N, L, K'], as policies.api.Signals.predicted gives them row by row."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Cell:
    """All that determines a result."""

    config: RunConfig
    trace: Trace
    model: ModelProfile
    hardware: HardwareProfile
    costs: Costs
    setup: Setup
    room: Room
    selection: Selection
    predicted: Mapping[str, Predicted]
    """By name; what the policy declares of it is part of the key."""
    inputs: Inputs

    @property
    def total_expert_bytes(self) -> int:
        """Bytes of all experts of all layers."""
        return self.setup.n_experts * sum(self.setup.expert_bytes)

    @property
    def limit(self) -> int | None:
        """The configured limit, where it leaves a request out."""
        return self.config.limit if self.selection.left_out else None


def make_cell(config: RunConfig, inputs: Inputs | None = None) -> Cell:
    """Open and check everything that a configuration names. UserError for the first thing that does not fit.

    ``inputs``: what it has in common with other cells.
    """
    inputs = inputs or Inputs()
    trace = inputs.trace(find_trace(config.trace))
    model, dtype = model_of(config.model, trace)
    for key, ours, its in (
        ("layers", model.moe_layers, trace.L),
        ("experts", model.experts, trace.E),
        ("top_k", model.top_k, trace.K),
    ):
        if ours != its:
            raise UserError(
                f"model={model.name}: has {key} {ours}, trace={config.trace} has {its};"
                " a trace is priced only as a model of its own routing shape"
            )
    hardware = HardwareProfile.from_dict(config.hardware)
    costs = Costs(model, hardware, dtype)
    # A predictor was fitted on the train requests, those for validation among them.
    predicted = find_predicted(trace) if config.measure == "test" else {}
    chosen = select(trace, seed=config.seed, limit=config.limit, warmup=config.warmup, measure=config.measure)
    served = [trace.requests[request] for request in (*chosen.warmup, *chosen.measured)]
    tokens = (request.prompt_tokens + request.output_tokens for request in served)
    room = Room.of(model, hardware, Context.of(tokens, config.workload["batch"]))
    setup = make_setup(config, costs, hardware, room, trace.E, trace.K, predicted)
    return Cell(config, trace, model, hardware, costs, setup, room, chosen, predicted, inputs)


def make_setup(
    config: RunConfig,
    costs: Costs,
    hardware: HardwareProfile,
    room: Room,
    n_experts: int,
    top_k: int,
    predicted: Mapping[str, Predicted],
) -> Setup:
    """What the policy is to know of model and machine. UserError for a budget or a cut that cannot be."""
    total = n_experts * sum(costs.expert_bytes)
    smallest = min(costs.expert_bytes)
    if config.chunks > smallest:
        raise UserError(f"chunks={config.chunks}: at most the bytes of one expert, {smallest}")
    setup = Setup(
        n_layers=len(costs.expert_bytes),
        n_experts=n_experts,
        top_k=top_k,
        expert_bytes=costs.expert_bytes,
        chunks=config.chunks,
        budget=budget_bytes(config.budget, total, room, hardware.name),
        costs=costs,
        seed=config.seed,
        predictors={name: found.predictor for name, found in predicted.items()},
        predictor_threads=hardware.host.predictor_threads,
    )
    if costs.copy_ns(max(costs.expert_bytes)) > LONGEST_COPY_NS:
        figures = (
            f"h2d_gb_per_s={float(hardware.link.h2d_gb_per_s):g}, overhead_us={float(hardware.link.overhead_us):g}"
        )
        raise UserError(f"hardware.link ({figures}): the copy of an expert takes hours; allowed: up to 10,000 s")
    return setup


def find_predicted(trace: Trace) -> Mapping[str, Predicted]:
    """The outputs of fitted predictors that lie beside a trace, by name."""
    found = {}
    for name, outputs in trace.predicted.items():
        made = outputs.about
        about = {"kind": made.kind, "input": made.input, "accuracy": dict(made.accuracy), "fit": dict(made.fit)}
        predictor = Predictor(name, made.stride, made.top_k, about)
        found[name] = Predicted(predictor, np.asarray(outputs.expert_ids), outputs.sha256)
    return found
