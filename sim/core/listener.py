"""Who else hears what a core is told and asked: its log, the memory of a device, a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sim.core.words import Rows


class FactListener:
    """Told of each fact, question and eviction before the core acts on it; it may change nothing.

    It overrides what it wants to hear of: what it leaves as it is here costs nothing (:func:`overheard`).
    """

    def step_begin(self, number: int, prefill: bool, requests: Sequence[int], parts: Sequence[Rows], now: int) -> None:
        """The operands of each are those of the core's method."""

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> None:
        """The demand as the gate gave it: what a policy routes instead is an answer."""

    def prediction(self, tag: int, now: int) -> None: ...

    def chunk_done(self, chunk: int, now: int) -> None: ...

    def expert_done(self, x: int, now: int) -> None: ...

    def step_end(self, now: int) -> None: ...

    def measure_from(self, now: int) -> None: ...

    def next_chunk(self) -> None: ...

    def next_expert(self) -> None: ...

    def evict(self, x: int) -> None: ...


HEARD = tuple(name for name in vars(FactListener) if not name.startswith("_"))


def overheard(core: object, listener: FactListener) -> None:
    """Put before each method of ``core`` that the listener wants to hear of the listener's own."""
    for name in HEARD:
        if getattr(type(listener), name) is not getattr(FactListener, name):
            setattr(core, name, _both(getattr(listener, name), getattr(core, name)))


def _both(tell: Callable[..., None], act: Callable[..., Any]) -> Callable[..., Any]:
    def heard(*operands: Any) -> Any:
        tell(*operands)
        return act(*operands)

    return heard
