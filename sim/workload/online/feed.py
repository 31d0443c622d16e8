"""What runs next where requests arrive: asked for when the machine is free, at the machine's own time."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sim.core.loads import Digest
from sim.workload.online.rows import Rows
from sim.workload.online.schedule import Arrival, Batch, Scheduler
from sim.workload.step import Pass


@dataclass(slots=True)
class Served:
    """One instance, in ns since the first request could arrive."""

    arrival: Arrival
    first_ns: int | None = None
    """When the first pass that computes something of it began."""
    token_ns: array[int] = field(default_factory=lambda: array("q"))
    """When each of its output tokens was there."""
    beside_prompts: bytearray = field(default_factory=bytearray)
    """Of each output token, whether its pass computed rows of others' prompts."""
    preemptions: int = 0
    recomputed: int = 0
    """Rows that were computed again."""
    reached: int = 0


class Online:
    """The arrivals of a run and their scheduler: asked what runs next, and told when it has ended.

    ``start``: when time begins for the arrivals, on the machine's clock; the first question sets it. What was answered
    is hashed in a digest of its own. O(instances + output tokens) memory.
    """

    def __init__(self, arrivals: Sequence[Arrival], scheduler: Scheduler, rows: Rows) -> None:
        self.arrivals, self.scheduler, self.rows = arrivals, scheduler, rows
        self.served = {arrival.id: Served(arrival) for arrival in arrivals}
        self.by_id = {arrival.id: arrival for arrival in arrivals}
        self.start: int | None = None
        self.batches: list[Batch] | None = None
        """Kept where a list is put here."""
        self.passes = self.rows_computed = 0
        self._arrived = 0
        self._batch: Batch | None = None
        self._began = 0
        self._answers = Digest()

    def next_pass(self, now: int) -> Pass | int | None:
        """What runs next; a time until which there is nothing to do; None: all is done."""
        if self.start is None:
            self.start = now
        now -= self.start
        while self._arrived < len(self.arrivals) and self.arrivals[self._arrived].time_ns <= now:
            self.scheduler.arrive(self.arrivals[self._arrived], now)
            self._arrived += 1
        batch = self._batch = self.scheduler.next_pass(now)
        if batch is None:
            if self._arrived == len(self.arrivals):
                return None
            return self.arrivals[self._arrived].time_ns + self.start
        self._began = now
        self._note(batch)
        return self.rows.step(batch, self.by_id)

    def ended(self, now: int) -> None:
        """The pass that was answered last has ended."""
        assert self._batch is not None
        assert self.start is not None
        batch, now = self._batch, now - self.start
        prompts = sum(share.prompt_tokens for share in batch.shares)
        for share in batch.shares:
            its = self.served[share.id]
            if its.first_ns is None:
                its.first_ns = self._began
            again = max(0, min(share.tokens, its.reached - share.start))
            its.recomputed += again
            its.reached = max(its.reached, share.start + share.tokens)
            if share.yields:
                its.token_ns.append(now)
                its.beside_prompts.append(prompts > share.prompt_tokens)
        self.scheduler.done(batch, now)

    def digest(self) -> str:
        """Hash of all passes."""
        return self._answers.hexdigest()

    def _note(self, batch: Batch) -> None:
        self.passes += 1
        self.rows_computed += batch.tokens
        if self.batches is not None:
            self.batches.append(batch)
        for preempted in batch.preempted:
            self.served[preempted].preemptions += 1
        self._answers.append(len(batch.shares))
        for share in batch.shares:
            self._answers.extend(map(int, share))
        for ids in (batch.admitted, batch.preempted):
            self._answers.extend((len(ids), *ids))
        self._answers.flush()


def passes_again(batches: Iterable[Batch], online: Online) -> Iterable[Pass]:
    """The passes as they happened, made anew."""
    return (online.rows.step(batch, online.by_id) for batch in batches)
