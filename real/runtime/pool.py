"""The slots on the device: one block of memory within the budget, each slot as large as one expert."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from real.runtime.backend import Backend, DeviceError, Ticket
from real.runtime.store import HostStore
from sim.core.state import CoreError, split_chunks
from traces.kit.telling import in_short

ALIGNED = 16
"""Bytes: a GPU's kernels choose by whether what they read begins at a multiple of it."""


class Pool:
    """Which expert lies in which slot. The core says who may have one; here is where it is.

    `weights`: name -> [slots, ...], what the kernels read. `slot_of`: expert number -> slot, -1 without one.
    """

    def __init__(self, store: HostStore, capacity: int, chunks: int, backend: Backend) -> None:
        self.store, self.backend = store, backend
        nbytes, n_layers = store.layout.nbytes, len(store.blocks)
        self.slots = min(capacity // nbytes, n_layers * store.n_experts)
        before = backend.allocated()
        try:
            self.block = torch.empty(self.slots, nbytes, dtype=torch.uint8, device=backend.device)
        except RuntimeError as error:
            raise DeviceError(
                f"{self.slots} experts of {nbytes} bytes do not fit on {backend.device}: {in_short(error)};"
                " allowed: a budget that fits beside the dense part"
            ) from None
        backend.synchronize()  # whoever had this memory before may still be at work, on another stream than the copies
        self.allocated = max(self.block.numel(), backend.allocated() - before)
        if self.allocated > capacity:
            raise CoreError(f"the pool took {self.allocated} bytes of a budget of {capacity}")
        self.weights = store.layout.views(self.block)
        self.slot_of = [-1] * (n_layers * store.n_experts)
        self._tables: list[Tensor | None] = [None] * n_layers
        self._stale = [True] * n_layers  # tables, of which another than the one on the device holds
        self.holds_all = self.slots == len(self.slot_of)
        """Then each expert has the slot of its number."""
        self._free = list(range(self.slots - 1, -1, -1))
        ends = [0]
        for size in split_chunks(nbytes, chunks):
            ends.append(ends[-1] + size)
        self._spans = list(pairwise(ends))
        self._chunks = chunks
        self._targets: list[list[Tensor] | None] = [None] * self.slots  # of each slot's chunks, once they are wanted
        self._views: dict[tuple[str, bool], tuple[Tensor, ...]] = {}

    def each(self, name: str, transposed: bool = False) -> tuple[Tensor, ...]:
        """The weights `name` of every slot, views that are made once: it takes longer than to launch a kernel."""
        key = (name, transposed)
        if key not in self._views:
            weights = self.weights[name]
            self._views[key] = (weights.mT if transposed else weights).unbind(0)
        return self._views[key]

    def start_copy(self, chunk: int) -> Ticket:
        """Hand the copy of a chunk over; its expert is given a slot if it has none."""
        expert, part = divmod(chunk, self._chunks)
        slot = self.slot_of[expert]
        if slot < 0:
            slot = self.slot_of[expert] = expert if self.holds_all else self._free.pop()
            self._stale[expert // self.store.n_experts] = True
        targets = self._targets[slot]
        if targets is None:
            targets = self._targets[slot] = [self.block[slot, first:end] for first, end in self._spans]
        first, end = self._spans[part]
        return self.backend.start_copy(targets[part], self.store.expert(expert)[first:end])

    def evict(self, x: int) -> None:
        """The core takes the expert's slot back."""
        slot = self.slot_of[x]
        if slot >= 0:
            self.slot_of[x] = -1
            if not self.holds_all:
                self._free.append(slot)
            self._stale[x // self.store.n_experts] = True

    def table(self, layer: int) -> Tensor:
        """Slots of a layer's experts on the device, int64 [E]: sent there when one of them has changed."""
        table = self._tables[layer]
        if table is None or self._stale[layer]:
            self._stale[layer] = False  # first: another thread may change a slot while this one reads them
            first = layer * self.store.n_experts
            table = torch.tensor(self.slot_of[first : first + self.store.n_experts], dtype=torch.int64)
            table = self._tables[layer] = self.backend.upload(table)
        return table

    def free(self) -> None:
        """Give the memory back now, whoever still holds the pool or one of its weights. Nothing may use it any more."""
        self.weights, self._views, self._tables, self._targets = {}, {}, [], []
        self.block.untyped_storage().resize_(0)

    def facts(self) -> dict[str, Any]:
        """What a result says of the memory that was taken."""
        return {"slots": self.slots, "allocated_bytes": self.allocated}
