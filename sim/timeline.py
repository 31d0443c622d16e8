"""What a machine did when, as a Chrome trace: opens in Perfetto. The same for the simulator and for a device."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sim.core.accounts import STALLS

KINDS = ("demand", "late prefetch", "speculative")
GPU, LINK, PREDICTOR = 1, 2, 3
THREADS = {GPU: "GPU stream", LINK: "link, host to device", PREDICTOR: "predictor"}


class Timeline:
    """Collects spans in nanoseconds, flat: memory grows with what happens, 24 to 32 bytes a span."""

    def __init__(self) -> None:
        self.copies, self.computes, self.stalls = array("q"), array("q"), array("q")
        self.steps, self.used = array("q"), array("q")

    def clear(self) -> None:
        """Forget what was to warm up."""
        for spans in (self.copies, self.computes, self.stalls, self.steps, self.used):
            del spans[:]

    def copy(self, begin: int, end: int, chunk: int, kind: int) -> None:
        """A chunk was on the link; ``kind`` as sim.core.state has it."""
        self.copies.extend((begin, end, chunk, kind))

    def compute(self, begin: int, end: int, experts: Sequence[int]) -> None:
        """These experts were computed, one after the other or together."""
        share = (end - begin) // max(1, len(experts))
        for i, x in enumerate(experts):
            self.computes.extend((begin + i * share, begin + (i + 1) * share, x))

    def stall(self, begin: int, end: int, cause: int) -> None:
        """Compute waited; ``cause`` as an index of sim.core.accounts.STALLS."""
        if end > begin:
            self.stalls.extend((begin, end, cause))

    def step(self, begin: int, end: int, number: int, prefill: bool) -> None:
        """A forward pass."""
        self.steps.extend((begin, end, number, prefill))

    def occupancy(self, now: int, nbytes: int) -> None:
        """Bytes of the budget that have an owner, from now on."""
        self.used.extend((now, nbytes))

    def document(self, n_experts: int, chunks: int = 1) -> dict[str, Any]:
        """The trace as JSON, times in microseconds."""
        return {"displayTimeUnit": "ns", "traceEvents": list(self._events(n_experts, chunks))}

    def save(self, path: Path, n_experts: int, chunks: int = 1) -> None:
        """Write it."""
        path.write_text(json.dumps(self.document(n_experts, chunks), separators=(",", ":")), encoding="utf-8")

    def _events(self, n_experts: int, chunks: int) -> Iterator[dict[str, Any]]:
        for thread, name in THREADS.items():
            yield {"ph": "M", "name": "thread_name", "pid": 1, "tid": thread, "args": {"name": name}}
        for begin, end, number, prefill in _fours(self.steps):
            yield _slice("prefill" if prefill else "decode", "step", GPU, begin, end, {"step": number})
        for begin, end, expert in _threes(self.computes):
            layer, index = divmod(expert, n_experts)
            yield _slice(f"L{layer} E{index}", "compute", GPU, begin, end, {"layer": layer, "expert": index})
        for begin, end, cause in _threes(self.stalls):
            yield _slice(f"stall: {STALLS[cause]}", "stall", GPU, begin, end, {"cause": STALLS[cause]})
        for begin, end, chunk, kind in _fours(self.copies):
            layer, index = divmod(chunk // chunks, n_experts)
            about = {"layer": layer, "expert": index, "chunk": chunk % chunks, "kind": KINDS[kind]}
            yield _slice(f"L{layer} E{index}", f"copy {KINDS[kind]}", LINK, begin, end, about)
        for now, nbytes in zip(self.used[::2], self.used[1::2], strict=True):
            yield {"ph": "C", "name": "experts on the GPU", "pid": 1, "ts": now / 1000, "args": {"bytes": nbytes}}


def _slice(name: str, category: str, thread: int, begin: int, end: int, about: dict[str, Any]) -> dict[str, Any]:
    times = {"ts": begin / 1000, "dur": (end - begin) / 1000}
    return {"ph": "X", "name": name, "cat": category, "pid": 1, "tid": thread, **times, "args": about}


def _threes(flat: array[int]) -> Iterator[tuple[int, int, int]]:
    return zip(flat[::3], flat[1::3], flat[2::3], strict=True)


def _fours(flat: array[int]) -> Iterator[tuple[int, int, int, int]]:
    return zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
