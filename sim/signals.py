"""The trace's signals, shown to a policy no earlier than the model had them (rule 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces import Trace
from traces.errors import UserError


class TraceSignals:
    """Reads the current step's rows, in the current layer, from a memory-mapped trace.

    The core sets ``layer`` when that layer's gate has run; there is no way to name another one.
    """

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace
        self._parts: Sequence[tuple[int, int]] = ()
        self.layer = -1

    def enter(self, parts: Sequence[tuple[int, int]]) -> None:
        """A step begins over these rows [(first row, rows)]; no gate has run."""
        self._parts, self.layer = parts, -1

    def _rows(self, name: str, *index: int) -> NDArray[Any]:
        array = None if self._trace is None else getattr(self._trace, name)
        if array is None:
            raise UserError(f"the trace has no {name}")
        blocks = [array[first : first + rows][(slice(None), *index)] for first, rows in self._parts]
        return np.asarray(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))

    def _gated(self, name: str, *index: int) -> NDArray[Any]:
        if self.layer < 0:
            raise RuntimeError(f"{name} was asked for before a gate had run")
        return self._rows(name, self.layer, *index)

    def token_ids(self) -> NDArray[np.int32]:
        return self._rows("token_ids")

    def embedding(self) -> NDArray[np.float16]:
        return self._rows("embedding")

    def expert_ids(self) -> NDArray[np.integer[Any]]:
        return self._gated("expert_ids")

    def expert_weights(self) -> NDArray[np.float16]:
        return self._gated("expert_weights")

    def router_probs(self) -> NDArray[np.float16]:
        return self._gated("router_probs")

    def gate_ahead(self, distance: int) -> NDArray[np.integer[Any]]:
        recorded = None if self._trace is None else self._trace.gate_ahead
        if recorded is not None and not 1 <= distance <= recorded.shape[2]:
            raise UserError(f"gate_ahead at distance {distance} was not recorded; allowed: 1 to {recorded.shape[2]}")
        return self._gated("gate_ahead", distance - 1)

    def hidden(self) -> NDArray[np.float16]:
        return self._gated("hidden")
