"""The core of several GPUs, each with a pool, queues and a line of experts to compute (docs/design.md, rule 1).

It is the core of one GPU, which acts for one of them at a time: what belongs to a GPU is put in its place before a fact
of that GPU is told or a question of it is asked. What is asked for in between, of whatever GPU, goes to where the
expert lives. Facts that are of no GPU (a step, a gate, a prediction) find all of them together.
"""

from collections import deque
from collections.abc import Sequence
from typing import cast

from policies.api import LayerEvent, Policy, Schedule, Setup
from sim.core.accounts import Accounts
from sim.core.core import Core, Rows, StepSignals
from sim.core.host_memory import HostTier
from sim.core.loads import NONE, SpeculativeQueue
from sim.core.pools import Pools
from sim.core.state import CoreError, State
from sim.core.tiers import TieredCore
from sim.core.turns import Turns, in_order
from sim.core.versions import VersionedCore


class Side:
    """What the core keeps for one GPU. Its link asks it for chunks as it would ask a core."""

    def __init__(self, core: "SeveralCore", gpu: int) -> None:
        self.core, self.gpu, self.state = core, gpu, core.state
        self.demand: deque[int] = deque()
        self.heap: list[tuple[float, int, int]] = []
        self.turns = OwnTurns(core.state, gpu) if core.policy.uses("schedule") else None
        self.ready: deque[int] = deque() if self.turns is None else self.turns
        self.uncomputed = 0
        self.pending = False
        """As a core's: whether asking next_chunk may give a chunk."""

    def next_chunk(self) -> int:
        """Which chunk to copy to this GPU."""
        return self.core.next_chunk_on(self.gpu)


class SeveralCore(Core):
    """Several GPUs' experts, each at its home (policies.api.Setup).

    Questions name the GPU: next_chunk_on, next_expert_on. Whatever happens, each GPU may be asked for a chunk again;
    between facts, one for which a hook has queued something.
    """

    def __init__(self, policy: Policy, setup: Setup, signals: StepSignals) -> None:
        super().__init__(policy, setup, signals)
        if self.places is not None:
            raise CoreError(f"policy {policy.name} computes on the host, which no machine with several GPUs does")
        self.pools = cast(Pools, self.state)
        self.home = self.pools.home
        self.sides = [Side(self, gpu) for gpu in range(setup.gpus)]
        self._together = Side(self, NONE)
        self._now: Side | None = None
        self.speculative = Queues(self.sides, self.home)
        self._all_turns = SharedTurns(self.sides, self.state) if policy.uses("schedule") else None
        self._act_for(self._together)
        # The pool's own accounts come before the policy's hook, which may ask what is free.
        self._told_slot, self._told_evict = self._on_slot, self._on_evict
        self._chosen = self._victim
        self._on_slot = self._slot_taken
        self._on_evict = self._slot_lost
        self._victim = self._victim_at_home

    # -- facts --------------------------------------------------------------------------------------------------

    def step_begin(self, number: int, prefill: bool, requests: Sequence[int], parts: Sequence[Rows], now: int) -> None:
        self._act_for(self._together)
        super().step_begin(number, prefill, requests, parts, now)
        self._all_pending()

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> LayerEvent:
        self._act_for(self._together)
        event = super().gate(layer, demand, tokens, now)
        self._all_pending()
        return event

    def prediction(self, tag: int, now: int) -> None:
        self._act_for(self._together)
        super().prediction(tag, now)
        self._all_pending()

    def chunk_done(self, chunk: int, now: int) -> None:
        self._act_for(self.sides[self.home[chunk // self._chunks]])
        super().chunk_done(chunk, now)
        self._all_pending()

    def expert_done(self, x: int, now: int) -> None:
        self._act_for(self.sides[self.home[x]])
        super().expert_done(x, now)
        self._all_pending()

    # -- questions ----------------------------------------------------------------------------------------------

    def next_expert_on(self, gpu: int) -> int:
        """Which expert of the event this GPU is to compute, or WAIT or END."""
        side = self.sides[gpu]
        self._act_for(side)
        x = super().next_expert()
        side.uncomputed = self._uncomputed
        return x

    def next_chunk_on(self, gpu: int) -> int:
        """Which chunk to copy to this GPU, or NONE."""
        side = self.sides[gpu]
        self._act_for(side)
        self.pending = True
        chunk = super().next_chunk()
        side.pending = self.pending
        if chunk != NONE:
            self.accounts.by_gpu[gpu].copied_bytes += self.state.chunk_bytes[chunk]
        return chunk

    # -- the measured window ------------------------------------------------------------------------------------

    def measure_from(self, now: int) -> None:
        super().measure_from(now)
        self.pools.pool_peak[:] = self.pools.pool_used

    def finish(self, now: int) -> Accounts:
        self._act_for(self._together)
        return super().finish(now)

    # -- inside -------------------------------------------------------------------------------------------------

    def _act_for(self, side: Side) -> None:
        """Put what this GPU has in the place of what the last one had."""
        if side is self._now:
            return
        self._now = side
        self._demand, self._queue, self.ready = side.demand, side.heap, side.ready
        self.speculative.heap = side.heap
        self._turns = side.turns if side is not self._together else self._all_turns
        self._uncomputed = side.uncomputed

    def _all_pending(self) -> None:
        for side in self.sides:
            side.pending = bool(side.demand or side.heap)

    def _classify(self, event: LayerEvent, foretold: set[int] | None) -> None:
        """For all at once, and then each GPU gets what is its own."""
        together, home, by_gpu = self._together, self.home, self.accounts.by_gpu
        self.ready = ready = deque[int]()  # no turn is taken here
        super()._classify(event, foretold)
        for x, n in zip(event.demand, event.tokens, strict=True):
            self.sides[home[x]].uncomputed += 1
            by_gpu[home[x]].lookups += n > 0
            by_gpu[home[x]].complete += n > 0 and self._done[x] == self._chunks
        for x in ready:
            self.sides[home[x]].ready.append(x)
        for x in together.demand:
            self.sides[home[x]].demand.append(x)
        together.demand.clear()

    def _slot_taken(self, expert: int) -> None:
        self.pools.take(expert)
        if self._told_slot is not None:
            self._told_slot(expert)

    def _slot_lost(self, expert: int) -> None:
        self.pools.leave(expert)
        if self._told_evict is not None:
            self._told_evict(expert)

    def _victim_at_home(self, incoming: int, speculative: bool) -> int | None:
        pools, home = self.pools, self.home
        pools.asking = home[incoming]
        victim = self._chosen(incoming, speculative)
        pools.asking = None
        if victim is not None and home[victim] != home[incoming]:
            name, gpus = self.policy.name, f"GPU {home[victim]}, for {incoming}, of GPU {home[incoming]}"
            raise CoreError(f"policy {name} evicts {victim}, of {gpus}: a victim is evictable")
        return victim


class Queues(SpeculativeQueue):
    """Pending loads of each GPU; ``heap`` is that of the GPU that is acted for. Numbers are drawn for all together."""

    def __init__(self, sides: Sequence[Side], home: Sequence[int]) -> None:
        super().__init__(len(home))
        self.sides, self.home = sides, home

    def push(self, expert: int, priority: float) -> None:
        side, current = self.sides[self.home[expert]], self.heap
        side.pending = True
        self.heap = side.heap
        super().push(expert, priority)
        self.heap = current


class OwnTurns(Turns):
    """Whose turn it is on one GPU."""

    def __init__(self, state: State, gpu: int) -> None:
        super().__init__(state)
        home = cast(Pools, state).home
        self._members = [x for x, at in enumerate(home) if at == gpu]

    def _on_the_link(self) -> bool:
        given, done = self.state.given, self.state.done
        return any(given[x] != done[x] for x in self._members)


class SharedTurns(Turns):
    """Gives each GPU its part of an order: one that is computed or copied in order waits for none of another GPU."""

    def __init__(self, sides: Sequence[Side], state: State) -> None:
        super().__init__(state)
        self.sides, self.home = sides, cast(Pools, state).home

    def follow(self, schedule: Schedule | None, demand: Sequence[int], queue: deque[int]) -> None:
        schedule = schedule or Schedule()
        compute, copy = in_order(schedule, demand, self.state)
        for side in self.sides:
            own, turns = Schedule(self._of(side, compute), self._of(side, copy), schedule.ahead), side.turns
            assert turns is not None
            turns.follow(own, self._of(side, demand) or [], side.demand)

    def _of(self, side: Side, experts: Sequence[int] | None) -> list[int] | None:
        return None if experts is None else [x for x in experts if self.home[x] == side.gpu]


def core_of(policy: Policy, setup: Setup, signals: StepSignals, tier: HostTier | None = None) -> Core:
    """A fresh core for this many GPUs, for experts in several versions, or above a disk (``tier``).

    CoreError for two of these at once.
    """
    kinds: list[type[Core]] = [SeveralCore] * (setup.gpus > 1) + [VersionedCore] * bool(setup.versions)
    if len(kinds) + (tier is not None) > 1:
        both = f"{setup.gpus} GPUs, experts in {len(setup.versions) or 1} dtypes, {'a' if tier else 'no'} disk"
        raise CoreError(f"policy {policy.name}: one machine has at most one of these: {both}")
    if tier is not None:
        return TieredCore(policy, setup, signals, tier)
    return (kinds or [Core])[0](policy, setup, signals)
