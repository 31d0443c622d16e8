"""What the cells of one job have in common: the trace is opened, and its demand read, once."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sim.workload.passes import ClosedLoop, Pass
from traces import Trace, open_trace

KEPT_CHOICES = 8_000_000
"""Entries of ``expert_ids`` up to which passes are kept, in some 250 MB; of a larger trace each replay reads them."""


class Inputs:
    """Traces by folder, and the passes over them; ``keep=False`` reads all of them each time, in bounded memory."""

    def __init__(self, *, keep: bool = False) -> None:
        self.keep = keep
        self._traces: dict[Path, Trace] = {}
        self._passes: dict[tuple[str, int, tuple[int, ...]], list[Pass]] = {}

    def trace(self, folder: Path) -> Trace:
        """The trace in a folder, checked; UserError if it is none."""
        if not self.keep:
            return open_trace(folder)
        if folder not in self._traces:
            self._traces[folder] = open_trace(folder)
        return self._traces[folder]

    def passes(self, trace: Trace, batch: int, requests: Sequence[int]) -> Iterable[Pass]:
        """The forward passes of a closed loop over ``requests``, in order."""
        loop = ClosedLoop(trace, batch)
        if not self.keep or trace.expert_ids.size > KEPT_CHOICES:
            return loop.passes(requests)
        if batch == 1:  # a request's passes do not depend on its neighbours, so another seed has the same
            return (step for request in requests for step in self._kept(loop, trace, batch, (request,)))
        return self._kept(loop, trace, batch, tuple(requests))

    def _kept(self, loop: ClosedLoop, trace: Trace, batch: int, requests: tuple[int, ...]) -> list[Pass]:
        key = (trace.sha256, batch, requests)
        if key not in self._passes:
            self._passes[key] = list(loop.passes(requests))
        return self._passes[key]
