"""Host memory that a GPU copies from by itself: blocks that are registered with CUDA as they are, page-locked."""

import weakref
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from real.runtime.backend import DeviceError
from traces.kit.units import format_bytes

_CUDA: Any = torch.cuda


class PageLocks:
    """The blocks that are registered, each once, and once unregistered: by :meth:`close`, or with the object's end.

    torch's own pinned memory comes in powers of two; registered memory has the size that it has. For torch it is pinned
    all the same: `is_pinned` asks CUDA about the address, and a copy with non_blocking=True is asynchronous.
    """

    def __init__(self) -> None:
        held: list[tuple[int, Tensor]] = []  # with the device that copies from it
        self._held = held
        self.close = weakref.finalize(self, _unlock, held)

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
