"""A policy on a desk: its facts are told by hand, its actions written down."""

from dataclasses import fields
from functools import partial
from types import SimpleNamespace
from typing import Any, Generic, Self, TypeVar

import numpy as np

from policies.api import Actions, LayerEvent, PastRequest, PastStep, Policy, Step
from policies.signals import PastRows
from sim.check.synthetic import FakeSignals

SIGNALS = [field.name for field in fields(PastRows)[2:]]
AnyPolicy = TypeVar("AnyPolicy", bound=Policy)


def past_step(request: int, prefill: bool, **signals: Any) -> PastStep:
    """A train step that has these signals alone."""
    return PastStep(request, len(signals["expert_ids"]), **_read(signals), prefill=prefill)


def past_request(request: int, prompt_rows: int, firsts: Any, **signals: Any) -> PastRequest:
    """A whole train request that has these signals alone."""
    return PastRequest(request, len(signals["expert_ids"]), **_read(signals), prompt_rows=prompt_rows, firsts=firsts)


def _read(signals: dict[str, Any]) -> dict[str, Any]:
    return {name: partial(signals.__getitem__, name) for name in SIGNALS}


class Desk(Generic[AnyPolicy]):
    """``resident``, ``complete``, ``pinned`` and ``chunks`` are what it sees; ``log`` is what it asks for, in order.

    What it evicts is no longer resident, and it is told.
    """

    def __init__(self, policy: AnyPolicy) -> None:
        self.policy = policy
        self.log: list[tuple[Any, ...]] = []
        self.pinned: set[int] = set()
        self.complete: set[int] = set()
        self.resident: set[int] = set()
        self.chunks: dict[int, int] = {}
        view: Any = SimpleNamespace(
            complete=self.complete.__contains__,
            resident=lambda x: x in self.resident or x in self.complete,
            evictable=lambda x: x not in self.pinned,
            chunks_done=lambda x: self.chunks.get(x, 0),
        )
        asked = {word: self._noting(word) for word in ("prefetch", "cancel", "predict")}
        expect = lambda experts: self.log.append(("expect", *experts))  # noqa: E731
        policy.attach(view, Actions(**asked, expect=expect, evict=self._evict))

    def _noting(self, word: str) -> Any:
        return lambda *given: not self.log.append((word, *given))

    def _evict(self, expert: int) -> bool:
        if expert in self.pinned:
            return False
        self.log.append(("evict", expert))
        self.gone(expert)
        return True

    def said(self, *kinds: str) -> list[tuple[Any, ...]]:
        """What has been asked for since the last time, of these kinds if any."""
        out = [words for words in self.log if not kinds or words[0] in kinds]
        self.log.clear()
        return out

    def _all(self, kind: str) -> list[tuple[Any, ...]]:
        return [words[1:] for words in self.log if words[0] == kind]

    @property
    def prefetched(self) -> list[int]:
        return [x for x, _ in self._all("prefetch")]

    @property
    def priorities(self) -> dict[int, float]:
        return dict(self._all("prefetch"))  # type: ignore[arg-type]

    @property
    def cancelled(self) -> list[int]:
        return [x for (x,) in self._all("cancel")]

    @property
    def evicted(self) -> list[int]:
        return [x for (x,) in self._all("evict")]

    @property
    def expected(self) -> list[list[int]]:
        return [list(experts) for experts in self._all("expect")]

    @property
    def asked(self) -> list[tuple[Any, ...]]:
        """(tag, ns, blocking) of each prediction."""
        return self._all("predict")

    def done(self) -> None:
        """The last prediction that was asked for has ended."""
        self.policy.on_prediction(self.asked[-1][0])

    def slot(self, *experts: int) -> None:
        """Loads take their slots."""
        for x in experts:
            self.resident.add(x)
            self.policy.on_slot(x)

    def arrive(self, *experts: int) -> Self:
        """Loads are complete; they take their slots first if they have none."""
        for x in experts:
            if x not in self.resident:
                self.slot(x)
            self.complete.add(x)
            self.policy.on_complete(x)
        return self

    def gone(self, expert: int) -> None:
        """An expert loses its slot."""
        self.resident.discard(expert)
        self.complete.discard(expert)
        self.policy.on_evict(expert)

    def step(self, *requests: int, prefill: bool = False, **signals: Any) -> None:
        """A pass over one row of each request begins."""
        shown: Any = SimpleNamespace(**signals)
        self.policy.on_step(Step(0, prefill, len(requests), requests, [1] * len(requests), shown))

    def event(
        self,
        layer: int,
        demand: list[int],
        *,
        requests: tuple[int, ...] = (0,),
        tokens: list[int] | None = None,
        prefill: bool = False,
        **signals: Any,
    ) -> LayerEvent:
        """A gate and what it shows, by name [rows, ...]; ``gate_ahead`` is the same at both distances."""
        arrays = {name: np.array(rows, np.float16 if name in FLOATS else np.uint8) for name, rows in signals.items()}
        rows = max(map(len, arrays.values()), default=1)
        if "gate_ahead" in arrays:
            arrays["gate_ahead"] = arrays["gate_ahead"][:, None].repeat(2, 1)
        shown: Any = FakeSignals({name: array[:, None].repeat(layer + 1, 1) for name, array in arrays.items()})
        shown.enter([(0, rows)])
        shown.layer = layer
        counts = (rows,) if len(requests) == 1 else (1,) * len(requests)
        return LayerEvent(layer, prefill, demand, tokens or [1] * len(demand), requests, counts, shown)

    def gate(self, layer: int, demand: list[int], ahead: list[list[int]] | None = None, **given: Any) -> LayerEvent:
        """A gate has run; ``ahead``: what it says of the next layer, and of the one after it."""
        event = self.event(layer, demand, **given, **({} if ahead is None else {"gate_ahead": ahead}))
        self.policy.on_gate(event)
        return event


FLOATS = ("expert_weights", "router_probs", "hidden")
