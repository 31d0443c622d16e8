"""fMoE on a desk: its facts are told by hand, its actions written down. 3 layers of 4 experts unless said otherwise."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Self

import numpy as np

from policies import registry
from policies.api import PastStep, Setup, Step
from policies.fmoe import FMoE
from tests.policies.desk import Desk, past_step

# Maps of 3 layers x 4 experts; every number a float16.
A = [[0.5, 0.25, 0.125, 0.125], [0.125, 0.5, 0.25, 0.125], [0.25, 0.125, 0.5, 0.125]]
B = [[0.125, 0.125, 0.25, 0.5], [0.5, 0.125, 0.125, 0.25], [0.125, 0.625, 0.125, 0.125]]
EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
Map = Sequence[Sequence[float]]


class Past:
    """A history of steps, each a list of (map, embedding) of its tokens; those of several tokens are prefills."""

    def __init__(self, steps: Sequence[Sequence[tuple[Map, Sequence[float]]]]) -> None:
        self.given = steps

    def steps(self) -> Iterator[PastStep]:
        for tokens in self.given:
            probs = np.array([m for m, _ in tokens], np.float16)
            embedding = np.array([e for _, e in tokens], np.float16)
            ids = np.argsort(-probs, axis=-1, kind="stable")[..., :2].astype(np.uint8)
            yield past_step(0, len(tokens) > 1, router_probs=probs, embedding=embedding, expert_ids=ids)


ONE_EACH = Past([[(A, EAST)], [(B, NORTH)]])


class OnDesk(Desk[FMoE]):
    """FMoE with no cost of searching and exactly K = 1 experts, unless the parameters say otherwise.

    What happens to it answers the desk, to be asked what FMoE ``said``; ``shown`` is the last event.
    """

    def __init__(self, past: Past | None = ONE_EACH, *, n_layers: int = 3, k: int = 1, **params: Any) -> None:
        costs: Any = None
        setup = Setup(n_layers, 4, k, (12,) * n_layers, 1, 1200, costs)
        given = {"distance": 1, "capacity": 4, "search_us": 0.0, "selection": "top_k", **params}
        policy = registry.build("fmoe", setup, given)
        assert isinstance(policy, FMoE)
        super().__init__(policy)
        if policy.wants_history() and past is not None:
            policy.fit(past)  # type: ignore[arg-type]

    def begin(self, *tokens: Sequence[float], counts: Sequence[int] | None = None, prefill: bool = False) -> Self:
        """A pass begins over tokens with these embeddings; requests of one token each, unless counts says."""
        rows = np.array(tokens, np.float16)
        self.counts = list(counts or [1] * len(rows))
        signals: Any = SimpleNamespace(embedding=lambda: rows)
        self.prefill = prefill
        requests = range(len(self.counts))
        self.policy.on_step(Step(1, prefill, len(rows), requests, self.counts, signals))
        return self

    def shows(self, layer: int, *probs: Sequence[float], demand: Sequence[int] = (), there: bool = True) -> Self:
        """A gate has run, with these scores of each token; its experts are there or not."""
        rows = np.array(probs, np.float16)
        experts = [layer * 4 + x for x in demand or [int(rows[-1].argmax())]]
        if there:
            self.resident.update(experts)
            self.complete.update(experts)
        ids = np.argsort(-rows, axis=-1, kind="stable")[:, :2]
        self.shown = self.event(layer, experts, prefill=self.prefill, router_probs=rows, expert_ids=ids)
        self.shown.requests, self.shown.counts = range(len(self.counts)), self.counts
        self.policy.on_gate(self.shown)
        return self

    def answer(self) -> Self:
        """The search under way has ended."""
        self.policy.on_prediction(0)
        return self
