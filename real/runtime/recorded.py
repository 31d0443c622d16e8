"""Where a run's routing and signals come from: a recorded trace, or the model itself as it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.workload.passes import Pass
from traces import Trace
from traces.models.scoring import Law


class Forced:
    """The routing of a trace: its rows decide, whatever the model's routers say."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._step: Pass | None = None

    def enter(self, step: Pass) -> None:
        """A pass begins."""
        self._step = step

    def routing(self) -> NDArray[np.int64]:
        assert self._step is not None
        ids = np.concatenate([self.trace.expert_ids[first : first + rows] for first, rows in self._step.parts])
        return np.where(ids == self.trace.absent, self.trace.E, ids.astype(np.int64))

    def demand(self, layer: int, ids: NDArray[np.int64], weights: NDArray[Any] | None) -> tuple[list[int], list[int]]:
        assert self._step is not None
        return self._step.demand[layer], self._step.tokens[layer]

    def gate(self, layer: int, law: Law) -> tuple[Tensor, Tensor] | None:
        """Of the recorded scores: the logits that have them, but for a constant where it is of no effect."""
        trace, step = self.trace, self._step
        if trace.router_probs is None or trace.expert_weights is None or step is None:
            return None
        scores, weights = (
            torch.from_numpy(np.concatenate([array[first : first + rows, layer] for first, rows in step.parts])).float()
            for array in (trace.router_probs, trace.expert_weights)
        )
        return law.logits(scores), weights

    def settle(self) -> None:
        return
