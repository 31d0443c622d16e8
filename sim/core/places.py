"""Where an event's experts are computed: which of them the host takes, and when (policies.api.Policy.place)."""

from collections import deque
from collections.abc import Sequence

from policies.api import LayerEvent, Policy
from sim.core.accounts import BYTES_DEMANDED, BYTES_READY, COMPLETE, LOOKUPS, RESIDENT
from sim.core.routing import ROUTED
from sim.core.state import CoreError, State, whole

PLACED = ROUTED + 1
"""In the digest, before an event's host experts: no other answer but one is as low."""


class Places:
    """The host's part of the event under way. A host that begins last gets it when the GPU has done its own."""

    def __init__(self, policy: Policy, waiting: deque[int]) -> None:
        self.policy, self.last = policy, policy.serial()
        self.waiting = waiting
        """What the host may take now, in the policy's order; shared with the core."""
        self.experts: frozenset[int] = frozenset()
        """All that the host computes of the event."""
        self._held: list[int] = []  # until the GPU has done its part
        self._taken: set[int] = set()
        self._on_gpu = 0  # of the GPU's part, not computed

    def follow(self, event: LayerEvent) -> list[int]:
        """Ask for the places of an event; returns what the digest is to hold of them.

        CoreError for what is no such place, and for an event that begins before the host has done its part of another.
        """
        self.require_done()
        if not (order := whole(self.policy.place(event))):
            self.experts = frozenset()
            return []
        self.experts = frozenset(order)
        if problem := self._problem(event, order):
            raise CoreError(f"policy {self.policy.name} places on the host {problem}")
        self._on_gpu = len(event.demand) - len(order)
        if self.last and self._on_gpu:
            self._held = order
        else:
            self.waiting.extend(order)
        return [PLACED, len(order), *order]

    def computed(self) -> None:
        """The GPU has computed one of its experts."""
        self._on_gpu -= 1
        if self._held and not self._on_gpu:
            self.waiting.extend(self._held)
            self._held = []

    def take(self) -> int:
        """Hand the first in the order out."""
        x = self.waiting.popleft()
        self._taken.add(x)
        return x

    def done(self, x: int) -> None:
        """The host has computed it. CoreError for one that was not handed out."""
        if x not in self._taken:
            raise CoreError(f"the host is said to have computed expert {x}, which it was not given")
        self._taken.remove(x)

    def require_done(self) -> None:
        """CoreError where the host has not computed all that it was to."""
        if left := [*self.waiting, *self._held, *sorted(self._taken)]:
            raise CoreError(f"the event has ended before the host has computed {left}")

    def count(self, row: list[int], state: State) -> None:
        """Add the host's lookups to a hit row: they are classified as all others, and stay what they are."""
        for x in self.experts:
            layer, arrived = x // state.n_experts, state.done[x]
            row[LOOKUPS] += 1
            row[RESIDENT] += state.slot[x]
            row[COMPLETE] += arrived == state.chunks
            row[BYTES_READY] += state.arrived_bytes[layer * (state.chunks + 1) + arrived]
            row[BYTES_DEMANDED] += state.size[x]

    def _problem(self, event: LayerEvent, order: Sequence[int]) -> str | None:
        if self.policy.setup.host is None:
            return f"experts {order}, and this machine has no price for a host that computes"
        if len(self.experts) < len(order):
            return f"an expert twice: {order}"
        tokens = dict(zip(event.demand, event.tokens, strict=True))
        if strangers := [x for x in order if not tokens.get(x)]:
            return f"experts {strangers}; allowed: those of the event with tokens, {[x for x in tokens if tokens[x]]}"
        return None
