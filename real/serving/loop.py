"""Serve arrivals on a device: passes as the scheduler plans them, between these the wait for whoever comes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from policies.api import Policy
from real.runtime.machine import Machine
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import Forced, closed, forced_tokens
from real.runtime.runner import DeviceRun, Runner, check_shape, depth_of, device_machine, running
from real.serving.apart import Apart
from sim.experiment.cell import Cell, make_signals
from sim.experiment.served import serving_of
from sim.machine.timings import served_timings
from sim.workload.online.schedule import Batch

Take = Callable[[Batch, Any], None]
"""``take(batch, chosen)``: of each pass, what it computed, and the likeliest tokens [shares]."""


class Clock(Protocol):
    """The time by which requests arrive, in ns."""

    def open(self) -> int:
        """When the arrivals' time begins: now."""

    def now(self) -> int:
        """The time at which what runs next is asked for."""

    def ended(self) -> int:
        """When the pass ended that has just run."""

    def idle(self, until: int) -> None:
        """Wait for that moment."""


class OnTheWall:
    """The machine's own clock, which is told of what was waited."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def open(self) -> int:
        return self.machine.open()

    def now(self) -> int:
        return self.machine.now()

    def ended(self) -> int:
        return self.machine.open()

    def idle(self, until: int) -> None:
        self.machine.idle(until)


def apart_of(cell: Cell, *, keep: bool = False) -> Apart:
    """A cell's arrivals, and a scheduler that has seen nobody; its batches are cut as a device computes them."""
    assert cell.traffic is not None
    plain = serving_of(cell.config, cell.model, cell.trace, cell.traffic, keep=False)
    return Apart(plain.traffic, plain.scheduler, plain.rows, keep=keep)


def run_arrivals(
    cell: Cell,
    model: Offloaded,
    policy: Policy,
    take: Take = lambda batch, chosen: None,
    clock: Callable[[Machine], Clock] = OnTheWall,
) -> DeviceRun:
    """Serve the cell's arrivals in real time, with the trace's tokens and routing, whatever the model's routers say.

    Each request has a KV cache of its own from its first pass to its last token, or until it is preempted, after which
    it computes its tokens again. ``warmup=`` requests are served before, one after the other. ``clock``: another one
    than the machine's. UserError where the model is not of the trace's shape.
    """
    check_shape(cell.setup, model, cell.model.name)
    machine = device_machine(model, policy, make_signals(cell, policy), depth_of(cell.hardware))
    tokens, serving = forced_tokens(cell, model), apart_of(cell, keep=True)
    with running(model, machine, Forced(cell.trace)) as runner:

        def read(logits: Any) -> Any:
            return machine.read(logits.argmax(-1))[0]

        closed(cell, runner, cell.selection.warmup, tokens, read)
        if cell.selection.warmup:
            machine.measure()
        _serve(serving, runner, clock(machine), tokens, read, take)
        machine.timings = served_timings(serving)
        run = runner.finish()
    run.outcome.serving = serving
    return run


def _serve(serving: Apart, runner: Runner, clock: Clock, tokens: Any, read: Callable[[Any], Any], take: Take) -> None:
    now, engine = clock.open(), runner.engine
    while (step := serving.next_pass(now)) is not None:
        if isinstance(step, int):
            clock.idle(step)
        else:
            batch = serving.batch
            for number in batch.preempted:
                engine.drop(number)
            given = [token for first, rows in step.parts for token in tokens[first : first + rows].tolist()]
            take(batch, runner.forward(step, given, read))
            serving.ended(clock.ended())
            for share in batch.shares:
                if serving.ledger.served[share.id].ended:
                    engine.drop(share.id)
        now = clock.now()
