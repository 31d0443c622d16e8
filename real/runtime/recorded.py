"""Run a cell's recorded requests on a device, in the simulator's passes, with the trace's routing or the model's."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.api import Policy
from real.runtime.events import Feed
from real.runtime.live import Live
from real.runtime.offloaded import Offloaded
from real.runtime.runner import DeviceRun, Runner, check_shape, depth_of, device_machine, running
from real.runtime.versions import Versions
from sim.experiment.cell import Cell, make_signals, passes_of
from sim.workload.passes import Pass
from traces import Trace
from traces.kit.errors import UserError
from traces.models.scoring import Law

T = TypeVar("T")


def run_forced(
    cell: Cell, model: Offloaded, policy: Policy, take: Callable[[Pass, Any], None] = lambda step, chosen: None
) -> DeviceRun:
    """Serve the cell's requests with the trace's routing, whatever the model's routers say.

    ``take(step, chosen)``: of each measured pass, the likeliest tokens [requests]. UserError where the model is not of
    the trace's shape.
    """
    check_shape(cell.setup, model, cell.model.name)
    machine = device_machine(model, policy, make_signals(cell, policy), depth_of(cell.hardware))
    tokens = forced_tokens(cell, model)
    with running(model, machine, Forced(cell.trace)) as runner:
        # As one who generates: when the likeliest tokens are known, the device has ended the pass.
        return _serve(cell, runner, tokens, lambda logits: machine.read(logits.argmax(-1)), take)


def forced_tokens(cell: Cell, model: Offloaded) -> NDArray[np.integer[Any]]:
    """The tokens [N] of the trace's rows; drawn ones where none were recorded, or the model knows fewer."""
    trace, vocabulary = cell.trace, int(model.model.config.get_text_config().vocab_size)
    tokens: NDArray[np.integer[Any]] | None = trace.token_ids
    if tokens is None or int(tokens.max(initial=0)) >= vocabulary:
        return np.random.default_rng(0).integers(vocabulary, size=trace.N)
    return tokens


def run_taught(
    cell: Cell,
    model: Offloaded,
    policy: Policy,
    take: Callable[[Pass, Tensor], None],
    versions: Versions | None = None,
) -> DeviceRun:
    """Feed the trace's tokens, whatever the model would say, and let its routers choose.

    ``take(step, logits)``: of each measured pass, logits [rows, V] of all its tokens. What fitted predictors say is
    what stands beside the trace. ``versions``: the experts in the dtypes that the policy wants beside the model's own.
    UserError for a trace without tokens, or of another model's shape.
    """
    check_shape(cell.setup, model, cell.model.name)
    tokens, trace = cell.trace.token_ids, f"trace={cell.config.trace}"
    if tokens is None:
        raise UserError(f"{trace} did not record token_ids; allowed: one that did")
    vocabulary = model.model.get_input_embeddings().weight.shape[0]
    if (largest := int(tokens.max(initial=0))) >= vocabulary:
        raise UserError(f"{trace} has token {largest}; allowed: 0 to {vocabulary - 1}, the model's")
    live = Live(model.moe, policy.needs())
    signals = live.signals(policy, {name: np.asarray(found.expert_ids) for name, found in cell.predicted.items()})
    machine = device_machine(model, policy, signals, depth_of(cell.hardware), versions)

    def read(logits: Tensor) -> Tensor:
        return torch.from_numpy(*machine.read(logits.float()))

    with running(model, machine, live) as runner:
        return _serve(cell, runner, tokens, read, take, every=True)


def _serve(
    cell: Cell,
    runner: Runner,
    tokens: NDArray[np.integer[Any]],
    read: Callable[[Tensor], T],
    take: Callable[[Pass, T], None],
    every: bool = False,
) -> DeviceRun:
    """All passes of a cell over ``tokens`` [N] of the trace's rows; ``read`` belongs to the pass, ``take`` does not."""
    for measured, requests in enumerate((cell.selection.warmup, cell.selection.measured)):
        if measured and cell.selection.warmup:
            runner.run.machine.measure()
        closed(cell, runner, requests, tokens, read, take if measured else None, every)
    return runner.finish()


def closed(
    cell: Cell,
    runner: Runner,
    requests: Sequence[int],
    tokens: NDArray[np.integer[Any]],
    read: Callable[[Tensor], T],
    take: Callable[[Pass, T], None] | None = None,
    every: bool = False,
) -> None:
    """The passes of a closed loop over ``requests``."""
    ends = row_ends(cell.trace)
    for step in passes_of(cell, requests):
        given = [token for first, rows in step.parts for token in tokens[first : first + rows].tolist()]
        found = runner.forward(step, given, read, every)
        if take is not None:
            take(step, found)
        for request, (first, rows) in zip(step.requests, step.parts, strict=True):
            if first + rows == ends[request]:
                runner.engine.drop(request)


def row_ends(trace: Trace) -> dict[int, int]:
    """The row after each request's last."""
    steps = trace.steps
    return {int(r): int(f + n) for r, f, n in zip(steps["request"], steps["first_row"], steps["rows"], strict=True)}


class Forced(Feed):
    """The routing of a trace: its rows decide, whatever the model's routers say."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def routing(self) -> NDArray[np.int64]:
        ids = self._rows(self.trace.expert_ids)
        return np.where(ids == self.trace.absent, self.trace.E, ids.astype(np.int64))

    def gate(self, layer: int, law: Law) -> tuple[Tensor, Tensor] | None:
        """Of the recorded scores: the logits that have them, but for a constant where it is of no effect."""
        recorded = self.trace.router_probs, self.trace.expert_weights
        if any(array is None for array in recorded):
            return None
        scores, weights = (torch.from_numpy(self._rows(array, layer)).float() for array in recorded)
        return law.logits(scores), weights

    def _rows(self, array: Any, *layer: int) -> NDArray[Any]:
        """The pass's rows of one of the trace's arrays, of all layers or of one."""
        return np.concatenate([array[(slice(first, first + rows), *layer)] for first, rows in self.step.parts])
