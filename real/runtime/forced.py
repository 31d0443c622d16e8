"""Run a cell's recorded routing on a device: the same requests, passes and demand sets as in the simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from policies.api import Policy, Setup
from real.runtime.core import DeviceCore
from real.runtime.engine import Engine
from real.runtime.machine import Machine
from real.runtime.offloaded import Offloaded
from real.runtime.pool import Pool
from real.runtime.recorded import Forced
from sim.experiment.cell import Cell
from sim.experiment.stated import stated
from sim.prices import HardwareProfile
from sim.results.document import Outcome
from sim.workload.passes import Pass
from traces import Trace
from traces.kit.errors import UserError


@dataclass(frozen=True)
class DeviceRun:
    """What a run on a device left: its accounts, its log of facts, and what it did when."""

    outcome: Outcome
    core: DeviceCore
    machine: Machine


def machine_of(hardware: HardwareProfile, model: Offloaded, core: DeviceCore) -> Machine:
    """A machine whose link and predictor are as deep and as many as the profile's."""
    depth, threads = hardware.link.depth, hardware.host.predictor_threads
    return Machine(core, model.backend, depth=depth, predictor_threads=threads)


def run_forced(
    cell: Cell, model: Offloaded, policy: Policy, progress: Callable[[int], None] | None = None
) -> DeviceRun:
    """Serve the cell's requests with the trace's routing. UserError where the model is not of the trace's shape."""
    check_shape(cell.setup, model, cell.model.name)
    setup = cell.setup
    pool = Pool(model.store, setup.budget - policy.gpu_bytes(), setup.chunks, model.backend)
    core = DeviceCore(policy, setup, cell.signals(policy), pool)
    machine = machine_of(cell.hardware, model, core)
    facts = stated(policy)
    feed = Forced(cell.trace)
    vocabulary = int(model.model.config.get_text_config().vocab_size)
    tokens = _tokens(cell.trace, vocabulary)
    with model.attached(machine, feed) as run:
        engine = Engine(model.model, model.backend.device)

        def serve(passes: Iterable[Pass], ends: dict[int, int]) -> None:
            for step in passes:
                feed.enter(step)
                run.begin(step)
                if step.prefill:
                    ((first, rows),) = step.parts
                    logits = engine.prefill(step.requests[0], tokens[first : first + rows].tolist())[None]
                else:
                    logits = engine.decode(step.requests, [int(tokens[first]) for first, _ in step.parts])
                machine.read(logits.argmax(-1))  # as one who generates: the device has ended the pass
                run.end()
                for request, (first, rows) in zip(step.requests, step.parts, strict=True):
                    if first + rows == ends[request]:
                        engine.drop(request)
                if progress is not None:
                    progress(step.rows)

        ends = row_ends(cell.trace)
        if cell.selection.warmup:
            serve(cell.passes(cell.selection.warmup), ends)
            machine.measure()
        serve(cell.passes(cell.selection.measured), ends)
        accounts = machine.finish()
    return DeviceRun(Outcome(policy, core, accounts, machine.timings, facts), core, machine)


def check_shape(setup: Setup, model: Offloaded, name: str) -> None:
    """UserError unless the model has the layers, experts and bytes that the profile ``name`` prices."""
    moe = model.moe
    for key, has, wants in (
        ("layers of experts", len(moe.layers), setup.n_layers),
        ("experts per layer", moe.n_experts, setup.n_experts),
        ("top-K", moe.top_k, setup.top_k),
        ("bytes per expert", model.store.layout.nbytes, setup.expert_bytes[0]),
        ("bytes per expert of the last layer", model.store.layout.nbytes, setup.expert_bytes[-1]),
    ):
        if has != wants:
            raise UserError(f"the model has {key}: {has}, and model={name} says {wants}")


def _tokens(trace: Trace, vocabulary: int) -> np.ndarray:
    """A token for each row: the trace's own, or any where none were recorded or the model knows fewer."""
    if trace.token_ids is not None and int(trace.token_ids.max(initial=0)) < vocabulary:
        return np.asarray(trace.token_ids)
    return np.random.default_rng(0).integers(vocabulary, size=trace.N)


def row_ends(trace: Trace) -> dict[int, int]:
    """The row after each request's last."""
    steps = trace.steps
    return {int(r): int(f + n) for r, f, n in zip(steps["request"], steps["first_row"], steps["rows"], strict=True)}
