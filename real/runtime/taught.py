"""Run a cell's tokens on a device, teacher-forced: the same passes as the simulator's, with the model's own routing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from policies.api import Policy
from real.runtime.core import DeviceCore
from real.runtime.engine import Engine
from real.runtime.forced import DeviceRun, check_shape, machine_of, row_ends
from real.runtime.live import Live
from real.runtime.offloaded import Offloaded
from real.runtime.pool import Pool
from sim.experiment.cell import Cell
from sim.experiment.stated import stated
from sim.results.document import Outcome
from sim.workload.passes import Pass
from sim.workload.signals import TraceSignals
from traces.kit.errors import UserError

Take = Callable[[Pass, Tensor], None]


def run_taught(cell: Cell, model: Offloaded, policy: Policy, take: Take) -> DeviceRun:
    """Feed the trace's tokens, whatever the model would say, and let its routers choose.

    ``take(step, logits)``: of each measured pass, logits [rows, V] of all its tokens. What fitted predictors say is
    what stands beside the trace. UserError for a trace without tokens, or of another model's shape.
    """
    check_shape(cell.setup, model, cell.model.name)
    tokens, setup = _tokens(cell, model), cell.setup
    live = Live(model.moe, frozenset(map(str, policy.needs())))
    ids = {name: found.ids for name, found in cell.predicted.items()}
    signals = TraceSignals(live, policy.needs(), ids, policy.predictors())
    pool = Pool(model.store, setup.budget - policy.gpu_bytes(), setup.chunks, model.backend)
    core = DeviceCore(policy, setup, signals, pool)
    machine, facts = machine_of(cell.hardware, model, core), stated(policy)
    ends = row_ends(cell.trace)
    with model.attached(machine, live) as run, live.attached():
        engine = Engine(model.model, model.backend.device)

        def serve(passes: Iterable[Pass], take: Take | None) -> None:
            for step in passes:
                given = [int(token) for first, rows in step.parts for token in tokens[first : first + rows]]
                live.enter(step, given)
                run.begin(step)
                if step.prefill:
                    logits = engine.prefill(step.requests[0], given, every=True)
                else:
                    logits = engine.decode(step.requests, given)
                logits = logits.float().cpu()
                run.end()
                if take is not None:
                    take(step, logits)
                for request, (first, rows) in zip(step.requests, step.parts, strict=True):
                    if first + rows == ends[request]:
                        engine.drop(request)

        if cell.selection.warmup:
            serve(cell.passes(cell.selection.warmup), None)
            machine.measure()
        serve(cell.passes(cell.selection.measured), take)
        accounts = machine.finish()
    return DeviceRun(Outcome(policy, core, accounts, machine.timings, facts), core, machine)


def _tokens(cell: Cell, model: Offloaded) -> list[int]:
    recorded = cell.trace.token_ids
    if recorded is None:
        raise UserError(f"trace={cell.config.trace} did not record token_ids; allowed: one that did")
    tokens: list[int] = recorded.tolist()
    vocabulary = model.model.get_input_embeddings().weight.shape[0]
    if (largest := max(tokens, default=0)) >= vocabulary:
        raise UserError(f"trace={cell.config.trace} has token {largest}; allowed: 0 to {vocabulary - 1}, the model's")
    return tokens
