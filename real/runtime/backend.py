"""What differs between a GPU and a CPU: memory, streams, and how one waits for work. All else is one code path.

Values cross between host and device here and nowhere else in a pass: :meth:`Backend.upload` never waits,
:meth:`Backend.download` and a ticket's ``wait`` do, and a :class:`Staging`, whose thread has nothing else to do.
"""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from traces.kit.errors import UserError
from traces.models.devices import indexed


class DeviceError(UserError):
    """The device has not done what it was given: no room for it, a copy that failed, a driver that gave up."""


class Ticket:
    """Work that was handed over; as it stands, it has ended."""

    def done(self) -> bool:
        """Whether it has ended."""
        return True

    def wait(self) -> None:
        """Return when it has ended."""


def upload(host: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the host's on a device, for what is launched after it on the current stream; nobody waits."""
    if device.type != "cuda":
        return host
    # The allocator of page-locked memory keeps the staging tensor until the copy has ended.
    return host.pin_memory().to(device, non_blocking=True)


class Staging:
    """How rows come to a thread of the host that computes, and its results go back; one for each such thread.

    As it stands, the device's memory is the host's: the thread reads and writes in place.
    """

    def fetch(self, rows: Tensor) -> Tensor:
        """``rows`` [n, D] of the device's on the host, once they are there. Valid until the next call."""
        return rows

    def room(self, rows: Tensor) -> Tensor:
        """Where on the host to put what ``rows`` [n, D] of the device's are to be. Valid until the next call."""
        return rows

    def send(self, made: Tensor, rows: Tensor) -> None:
        """Copy what was made into ``rows`` of the device's; returns when it is there."""


def _numpy(host: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = (host.float() if host.dtype == torch.bfloat16 else host).numpy()
    return found


class _HostCopy(Ticket):
    """A copy within host memory, made by whoever waits for it first: the copy thread."""

    def __init__(self, copy: Callable[[], object]) -> None:
        self._copy: Callable[[], object] | None = copy

    def done(self) -> bool:
        return self._copy is None

    def wait(self) -> None:
        if self._copy is not None:
            self._copy()
            self._copy = None


class Backend:
    """One device. Copies are in the order in which they were handed over, and so is compute; the two overlap.

    As it stands, the CPU: a copy is a copy within memory, and compute has ended when its call returns.
    """

    device = torch.device("cpu")

    def enter(self) -> None:
        """The calling thread is going to use the device."""

    def start_copy(self, target: Tensor, source: Tensor) -> Ticket:
        """Hand a copy from host memory over."""
        return _HostCopy(lambda: target.copy_(source))

    def room_for(self, source: Tensor) -> Tensor:
        """Memory on the device for a copy of ``source``."""
        return torch.empty_like(source, device=self.device)

    def upload(self, host: Tensor) -> Tensor:
        """A small tensor of the host's on the device, for the compute that is launched after it. ``host`` is the
        backend's from then on."""
        return upload(host, self.device)

    def download(self, *tensors: Tensor) -> list[NDArray[Any]]:
        """Small tensors of the device's on the host (bfloat16 as float32), in one wait: for them, and so for all
        compute that was launched before."""
        return [_numpy(tensor) for tensor in tensors]

    def mark(self) -> Ticket:
        """The end of the compute that was launched so far."""
        return Ticket()

    def staging(self) -> Staging:
        """For a thread of the host that computes: what it calls this on is its own."""
        return Staging()

    def synchronize(self) -> None:
        """Wait for all work."""

    def allocated(self) -> int:
        """Bytes that the allocator has given out on the device; 0 where it does not say."""
        return 0


class _Event(Ticket):
    """Its wait spins, which ends some 10 us sooner than a sleep, and without the interpreter's lock."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()


def _recorded(stream: Any) -> Ticket:
    event: Any = torch.cuda.Event
    made = event(blocking=False)
    made.record(stream)
    return _Event(made)


class _PinnedStaging(Staging):
    """Page-locked buffers, one for each way, and a stream, on which copies wait for nobody's compute.

    The CPU orders it: what is fetched was computed before (its event has been waited for), and what is sent is read by
    compute that is launched after :meth:`send` has returned. So the buffers may be written again then.
    """

    def __init__(self, device: torch.device) -> None:
        stream: Any = torch.cuda.Stream
        self._stream = stream(device)
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * 2

    def fetch(self, rows: Tensor) -> Tensor:
        return self._copied(self._buffer(0, rows), rows)

    def room(self, rows: Tensor) -> Tensor:
        return self._buffer(1, rows)

    def send(self, made: Tensor, rows: Tensor) -> None:
        self._copied(rows, made)

    def _copied(self, target: Tensor, source: Tensor) -> Tensor:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            ticket = _recorded(self._stream)
        ticket.wait()
        return target

    def _buffer(self, way: int, rows: Tensor) -> Tensor:
        """Host memory of the rows' shape and type. It grows in powers of two: locking pages takes long."""
        nbytes = rows.numel() * rows.element_size()
        if self._buffers[way].numel() < nbytes:
            self._buffers[way] = torch.empty(1 << (nbytes - 1).bit_length(), dtype=torch.uint8, pin_memory=True)
        return self._buffers[way][:nbytes].view(rows.dtype).view(rows.shape)


class CudaBackend(Backend):
    """A GPU: copies from page-locked memory on a stream of their own, which waits for no other.

    What orders the two streams is the CPU: compute is launched when a copy's event has been waited for, and a slot is
    given away when the event of the compute that read it has been (real.runtime.machine). So no tensor needs
    ``record_stream``; memory that the allocator hands from one to the other is waited for where it is taken (Pool), or
    is the copies' own (:meth:`room_for`).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = indexed(device)
        self.enter()
        stream: Any = torch.cuda.Stream
        self._copies = stream(self.device)

    def enter(self) -> None:
        torch.cuda.set_device(self.device)  # each thread has a current device of its own

    def start_copy(self, target: Tensor, source: Tensor) -> Ticket:
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
            return _recorded(self._copies)

    def room_for(self, source: Tensor) -> Tensor:
        with torch.cuda.stream(self._copies):  # of memory that no compute had, which might still be at work on it
            return super().room_for(source)

    def download(self, *tensors: Tensor) -> list[NDArray[Any]]:
        hosts = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for host, tensor in zip(hosts, tensors, strict=True):
            host.copy_(tensor, non_blocking=True)
        self.mark().wait()
        return [_numpy(host) for host in hosts]

    def mark(self) -> Ticket:
        return _recorded(torch.cuda.current_stream(self.device))

    def staging(self) -> Staging:
        return _PinnedStaging(self.device)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def allocated(self) -> int:
        return int(torch.cuda.memory_stats(self.device).get("requested_bytes.all.current", 0))


def backend_of(device: torch.device) -> Backend:
    """The backend of a torch device."""
    return CudaBackend(device) if device.type == "cuda" else Backend()
