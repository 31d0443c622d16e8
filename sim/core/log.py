"""A run's log of facts (rule 1): written while a core is driven, read by whoever drives another one (sim.core.replay).

The log is a flat sequence of integers: an operation, then its operands. It holds what the core was told and asked,
not what it answered; fed to a fresh core with the same policy, it must give the same answers, hence the same digest.
A gate's demand is logged as it was recorded: what the policy routes instead, and its orders, are answers.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim.core.core import Core
from sim.core.listener import FactListener
from sim.core.state import CoreError
from sim.core.words import Rows

STEP, GATE, PREDICTION, CHUNK, EXPERT, STEP_END, NEXT_CHUNK, NEXT_EXPERT, MEASURE = range(9)


class Log(FactListener):
    """Writes each fact, with its time, and each question into ``words``. The clock may not run backwards."""

    def __init__(self, words: array[int]) -> None:
        self.words = words
        self._now = 0

    def _fact(self, operation: int, now: int, *operands: int) -> None:
        if now < self._now:
            raise CoreError(f"a fact at {now} ns came after one at {self._now} ns")
        self._now = now
        self.words.extend((operation, now, *operands))

    def step_begin(self, number: int, prefill: bool, requests: Sequence[int], parts: Sequence[Rows], now: int) -> None:
        self._fact(STEP, now, number, prefill, len(requests), *requests, *(n for part in parts for n in part))

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> None:
        self._fact(GATE, now, layer, len(demand), *demand, *tokens)

    def prediction(self, tag: int, now: int) -> None:
        self._fact(PREDICTION, now, tag)

    def chunk_done(self, chunk: int, now: int) -> None:
        self._fact(CHUNK, now, chunk)

    def expert_done(self, x: int, now: int) -> None:
        self._fact(EXPERT, now, x)

    def step_end(self, now: int) -> None:
        self._fact(STEP_END, now)

    def measure_from(self, now: int) -> None:
        self._fact(MEASURE, now)

    def next_chunk(self) -> None:
        self.words.append(NEXT_CHUNK)

    def next_expert(self) -> None:
        self.words.append(NEXT_EXPERT)


def record(core: Core) -> Core:
    """Let ``core.log`` be written from now on; returns the core."""
    core.listen(Log(core.log))
    return core


def save(log: array[int], path: Path) -> None:
    """Write it as an int64 npy file."""
    np.save(path, np.frombuffer(log, dtype=np.int64), allow_pickle=False)


def entries(log: Sequence[int]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """What a log tells and asks, in order: (operation, operands as the core's method takes them). CoreError if cut."""
    words = iter(log)
    take = words.__next__

    def many(n: int) -> list[int]:
        return [take() for _ in range(n)]

    for op in words:
        try:
            if op in (NEXT_CHUNK, NEXT_EXPERT):
                yield op, ()
                continue
            now = take()
            if op in (CHUNK, EXPERT, PREDICTION):
                yield op, (take(), now)
            elif op in (STEP_END, MEASURE):
                yield op, (now,)
            elif op == GATE:
                layer, n = take(), take()
                yield op, (layer, many(n), many(n), now)
            elif op == STEP:
                number, prefill, n = take(), bool(take()), take()
                requests, parts = many(n), many(2 * n)
                yield op, (number, prefill, requests, list(zip(parts[::2], parts[1::2], strict=True)), now)
            else:
                raise CoreError(f"unknown operation {op} in the log")
        except StopIteration:
            raise CoreError("the log ends in the middle of a fact") from None
