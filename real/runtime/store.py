"""Where the experts wait: host memory, each expert one run of bytes, page-locked for a GPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from real.runtime.host import SHOWN, SLICE, Host, in_parallel
from real.runtime.layout import Layout, same_layout
from real.runtime.pinned import PageLocks


class HostStore:
    """All experts of all layers in host memory; takes the weights out of the modules that it is given.

    `blocks`: a layer's experts each, uint8 [E, nbytes], in memory of its own. The modules keep empty parameters: they
    cannot compute by themselves any more. Weights that lie in such a block already are not copied; those on the meta
    device become random ones. The memory is given back by :meth:`close`, or when nothing refers to the store any more.

    `pinned`: for a GPU. UserError where the host has too little; DeviceError where the memory cannot be page-locked.
    """

    def __init__(self, experts: Sequence[Any], *, pinned: bool, host: Host = SHOWN) -> None:
        self.layout: Layout = same_layout(experts)
        self.n_experts = int(experts[0].num_experts)
        self.blocks: list[Tensor] = []
        self._locks = PageLocks()
        memory = host.blocks(self.n_experts * self.layout.nbytes, len(experts))
        try:
            for module in experts:
                block = block_of(module, self.layout)
                if block is None:
                    block = next(memory).view(self.n_experts, self.layout.nbytes)
                    self._put(module, block)
                for part in self.layout.parts:
                    setattr(module, part.name, nn.Parameter(torch.empty(0, dtype=part.dtype), requires_grad=False))
                if pinned:
                    self._locks.lock(block)
                self.blocks.append(block)
        except BaseException:
            self.close()
            raise

    def _put(self, module: Any, block: Tensor) -> None:
        """Copy a module's weights into its block [E, nbytes]; random ones are drawn for the first layer alone."""
        views = self.layout.views(block)
        if not any(getattr(module, name).is_meta for name in views):
            for name, view in views.items():
                view.copy_(getattr(module, name).data)
            return
        if self.blocks:
            block[0].copy_(self.blocks[0][0])
        else:
            for view in views.values():
                draw(view[0])
        repeat(block)

    @property
    def nbytes(self) -> int:
        """Bytes of all experts of all layers."""
        return sum(block.numel() for block in self.blocks)

    def expert(self, flat: int) -> Tensor:
        """The bytes of an expert, by its number, uint8 [nbytes]."""
        layer, index = divmod(flat, self.n_experts)
        return self.blocks[layer][index]

    def close(self) -> None:
        """Give the memory back: nothing may be copied from it any more. A second call does nothing."""
        self._locks.close()
        self.blocks.clear()


def block_of(module: Any, layout: Layout) -> Tensor | None:
    """The block [E, nbytes] in which a module's weights lie already, as ``layout`` has them; None: they do not."""
    weights = {part.name: getattr(module, part.name).data for part in layout.parts}
    first = weights[layout.parts[0].name]
    if first.device.type != "cpu":
        return None
    storage, n_experts = first.untyped_storage(), int(module.num_experts)
    if storage.nbytes() != n_experts * layout.nbytes:
        return None
    block = torch.empty(0, dtype=torch.uint8).set_(storage).view(n_experts, layout.nbytes)

    def place(tensor: Tensor) -> tuple[Any, ...]:
        return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype

    return block if all(place(view) == place(weights[name]) for name, view in layout.views(block).items()) else None


def draw(weights: Tensor) -> None:
    """Any finite numbers, small enough not to overflow."""
    generator = torch.Generator().manual_seed(0)
    scale = 1 / max(weights.shape, default=1) ** 0.5
    weights.copy_(torch.randn(weights.shape, generator=generator) * scale)


def repeat(block: Tensor) -> None:
    """Copy the first expert of a block, uint8 [E, nbytes], over the others, on several threads."""
    rows = block.numpy()

    def copy(first: int, end: int) -> None:
        rows[max(first, 1) : end] = rows[0]

    in_parallel(copy, len(rows), max(1, SLICE // rows.shape[1]))
