"""Experts in lower dtypes beside the model's own: packed in host memory, copied as they are, widened where computed.

An item is an expert in a version (policies.api.Setup): what the core says of its bytes is what is held and copied.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from real.runtime.backend import Backend, Ticket
from real.runtime.compute import Dispatch, Experts, LayerCompute
from real.runtime.host import SHOWN, Host
from real.runtime.pool import Pool
from real.runtime.store import HostStore, Layout, PageLocks, Part
from sim.core.state import CoreError, split_chunks
from traces.kit.errors import UserError, one_of
from traces.models.packed import FORMATS


class Packing:
    """One expert's tensors in a dtype of FORMATS: its matrices packed one after the other, its biases as they are.

    ``transposed``: matrices are [inputs, outputs], as some families have them. UserError for another dtype, and where
    it saves nothing.
    """

    def __init__(self, layout: Layout, transposed: bool, dtype: str, where: str = "dtype") -> None:
        if dtype not in FORMATS:
            raise UserError(f"{where}={dtype}: no experts are packed in it here; allowed: {one_of(FORMATS)}")
        self.layout, self.transposed, self.how = layout, transposed, FORMATS[dtype]
        sizes = [self.how.nbytes(*self._sides(part)) if len(part.shape) == 2 else part.nbytes for part in layout.parts]
        self._spans = list(pairwise(accumulate(sizes, initial=0)))
        self.nbytes = sum(sizes)
        if self.nbytes >= layout.nbytes:
            raise UserError(f"{where}={dtype}: an expert has {layout.nbytes} bytes, and in it {self.nbytes}")

    def pack(self, expert: Tensor) -> Tensor:
        """The bytes uint8 [nbytes] of an expert, uint8 [layout.nbytes]."""
        packed = []
        for view in self.layout.views(expert[None]).values():
            own = view[0]
            if own.dim() == 2:
                packed.append(self.how.pack(own.mT if self.transposed else own))
            else:
                packed.append(own.reshape(-1).view(torch.uint8))
        return torch.cat(packed)

    def unpack(self, data: Tensor) -> dict[str, Tensor]:
        """The tensors [1, ...] of an expert, in the model's own dtype, of its packed bytes."""
        found = {}
        for part, (first, end) in zip(self.layout.parts, self._spans, strict=True):
            if len(part.shape) == 2:
                own = self.how.unpack(data[first:end], *self._sides(part), part.dtype)
                own = own.mT.contiguous() if self.transposed else own
            else:
                own = data[first:end].clone().view(part.dtype)
            found[part.name] = own.view(1, *part.shape)
        return found

    def _sides(self, part: Part) -> tuple[int, int]:
        rows, columns = part.shape
        return (columns, rows) if self.transposed else (rows, columns)


class Packed:
    """All experts of a store in one lower dtype, in host memory, page-locked where it is ``pinned``.

    ``blocks``: a layer's each, uint8 [E, nbytes]. UserError where the host has too little memory; DeviceError where it
    cannot be page-locked.
    """

    def __init__(self, store: HostStore, module: Any, dtype: str, *, pinned: bool, host: Host = SHOWN) -> None:
        self.dtype, self.packing = dtype, Packing(store.layout, bool(module.is_transposed), dtype)
        host.check(len(store.blocks) * store.n_experts * self.packing.nbytes, f"the experts in {dtype}")
        self.blocks = [torch.stack([self.packing.pack(expert) for expert in block]) for block in store.blocks]
        self._locks = PageLocks()
        if pinned:
            for block in self.blocks:
                self._locks.lock(block.view(-1))


class Versions:
    """Experts of a store in lower dtypes as well: version v is ``lower[v - 1]``, version 0 the store's own."""

    def __init__(self, store: HostStore, lower: Sequence[Packed]) -> None:
        self.store, self.lower = store, tuple(packed.dtype for packed in lower)
        self.packings, self.blocks = [packed.packing for packed in lower], [packed.blocks for packed in lower]
        self.sizes = (store.layout.nbytes, *(packing.nbytes for packing in self.packings))

    @property
    def nbytes(self) -> int:
        """Bytes of the packed experts, beside the store's."""
        return sum(block.numel() for blocks in self.blocks for block in blocks)

    def split(self, item: int) -> tuple[int, int]:
        """(version, expert number) of an item."""
        return divmod(item, len(self.store.blocks) * self.store.n_experts)

    def bytes_of(self, item: int) -> Tensor:
        """The bytes of an item where it waits, uint8 [nbytes of its version]."""
        version, expert = self.split(item)
        if not version:
            return self.store.expert(expert)
        layer, index = divmod(expert, self.store.n_experts)
        return self.blocks[version - 1][layer][index]

    def weights(self, item: int, data: Tensor) -> dict[str, Tensor]:
        """The tensors [1, ...] of an item in the model's own dtype, of its bytes on the device."""
        version, _ = self.split(item)
        return self.packings[version - 1].unpack(data) if version else self.store.layout.views(data[None])


class ItemPool(Pool):
    """Items on the device, each in memory of its own, as they are of several sizes: together within the capacity.

    What the allocator rounds up, or keeps of what was given back, is not counted.
    """

    def __init__(self, versions: Versions, capacity: int, chunks: int, backend: Backend) -> None:
        self.store, self.backend, self.versions, self.capacity = versions.store, backend, versions, capacity
        self.slots, self.holds_all = 0, False
        self.block = torch.empty(0, versions.store.layout.nbytes, dtype=torch.uint8, device=backend.device)
        self.weights = versions.store.layout.views(self.block)
        self.slot_of: Any = range(len(versions.sizes) * len(versions.store.blocks) * versions.store.n_experts)
        self._views = {}
        self._chunks = chunks
        self._cuts = [list(pairwise(accumulate(split_chunks(n, chunks), initial=0))) for n in versions.sizes]
        self._held: dict[int, Tensor] = {}
        self.used = self.peak = self.copied = 0

    def start_copy(self, chunk: int) -> Ticket:
        """Hand the copy of a chunk over; its item is given memory if it has none."""
        item, part = divmod(chunk, self._chunks)
        source = self.versions.bytes_of(item)
        target = self._held.get(item)
        if target is None:
            target = self._held[item] = self.backend.room_for(source)
            self.used += target.numel()
            self.peak = max(self.peak, self.used)
            if self.used > self.capacity:
                raise CoreError(f"the pool holds {self.used} bytes of {self.capacity}")
        first, end = self._cuts[self.versions.split(item)[0]][part]
        self.copied += end - first
        return self.backend.start_copy(target[first:end], source[first:end])

    def evict(self, x: int) -> None:
        """The core takes the item's slot back."""
        held = self._held.pop(x, None)
        self.used -= 0 if held is None else held.numel()

    def weights_of(self, item: int) -> dict[str, Tensor]:
        """The tensors [1, ...] of an item that is complete."""
        return self.versions.weights(item, self._held[item])

    def free(self) -> None:
        """Give the memory back now."""
        self._held.clear()
        self.used = 0

    def facts(self) -> dict[str, Any]:
        """What a result says of the memory that was taken."""
        return {"allocated_bytes": self.peak, "packed_host_bytes": self.versions.nbytes}


class VersionedCompute(LayerCompute):
    """One layer's experts, each in the version in which it is there. One by one, whatever is exact elsewhere."""

    def __init__(self, module: Any, layer: int, pool: ItemPool) -> None:
        super().__init__(module, layer, pool)
        self._module, self._items = module, pool

    def one_by_one(self, hidden: Tensor, dispatched: Dispatch, *rest: Any, **given: Any) -> Tensor:
        """As without versions. An event has each expert in one version, so that its rows are those of any."""
        store = self._items.store
        n_all, versions = len(store.blocks) * store.n_experts, range(len(self._items.versions.sizes))
        spans = {index + version * n_all: span for index, span in dispatched.spans.items() for version in versions}
        return super().one_by_one(hidden, replace(dispatched, spans=spans), *rest, **given)

    def expert(self, place: int, x: Tensor, out: Tensor) -> None:
        """The item ``place`` on x [n, D] -> out [n, D], without its routing weight."""
        weights = self._items.weights_of(place)

        def each(name: str, flipped: bool) -> tuple[Tensor, ...]:
            return (weights[name].mT if flipped else weights[name]).unbind(0)

        Experts(self._module, weights, each).expert(0, x, out)
