"""Where an event's experts are computed: which of them the host takes, and when (policies.api.Policy.place).

The host may begin with experts of the next event before its gate has run (policies.api.Policy.precompute).
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence

from policies.api import LayerEvent, Policy
from sim.core.accounts import BYTES_DEMANDED, BYTES_READY, COMPLETE, DROPPED, LOOKUPS, RESIDENT, USED, WASTED, Accounts
from sim.core.routing import ROUTED
from sim.core.state import CoreError, State, whole

PLACED, PRECOMPUTED = ROUTED + 1, ROUTED + 2
"""In the digest, before an event's host experts, and before those that the host begins for the next.

But for one, no other answer is as low."""


class Places:
    """The host's part of the event under way. A host that begins last gets it when the GPU has done its own."""

    def __init__(self, policy: Policy, waiting: deque[int]) -> None:
        self.policy, self.last = policy, policy.serial()
        self.waiting = waiting
        """What the host may take now, in the policy's order; shared with the core."""
        self.experts: frozenset[int] = frozenset()
        """All that the host computes of the event."""
        self.due: set[int] = set()
        """Of these, what is not computed."""
        self.tokens: dict[int, int] = {}
        """Of the event's experts, and of those of the next that the host may take."""
        self._precompute = policy.precompute if policy.uses("precompute") else None
        self._early: Mapping[int, int] = {}  # asked for before its event: tokens by expert
        self._held: list[int] = []  # until the GPU has done its part
        self._begun: set[int] = set()  # of these, handed out
        self._taken: set[int] = set()  # handed out, and not computed
        self._forsaken = Counter[int]()  # handed out early, not computed, and of no use
        self._on_gpu = 0  # of the GPU's part, not computed

    def follow(self, event: LayerEvent, accounts: Accounts) -> list[int]:
        """Ask for the places of an event, and what to begin of the next; returns what the digest is to hold of them.

        CoreError for what is no such place, and for an event that begins before the host has done its part of another.
        """
        self.require_done()
        order = whole(self.policy.place(event))
        if not order and self._precompute is None:
            self.experts = frozenset()
            return []
        self.experts = frozenset(order)
        self.tokens = dict(zip(event.demand, event.tokens, strict=True))
        if order and (problem := self._problem(order)):
            raise CoreError(f"policy {self.policy.name} places on the host {problem}")
        answer = [PLACED, len(order), *order] if order else []
        if self._precompute is None:
            self.due, queue = set(order), order
        else:
            begun = self._settle(event.prefill, accounts)
            self.due = {x for x in order if x not in begun or x in self._taken}
            self._early = early = self._asked(event, self._precompute(event))
            queue = [*(x for x in order if x not in begun), *early]
            if early:
                self.tokens |= early
                accounts.precomputed += len(early)
                answer += [PRECOMPUTED, len(early), *early, *early.values()]
        self._on_gpu = len(event.demand) - len(order)
        if self.last and self._on_gpu:
            self._held = queue
        else:
            self.waiting.extend(queue)
        return answer

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
        if x in self._early:
            self._begun.add(x)
        return x

    def done(self, x: int) -> None:
        """The host has computed it. CoreError for one that was not handed out.

        Of two computations of one expert that of no use began first, and is taken to have ended first.
        """
        if x in self._forsaken:
            self._forsaken -= Counter((x,))
        elif x in self._taken:
            self._taken.remove(x)
            self.due.discard(x)
        else:
            raise CoreError(f"the host is said to have computed expert {x}, which it was not given")

    @property
    def awaited(self) -> bool:
        """Whether the event waits for the host, and not only for what it is to begin after the GPU."""
        return bool(self.due) and not self.due.issubset(self._held)

    def require_done(self) -> None:
        """CoreError where the host has not computed all that it was to."""
        if self.due:
            raise CoreError(f"the event has ended before the host has computed {sorted(self.due)}")

    def end(self, accounts: Accounts, prefill: bool) -> None:
        """The pass ends. CoreError as in :meth:`require_done`."""
        self.require_done()
        if self._early:
            self.experts = frozenset()
            self._settle(prefill, accounts)

    def count(self, row: list[int], state: State) -> None:
        """Add the host's lookups to a hit row: they are classified as all others, and stay what they are."""
        for x in self.experts:
            layer, arrived = x // state.n_experts, state.done[x]
            row[LOOKUPS] += 1
            row[RESIDENT] += state.slot[x]
            row[COMPLETE] += arrived == state.chunks
            row[BYTES_READY] += state.arrived_bytes[layer * (state.chunks + 1) + arrived]
            row[BYTES_DEMANDED] += state.size[x]

    def _settle(self, prefill: bool, accounts: Accounts) -> set[int]:
        """What was asked for early is of use now or never: returns what of the event's was begun. The rest of the queue
        was for it, too."""
        early, begun = self._early, self._begun
        for x, tokens in early.items():
            if x in self.experts:
                fate = USED
                accounts.stale[0 if prefill else 1] += tokens
            elif x in begun:
                fate = WASTED
                if x in self._taken:
                    self._taken.remove(x)
                    self._forsaken[x] += 1
            else:
                fate = DROPPED
            accounts.precomputed_fates[fate] += 1
        used = {x for x in early if x in begun and x in self.experts}
        self._early, self._begun, self._held = {}, set(), []
        self.waiting.clear()
        return used

    def _asked(self, event: LayerEvent, asked: Mapping[int, int]) -> dict[int, int]:
        """What the host is to begin of the next event. CoreError for what is no such thing."""
        if not asked:
            return {}
        policy, setup = self.policy, self.policy.setup
        early = dict(zip(whole([*asked]), whole([*asked.values()]), strict=True))
        rows, layer = sum(event.counts), event.layer + 1
        following = setup.experts_of(layer) if layer < setup.n_layers else range(0)
        if policy.lossless:
            problem = "experts before their gate has run, and is lossless"
        elif setup.host is None:
            problem = f"experts {[*early]}, and this machine has no price for a host that computes"
        elif strangers := [x for x in early if x not in following]:
            problem = f"experts {strangers} at layer {event.layer}; allowed: those of the next layer"
        elif wrong := [n for n in early.values() if not 1 <= n <= rows]:
            problem = f"experts with {wrong} tokens; the step has {rows}"
        else:
            return early
        raise CoreError(f"policy {policy.name} precomputes {problem}")

    def _problem(self, order: Sequence[int]) -> str | None:
        if self.policy.setup.host is None:
            return f"experts {order}, and this machine has no price for a host that computes"
        if len(self.experts) < len(order):
            return f"an expert twice: {order}"
        tokens = self.tokens
        if strangers := [x for x in order if not tokens.get(x)]:
            return f"experts {strangers}; allowed: those of the event with tokens, {[x for x in tokens if tokens[x]]}"
        if others := [x for x in order if self._early.get(x, tokens[x]) != tokens[x]]:
            counts = [(tokens[x], self._early[x]) for x in others]
            return f"experts {others}, precomputed for other tokens than theirs: {counts}"
        return None
