"""What a cell is run with: its policy, the core, the simulated machine, the passes. Plain functions of plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policies import registry
from policies.api import Policy, Setup, Signal
from sim.core.core import Core
from sim.core.log import record as recorded
from sim.experiment.cell import Cell
from sim.experiment.lacks import There, check
from sim.prices.hardware import HardwareProfile, PolicyTime
from sim.results.timeline import Timeline
from sim.workload.passes import Pass
from sim.workload.signals import TraceSignals, TrainRequests
from traces.kit.errors import UserError

if TYPE_CHECKING:
    from sim.machine.machine import Machine


def make_policy(cell: Cell, name: str | None = None, params: Mapping[str, Any] | None = None) -> Policy:
    """The configured policy, or the one of ``name`` (a reference row may be), for this cell. UserError."""
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
    if name is not None:
        return policy_of({"name": name, **(params or {})}, cell.setup, there, reference=True)
    return policy_of(cell.config.policy, cell.setup, there)


def policy_of(given: Mapping[str, Any], setup: Setup, there: There, *, reference: bool = False) -> Policy:
    """Build a policy from its name and parameters, and let it learn. UserError if something it needs is missing.

    ``reference``: it may be one that sees the future.
    """
    params = dict(given)
    name = str(params.pop("name", None))
    if not reference and registry.find(name, "policy.name").clairvoyant:
        raise UserError(f"policy.name={name}: sees the future, so it is a reference row and not a choice")
    policy = registry.build(name, setup, params)
    check(policy, there, lambda other: registry.build(name, setup, {**params, **other}))
    if policy.wants_history():
        assert there.trace is not None  # else check() has refused
        policy.fit(TrainRequests(there.trace, there.train, policy.needs()))
    return policy


def make_signals(cell: Cell, policy: Policy) -> TraceSignals:
    """The trace's signals and the predictors' outputs, as far as the policy declares them."""
    ids = {name: found.ids for name, found in cell.predicted.items()}
    return TraceSignals(cell.trace, policy.needs(), ids, policy.predictors())


def make_core(cell: Cell, policy: Policy, *, setup: Setup | None = None, record: bool = False) -> Core:
    """A fresh core for a policy of this cell, with the signals that the policy declares."""
    core = Core(policy, setup or cell.setup, make_signals(cell, policy))
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
        cell.costs,
        depth=cell.hardware.link.depth,
        predictor_threads=cell.hardware.host.predictor_threads,
        progress=progress,
        listener=timeline,
        policy_ns=policy_time(cell.hardware, core.policy.name).ns() if charged else (0, 0),
    )


def policy_time(hardware: HardwareProfile, policy: str) -> PolicyTime:
    """What a machine charges for a policy's own decisions; 0 where its profile says nothing of the policy."""
    return hardware.software.policy_us.get(policy) or PolicyTime()


def passes_of(cell: Cell, requests: Sequence[int]) -> Iterator[Pass]:
    """The forward passes of this cell's workload."""
    return iter(cell.inputs.passes(cell.trace, cell.config.workload["batch"], requests))
