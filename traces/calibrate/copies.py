"""Copy times by size: host memory to device memory and back, alone and with company."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from traces.calibrate.plan import Part, Timed
from traces.calibrate.tables import Rows
from traces.calibrate.timing import Budget, Call, Clock, beside, samples, summary

SMALLEST = 64 << 10
ROUNDS = 5
CONTENDED_FROM = 1 << 20
READ_BYTES = 256 << 20
ALONE = ("copy_h2d_pinned", "copy_h2d_pageable", "copy_d2h_pinned", "copy_d2h_pageable", "copy_h2d_call")
CONTENDED = ("copy_h2d_with_d2h", "copy_d2h_with_h2d", "copy_h2d_with_compute", "copy_h2d_with_cpu_reads")


def sizes(largest: int) -> list[int]:
    """Powers of two from 64 KiB to `largest` bytes."""
    return [SMALLEST << i for i in range(int(math.log2(largest // SMALLEST)) + 1)]


def contended_sizes(largest: int) -> list[int]:
    """Every second size from 1 MiB on; the largest alone where there is none."""
    return [size for size in sizes(largest) if size >= CONTENDED_FROM][::2] or sizes(largest)[-1:]


class Buffers:
    """Memory on both sides, and copies that walk through it so that no cache serves them twice in a row."""

    def __init__(self, clock: Clock, largest: int) -> None:
        self.size, self.cuda = largest, clock.cuda
        fresh = torch.arange(largest // 8, dtype=torch.int64).view(torch.uint8)  # never zeros: pages must be there
        self.pageable, self.pinned = fresh, fresh.clone().pin_memory() if clock.cuda else fresh.clone()
        self.device = fresh.to(clock.device, copy=True)
        self.device_out = self.device.clone()

    def copy(self, name: str, nbytes: int) -> Call:
        host = self.pageable if "pageable" in name else self.pinned
        source, target = (self.device_out, host) if name.startswith("copy_d2h") else (host, self.device)
        return walk(source, target, nbytes, cuda=self.cuda, asynchronous=host is self.pinned)


def walk(source: Tensor, target: Tensor, nbytes: int, *, cuda: bool, asynchronous: bool) -> Call:
    """Copies of `nbytes` from the one to the other, each from and to where the one before ended."""
    places = len(source) // nbytes

    def call(i: int) -> None:
        begin = i % places * nbytes
        end = begin + nbytes
        target[begin:end].copy_(source[begin:end], non_blocking=asynchronous)

    if cuda:
        return call
    to, of = target.numpy(), source.numpy()

    def plain(i: int) -> None:  # NumPy: one thread, and the interpreter's lock is given back
        begin = i % places * nbytes
        np.copyto(to[begin : begin + nbytes], of[begin : begin + nbytes])

    return plain


class Copies:
    """Every curve of ALONE and CONTENDED; the contended ones over fewer sizes. On a CPU one thread copies."""

    def __init__(self, clock: Clock, largest: int) -> None:
        self.clock, self.buffers, self.other = clock, Buffers(clock, largest), Buffers(clock, largest)
        self._memory = reader(min(READ_BYTES, 4 * largest))
        self.parts = [
            *(Part(name, {"bytes": sizes(largest)}, partial(self._alone, name), 2) for name in ALONE),
            *(Part(name, {"bytes": contended_sizes(largest)}, partial(self._contended, name), 2) for name in CONTENDED),
        ]
        self.visits = ROUNDS * sum(len(part.points) for part in self.parts)

    def measure(self, budget: Budget, say: Callable[[str], None]) -> dict[str, Rows]:
        """All points are visited several times over, so that a busy moment of the machine is a part of many points
        and not all of one."""
        timed = {(part.name, *point): part.timed(*point) for part in self.parts for point in part.points}
        spent: dict[tuple[Any, ...], list[float]] = {point: [] for point in timed}
        for done in range(ROUNDS):
            for point, times in spent.items():
                times += samples(timed[point], budget.share(), 2)
            say(f"copies: {done + 1} of {ROUNDS} rounds")
        curves = {}
        for part in self.parts:
            found = [summary(spent[part.name, *point]) for point in part.points]
            curves[part.name] = Rows(part.axes, found)
            nbytes, time = part.axes["bytes"][-1], found[-1]
            speed = f"{nbytes} bytes in {time.median / 1e6:.3f} ms, {nbytes / time.median:.2f} GB/s"
            say(f"{part.name}: {speed} ({time.count} samples)")
        return curves

    def _alone(self, name: str, nbytes: int) -> Timed:
        clock, call = self.clock, self.buffers.copy(name, nbytes)
        if name.endswith("_call"):  # every call waits for its end
            return lambda n: sum(clock.wall_ns(call, 1) for _ in range(n))
        return partial(clock.wall_ns if name.endswith("_pageable") else clock.device_ns, call)

    def _contended(self, name: str, nbytes: int) -> Timed:
        clock, call, load = self.clock, self.buffers.copy(name, nbytes), self._load(name, nbytes)
        if clock.cuda and not name.endswith("_cpu_reads"):
            return lambda n: clock.beside_ns(call, n, load)

        def timed(n: int) -> float:
            with beside(load):
                return clock.device_ns(call, n)

        return timed

    def _load(self, name: str, nbytes: int) -> Call:
        if name.endswith("_cpu_reads"):
            return self._memory
        if name.endswith("_compute"):
            cuda = self.clock.cuda
            return multiply(self.clock.device, torch.bfloat16 if cuda else torch.float32, 4096 if cuda else 512)
        # A thread copies all it has, and so keeps at it; a stream is given copies of the same size.
        back = "copy_d2h_pinned" if "copy_h2d" in name else "copy_h2d_pinned"
        return self.other.copy(back, nbytes if self.clock.cuda else self.other.size)


def reader(nbytes: int) -> Call:
    """Read `nbytes` of host memory on all of torch's threads."""
    memory = torch.ones(nbytes // 4)
    return lambda i: memory.sum()


def multiply(device: torch.device, dtype: torch.dtype, width: int) -> Call:
    """One square matrix product on random data."""
    a = torch.randn(width, width, device=device).to(dtype)
    b, out = torch.randn(width, width, device=device).to(dtype), torch.empty_like(a)
    return lambda i: torch.mm(a, b, out=out)
