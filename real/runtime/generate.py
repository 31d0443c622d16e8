"""Serve prompts on a device: real generation at batch B, in the order in which the simulator would admit them."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Literal

from torch import Tensor

from real.runtime.live import Live
from real.runtime.runner import Runner
from sim.prices.costs import attended_pairs
from sim.workload.passes import Pass

End = Literal["length", "token", "stop"]
"""Why a request has ended: it had as many tokens as it was to have, the last is one that ends a text, or a stop string
is complete."""


@dataclass
class Served:
    """One request: its prompt, what is chosen after it, and what was made."""

    number: int
    prompt: list[int]
    choose: Callable[[Tensor], int]
    new_tokens: int
    made: list[int] = field(default_factory=list)
    parts: list[tuple[int, int]] = field(default_factory=list)
    """Rows of the run: (first, rows) of each of its passes."""
    stops: Callable[[list[int]], bool] | None = None
    """Whether prompt and answer so far end it."""
    end: End | None = None

    @property
    def context(self) -> int:
        return sum(rows for _, rows in self.parts)

    def take(self, token: int, ends: Collection[int]) -> None:
        """Its next token."""
        self.made.append(token)
        if token in ends:
            self.end = "token"
        elif self.stops is not None and self.stops(self.prompt + self.made):
            self.end = "stop"
        elif len(self.made) >= self.new_tokens:
            self.end = "length"


def generate(
    runner: Runner,
    live: Live,
    requests: Sequence[Served],
    batch: int,
    ends: Collection[int],
    tell: Callable[[Served], None] = lambda request: None,
    over: Callable[[], bool] = lambda: False,
) -> None:
    """Serve all ``requests``, ``batch`` at a time: prefills one by one, then the others' next decode pass.

    A place is free after its request's last pass, and the next request is admitted to it then (sim.workload.passes). A
    request ends with its last token, with one of ``ends``, or where it says so itself. ``tell`` is called after each
    token, of its request. Where it is ``over``, no further pass begins: what has run is whole.
    """
    waiting, decoding = deque(requests), list[Served]()
    admits: tuple[int, ...] = ()
    admitted = deque[Served]()
    while (waiting or admitted or decoding) and not over():
        while waiting and len(admitted) + len(decoding) < batch:
            admitted.append(waiting.popleft())
            admits += (admitted[-1].number,)
        prefill = bool(admitted)
        rows = [admitted.popleft()] if prefill else list(decoding)
        step = _pass(prefill, rows, live.rows, admits)
        admits = ()
        tokens = rows[0].prompt if prefill else [request.made[-1] for request in rows]
        chosen = runner.forward(step, tokens, partial(_chosen, rows))
        for request, part, token in zip(rows, step.parts, chosen, strict=True):
            request.parts.append(part)
            request.take(token, ends)
            if request.end is not None:
                runner.engine.drop(request.number)
                if not prefill:
                    decoding.remove(request)
            elif prefill:
                decoding.append(request)
            tell(request)


def _chosen(rows: Sequence[Served], logits: Tensor) -> list[int]:
    return [request.choose(scores) for request, scores in zip(rows, logits, strict=True)]


def _pass(prefill: bool, rows: Sequence[Served], first: int, admits: tuple[int, ...]) -> Pass:
    counts = [len(request.prompt) if prefill else 1 for request in rows]
    kv = sum(request.context + n for request, n in zip(rows, counts, strict=True))
    pairs = sum(attended_pairs(n, request.context) for request, n in zip(rows, counts, strict=True))
    parts = list(zip(accumulate(counts[:-1], initial=first), counts, strict=True))
    return Pass(prefill, tuple(request.number for request in rows), parts, sum(counts), kv, pairs, [], [], admits)
