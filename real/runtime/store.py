"""Where the experts wait: host memory, each expert one run of bytes, page-locked for a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from real.runtime.layout import Layout, same_layout
from traces.errors import UserError

ROOM = 0.95
"""Share of the host memory that is free which experts may take."""


class HostStore:
    """All experts of all layers in host memory; takes the weights out of the modules that it is given.

    `block(layer)`: uint8 [E, nbytes]. The modules keep empty parameters: they cannot compute by themselves any more.
    """

    def __init__(self, experts: Sequence[Any], *, pinned: bool, room: Callable[[], int]) -> None:
        self.layout: Layout = same_layout(experts)
        self.n_experts = int(experts[0].num_experts)
        self.blocks: list[Tensor] = []
        for module in experts:
            need = self.n_experts * self.layout.nbytes
            block = _host(need, pinned, room).view(self.n_experts, self.layout.nbytes)
            views = self.layout.views(block)
            for name, view in views.items():
                weights = getattr(module, name).data
                if weights.is_meta:  # random weights: any finite numbers, small enough not to overflow
                    fill(view)
                else:
                    view.copy_(weights)
                setattr(module, name, nn.Parameter(torch.empty(0, dtype=view.dtype), requires_grad=False))
            self.blocks.append(block)

    @property
    def nbytes(self) -> int:
        """Bytes of all experts of all layers."""
        return sum(block.numel() for block in self.blocks)

    def expert(self, flat: int) -> Tensor:
        """The bytes of the expert of a flat number, uint8 [nbytes]."""
        layer, index = divmod(flat, self.n_experts)
        return self.blocks[layer][index]


def fill(view: Tensor) -> None:
    """Random weights [n, ...] for a model whose timing is wanted: one expert's are drawn, the others' are the same."""
    generator = torch.Generator().manual_seed(0)
    scale = 1 / max(view.shape[1:], default=1) ** 0.5
    view[0].copy_(torch.randn(view.shape[1:], generator=generator) * scale)
    view[1:] = view[0]


def _host(nbytes: int, pinned: bool, room: Callable[[], int]) -> Tensor:
    check_room(nbytes, room, "one layer's experts")
    try:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned)
    except RuntimeError as error:
        raise UserError(
            f"{nbytes / 1e9:.2f} GB of host memory cannot be had: {' '.join(str(error).split())[:200]}"
        ) from None


def free_memory() -> int:
    """Bytes of host memory that are free, or can be freed."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - it is no file of ours
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_room(nbytes: int, room: Callable[[], int], what: str = "the experts") -> None:
    """UserError unless the host has room for `nbytes` of experts, before any of them is allocated."""
    free = room()
    if nbytes > ROOM * free:
        raise UserError(
            f"{what} take {nbytes / 1e9:.2f} GB of host memory, and {free / 1e9:.2f} GB are free;"
            " allowed: a model that fits"
        )
