"""What runs next where requests arrive: asked for when the machine is free, at the machine's own time."""

from __future__ import annotations

from collections.abc import Iterator

from sim.core.loads import Digest
from sim.workload.online.arrivals import Traffic
from sim.workload.online.ledger import Ledger
from sim.workload.online.rows import Rows
from sim.workload.online.schedule import Batch, Scheduler
from sim.workload.step import Pass


class Serving:
    """The arrivals of a run and their scheduler: asked what runs next, and told when it has ended.

    Time begins for the arrivals with the first question. What was answered is hashed in a digest of its own, and is in
    no log: a log has the passes themselves. Memory is that of instances and output tokens; with ``keep`` also that of
    the batches, from which :meth:`passes_again` makes the passes anew.
    """

    def __init__(self, traffic: Traffic, scheduler: Scheduler, rows: Rows, *, keep: bool = False) -> None:
        self.traffic, self.scheduler, self.rows = traffic, scheduler, rows
        self.ledger = Ledger()
        self.start: int | None = None
        """The machine's time when the arrivals' begins."""
        self.passes = [0, 0, 0]
        """By kind of pass."""
        self.rows_computed = self.peak_blocks = 0
        self._by_id = {arrival.id: arrival for arrival in traffic.arrivals}
        self._arrived = 0  # so many of the arrivals
        self._batch: Batch | None = None
        self._batches: list[Batch] | None = [] if keep else None
        self._answers = Digest()

    def next_pass(self, now: int) -> Pass | int | None:
        """What runs next; a time until which there is nothing to do; None: all is done."""
        if self.start is None:
            self.start = now
        arrivals, now = self.traffic.arrivals, now - self.start
        while self._arrived < len(arrivals) and arrivals[self._arrived].time_ns <= now:
            self.scheduler.arrive(arrivals[self._arrived], now)
            self.ledger.arrived(arrivals[self._arrived])
            self._arrived += 1
        batch = self._batch = self.scheduler.next_pass(now)
        if batch is None:
            return arrivals[self._arrived].time_ns + self.start if self._arrived < len(arrivals) else None
        return self._begin(batch, now)

    def ended(self, now: int) -> None:
        """The pass that was answered last has ended."""
        assert self._batch is not None
        assert self.start is not None
        self.ledger.ended(self._batch, now - self.start)
        self.scheduler.done(self._batch, now - self.start)

    def digest(self) -> str:
        """Hash of all passes."""
        return self._answers.hexdigest()

    def batches(self) -> list[Batch]:
        """The batches so far. RuntimeError if they were not kept."""
        if self._batches is None:
            raise RuntimeError("the batches were not kept")
        return self._batches

    def passes_again(self) -> Iterator[Pass]:
        """The passes so far, as they happened. RuntimeError if their batches were not kept."""
        return (self.rows.step(batch, self._by_id) for batch in self.batches())

    def _begin(self, batch: Batch, now: int) -> Pass:
        """That batch is what runs next."""
        self.ledger.began(batch, now)
        step = self.rows.step(batch, self._by_id)
        self._note(batch, step)
        return step

    def _note(self, batch: Batch, step: Pass) -> None:
        self.passes[step.kind] += 1
        self.rows_computed += step.rows
        self.peak_blocks = max(self.peak_blocks, sum([job.blocks for job in self.scheduler.running]))
        if self._batches is not None:
            self._batches.append(batch)
        self._answers.append(len(batch.shares))
        for share in batch.shares:
            self._answers.extend(map(int, share))
        for piece in batch.pieces:
            self._answers.extend((len(piece), *(share.tokens for share in piece)))
        for ids in (batch.admitted, batch.preempted):
            self._answers.extend((len(ids), *ids))
        self._answers.flush()
