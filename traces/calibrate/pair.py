"""Copies of one expert to the device, and its compute on the host: each alone, and both at once.

Both read one memory, so that what each reaches beside the other says how a layer's misses are best shared out.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch

from traces.calibrate.copies import walk
from traces.calibrate.plan import Part, Timed
from traces.calibrate.tables import Rows
from traces.calibrate.timing import Budget, Call, Clock, beside, measure
from traces.kit.units import counted

WALKED = 256 << 20  # of memory that is copied in turn, so that no cache holds it
PAIRED = 4  # measurements at each number of threads
IN_QUEUE = 4  # copies that a stream is given at a time
_CUDA: Any = torch.cuda  # whose streams and events have no types


class Pair:
    """``copy`` and ``cpu`` alone, ``copy_with_cpu`` and ``cpu_with_copy`` beside the other, by the number of threads
    that compute. On the host one expert on one token at a time: its weights are read once, and little else happens."""

    def __init__(self, clock: Clock, expert_bytes: int, threads: Sequence[int], on_cpu: Callable[[], Call]) -> None:
        """``on_cpu``: makes the call that computes one expert on the host; it is asked for when it is needed."""
        self.clock, self.host, self.expert_bytes, self._on_cpu = clock, Clock(torch.device("cpu")), expert_bytes, on_cpu
        axes, falling = {"threads": list(threads)}, frozenset({"threads"})
        self.parts = [
            Part("copy", axes, self._copy),
            Part("cpu", axes, self._cpu, falling=falling),
            Part("copy_with_cpu", axes, self._copy_with_cpu),
            Part("cpu_with_copy", axes, self._cpu_with_copy, falling=falling),
        ]

    def measure(self, budget: Budget, say: Callable[[str], None]) -> dict[str, Any]:
        """The section ``pair`` of a model: by number of threads all four in a row, so that they are of one moment."""
        points = self.parts[0].points
        rows = [[measure(part.timed(*point), budget.share()) for part in self.parts] for point in points]
        found = {
            part.name: Rows(part.axes, list(samples))
            for part, samples in zip(self.parts, zip(*rows, strict=True), strict=True)
        }
        alone, beside_cpu, cpu, beside_copy = (
            self.expert_bytes / found[name].medians[-1] for name in ("copy", "copy_with_cpu", "cpu", "cpu_with_copy")
        )
        say(
            f"copies of an expert {alone:.3g} GB/s alone, {beside_cpu:.3g} beside the CPU's experts;"
            f" these {cpu:.3g} alone, {beside_copy:.3g} beside copies ({counted(points[-1][0], 'thread')})"
        )
        return {
            "expert_bytes": self.expert_bytes,
            **{name: table.columns(table.medians) for name, table in found.items()},
        }

    def _copy(self, threads: int) -> Timed:
        return partial(self.clock.device_ns, self._copies)

    def _cpu(self, threads: int) -> Timed:
        torch.set_num_threads(threads)
        return partial(self.host.wall_ns, self._on_cpu())

    def _copy_with_cpu(self, threads: int) -> Timed:
        compute = self._on_cpu()

        def load(i: int) -> None:
            if not i:  # a thread of its own has neither our number of threads nor our mode
                torch.set_num_threads(threads)
            with torch.inference_mode():
                compute(i)

        def timed(n: int) -> float:
            with beside(load):
                return self.clock.device_ns(self._copies, n)

        return timed

    def _cpu_with_copy(self, threads: int) -> Timed:
        torch.set_num_threads(threads)
        compute, load = self._on_cpu(), self._endless() if self.clock.cuda else self._copies

        def timed(n: int) -> float:
            with beside(load):
                ns = self.host.wall_ns(compute, n)
            self.clock.synchronize()  # what is still in the queue would be beside the next
            return ns

        return timed

    def _endless(self) -> Call:
        """Keep copies in the queue of a stream of its own: new ones when the last but one have ended. No core spins."""
        stream = _CUDA.Stream(self.clock.device)
        ended = [_CUDA.Event(blocking=True) for _ in range(2)]

        def call(i: int) -> None:
            event = ended[i % 2]
            event.synchronize()  # at once where nothing was recorded yet
            with torch.cuda.stream(stream), torch.inference_mode():  # as the memory was made
                for k in range(IN_QUEUE * i, IN_QUEUE * (i + 1)):
                    self._copies(k)
                event.record(stream)

        return call

    @cached_property
    def _copies(self) -> Call:
        """Of one expert's bytes from pinned memory, other ones each time."""
        size = self.expert_bytes * max(1, WALKED // self.expert_bytes)
        host = torch.arange(-(-size // 8), dtype=torch.int64).view(torch.uint8)  # never zeros: pages must be there
        if self.clock.cuda:
            host = host.pin_memory()
        target = host.to(self.clock.device, copy=True)
        return walk(host, target, self.expert_bytes, cuda=self.clock.cuda, asynchronous=True)
