"""What waits for the predictor, and what it is at."""

from collections import deque
from collections.abc import Callable

from policies.api import Policy


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

    def ask(self, layer: int, experts: list[int]) -> None:
        """Predict ``experts`` of ``layer``: told when its turn has come and the latency is over."""
        if not self.latency_ns:
            self.tell(layer, experts)
            return
        self.waiting.append((layer, experts))
        self._begin()

    def pass_by(self, layer: int) -> None:
        """The gate of ``layer`` has run, or with L a step has ended: forget what was asked for up to it."""
        while self.waiting and self.waiting[0][0] <= layer:
            self.waiting.popleft()
        for tag, found in self.under_way.items():
            if found is not None and found[0] <= layer:
                self.under_way[tag] = None

    def done(self, tag: int) -> None:
        """The prediction asked for under ``tag`` has ended."""
        found = self.under_way.pop(tag)
        if found is not None:
            self.tell(*found)
        self._begin()

    def _begin(self) -> None:
        while self.waiting and len(self.under_way) < self.policy.setup.predictor_threads:
            self.tags += 1
            self.under_way[self.tags] = self.waiting.popleft()
            self.policy.actions.predict(self.tags, self.latency_ns, self.blocking)
