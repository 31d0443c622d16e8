"""A run's log of facts, and its replay without a clock (rule 1).

The log is a flat sequence of integers: an operation, then its operands. It holds what the core was told and asked,
not what it answered; fed to a fresh core with the same policy, it must give the same answers, hence the same digest.
A gate's demand is logged as it was recorded: what the policy routes instead, and its orders, are answers.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.api import LayerEvent, Policy, Setup
from sim.core.core import Core
from sim.core.state import CoreError
from sim.core.words import Rows, StepSignals

STEP, GATE, PREDICTION, CHUNK, EXPERT, STEP_END, NEXT_CHUNK, NEXT_EXPERT, MEASURE = range(9)


class RecordingCore(Core):
    """A core that writes down each fact, with its time, and each question. The clock may not run backwards."""

    def __init__(self, policy: Policy, setup: Setup, signals: StepSignals) -> None:
        super().__init__(policy, setup, signals)
        self.log = array("q")
        self._now = 0

    def _at(self, now: int) -> int:
        if now < self._now:
            raise CoreError(f"a fact at {now} ns came after one at {self._now} ns")
        self._now = now
        return now

    def step_begin(self, number: int, prefill: bool, requests: Sequence[int], parts: Sequence[Rows], now: int) -> None:
        flat = [n for part in parts for n in part]
        self.log.extend((STEP, self._at(now), number, prefill, len(requests), *requests, *flat))
        super().step_begin(number, prefill, requests, parts, now)

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> LayerEvent:
        self.log.extend((GATE, self._at(now), layer, len(demand), *demand, *tokens))
        return super().gate(layer, demand, tokens, now)

    def prediction(self, tag: int, now: int) -> None:
        self.log.extend((PREDICTION, self._at(now), tag))
        super().prediction(tag, now)

    def chunk_done(self, chunk: int, now: int) -> None:
        self.log.extend((CHUNK, self._at(now), chunk))
        super().chunk_done(chunk, now)

    def expert_done(self, x: int, now: int) -> None:
        self.log.extend((EXPERT, self._at(now), x))
        super().expert_done(x, now)

    def step_end(self, now: int) -> None:
        self.log.extend((STEP_END, self._at(now)))
        super().step_end(now)

    def measure_from(self, now: int) -> None:
        self.log.extend((MEASURE, self._at(now)))
        super().measure_from(now)

    def next_chunk(self) -> int:
        self.log.append(NEXT_CHUNK)
        return super().next_chunk()

    def next_expert(self) -> int:
        self.log.append(NEXT_EXPERT)
        return super().next_expert()

    def save(self, path: Path) -> None:
        """Write the log as an int64 npy file."""
        np.save(path, np.frombuffer(self.log, dtype=np.int64), allow_pickle=False)


def replay(log: Sequence[int], core: Core) -> str:
    """Feed a log to a fresh core, without any clock; returns the decision digest. CoreError if the log is cut."""
    for _, call, operands in calls(log, core):
        call(*operands)
    return core.digest()


def calls(log: Sequence[int], core: Core) -> Iterator[tuple[int, Callable[..., object], tuple[Any, ...]]]:
    """What a log tells and asks, in order: (operation, method of ``core``, its operands). CoreError if it is cut."""
    words = iter(log)
    take = words.__next__

    def many(n: int) -> list[int]:
        return [take() for _ in range(n)]

    plain = {NEXT_CHUNK: core.next_chunk, NEXT_EXPERT: core.next_expert}
    timed = {STEP_END: core.step_end, MEASURE: core.measure_from}
    one = {CHUNK: core.chunk_done, EXPERT: core.expert_done, PREDICTION: core.prediction}
    for op in words:
        operands: tuple[Any, ...]
        try:
            if op in plain:
                yield op, plain[op], ()
                continue
            now = take()
            if op in one:
                yield op, one[op], (take(), now)
            elif op in timed:
                yield op, timed[op], (now,)
            elif op == GATE:
                layer, n = take(), take()
                operands = (layer, many(n), many(n), now)
                yield op, core.gate, operands
            elif op == STEP:
                number, prefill, n = take(), bool(take()), take()
                requests, parts = many(n), many(2 * n)
                operands = (number, prefill, requests, list(zip(parts[::2], parts[1::2], strict=True)), now)
                yield op, core.step_begin, operands
            else:
                raise CoreError(f"unknown operation {op} in the log")
        except StopIteration:
            raise CoreError("the log ends in the middle of a fact") from None
