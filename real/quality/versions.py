"""Cells whose experts are there in lower dtypes as well: with the bytes that a device holds and copies of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from policies import registry
from policies.api import Policy
from real.quality.uniform import Uniform
from real.runtime.host import Host
from real.runtime.models import Where
from real.runtime.offloaded import Offloaded
from real.runtime.store import same_layout
from real.runtime.versions import Packed, Packing, Versions
from sim.experiment.cell import Cell
from sim.prices.costs import Costs
from traces.kit.errors import UserError, one_of
from traces.models.families import INTERFACE, inspect_model
from traces.models.packed import FORMATS


def packed_sizes(model: Any, uniform: Collection[str]) -> dict[str, int]:
    """Bytes of one expert of a model in each dtype that it can be packed in and that is smaller than its own.

    UserError for a dtype of ``uniform`` that is none of these.
    """
    layers = inspect_model(model).layers
    if any(layer.way != INTERFACE for layer in layers):
        return {}  # which cannot be run here, as is told when it is to be
    layout, transposed = same_layout([layer.experts for layer in layers]), bool(layers[0].experts.is_transposed)
    sizes = {dtype: Packing(layout, transposed, dtype).nbytes for dtype in FORMATS}
    smaller = {dtype: nbytes for dtype, nbytes in sizes.items() if nbytes < layout.nbytes}
    for dtype in uniform:
        if dtype not in smaller:
            raise UserError(f"uniform={dtype}: allowed: {one_of(smaller)}, which are smaller than the model's own")
    return smaller


def sized(cell: Cell, sizes: Mapping[str, int], uniform: Collection[str]) -> Cell:
    """The cell, whose experts have these sizes in other dtypes, in the place of what its profile says; as it is where
    nobody wants any."""
    if not registry.find(str(cell.config.policy["name"])).versions and not uniform:
        return cell
    others = {dtype: (nbytes,) * cell.setup.n_layers for dtype, nbytes in sizes.items() if dtype != cell.setup.dtype}
    model = replace(cell.model, expert_bytes_per_layer={**(cell.model.expert_bytes_per_layer or {}), **others})
    costs = Costs(model, cell.hardware, cell.costs.dtype, cell.costs.spread)
    return replace(cell, model=model, costs=costs, setup=replace(cell.setup, costs=costs, others=others))


def all_in(cell: Cell, dtype: str) -> tuple[Cell, Callable[[Cell], Policy]]:
    """The cell with room for all experts in that dtype, and the policy that computes each in it."""
    budget = sum(cell.setup.others[dtype]) * cell.setup.n_experts
    cell = replace(cell, setup=replace(cell.setup, budget=budget))
    return cell, lambda cell: Uniform(cell.setup.with_versions([dtype]))


class Held:
    """The experts of a model in lower dtypes, each packed when it is first wanted."""

    def __init__(self, model: Offloaded, where: Where) -> None:
        self._model, self._host = model, Host(where.host_memory)
        self._packed: dict[str, Packed] = {}

    def versions(self, lower: Sequence[str]) -> Versions | None:
        """The experts in these dtypes as well; None: in no other. UserError, DeviceError."""
        store, module = self._model.store, self._model.moe.layers[0].experts
        pinned = self._model.backend.device.type == "cuda"
        for dtype in lower:
            if dtype not in self._packed:
                self._packed[dtype] = Packed(store, module, dtype, pinned=pinned, host=self._host)
        return Versions(store, [self._packed[dtype] for dtype in lower]) if lower else None
