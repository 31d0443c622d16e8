"""Many caches of one policy, which hear of the same gates: hits at every budget in one go.

For a policy that has ``orders`` (policies.api.Policy): its hooks are called once for all caches, and each has an order
of victims, which is told of an event's loads at once, as nobody looks in between. Who evicts whom is as in
sim.core.whole.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.api import FullOrder, Policy, Setup
from sim.core.core import Core, StepSignals
from sim.core.state import CoreError
from sim.core.whole import DEADLOCK, PrefetchingError, whole


class Event(NamedTuple):
    """What a cache is told of a layer event."""

    demand: Sequence[int]
    copy_ns: int  # of a whole expert
    expert_ns: Mapping[int, int]  # the compute of each of ``demand``
    own_ns: int  # the policy's own time before it
    outlasted: bool
    """Whether a copy takes longer than own time and all compute together, so that nothing else of it matters."""

    def outlasts(self, missing: Sequence[int]) -> bool:
        """Whether a copy takes longer than all that can be computed meanwhile."""
        if self.outlasted:
            return True
        price = self.expert_ns
        of_missing = [price[x] for x in missing]
        before = self.own_ns + sum(price.values()) - sum(of_missing)
        return before < self.copy_ns > max(of_missing)


class Cache:
    """So many ``slots`` for experts of one size. ``free``: 0 for those that the event under way demands, else 1; common
    to all caches."""

    def __init__(self, order: FullOrder, slots: int, free: bytearray, kinds: int) -> None:
        self.order, self.left, self.free = order, slots, free
        self.there = bytearray(len(free))
        self.misses = [0] * kinds
        self._allowed: Callable[[int], bool] = free.__getitem__  # type: ignore[assignment]

    def load(self, missing: Sequence[int], event: Event) -> None:
        """What is ``missing`` of an event is copied one after the other, in the place of others where there is no room.

        CoreError where no room can be made.
        """
        n, left, there = len(missing), self.left, self.there
        if n <= left:
            for x in missing:
                self.order.add(x)
                there[x] = 1
            self.left = left - n
            return
        # Who can go is who has been computed: at the first load nobody of the event, then all but whom it follows.
        whenever = n == 1 or event.outlasts(missing)
        gone = self.order.exchange(missing, self._allowed) if not left and whenever else None
        if not gone:
            self._in_time(missing, event)
            return
        for x in missing:
            there[x] = 1
        for x in gone:
            if not there[x]:
                raise CoreError(f"expert {x} was to be evicted while it had no slot")
            there[x] = 0

    def _in_time(self, missing: Sequence[int], event: Event) -> None:
        """The same, where it matters who has been computed when a load wants its slot: an expert that ends with a copy
        ends after it, and a load that finds no room tries again when another expert has been computed."""
        demand, copy_ns, price, now, _ = event
        free, absent = self.free, set(missing)
        line = [(x, 0) for x in demand if x not in absent]  # to be computed, each from when it is there
        computed = at = 0
        for x in missing:
            while computed < len(line):
                y, came = line[computed]
                end = (now if now > came else came) + price[y]
                if end >= at:
                    break
                now, free[y], computed = end, 1, computed + 1
            while not self._take(x):
                if computed == len(line):
                    raise CoreError(DEADLOCK)
                y, came = line[computed]
                now = at = max(now, came) + price[y]
                free[y], computed = 1, computed + 1
            at += copy_ns
            line.append((x, at))
        for x in demand:
            free[x] = 0

    def _take(self, x: int) -> bool:
        if self.left:
            self.left -= 1
        else:
            victim = self.order.lowest(self._allowed)
            if victim is None:
                return False
            self.order.discard(victim)
            self.there[victim] = 0
        self.order.add(x)
        self.there[x] = 1
        return True


class Caches(Core):
    """One GPU and one link that carries one copy at a time, for each of ``orders``, with so many ``slots``.

    CoreError for a policy with hooks that ask or change what is there (:func:`alike`).
    """

    def __init__(
        self, policy: Policy, setup: Setup, signals: StepSignals, orders: Sequence[FullOrder], slots: Sequence[int]
    ) -> None:
        super().__init__(policy, setup, signals)
        if not alike(policy):
            raise CoreError(f"policy {policy.name} does not see the same whatever the cache")
        if len(orders) != len(slots):
            raise CoreError(f"policy {policy.name} has {len(orders)} orders for {len(slots)} caches")
        self._free = bytearray(b"\1" * setup.n_all)
        kinds = 2 * setup.n_layers  # in prefill, then in decode
        self.lookups = [0] * kinds
        self._caches = [Cache(order, n, self._free, kinds) for order, n in zip(orders, slots, strict=True)]
        self._on_gate = policy.on_gate

    def gate_at_once(
        self,
        layer: int,
        demand: Sequence[int],
        tokens: Sequence[int],
        copy_ns: int,
        expert_ns: int | Callable[[], Mapping[int, int]],
        own_ns: int = 0,
    ) -> None:
        """As :meth:`sim.core.whole.WholeCore.gate_at_once`, in each cache."""
        self.signals.layer = layer
        event, free = self.event, self._free
        event.layer, event.demand, event.tokens = layer, demand, tokens
        self._on_gate(event)
        if self._queue or self.predictions:
            raise PrefetchingError(self.policy.name)
        kind = layer if event.prefill else self.setup.n_layers + layer
        self.lookups[kind] += len(demand)
        for x in demand:
            free[x] = 0
        prices = dict.fromkeys(demand, expert_ns) if isinstance(expert_ns, int) else expert_ns()
        told = Event(demand, copy_ns, prices, own_ns, own_ns + sum(prices.values()) < copy_ns)
        for cache in self._caches:
            there = cache.there
            missing = [x for x in demand if not there[x]]
            if missing:
                cache.misses[kind] += len(missing)
                cache.load(missing, told)
        for x in demand:
            free[x] = 1

    def measure_from(self, now: int) -> None:
        super().measure_from(now)
        for counts in (self.lookups, *[cache.misses for cache in self._caches]):
            counts[:] = [0] * len(counts)

    def hits(self) -> NDArray[np.int64]:
        """[caches, 2, L]: complete hits in prefill and decode, by layer."""
        misses = np.array([cache.misses for cache in self._caches], np.int64)
        return (np.array(self.lookups, np.int64) - misses).reshape(len(misses), 2, -1)


def alike(policy: Policy) -> bool:
    """Whether its events can be told at once, and it has no hook that ends in a cache but for those of its orders."""
    return whole(policy) and not policy.uses("keep") and not policy.uses("on_complete")
