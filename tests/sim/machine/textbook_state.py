"""The textbook machine without its time: loads, with slots, queues and fates; what a policy sees of them and does to
them (rules 4 to 6); what a layer event demands, and the order in which it is copied and computed (rule 3).
"""

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.api import LayerEvent, Policy, Schedule, Setup, View
from sim.core.accounts import Accounts

# The names of sim/core/accounts.py, written out again.
LOOKUPS, RECALL, RESIDENT, COMPLETE, BYTES_READY, BYTES_DEMANDED, PREDICTED, FETCHED = 0, 1, 2, 3, 4, 5, 6, 7
DEMAND_COPY, LATE_PREFETCH, QUEUEING, PREDICTOR, CPU_EXPERTS = 0, 1, 2, 3, 4
USEFUL, LATE, USELESS, CANCELLED, IN_FLIGHT = 0, 1, 2, 3, 4
USED, WASTED, DROPPED = 0, 1, 2
KEPT_MASS, GATE_MASS, SLOTS, SUBSTITUTED, SKIPPED, LOW_PRECISION, UNSTATED = 0, 1, 2, 3, 4, 5, 6


@dataclass(slots=True, eq=False)
class Load:
    """One expert on its way to the GPU, and afterwards its copy there."""

    expert: int
    chunks: list[int]
    speculative: bool
    """Asked for by a prediction, and not demanded since."""
    upgraded: bool = False
    priority: float = 0.0
    order: int = 0
    slot: bool = False
    handed: int = 0
    done: int = 0
    dropped: bool = False
    """To be evicted as soon as no chunk of it is on the link."""
    speculative_bytes: int = 0

    @property
    def complete(self) -> bool:
        return self.done == len(self.chunks)

    @property
    def on_link(self) -> bool:
        return self.handed > self.done


def split(size: int, chunks: int) -> list[int]:
    return [size // chunks + (i < size % chunks) for i in range(chunks)]


def urgency(load: Load) -> tuple[float, int]:
    return -load.priority, load.order


class Loads:
    """What has been asked for and what is there, without any time. It is also the policy's :class:`View`."""

    def __init__(self, policy: Policy, setup: Setup) -> None:
        self.policy, self.setup = policy, setup
        self.accounts = Accounts(setup.n_layers, versions=len(setup.versions))
        self.chunks = [split(size, setup.chunks) for size in setup.expert_bytes]
        self.loads: dict[int, Load] = {}
        self.demand: list[Load] = []
        self.speculative: list[Load] = []
        self.orders = 0

        self.by_version = policy.version_budgets()
        self.shares = self.by_version or policy.layer_budgets()
        self.used = self.peak = 0
        self.used_by_share = [0] * len(setup.expert_bytes)
        self.pinned: set[int] = set()
        self.expected: dict[tuple[int, int], set[int]] = {}  # (step, layer) -> experts
        self.number, self.gated = 0, -1

    # Slots and queues

    def queued_as(self, load: Load, order: int) -> bool:
        return self.loads.get(load.expert) is load and load.order == order

    def give_slot(self, load: Load) -> bool:
        """Whether the load has a slot, made now if need be. Not if the policy cancels or re-queues it meanwhile."""
        if load.slot:
            return True
        order = load.order
        while not self.fits(load):
            victim = self.victim_for(load)
            if victim is not None:
                assert self.evictable(victim), f"{self.policy.name} evicts {victim}, which cannot go"
                self.evict(self.loads[victim])
            elif not self.fits(load):
                return False
            if not self.queued_as(load, order):
                return False
        load.slot = True
        size = sum(load.chunks)
        self.used += size
        self.used_by_share[self.share_of(load.expert)] += size
        self.peak = max(self.peak, self.used)
        self.policy.on_slot(load.expert)
        return load.slot

    def fits(self, load: Load) -> bool:
        share, size = self.share_of(load.expert), sum(load.chunks)
        in_share = not self.shares or self.used_by_share[share] + size <= self.shares[share]
        return self.used + size <= self.setup.budget - self.policy.gpu_bytes() and in_share

    def share_of(self, expert: int) -> int:
        """Its version, where each has a pool; else its layer, of whatever version."""
        return self.version_of(expert) if self.by_version else expert // self.setup.n_experts

    def version_of(self, expert: int) -> int:
        return expert // (self.setup.n_experts * self.setup.n_layers)

    def plain(self, expert: int) -> int:
        """Without its version."""
        return expert - self.version_of(expert) * self.setup.n_experts * self.setup.n_layers

    def any_version_complete(self, expert: int) -> bool:
        return any(load.complete and self.plain(load.expert) == expert for load in self.loads.values())

    def size(self, expert: int) -> int:
        return self.setup.expert_bytes[expert // self.setup.n_experts]

    def victim_for(self, load: Load) -> int | None:
        return self.policy.victim(load.expert, load.speculative)

    def unqueue(self, load: Load) -> None:
        for queue in (self.demand, self.speculative):
            if load in queue:
                queue.remove(load)

    def evict(self, load: Load) -> None:
        size = sum(load.chunks)
        self.used -= size
        self.used_by_share[self.share_of(load.expert)] -= size
        load.slot = False
        self.forget(load)
        self.policy.on_evict(load.expert)

    def forget(self, load: Load) -> None:
        if load.speculative:
            self.meet_fate(load, USELESS if load.complete else CANCELLED)
        self.unqueue(load)
        del self.loads[load.expert]

    def meet_fate(self, load: Load, fate: int) -> None:
        self.accounts.fates[fate] += 1
        self.accounts.fate_bytes[fate] += load.speculative_bytes

    # Actions

    def prefetch(self, expert: int, priority: float) -> bool:
        load = self.loads.get(expert)
        if load is None:
            self.accounts.issued += 1
            load = self.loads[expert] = Load(expert, self.chunks[expert // self.setup.n_experts], speculative=True)
        elif load.complete or not load.speculative:
            return False
        self.unqueue(load)
        self.orders += 1
        load.priority, load.order, load.dropped = priority, self.orders, False
        if load.handed < len(load.chunks):
            insort(self.speculative, load, key=urgency)
        return True

    def cancel(self, expert: int) -> bool:
        load = self.loads.get(expert)
        if load is None or load.complete or not load.speculative:
            return False
        if not load.slot:
            self.forget(load)
        elif load.on_link:
            load.dropped = True
            self.unqueue(load)
        else:
            self.evict(load)
        return True

    def vacate(self, expert: int) -> bool:
        if not self.evictable(expert):
            return False
        self.evict(self.loads[expert])
        return True

    def expect(self, experts: Iterable[int]) -> None:
        self.accounts.predicts = True
        for expert in experts:
            layer = self.plain(expert) // self.setup.n_experts
            step = self.number if layer > self.gated else self.number + 1
            self.expected.setdefault((step, layer), set()).add(self.plain(expert))

    # What the policy sees

    def view(self) -> View:
        return View(
            self.resident,
            self.complete,
            self.chunks_done,
            self.evictable,
            self.loading,
            self.free_bytes,
            self.residents,
            self.slots,
        )

    def resident(self, expert: int) -> bool:
        return expert in self.loads and self.loads[expert].slot

    def residents(self) -> list[int]:
        return sorted(x for x, load in self.loads.items() if load.slot)

    def slots(self) -> NDArray[np.bool_]:
        n = len(self.setup.expert_bytes) * self.setup.n_experts
        return np.array([self.resident(x) for x in range(n)])

    def complete(self, expert: int) -> bool:
        return expert in self.loads and self.loads[expert].complete

    def chunks_done(self, expert: int) -> int:
        return self.loads[expert].done if expert in self.loads else 0

    def evictable(self, expert: int) -> bool:
        return self.resident(expert) and expert not in self.pinned and not self.loads[expert].on_link

    def loading(self, expert: int) -> bool:
        return expert in self.loads and not self.loads[expert].complete

    def free_bytes(self) -> int:
        return self.setup.budget - self.policy.gpu_bytes() - self.used


class Events(Loads):
    """The event under way, without any time."""

    def __init__(self, policy: Policy, setup: Setup) -> None:
        super().__init__(policy, setup)
        self.phase = self.kind = self.layer = 0
        self.arrived: list[int] = []  # complete and not computed, in order of completion
        self.turns: list[int] | None = None  # not computed, in the policy's order
        self.ranks: dict[int, int] = {}  # places in the order of copying
        self.ahead: int | None = None
        self.held: list[Load] = []  # missing, and not to be queued yet

    def route(self, event: LayerEvent) -> None:
        """Let the policy put other experts into the place of those demanded."""
        routing = self.policy.route(event)
        quality = self.accounts.quality[self.phase]
        if routing is not None:
            event.demand, event.tokens = list(routing.demand), list(routing.tokens)
            quality[KEPT_MASS] += routing.kept_mass
            quality[GATE_MASS] += routing.gate_mass
            quality[SLOTS] += routing.slots
            quality[SUBSTITUTED] += routing.substituted
            quality[SKIPPED] += routing.skipped
            quality[LOW_PRECISION] += routing.low_precision
        elif not self.policy.lossless:
            quality[SLOTS] += sum(event.tokens)
            quality[UNSTATED] += 1

    def set_order(self, event: LayerEvent, schedule: Schedule) -> None:
        """Order the event's computations and copies."""
        self.turns = None if schedule.compute is None else list(schedule.compute)
        self.ahead = schedule.ahead
        by_copy = schedule.copy or schedule.compute or event.demand
        self.ranks = {expert: place for place, expert in enumerate(by_copy)}
        if self.ahead is not None:
            self.held = [load for load in self.demand if not load.upgraded]
            self.demand = [load for load in self.demand if load.upgraded]
        self.queue_what_is_near()

    def queue_what_is_near(self) -> None:
        if self.turns is not None and self.ahead is not None:
            near = [load for load in self.held if load.expert in self.turns[: self.ahead + 1]]
            self.held = [load for load in self.held if load not in near]
            self.demand += near
        self.demand.sort(key=lambda load: self.ranks[load.expert])

    def want(self, expert: int, load: Load | None) -> None:
        """A gate has demanded this expert."""
        if load is None:
            load = self.loads[expert] = Load(expert, self.chunks[expert // self.setup.n_experts], speculative=False)
            self.demand.append(load)
        elif load.complete:
            if load.speculative:
                self.meet_fate(load, USEFUL)
            self.arrived.append(expert)
        else:
            self.meet_fate(load, LATE)
            self.unqueue(load)
            load.upgraded, load.dropped = True, False
            if load.handed < len(load.chunks):
                self.demand.append(load)
        load.speculative = False

    def next_in_turn(self) -> int | None:
        if self.turns is None:
            return self.arrived[0] if self.arrived else None
        return self.turns[0] if self.turns[0] in self.arrived else None
