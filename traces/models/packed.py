"""Weights in fewer bits: as the bytes that are copied, and as the numbers that come of them.

int8: symmetric, a scale for each output. int4 and int2: for each 128 inputs of an output a scale and a zero point of as
many bits as the weights. Scales are float16, as runtimes keep them, and are rounded towards zero: so both ends of the
codes are used, and what has been quantised is no longer changed by it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 128
BYTE = 8


@dataclass(frozen=True)
class Format:
    """How the weights of a matrix [outputs, inputs] are stored. ``group``: inputs that share a scale and a zero point;
    None: all of an output's, and no zero point."""

    bits: int
    group: int | None

    def groups(self, inputs: int) -> int:
        """Of one output."""
        return 1 if self.group is None else -(-inputs // self.group)

    def parts(self, outputs: int, inputs: int) -> tuple[int, int, int]:
        """Bytes of the codes, of the scales and of the zero points of a matrix."""
        groups = outputs * self.groups(inputs)
        zeros = 0 if self.group is None else _bytes(groups, self.bits)
        return _bytes(outputs * inputs, self.bits), 2 * groups, zeros

    def nbytes(self, outputs: int, inputs: int) -> int:
        """Bytes of a matrix."""
        return sum(self.parts(outputs, inputs))

    def pack(self, weights: Tensor) -> Tensor:
        """The bytes uint8 [nbytes] of a matrix ``weights`` [outputs, inputs] of finite numbers, on its device."""
        codes, scales, zeros = _quantise(_grouped(weights, self), self)
        codes = codes.flatten(1)[:, : weights.shape[1]]  # without what fills up the last group
        parts = [_joined(codes.reshape(-1), self.bits), scales.reshape(-1).view(torch.uint8)]
        if self.group is not None:
            parts.append(_joined(zeros.reshape(-1), self.bits))
        return torch.cat(parts)

    def unpack(self, data: Tensor, outputs: int, inputs: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix [outputs, inputs] of :meth:`pack`'s bytes, computed in float32 and rounded once to ``dtype``."""
        n_codes, n_scales, _ = self.parts(outputs, inputs)
        groups = self.groups(inputs)
        codes = _split(data[:n_codes], self.bits)[: outputs * inputs].view(outputs, inputs)
        scales = data[n_codes : n_codes + n_scales].clone().view(torch.float16).view(outputs, groups, 1).float()
        zeros: Tensor | int = 1 << (self.bits - 1)
        if self.group is not None:
            zeros = _split(data[n_codes + n_scales :], self.bits)[: outputs * groups].view(outputs, groups, 1)
        steps = _filled(codes.to(torch.int16), groups, self) - zeros
        return (steps * scales).flatten(1)[:, :inputs].to(dtype)


@dataclass(frozen=True)
class Narrow:
    """A matrix in a narrower floating-point type."""

    dtype: torch.dtype

    def nbytes(self, outputs: int, inputs: int) -> int:
        """Bytes of a matrix."""
        return outputs * inputs * self.dtype.itemsize

    def pack(self, weights: Tensor) -> Tensor:
        """The bytes uint8 [nbytes] of a matrix ``weights`` [outputs, inputs], on its device."""
        return weights.to(self.dtype).reshape(-1).view(torch.uint8)

    def unpack(self, data: Tensor, outputs: int, inputs: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix [outputs, inputs] of :meth:`pack`'s bytes."""
        return data.clone().view(self.dtype).view(outputs, inputs).to(dtype)


FORMATS: Mapping[str, Format | Narrow] = {
    "bfloat16": Narrow(torch.bfloat16),
    "float16": Narrow(torch.float16),
    "int8": Format(8, None),
    "int4": Format(4, GROUP),
    "int2": Format(2, GROUP),
}


def fake_quantised(weights: Tensor, how: Format | Narrow) -> Tensor:
    """``weights`` [..., outputs, inputs] as they are after packing and unpacking, in their own dtype."""
    outputs, inputs = weights.shape[-2:]
    matrices = [how.unpack(how.pack(m), outputs, inputs, m.dtype) for m in weights.reshape(-1, outputs, inputs)]
    return torch.stack(matrices).view(weights.shape)


# -- inside ---------------------------------------------------------------------------------------------------------


def _grouped(weights: Tensor, how: Format) -> Tensor:
    """float32 [outputs, groups, inputs of a group], filled up with zeros."""
    return _filled(weights.float(), how.groups(weights.shape[1]), how)


def _filled(matrix: Tensor, groups: int, how: Format) -> Tensor:
    outputs, inputs = matrix.shape
    width = inputs if how.group is None else how.group
    return torch.nn.functional.pad(matrix, (0, groups * width - inputs)).view(outputs, groups, width)


def _quantise(grouped: Tensor, how: Format) -> tuple[Tensor, Tensor, Tensor]:
    """Codes uint8, scales float16 and zero points uint8 of [outputs, groups, n].

    A code is a step from the zero point, which stands for 0. The range holds 0, so that 0 stays 0.
    """
    if how.group is None:
        zero = torch.tensor(float(1 << (how.bits - 1)), device=grouped.device)
        scales = _towards_zero(grouped.abs().amax(-1, keepdim=True) / (zero - 1))
        lowest = 1.0  # as many codes on either side
    else:
        low, high = grouped.amin(-1, keepdim=True).clamp(max=0), grouped.amax(-1, keepdim=True).clamp(min=0)
        scales = _towards_zero((high - low) / ((1 << how.bits) - 1))
        zero = _rounded(-low / _divisor(scales)).clamp(0, (1 << how.bits) - 1)
        lowest = 0.0
    steps = _rounded(grouped / _divisor(scales))
    codes = (steps + zero).clamp(lowest, (1 << how.bits) - 1)
    return codes.to(torch.uint8), scales, zero.to(torch.uint8)


def _divisor(scales: Tensor) -> Tensor:
    """Infinite where the scale is 0: all that it scales becomes 0."""
    return torch.where(scales > 0, scales.float(), math.inf)


def _rounded(x: Tensor) -> Tensor:
    """To the next integer, halves away from 0: -x goes where x does, so that a group's ends are the first and the last
    code, whatever the zero point was rounded to."""
    return torch.sign(x) * torch.floor(x.abs() + 0.5)


def _towards_zero(x: Tensor) -> Tensor:
    """float16, of no larger magnitude than x >= 0."""
    near = x.clamp(max=torch.finfo(torch.float16).max).to(torch.float16)
    return torch.where(near.float() > x, torch.nextafter(near, torch.zeros_like(near)), near)


def _bytes(count: int, bits: int) -> int:
    return -(-count * bits // BYTE)


def _joined(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 [n] of so many bits each, as bytes [ceil]; the first in the lowest bits."""
    each = BYTE // bits
    lanes = torch.nn.functional.pad(codes, (0, -len(codes) % each)).view(-1, each)
    shifts = torch.arange(each, device=codes.device, dtype=torch.uint8) * bits
    return (lanes << shifts).sum(-1, dtype=torch.uint8)


def _split(data: Tensor, bits: int) -> Tensor:
    """The codes of :func:`_joined`, uint8 [n], with what fills up the last byte."""
    shifts = torch.arange(BYTE // bits, device=data.device, dtype=torch.uint8) * bits
    return ((data[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)
