"""Serve prompts on a device: real generation at batch B, in the order in which the simulator would admit them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from real.runtime.engine import Engine
from real.runtime.events import Run
from real.runtime.live import Live
from sim.prices.costs import attended_pairs
from sim.workload.passes import Pass

Choose = Callable[[Tensor], int]


@dataclass
class Served:
    """One request: its prompt, what is chosen after it, and what was made."""

    number: int
    prompt: list[int]
    choose: Choose
    new_tokens: int
    made: list[int] = field(default_factory=list)
    parts: list[tuple[int, int]] = field(default_factory=list)
    """Rows of the run: (first, rows) of each of its passes."""

    @property
    def context(self) -> int:
        return sum(rows for _, rows in self.parts)


def generate(
    run: Run, engine: Engine, live: Live, requests: Sequence[Served], batch: int, ends: frozenset[int]
) -> None:
    """Serve all ``requests``, ``batch`` at a time: prefills one by one, then the others' next decode pass.

    A place is free after its request's last pass, and the next request is admitted to it then (sim.workload.passes).
    """
    waiting, decoding = deque(requests), list[Served]()
    admits: tuple[int, ...] = ()
    admitted = deque[Served]()
    while waiting or admitted or decoding:
        while waiting and len(admitted) + len(decoding) < batch:
            admitted.append(waiting.popleft())
            admits += (admitted[-1].number,)
        prefill = bool(admitted)
        rows = [admitted.popleft()] if prefill else decoding
        step = _pass(prefill, rows, live.rows, admits)
        admits = ()
        tokens = rows[0].prompt if prefill else [request.made[-1] for request in rows]
        live.enter(step, tokens)
        run.begin(step)
        logits = engine.prefill(rows[0].number, tokens)[None] if prefill else engine.decode(step.requests, tokens)
        for request, part, scores in zip(rows, step.parts, logits, strict=True):
            request.parts.append(part)
            request.made.append(request.choose(scores))
        run.end()
        for request in list(rows):
            over = len(request.made) >= request.new_tokens or request.made[-1] in ends
            if over:
                engine.drop(request.number)
                if not prefill:
                    decoding.remove(request)
            elif prefill:
                decoding.append(request)


def _pass(prefill: bool, rows: Sequence[Served], first: int, admits: tuple[int, ...]) -> Pass:
    counts = [len(request.prompt) if prefill else 1 for request in rows]
    kv = [request.context + n for request, n in zip(rows, counts, strict=True)]
    pairs = [attended_pairs(n, request.context) for request, n in zip(rows, counts, strict=True)]
    return Pass(
        prefill,
        tuple(request.number for request in rows),
        list(_parts(first, counts)),
        sum(counts),
        sum(kv),
        sum(pairs),
        [],
        [],
        admits,
    )


def _parts(first: int, counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    for n in counts:
        yield first, n
        first += n
