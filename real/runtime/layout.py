"""One expert as one run of bytes: where each of its tensors lies in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from traces.kit.errors import UserError, one_of


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
    def of(cls, experts: nn.Module) -> Layout:
        """The layout of a module of the library's experts interface, whose parameters are [E, ...].

        Weights come before biases, and wide types before narrow ones, so that every tensor begins at a multiple of its
        own item. UserError for a parameter that is not one of E.
        """
        found = dict(experts.named_parameters())
        count = int(experts.num_experts)  # type: ignore[arg-type]
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
        return {part.name: _view(block, part, self.nbytes) for part in self.parts}


def _view(block: Tensor, part: Part, nbytes: int) -> Tensor:
    item = part.dtype.itemsize
    if nbytes % item:
        raise UserError(f"an expert of {nbytes} bytes cannot hold {part.dtype}; allowed: a multiple of {item}")
    typed = block.reshape(-1).view(part.dtype)
    strides = [1]
    for size in reversed(part.shape[1:]):
        strides.insert(0, strides[0] * size)
    return typed.as_strided((len(block), *part.shape), (nbytes // item, *strides), part.offset // item)


def same_layout(experts: Sequence[Any]) -> Layout:
    """The layout of all layers' experts. UserError where two differ."""
    layouts = [Layout.of(module) for module in experts]
    for index, layout in enumerate(layouts):
        if layout != layouts[0]:
            sizes = f"{layouts[0].nbytes} and {layout.nbytes} bytes"
            raise UserError(f"layers 0 and {index} have experts of {sizes}; allowed: experts of one shape and type")
    return layouts[0]
