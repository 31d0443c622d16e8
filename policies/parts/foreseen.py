"""What is predicted for a layer to come: asked for, told, loaded a few at a time, dropped when its gate has run."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import Policy, Setup, Step
from policies.lru import LRU
from policies.parts.pools import Scope
from policies.parts.ranges import at_once, latency_ns


def by_tokens(ids: NDArray[np.integer[Any]], layer: int, n_experts: int) -> list[int]:
    """The union of what is predicted for each token [rows, K] of ``layer``, as expert numbers; absent ones left out.

    Most tokens first, then first come: token by token, by falling score.
    """
    base, named = layer * n_experts, ids.ravel()
    named = named[named < n_experts]
    if len(ids) == 1:
        return [base + x for x in dict.fromkeys(named.tolist())]
    tokens = np.bincount(named, minlength=n_experts)
    first = np.full(n_experts, len(named))
    first[named[::-1]] = np.arange(len(named))[::-1]  # of several, the last written is the first come
    return [base + x for x in np.lexsort((first, -tokens)).tolist() if tokens[x]]


class PredictorLine:
    """Predictions take ``latency_ns`` each, as many at a time as the machine has predictor threads; first come first.

    What a layer's gate has overtaken is of no use. It is not begun then, so that no more wait than a step has layers,
    however slow the predictor is; what is under way is finished, as a thread would, and forgotten. ``tell(layer,
    experts)`` is called with what is known in time. ``latency_ns=0``: at once, and nothing waits.
    """

    def __init__(
        self, policy: Policy, latency_ns: int, blocking: bool, tell: Callable[[int, list[int]], object]
    ) -> None:
        self.policy, self.latency_ns, self.blocking, self.tell = policy, latency_ns, blocking, tell
        self.waiting = deque[tuple[int, list[int]]]()  # (layer, experts), of nearer layers first
        self.under_way: dict[int, tuple[int, list[int]] | None] = {}  # by tag; None: of no use any more
        self.tags = 0
        self.asked: dict[int, list[int]] = {}
        """What was foretold of each layer the last time, however late it is told."""

    def ask(self, layer: int, experts: list[int]) -> None:
        """Predict ``experts`` of ``layer``: told when its turn has come and the latency is over."""
        self.asked[layer] = experts
        if not self.latency_ns:
            self.tell(layer, experts)
            return
        self.waiting.append((layer, experts))
        self._begin()

    def foretold(self, layer: int) -> NDArray[np.float64] | None:
        """Of the experts of ``layer``, [E]: the first that was named has the most, who was not named none."""
        named, n_experts = self.asked.get(layer), self.policy.setup.n_experts
        if named is None:
            return None
        found = np.zeros(n_experts)
        found[np.asarray(named, np.int64) - layer * n_experts] = np.arange(len(named), 0, -1)
        return found

    def pass_by(self, layer: int) -> None:
        """The gate of ``layer`` has run, or with L a step has ended: forget what was asked for up to it."""
        while self.waiting and self.waiting[0][0] <= layer:
            self.waiting.popleft()
        for tag, found in self.under_way.items():
            if found is not None and found[0] <= layer:
                self.under_way[tag] = None

    def done(self, tag: int) -> None:
        found = self.under_way.pop(tag)
        if found is not None:
            self.tell(*found)
        self._begin()

    def _begin(self) -> None:
        while self.waiting and len(self.under_way) < self.policy.setup.predictor_threads:
            self.tags += 1
            self.under_way[self.tags] = self.waiting.popleft()
            self.policy.actions.predict(self.tags, self.latency_ns, self.blocking)


class Foreseen(LRU):
    """An LRU cache that loads what is foreseen, at most ``outstanding`` speculative loads at a time, first come; with
    several GPUs so many for each.

    At a gate, in this order: ``pass_by`` what has come true or not, ``foresee`` the experts of a later layer (of nearer
    layers first), ``issue`` loads. ``admit`` may hold the next one back.
    """

    def __init__(
        self, setup: Setup, *, outstanding: int, latency_us: float, blocking: bool, scope: Scope = "global"
    ) -> None:
        super().__init__(setup, scope=scope)
        self.outstanding = at_once("outstanding", outstanding, setup)
        self.line = PredictorLine(self, latency_ns("latency_us", latency_us), blocking, self._foretell)
        self.predicted = deque[tuple[int, list[int]]]()  # (layer, experts), gate not passed
        self.protected: set[int] = set()  # what is predicted, its gate not passed
        self.waiting = deque[int]()  # predicted, not issued
        self.issued: dict[int, None] = {}  # not complete

    def foretells(self, layer: int) -> NDArray[np.float64] | None:
        return self.line.foretold(layer)

    def on_step(self, step: Step) -> None:
        self.pass_by(self.setup.n_layers)

    def on_prediction(self, tag: int) -> None:
        self.line.done(tag)
        self.issue()

    def on_complete(self, expert: int) -> None:
        self.issued.pop(expert, None)
        self.issue()

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        self.issued.pop(expert, None)

    def pass_by(self, layer: int) -> None:
        """Forget what was predicted up to ``layer``, and cancel what of it is neither complete nor demanded."""
        self.line.pass_by(layer)
        while self.predicted and self.predicted[0][0] <= layer:
            self.protected.difference_update(self.predicted.popleft()[1])
        while self.waiting and self.setup.layer_of(self.waiting[0]) <= layer:
            self.waiting.popleft()
        for expert in [x for x in self.issued if self.setup.layer_of(x) <= layer]:
            self.issued.pop(expert, None)
            self.actions.cancel(expert)  # of no effect on a load that was demanded

    def foresee(self, layer: int, experts: list[int]) -> None:
        """Predict ``experts`` of ``layer``, the likeliest first: known at once, or when the predictor has done it."""
        self.line.ask(layer, experts)

    def issue(self) -> None:
        """Queue what waits, as far as may be."""
        while self.waiting and len(self.issued) < self.outstanding:
            expert = self.waiting[0]
            if not self.view.complete(expert):
                if not self.admit(expert):
                    return
                self.actions.prefetch(expert, 0.0)
                self.issued[expert] = None
            self.waiting.popleft()

    def admit(self, expert: int) -> bool:
        """Whether the next load may be issued now; asked once for each that is."""
        return True

    def _foretell(self, layer: int, experts: list[int]) -> None:
        self.actions.expect(experts)
        self.predicted.append((layer, experts))
        self.protected.update(experts)
        self.waiting.extend(experts)
