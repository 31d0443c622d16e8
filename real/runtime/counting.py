"""How often a pass crosses between host and device, and waits for it: a backend that counts, for checks and benches."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.lru import LRU
from real.runtime.backend import Backend, DeviceError, Ticket
from real.runtime.runner import Runner
from real.runtime.tiny import follow, tiny_model
from sim.workload.passes import Pass
from traces.kit.telling import in_short


class _Counted(Ticket):
    def __init__(self, ticket: Ticket, count: Counting) -> None:
        self._ticket, self._count = ticket, count

    def done(self) -> bool:
        return self._ticket.done()

    def wait(self) -> None:
        self._count.note("waits")
        self._ticket.wait()


class Counting(Backend):
    """Another backend, whose crossings are counted in ``seen``: `uploads`, `downloads` and `waits` of the thread that
    runs the model. The copy thread's are not: it has nothing else to do than to wait."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.device = backend, backend.device
        self.seen: Counter[str] = Counter()
        self._thread = threading.get_ident()

    def note(self, what: str) -> None:
        if threading.get_ident() == self._thread:
            self.seen[what] += 1

    def enter(self) -> None:
        self.backend.enter()

    def allocated(self) -> int:
        return self.backend.allocated()

    def start_copy(self, target: Tensor, source: Tensor) -> Ticket:
        return _Counted(self.backend.start_copy(target, source), self)

    def upload(self, host: Tensor) -> Tensor:
        self.note("uploads")
        return self.backend.upload(host)

    def download(self, *tensors: Tensor) -> list[NDArray[Any]]:
        self.note("downloads")
        return self.backend.download(*tensors)

    def mark(self) -> Ticket:
        return _Counted(self.backend.mark(), self)

    def synchronize(self) -> None:
        self.note("waits")
        self.backend.synchronize()


@contextmanager
def no_sync(device: torch.device) -> Iterator[None]:
    """Within it, a call that waits for the device in torch's own ways (a blocking copy, a value that Python asks for)
    is an error on a GPU: what waits for an event is not. On a CPU nothing is noticed."""
    if device.type != "cuda":
        yield
        return

    def watch(mode: int | str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is a prototype, and does not see everything
            torch.cuda.set_sync_debug_mode(mode)

    before = torch.cuda.get_sync_debug_mode()
    watch("error")
    try:
        yield
    finally:
        watch(before)


def count_forced(device: torch.device, held: int) -> dict[str, int]:
    """Crossings of the last decode pass that follows a recorded routing; DeviceError where a layer waits otherwise."""
    model = tiny_model(device)
    model.backend = counting = Counting(model.backend)
    last: dict[str, int] = {}

    def watch(runner: Runner) -> None:
        compute, event = runner.compute, runner.run.event

        def strict(*args: Any) -> Tensor:
            with no_sync(counting.device):
                return event(*args)

        def counted(step: Pass, tokens: Sequence[int], every: bool) -> Tensor:
            counting.seen.clear()
            try:
                logits = compute(step, tokens, every)
            except RuntimeError as error:
                raise DeviceError(f"a layer waits for the device: {in_short(error)}") from error
            last.clear()
            last.update(counting.seen)
            return logits

        runner.compute, runner.run.event = counted, strict  # type: ignore[method-assign, assignment]

    follow(model, LRU, held, watch)
    return last
