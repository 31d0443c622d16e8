"""One cell: a checked configuration made real, as plain data, and what it is run with: policy, core, machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from policies import registry
from policies.api import History, Learned, Policy, Predictor, Setup, Signal
from sim.core.core import Core
from sim.core.host_memory import HostTier
from sim.core.log import record as recorded
from sim.core.several import core_of
from sim.experiment.budget import Room, budget_bytes
from sim.experiment.config import RunConfig
from sim.experiment.host_memory import check_policy, reads_of, tier_of, used
from sim.experiment.inputs import Inputs as Inputs
from sim.experiment.lacks import There, check
from sim.experiment.served import arriving, room_of, split
from sim.prices import HardwareProfile, ModelProfile
from sim.prices.chosen import model_of
from sim.prices.costs import Costs
from sim.prices.hardware import policy_time
from sim.prices.host import host_of
from sim.prices.placement import Spread, spread_of
from sim.prices.versions import in_versions
from sim.results.timeline import Timeline
from sim.workload.online.arrivals import Traffic
from sim.workload.passes import Pass, PrefillOrder, Selection, select
from sim.workload.signals import TraceSignals, TrainRequests
from traces import Trace, find_trace
from traces.format.predicted import About, Predicted
from traces.kit.errors import UserError

if TYPE_CHECKING:
    from sim.machine.machine import Machine

LONGEST_COPY_NS = 10**13
"""Of one expert: beyond it a link is a slip, and sums of times would leave 64 bits."""


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
    """The outputs of fitted predictors beside the trace; those that the policy declares are part of the key."""
    inputs: Inputs
    tier: HostTier | None = None
    """Where the host does not hold all experts."""
    traffic: Traffic | None = None
    """What arrives; None in a closed loop."""

    @property
    def total_expert_bytes(self) -> int:
        """Bytes of all experts of all layers."""
        return self.setup.n_experts * sum(self.setup.expert_bytes)

    @property
    def ample_bytes(self) -> int:
        """A budget of the setup's with room for every expert at its home."""
        return most_held(self.setup.expert_bytes, self.setup.n_experts, self.costs.spread) // self.costs.spread.alike


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
    hardware = used(HardwareProfile.from_dict(config.hardware), config)
    kv_share, config = config.kv_share, split(config, model, hardware)
    spread = spread_of(config.placement, hardware, model)
    costs = Costs(model, hardware, dtype, spread)
    # A predictor was fitted on the train requests, those for validation among them.
    predicted = trace.predicted if config.measure == "test" else {}
    chosen = select(trace, seed=config.seed, limit=config.limit, warmup=config.warmup, measure=config.measure)
    served = [trace.requests[request] for request in (*chosen.warmup, *chosen.measured)]
    tokens = (request.prompt_tokens + request.output_tokens for request in served)
    if (arrives := arriving(config, trace, chosen)) is None:
        room = Room.of(model, hardware, tokens, config.workload["batch"])
    else:
        room = room_of(config, model, hardware, arrives, kv_share)
    predictors = {name: _predictor(found.about) for name, found in predicted.items()}
    setup = make_setup(config, costs, hardware, room, trace.E, trace.K, predictors)
    tier = tier_of(config, hardware, setup)
    return Cell(config, trace, model, hardware, costs, setup, room, chosen, predicted, inputs, tier, arrives)


def _predictor(made: About) -> Predictor:
    about = {"kind": made.kind, "input": made.input, "accuracy": dict(made.accuracy), "fit": dict(made.fit)}
    return Predictor(made.name, made.stride, made.top_k, about)


def make_setup(
    config: RunConfig,
    costs: Costs,
    hardware: HardwareProfile,
    room: Room,
    n_experts: int,
    top_k: int,
    predictors: Mapping[str, Predictor],
) -> Setup:
    """What the policy is to know of model and machine. UserError for a budget or a cut that cannot be."""
    total = n_experts * sum(costs.expert_bytes)
    smallest = min(costs.expert_bytes)
    if config.chunks > smallest:
        raise UserError(f"chunks={config.chunks}: at most the bytes of one expert, {smallest}")
    spread = costs.spread
    homes = spread.homes(len(costs.expert_bytes), n_experts)
    setup = Setup(
        n_layers=len(costs.expert_bytes),
        n_experts=n_experts,
        top_k=top_k,
        expert_bytes=costs.expert_bytes,
        chunks=config.chunks,
        budget=budget_bytes(
            config.budget, total, room, hardware.name, spread.gpus, most_held(costs.expert_bytes, n_experts, spread)
        )
        // spread.alike,
        costs=costs,
        seed=config.seed,
        predictors=predictors,
        predictor_threads=hardware.host.predictor_threads,
        host=host_of(costs) if spread.gpus == 1 else None,
        lanes=hardware.link.lanes,
        gpus=spread.pools,
        homes=homes,
        dtype=costs.dtype,
        others=costs.model.others(costs.dtype),
    )
    if costs.copy_ns(max(costs.expert_bytes)) > LONGEST_COPY_NS:
        figures = (
            f"h2d_gb_per_s={float(hardware.link.h2d_gb_per_s):g}, overhead_us={float(hardware.link.overhead_us):g}"
        )
        raise UserError(f"hardware.link ({figures}): the copy of an expert takes hours; allowed: up to 10,000 s")
    return setup


def most_held(expert_bytes: Sequence[int], n_experts: int, spread: Spread) -> int:
    """The budget of which each GPU's part is enough for all that it can hold: its own experts, or all of them."""
    held = [0] * spread.pools
    for x, gpu in enumerate(spread.homes(len(expert_bytes), n_experts) or [0] * (n_experts * len(expert_bytes))):
        held[gpu] += expert_bytes[x // n_experts]
    return max(held) * spread.pools * spread.alike


Recall = Callable[[Policy, History], Learned]
"""What a policy has learned, made or found (sim.experiment.learned)."""


def make_policy(cell: Cell, name: str | None = None, recall: Recall | None = None) -> Policy:
    """The configured policy, or the one of ``name`` (a reference row may be), for this cell. UserError.

    ``recall``: where what it learns whatever the budget is had from; None: it is learned here.
    """
    trace = cell.trace
    there = There(
        cell.config.trace,
        trace,
        cell.selection.train,
        cell.predicted.keys(),
        [signal for signal in Signal if trace.has(signal)],
        0 if trace.gate_ahead is None else trace.gate_ahead.shape[2],
        validation=cell.config.measure == "validation",
    )
    given = cell.config.policy if name is None else {"name": name}
    reference = name is not None
    policy = policy_of(given, cell.setup, there, cell.costs.spread, reference=reference, recall=recall)
    check_policy(policy, cell.config)
    return policy


def policy_of(
    given: Mapping[str, Any],
    setup: Setup,
    there: There,
    spread: Spread | None = None,
    *,
    reference: bool = False,
    recall: Recall | None = None,
) -> Policy:
    """Build a policy from its name and parameters, and let it learn. UserError if something it needs is missing.

    ``reference``: it may be one that sees the future.
    """
    params = dict(given)
    name = str(params.pop("name", None))
    if not reference and registry.find(name, "policy.name").clairvoyant:
        raise UserError(f"policy.name={name}: sees the future, so it is a reference row and not a choice")
    on = {} if spread is None or spread.gpus == 1 else {"gpus": spread.gpus, "alike": spread.alike}
    policy = registry.build(name, setup, params, **on)
    check(policy, there, lambda other: registry.build(name, setup, {**params, **other}, **on))
    if policy.wants_history():
        assert there.trace is not None  # else check() has refused
        history = TrainRequests(there.trace, there.train, policy.needs())
        if recall is None or policy.uses("fit") or not policy.uses("learn"):
            policy.fit(history)
        else:
            policy.recall(recall(policy, history))
    return policy


def make_signals(cell: Cell, policy: Policy) -> TraceSignals:
    """The trace's signals and the predictors' outputs, as far as the policy declares them."""
    ids = {name: np.asarray(found.expert_ids) for name, found in cell.predicted.items()}
    return TraceSignals(cell.trace, policy.needs(), ids, policy.predictors(), pregated=policy.modified)


def make_core(cell: Cell, policy: Policy, *, record: bool = False) -> Core:
    """A fresh core for a policy of this cell, with the signals that the policy declares."""
    core = core_of(policy, policy.setup, make_signals(cell, policy), cell.tier)
    return recorded(core) if record else core


def make_machine(
    cell: Cell,
    core: Core,
    progress: Callable[[int], None] | None = None,
    timeline: Timeline | None = None,
    *,
    charged: bool = True,
) -> Machine:
    """The simulated machine of this cell's hardware; ``timeline`` is told what it does when.

    ``charged``: the policy's own time is, where the profile has one; a reference row's is not.
    """
    from sim.machine.machine import Machine  # and SimPy, which a real machine may lack

    return Machine(
        core,
        in_versions(cell.costs, core.setup.versions[1:]),
        depth=cell.hardware.link.depth,
        lanes=cell.hardware.link.lanes,
        predictor_threads=cell.hardware.host.predictor_threads,
        progress=progress,
        listener=timeline,
        policy_ns=policy_time(cell.hardware, core.policy.name).ns() if charged else (0, 0),
        root=cell.hardware.root_gb_per_s,
        peer_ns=cell.costs.peers.ns,
        all_reduce_ns=cell.costs.peers.all_reduce_ns if cell.costs.spread.parts > 1 else None,
        reads=reads_of(cell.hardware, cell.costs, cell.setup, cell.tier) if cell.tier is not None else None,
    )


def passes_of(cell: Cell, requests: Sequence[int]) -> Iterator[Pass]:
    """The forward passes of this cell's closed loop; where requests arrive, of those before, one after the other."""
    workload = cell.config.workload
    order: PrefillOrder = workload.get("prefill_order", "chunk_major")
    return cell.inputs.passes(cell.trace, workload.get("batch", 1), requests, workload.get("prefill_chunk"), order)
