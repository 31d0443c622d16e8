"""What differs between a GPU and a CPU: memory, streams, and how one waits for work. All else is one code path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from traces.errors import UserError


class DeviceError(UserError):
    """The device has not done what it was given: no room for it, a copy that failed, a driver that gave up."""


class Ticket(Protocol):
    """Work that was handed over."""

    def done(self) -> bool:
        """Whether it has ended."""

    def wait(self) -> None:
        """Return when it has ended."""


class Backend(Protocol):
    """One device. Copies are in the order in which they were handed over, and so is compute; the two overlap."""

    device: torch.device

    def start_copy(self, target: Tensor, source: Tensor) -> Ticket:
        """Hand a copy from host memory over."""

    def mark(self) -> Ticket:
        """The end of the compute that was launched so far."""

    def synchronize(self) -> None:
        """Wait for all work."""

    def allocated(self) -> int:
        """Bytes that the allocator has given out on the device; 0 where it does not say."""


class _Done:
    def done(self) -> bool:
        return True

    def wait(self) -> None:
        return


class _HostCopy:
    """A copy within host memory, made by whoever waits for it first: the copy thread."""

    def __init__(self, copy: Callable[[], object]) -> None:
        self._copy: Callable[[], object] | None = copy

    def done(self) -> bool:
        return self._copy is None

    def wait(self) -> None:
        if self._copy is not None:
            self._copy()
            self._copy = None


class HostBackend:
    """The CPU as a device: a copy is a copy within memory, and compute has ended when its call returns."""

    device = torch.device("cpu")
    _nothing = _Done()

    def start_copy(self, target: Tensor, source: Tensor) -> Ticket:
        return _HostCopy(lambda: target.copy_(source))

    def mark(self) -> Ticket:
        return self._nothing

    def synchronize(self) -> None:
        return

    def allocated(self) -> int:
        return 0


class _Event:
    def __init__(self, event: Any) -> None:
        self._event = event

    def done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()


class CudaBackend:
    """A GPU: copies from page-locked memory on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.set_device(device)
        stream: Any = torch.cuda.Stream
        self._copies = stream(device)

    def start_copy(self, target: Tensor, source: Tensor) -> Ticket:
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
            return self._record(self._copies)

    def mark(self) -> Ticket:
        return self._record(torch.cuda.current_stream(self.device))

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def allocated(self) -> int:
        return int(torch.cuda.memory_stats(self.device).get("requested_bytes.all.current", 0))

    @staticmethod
    def _record(stream: Any) -> Ticket:
        event: Any = torch.cuda.Event
        made = event(blocking=False)
        made.record(stream)
        return _Event(made)


def backend_of(device: torch.device) -> Backend:
    """The backend of a torch device."""
    return CudaBackend(device) if device.type == "cuda" else HostBackend()
