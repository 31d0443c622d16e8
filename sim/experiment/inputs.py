"""What the cells of one job have in common: traces, passes, and what policies have learned."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from policies.api import Learned
from sim.workload.passes import ClosedLoop, Pass, PrefillOrder
from traces import Trace, open_trace

KEPT_CHOICES = 8_000_000
"""Entries of ``expert_ids`` up to which passes are kept, in some 250 MB; of a larger trace each replay reads them."""


class Inputs:
    """What the cells of one job have in common: traces by folder, and the passes over them, opened and read once.

    ``keep=False`` reads all of them each time, in bounded memory.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.keep = keep
        self._traces: dict[Path, Trace] = {}
        self._passes: dict[tuple[object, ...], list[Pass]] = {}
        self.learned: dict[str, Learned] = {}
        """What policies have learned, by what it depends on; kept where passes are."""

    def trace(self, folder: Path) -> Trace:
        """The trace in a folder, checked; UserError if it is none."""
        if not self.keep:
            return open_trace(folder)
        if folder not in self._traces:
            self._traces[folder] = open_trace(folder)
        return self._traces[folder]

    def passes(
        self,
        trace: Trace,
        batch: int,
        requests: Sequence[int],
        chunk: int | None = None,
        order: PrefillOrder = "chunk_major",
    ) -> Iterator[Pass]:
        """The forward passes of a closed loop over ``requests``, in order."""
        loop = ClosedLoop(trace, batch, prefill_chunk=chunk, prefill_order=order)
        if not self.keep or trace.expert_ids.size > KEPT_CHOICES:
            return loop.passes(requests)
        if batch == 1:  # a request's passes do not depend on its neighbours, so another seed has the same
            return (step for request in requests for step in self._kept(loop, (request,)))
        return iter(self._kept(loop, tuple(requests)))

    def _kept(self, loop: ClosedLoop, requests: tuple[int, ...]) -> list[Pass]:
        key = (loop.trace.sha256, loop.batch, loop.chunk, loop.layer_major, requests)
        if key not in self._passes:
            self._passes[key] = list(loop.passes(requests))
        return self._passes[key]
