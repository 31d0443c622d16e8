"""A run's log of facts (rule 1): written while a core is driven, and replayed without a clock on another one.

The log is a flat sequence of integers: an operation, then its operands. It holds what the core was told and asked,
not what it answered; fed to a fresh core with the same policy, it must give the same answers, hence the same digest.
A gate's demand is logged as it was recorded: what the policy routes instead, and its orders, are answers.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sim.core.core import Core
from sim.core.state import CoreError

OPERATIONS = (
    *("step_begin", "gate", "prediction", "chunk_done", "expert_done", "step_end"),
    *("next_chunk", "next_expert", "measure_from", "host_done", "next_host"),
    *("next_chunk_on", "next_expert_on"),
    *("read_done", "next_read", "prompts"),
)
"""The core's methods, by the number that stands for each in a log: first those of every core, then those of several
GPUs alone, those of one above a disk, and what a mixed pass is told of."""
STEP, GATE, PREDICTION, CHUNK, EXPERT, STEP_END, NEXT_CHUNK, NEXT_EXPERT, MEASURE, HOST, NEXT_HOST = range(11)
CHUNK_ON, EXPERT_ON = 11, 12
READ, NEXT_READ, PROMPTS = 13, 14, 15
QUESTIONS = frozenset({NEXT_CHUNK, NEXT_EXPERT, NEXT_HOST, NEXT_READ})
OF_A_GPU = frozenset({CHUNK_ON, EXPERT_ON})


def record(core: Core) -> Core:
    """Write ``core.log`` from now on; returns the core. CoreError for a clock that runs backwards."""
    words, latest = core.log, 0

    def write(operation: int, *operands: Any) -> None:
        nonlocal latest
        if not operands:  # a question
            words.append(operation)
            return
        if operation in OF_A_GPU:
            words.extend((operation, *operands))
            return
        *told, now = operands
        if now < latest:
            raise CoreError(f"a fact at {now} ns came after one at {latest} ns")
        latest = now
        if operation == STEP:
            number, prefill, requests, parts = told
            told = [number, prefill, len(requests), *requests, *chain.from_iterable(parts)]
        elif operation == GATE:
            layer, demand, tokens = told
            told = [layer, len(demand), *demand, *tokens]
        elif operation == PROMPTS:
            told = [len(told[0]), *told[0]]
        words.extend((operation, now, *told))

    for operation, name in enumerate(OPERATIONS):
        if hasattr(core, name):
            core.listen(name, partial(write, operation))
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
            if op in QUESTIONS:
                yield op, ()
                continue
            if op in OF_A_GPU:
                yield op, (take(),)
                continue
            now = take()
            if op in (CHUNK, EXPERT, PREDICTION, HOST, READ):
                yield op, (take(), now)
            elif op in (STEP_END, MEASURE):
                yield op, (now,)
            elif op == PROMPTS:
                yield op, (many(take()), now)
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


def replay(log: Sequence[int], core: Core) -> str:
    """Feed a log to a fresh core; returns the decision digest. CoreError if the log is cut."""
    for _, call, operands in calls(log, core):
        call(*operands)
    return core.digest()


def calls(log: Sequence[int], core: Core) -> Iterator[tuple[int, Callable[..., object], tuple[Any, ...]]]:
    """What a log tells and asks, in order: (operation, method of ``core``, its operands). CoreError if it is cut."""
    methods = [getattr(core, name, _of_another) for name in OPERATIONS]
    return ((op, methods[op], operands) for op, operands in entries(log))


def _of_another(*_: int) -> None:
    raise CoreError("the log is of several GPUs or of a disk, and this core has one GPU and none")
