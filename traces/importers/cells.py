"""The experts of one request, noted cell by cell, a row and a layer each, and put into arrays in the end."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from traces.format.layout import Array
from traces.importers.files import check_request_size


@dataclass(eq=False)
class Cells:
    """The cells seen so far, flat: lists of lists would take ten times the memory."""

    places: array[int] = field(default_factory=lambda: array("i"))
    """Row, layer and number of ids of each cell."""
    ids: array[int] = field(default_factory=lambda: array("i"))
    weights: array[float] = field(default_factory=lambda: array("f"))

    def add(self, row: int, layer: int, ids: Sequence[int], weights: Sequence[float] | None = None) -> None:
        """Append a cell; all have weights, or none has."""
        self.places.extend((row, layer, len(ids)))
        self.ids.extend(ids)
        self.weights.extend(weights or ())

    def arrays(self, where: str) -> tuple[Array, dict[str, Array]]:
        """Return the ids [rows, layers, slots], -1 where there are none, and as a signal the weights, if there are."""
        rows, layers, sizes = np.frombuffer(self.places, np.int32).reshape(-1, 3).T
        shape = (int(rows.max()) + 1, int(layers.max()) + 1, int(sizes.max()))
        check_request_size(where, *shape)
        slots = np.arange(len(self.ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = (np.repeat(rows, sizes), np.repeat(layers, sizes), slots)
        ids = np.full(shape, -1, np.int32)
        ids[place] = self.ids
        if not self.weights:
            return ids, {}
        weights = np.zeros(shape, np.float32)
        weights[place] = self.weights
        return ids, {"expert_weights": weights}
