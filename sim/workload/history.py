"""What a policy may learn from before it is measured: the train requests, and nothing else (policies.api.History)."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import PastStep, Signal
from sim.workload.passes import ClosedLoop
from traces import PREFILL, Trace
from traces.kit.errors import UserError


class TrainRequests:
    """The train requests of a trace. RuntimeError if another request is among them.

    ``declared``: the signals that the policy may read; another one is an error that names it.
    """

    def __init__(self, trace: Trace, requests: Sequence[int], declared: Collection[Signal]) -> None:
        for request in requests:
            if trace.requests[request].split != "train":
                raise RuntimeError(f"request {request} is none to learn from: its split is not train")
        self._trace, self._requests, self._declared = trace, tuple(requests), frozenset(declared)

    def popularity(self) -> NDArray[np.int64]:
        """Lookups of every expert, int64 [L * E]: each layer event counts an expert once."""
        counts = np.zeros(self._trace.L * self._trace.E, np.int64)
        for step in ClosedLoop(self._trace).passes(self._requests):
            counts[[x for demand in step.demand for x in demand]] += 1
        return counts

    def steps(self) -> Iterator[PastStep]:
        """The forward passes, in order, request by request; their arrays are read when asked for."""
        for request in self._requests:
            for step in self._trace.steps[self._trace.steps_of(request)]:
                first, rows = int(step["first_row"]), int(step["rows"])
                yield PastStep(
                    request,
                    bool(step["phase"] == PREFILL),
                    rows,
                    self._reader(Signal.TOKEN_IDS, first, rows),
                    self._reader(Signal.EMBEDDING, first, rows),
                    self._reader("expert_ids", first, rows),
                    self._reader(Signal.WEIGHTS, first, rows),
                    self._reader(Signal.ROUTER_PROBS, first, rows),
                    self._reader(Signal.GATE_AHEAD, first, rows),
                    self._reader(Signal.HIDDEN, first, rows),
                )

    def _reader(self, name: str, first: int, rows: int) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            if name != "expert_ids" and name not in self._declared:
                raise RuntimeError(f"the policy reads {name} of the train requests and does not declare it")
            array = getattr(self._trace, name)
            if array is None:
                raise UserError(f"the policy needs the signal {name}, which the trace did not record")
            return np.array(array[first : first + rows])  # a copy: the whole file can be reached from a view of it

        return read
