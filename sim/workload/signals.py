"""What a policy may read of a trace (docs/design.md, rule 2): signals no earlier than the model had them, and what it
learns from before it is measured, the train requests and nothing else (policies.api.History).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import PastRequest, PastStep, Signal, Signals
from sim.workload.passes import ClosedLoop
from traces import PREFILL, Trace
from traces.kit.errors import UserError, one_of


@dataclass(frozen=True, slots=True)
class Shown:
    """What a policy holds (policies.api.Signals): the questions, and no handle to move them."""

    token_ids: Callable[[], NDArray[np.int32]]
    embedding: Callable[[], NDArray[np.float16]]
    expert_ids: Callable[[], NDArray[np.integer[Any]]]
    expert_weights: Callable[[], NDArray[np.float16]]
    router_probs: Callable[[], NDArray[np.float16]]
    gate_ahead: Callable[[int], NDArray[np.integer[Any]]]
    hidden: Callable[[], NDArray[np.float16]]
    predicted: Callable[[str], NDArray[np.integer[Any]]]
    pregate: Callable[[], NDArray[np.integer[Any]]]


class TraceSignals:
    """Reads the current step's rows, in the current layer, from a memory-mapped trace.

    The core sets ``layer`` when that layer's gate has run; there is no way to name another one. ``declared``: the
    signals that the policy may read (None: all that were recorded); another one is an error that names it.
    ``predicted``: the outputs of fitted predictors, by name, [N, L, K'], of which the policy may read ``predictors``.
    ``pregated``: whether it is one of a modified model, whose gates say who computes in the next layer.
    """

    def __init__(
        self,
        trace: Trace | Any | None,
        declared: Collection[Signal] | None = None,
        predicted: Mapping[str, NDArray[np.integer[Any]]] | None = None,
        predictors: Collection[str] = (),
        *,
        pregated: bool = False,
    ) -> None:
        self._trace, self._pregated = trace, pregated
        self._predicted, self._predictors = dict(predicted or {}), frozenset(predictors)
        self._declared = frozenset(Signal) if declared is None else frozenset(declared)
        self._parts: Sequence[tuple[int, int]] = ()
        self.layer = -1

    def enter(self, parts: Sequence[tuple[int, int]]) -> None:
        """A step begins over these rows [(first row, rows)]; no gate has run."""
        self._parts, self.layer = parts, -1

    def shown(self) -> Signals:
        """The signals as a policy gets them."""
        return Shown(
            lambda: self._rows(Signal.TOKEN_IDS),
            lambda: self._rows(Signal.EMBEDDING),
            lambda: self._gated("expert_ids"),
            lambda: self._gated(Signal.WEIGHTS),
            lambda: self._gated(Signal.ROUTER_PROBS),
            lambda distance: self._gate_ahead(distance),
            lambda: self._gated(Signal.HIDDEN),
            lambda name: self._prediction(name),
            lambda: self._pregate(),
        )

    def _rows(self, name: str, *index: int) -> NDArray[Any]:
        return self._copied(_recorded(self._trace, name, self._declared), *index)

    def _copied(self, array: Any, *index: int) -> NDArray[Any]:
        # A memory map takes microseconds to slice. What a running model shows is no array, and read only where asked.
        plain: Any = np.asarray(array) if isinstance(array, np.ndarray) else array
        blocks = [plain[(slice(first, first + rows), *index)] for first, rows in self._parts]
        # A copy: the whole file can be reached from a view of it.
        return np.array(blocks[0]) if len(blocks) == 1 else np.concatenate(blocks)

    def _gate_has_run(self, name: str) -> None:
        if self.layer < 0:
            raise RuntimeError(f"{name} was asked for before a gate had run")

    def _gated(self, name: str, *index: int) -> NDArray[Any]:
        self._gate_has_run(name)
        return self._rows(name, self.layer, *index)

    def _prediction(self, name: str) -> NDArray[np.integer[Any]]:
        self._gate_has_run(f"predicted {name}")
        if name not in self._predictors:
            raise RuntimeError(f"the policy reads the predictor {name} and does not declare it in its predictors")
        if name not in self._predicted:
            raise UserError(
                f"the policy needs the predictor {name}, which was not fitted; there are: {one_of(self._predicted)}"
            )
        return self._copied(self._predicted[name], self.layer)

    def _pregate(self) -> NDArray[np.integer[Any]]:
        if not self._pregated:
            raise RuntimeError("the policy reads pregate and does not declare that it is of a modified model")
        here = self._gated("expert_ids")
        if self.layer + 1 == self._trace.expert_ids.shape[1]:  # type: ignore[union-attr]
            return np.full_like(here, np.iinfo(here.dtype).max)
        return self._rows("expert_ids", self.layer + 1)

    def _gate_ahead(self, distance: int) -> NDArray[np.integer[Any]]:
        recorded = None if self._trace is None else self._trace.gate_ahead
        if recorded is not None and not 1 <= distance <= recorded.shape[2]:
            raise UserError(
                f"the policy wants gate_ahead at distance {distance}; recorded, and allowed: 1 to {recorded.shape[2]}"
            )
        return self._gated(Signal.GATE_AHEAD, distance - 1)


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
                readers = {name: self._reader(name, first, rows) for name in ("expert_ids", *Signal)}
                yield PastStep(request, rows, prefill=bool(step["phase"] == PREFILL), **readers)

    def requests(self) -> Iterator[PastRequest]:
        """The same request by request; their arrays are read when asked for."""
        for request in self._requests:
            steps, span = self._trace.steps[self._trace.steps_of(request)], self._trace.rows_of(request)
            first, rows = span.start, span.stop - span.start
            readers = {name: self._reader(name, first, rows) for name in ("expert_ids", *Signal)}
            prompt = int(steps["rows"][steps["phase"] == PREFILL].sum())
            firsts = steps["first_row"].astype(np.int64) - first
            yield PastRequest(request, rows, prompt_rows=prompt, firsts=firsts, **readers)

    def _reader(self, name: str, first: int, rows: int) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            array = _recorded(self._trace, name, self._declared)
            return np.array(array[first : first + rows])  # a copy: the whole file can be reached from a view of it

        return read


def _recorded(trace: Trace | Any | None, name: str, declared: Collection[Signal]) -> Any:
    if name != "expert_ids" and name not in declared:
        raise RuntimeError(f"the policy reads {name} and does not declare it in its signals")
    array = None if trace is None else getattr(trace, name)
    if array is None:
        raise UserError(f"the policy needs the signal {name}, which the trace did not record")
    return array
