"""Where the experts wait: host memory, each expert one run of bytes, each layer one block, page-locked for a GPU."""

import math
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from real.runtime.backend import DeviceError
from real.runtime.host import SHOWN, SLICE, Host, in_parallel
from traces.kit.errors import UserError, one_of
from traces.kit.units import format_bytes

_CUDA: Any = torch.cuda


@dataclass(frozen=True)
class Part:
    """One tensor of an expert, `offset` bytes into it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """The tensors of one expert, one after the other; the same for all experts of a model."""

    parts: tuple[Part, ...]
    nbytes: int

    @classmethod
    def of(cls, experts: Any) -> Self:
        """The layout of a module of the library's experts interface, whose parameters are [E, ...].

        Weights come before biases, and wide types before narrow ones, so that every tensor begins at a multiple of its
        own item. UserError for a parameter that is not one of E.
        """
        found = dict(experts.named_parameters())
        count = int(experts.num_experts)
        strange = sorted(name for name, p in found.items() if "." in name or not p.ndim or len(p) != count)
        if strange or not found:
            raise UserError(
                f"experts with the parameters {one_of(strange) or 'none'}; allowed: tensors of {count} experts"
            )
        order = sorted(found, key=lambda name: (-found[name].dtype.itemsize, name.endswith("_bias"), name))
        parts, offset = [], 0
        for name in order:
            part = Part(name, tuple(found[name].shape[1:]), found[name].dtype, offset)
            parts.append(part)
            offset += part.nbytes
        return cls(tuple(parts), offset)

    def views(self, block: Tensor) -> dict[str, Tensor]:
        """The tensors [n, ...] of a block of n experts, uint8 [n, nbytes], without a copy."""
        found = {}
        for part in self.parts:
            if self.nbytes % (item := part.dtype.itemsize):
                raise UserError(
                    f"an expert of {self.nbytes} bytes cannot hold {part.dtype}; allowed: a multiple of {item}"
                )
            typed = block[:, part.offset : part.offset + part.nbytes].view(part.dtype)
            found[part.name] = typed.view(len(block), *part.shape)
        return found

    def clear(self, module: Any) -> None:
        """Leave the module empty parameters: it cannot compute by itself any more."""
        for part in self.parts:
            setattr(module, part.name, nn.Parameter(torch.empty(0, dtype=part.dtype), requires_grad=False))


def same_layout(experts: Sequence[Any]) -> Layout:
    """The layout of all layers' experts. UserError where two differ."""
    layouts = [Layout.of(module) for module in experts]
    for index, layout in enumerate(layouts):
        if layout != layouts[0]:
            sizes = f"{layouts[0].nbytes} and {layout.nbytes} bytes"
            raise UserError(f"layers 0 and {index} have experts of {sizes}; allowed: experts of one shape and type")
    return layouts[0]


class PageLocks:
    """The blocks that are registered, each once, and once unregistered: by :meth:`close`, or with the object's end.

    torch's own pinned memory comes in powers of two; registered memory has the size that it has. For torch it is pinned
    all the same: `is_pinned` asks CUDA about the address, and a copy with non_blocking=True is asynchronous.
    """

    def __init__(self) -> None:
        self._held: list[tuple[int, Tensor]] = []  # with the device that copies from it
        self.close = weakref.finalize(self, _unlock, self._held)

    def lock(self, block: Tensor) -> None:
        """Page-lock `block`, uint8 [nbytes], whole, so that no copy spans two registrations. DeviceError."""
        cudart = _CUDA.cudart()
        code = cudart.cudaHostRegister(block.data_ptr(), block.numel(), 0)
        if int(code):
            _forget(block)
            raise DeviceError(
                f"{format_bytes(block.numel())} of host memory cannot be page-locked, after"
                f" {format_bytes(sum(held.numel() for _, held in self._held))}: {cudart.cudaGetErrorString(code)};"
                " allowed: a system that lets the GPU's driver lock them"
            )
        self._held.append((torch.cuda.current_device(), block))


def _forget(block: Tensor) -> None:
    """CUDA keeps the last error until somebody asks, and the next launch would raise it: let one launch do so now."""
    with suppress(RuntimeError, AssertionError):
        torch.zeros(1, device="cuda").add_(block.numel())


def _unlock(held: list[tuple[int, Tensor]]) -> None:
    """Unregister blocks, the last one first, when no copy reads them any more. They exist until then."""
    if not held:
        return
    for device in sorted({device for device, _ in held}):
        with suppress(RuntimeError):  # of a device that has failed already, which was told
            torch.cuda.synchronize(device)
    cudart = _CUDA.cudart()
    while held:
        cudart.cudaHostUnregister(held[-1][1].data_ptr())  # where it fails, the device has: all ends with the process
        held.pop()


class HostStore:
    """All experts of all layers in host memory; takes the weights out of the modules that it is given.

    `blocks`: a layer's experts each, uint8 [E, nbytes], in memory of its own. The modules keep empty parameters.
    Weights that lie in such a block already are not copied; those on the meta device become random ones. The memory is
    given back by :meth:`close`, or when nothing refers to the store any more.

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
                self.layout.clear(module)
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
        rows = block.numpy()

        def repeat(first: int, end: int) -> None:
            rows[max(first, 1) : end] = rows[0]

        in_parallel(repeat, len(rows), max(1, SLICE // rows.shape[1]))

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
