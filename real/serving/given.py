"""The batches that a run on a device was made of: written down, and served again on the simulated machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from sim.workload.online.arrivals import Traffic
from sim.workload.online.feed import Serving
from sim.workload.online.rows import Rows
from sim.workload.online.schedule import Batch, Scheduler, Share
from sim.workload.step import Pass
from traces.kit.errors import UserError

Written = list[list[list[int]]]
"""A batch as JSON has it: its shares, field by field, and [admitted, preempted]."""


class Given(Serving):
    """The passes of given batches, each as soon as the machine is free and all that it serves have arrived.

    What a clock decided is then no longer open: ``lru`` has the hits of the run that it was, and of the times of its
    passes what differs is the machine. ``scheduler``: for its limits, it is asked nothing.
    """

    def __init__(self, traffic: Traffic, scheduler: Scheduler, rows: Rows, batches: Sequence[Batch]) -> None:
        super().__init__(traffic, scheduler, rows)
        self._given = deque(batches)

    def next_pass(self, now: int) -> Pass | int | None:
        if self.start is None:
            self.start = now
        now -= self.start
        if not self._given:
            return None
        batch = self._given[0]
        if now < (come := max(self._by_id[share.id].time_ns for share in batch.shares)):
            return come + self.start
        for share in batch.shares:
            if share.id not in self.ledger.served:
                self.ledger.arrived(self._by_id[share.id])
        self._batch = self._given.popleft()
        return self._begin(self._batch, now)

    def ended(self, now: int) -> None:
        assert self._batch is not None
        assert self.start is not None
        self.ledger.ended(self._batch, now - self.start)


def written(batches: Sequence[Batch]) -> Written:
    """As JSON has them."""
    return [
        [*[[*map(int, share)] for share in batch.shares], [*batch.admitted], [*batch.preempted]] for batch in batches
    ]


def read(batches: Written) -> list[Batch]:
    """What :func:`written` gave. UserError for what is none."""
    try:
        return [
            Batch(
                tuple(Share(i, start, tokens, prompt, bool(yields)) for i, start, tokens, prompt, yields in shares),
                tuple(admitted),
                tuple(preempted),
            )
            for *shares, admitted, preempted in batches
        ]
    except (TypeError, ValueError) as error:
        raise UserError(f"the batches of a run are damaged ({error}); remove it, and measure it again") from None
