"""Where a run's routing and signals come from: a recorded trace, or the model itself as it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.workload import Pass
from traces import Trace


class Forced:
    """The routing of a trace: its rows decide, whatever the model's routers say."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._step: Pass | None = None
        self._ids: NDArray[np.int64] = np.empty((0, 0, 0), np.int64)

    def enter(self, step: Pass) -> None:
        """A pass begins."""
        self._step = step
        ids = np.concatenate([self.trace.expert_ids[first : first + rows] for first, rows in step.parts])
        self._ids = np.where(ids == self.trace.absent, self.trace.E, ids.astype(np.int64))

    def forced(self, layer: int) -> NDArray[np.int64]:
        return np.ascontiguousarray(self._ids[:, layer])

    def demand(self, layer: int, ids: NDArray[np.int64], weights: NDArray[Any]) -> tuple[list[int], list[int]]:
        assert self._step is not None
        return self._step.demand[layer], self._step.tokens[layer]

    def settle(self) -> None:
        return
