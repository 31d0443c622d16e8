"""A core with no clock outside of a layer event: who is there at each gate, for policies that prefetch nothing.

Between two events nothing is under way then, so that an event's hits are a function of the events before it. Within an
event time counts as far as it orders facts: whose turn it is on the link, and who has been computed by then. The facts
of chunks, of the dense part and of waiting, which order nothing, are left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from policies.api import Policy, Setup
from sim.core.accounts import BYTES_DEMANDED, BYTES_READY, COMPLETE, LOOKUPS, RESIDENT
from sim.core.core import Core, StepSignals
from sim.core.loads import NONE
from sim.core.state import CoreError

HOOKS = ("route", "place", "precompute", "schedule")
"""What makes an event another one, or orders it otherwise: policies with one of these need the machine."""


DEADLOCK = "deadlock: compute waits and nothing can be copied"


class PrefetchingError(RuntimeError):
    """The policy asked for a speculative load or a prediction, which take a time of their own."""


class WholeCore(Core):
    """One GPU, one link that carries one copy at a time. CoreError for a policy with one of HOOKS."""

    def __init__(self, policy: Policy, setup: Setup, signals: StepSignals) -> None:
        super().__init__(policy, setup, signals)
        if not whole(policy):
            raise CoreError(f"policy {policy.name} has one of {HOOKS}, whose events cannot be told at once")

    def gate_at_once(
        self,
        layer: int,
        demand: Sequence[int],
        tokens: Sequence[int],
        copy_ns: int,
        expert_ns: int | Callable[[], Mapping[int, int]],
        own_ns: int = 0,
    ) -> None:
        """The gate of ``layer`` has run, and what follows until all of its ``demand`` has been computed.

        ``copy_ns``: of a whole expert; ``expert_ns``: of any expert's compute, or asked, where it matters, for each
        one's; ``own_ns``: the policy's own time before it. PrefetchingError where the policy does more than to admit
        and to evict.
        """
        self.signals.layer = layer
        event, slot, pinned = self.event, self._slot, self._pinned
        event.layer, event.demand, event.tokens = layer, demand, tokens
        missing = [x for x in demand if not slot[x]]
        for x in demand:
            pinned[x] = 1
        self._count(layer, len(demand), len(missing))
        self.policy.on_gate(event)
        if self._queue or self.predictions:
            raise PrefetchingError(self.policy.name)
        alone = len(missing) == 1 and self._keep is None
        if missing and not (alone and self._alone(missing[0])):
            absent = set(missing)
            there = [x for x in demand if x not in absent]
            price: Mapping[int, int]
            if isinstance(expert_ns, int):
                price, before, longest = {}, len(there) * expert_ns, expert_ns
            else:
                price = expert_ns()
                before, longest = sum([price[x] for x in there]), max([price[x] for x in missing])
            first = NONE if alone or not self._take(missing[0]) else missing[0]
            if first != NONE and own_ns + before < copy_ns > longest:
                self._one_by_one(there, missing)
                return
            self._in_time(there, missing, copy_ns, price or dict.fromkeys(demand, longest), own_ns, first)
            return
        if self._keep is None:
            for x in demand:
                pinned[x] = 0
            return
        for x in demand:
            self._computed(x)

    def _count(self, layer: int, lookups: int, missing: int) -> None:
        size = self.state.size[layer * self.state.n_experts]
        row = self.accounts.hits[0 if self.event.prefill else 1][layer]
        row[LOOKUPS] += lookups
        row[RESIDENT] += lookups - missing
        row[COMPLETE] += lookups - missing
        row[BYTES_READY] += (lookups - missing) * size
        row[BYTES_DEMANDED] += lookups * size
        self.accounts.demand_bytes += missing * size

    def _alone(self, x: int) -> bool:
        """The one miss of an event takes its slot while all others are pinned. False where it finds no room."""
        if not self._take(x):
            return False
        self._arrived(x)
        return True

    def _arrived(self, x: int) -> None:
        self._done[x] = self._chunks
        if self._on_complete is not None:
            self._on_complete(x)

    def _computed(self, x: int) -> None:
        self._pinned[x] = 0
        if self._keep is not None and not self._keep(x) and self._slot[x]:
            self.evict(x)

    def _one_by_one(self, there: Sequence[int], missing: Sequence[int]) -> None:
        """As in :meth:`_in_time`, where each copy takes longer than all that can be computed meanwhile."""
        pinned, done, chunks, keep, on_complete = self._pinned, self._done, self._chunks, self._keep, self._on_complete
        for x in there:
            pinned[x] = 0
            if keep is not None and not keep(x) and self._slot[x]:
                self.evict(x)
        copied = missing[0]
        for x in missing[1:]:
            done[copied] = chunks
            if on_complete is not None:
                on_complete(copied)
            if self._take(x):
                self._computed(copied)
            else:
                self._computed(copied)
                if not self._take(x):
                    raise CoreError(DEADLOCK)
            copied = x
        self._arrived(copied)
        self._computed(copied)

    def _in_time(
        self,
        there: Sequence[int],
        missing: Sequence[int],
        copy_ns: int,
        expert_ns: Mapping[int, int],
        own_ns: int,
        copied: int,
    ) -> None:
        """As on the machine: what is ``there`` is computed while the others are copied, one by one, a copy before an
        expert of the same time; one that finds no room tries again when an expert has been computed. ``copied``: the
        first of these, or NONE where it has found no room."""
        ready, waiting = list(there), iter(missing[1:])
        blocked = missing[0] if copied == NONE else NONE
        now, ends, taken, n = own_ns, copy_ns, 0, len(there) + len(missing)
        while taken < n:
            if taken < len(ready):
                x = ready[taken]
                taken += 1
                now += expert_ns[x]
            elif copied == NONE:
                raise CoreError(DEADLOCK)
            else:
                x, now = NONE, max(now, ends)
            while copied != NONE and ends <= now:
                ready.append(copied)
                self._arrived(copied)
                copied, blocked = self._next(waiting)
                ends += copy_ns
            if x != NONE:
                self._computed(x)
                if blocked != NONE and self._take(blocked):
                    copied, blocked, ends = blocked, NONE, now + copy_ns

    def _next(self, waiting: Iterator[int]) -> tuple[int, int]:
        """The link takes the next one: (what it copies, what finds no room), NONE for either."""
        x = next(waiting, NONE)
        if x == NONE:
            return NONE, NONE
        return (x, NONE) if self._take(x) else (NONE, x)

    def _take(self, x: int) -> bool:
        """As :meth:`_make_room`, less what nobody here has: shares by layer in most policies, speculative loads."""
        state = self.state
        if state.layer_capacity is not None:
            if not self._make_room(x, False):
                return False
            self._given[x] = self._chunks
            return True
        size, slot, on_evict = state.size, self._slot, self._on_evict
        used, need = state.used + size[x], state.capacity
        while used > need:
            victim = self._victim(x, False)
            if victim is None:
                if state.used + size[x] <= need:  # the policy has made the room itself
                    break
                return False
            if not slot[victim] or self._pinned[victim]:
                raise CoreError(f"expert {victim} was to be evicted while it had no slot or was pinned")
            slot[victim] = self._given[victim] = self._done[victim] = 0
            state.used -= size[victim]
            if on_evict is not None:
                on_evict(victim)
            used = state.used + size[x]
        state.used += size[x]
        slot[x] = 1
        if self._on_slot is not None:
            self._on_slot(x)
        self._given[x] = self._chunks
        return True


def whole(policy: Policy) -> bool:
    """Whether its events can be told at once."""
    return not any(map(policy.uses, HOOKS)) and not policy.setup.versions and policy.setup.gpus == 1
