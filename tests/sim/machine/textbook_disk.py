"""The textbook machine above a disk: each read is a process, and who is in host memory is a dictionary.

Nothing of the engine's tier is used but the figures of its account, and of the shipped policies the one that keeps the
host's memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import simpy

from policies import registry
from policies.api import Actions, LayerEvent, Policy, Setup, View
from sim.core.accounts import PageCacheAccounts, TierAccounts
from sim.core.core import StepSignals
from sim.core.host_memory import HostTier
from tests.sim.machine.cases import FlatDisk
from tests.sim.machine.textbook import Textbook
from tests.sim.machine.textbook_host import Process
from tests.sim.machine.textbook_state import DEMAND_COPY, LATE_PREFETCH, QUEUEING, Load

DISK_READ = 5
READ = 1.8
"""Before any other fact of that instant."""


@dataclass(slots=True)
class Held:
    """An expert's place in host memory."""

    chunks: list[int]
    given: int = 0
    done: int = 0

    @property
    def nbytes(self) -> int:
        return sum(self.chunks[: self.given])


class TextbookDisk(Textbook):
    """One run of one policy, on a host that holds some experts."""

    def __init__(
        self,
        policy: Policy,
        setup: Setup,
        signals: StepSignals,
        costs: Any,
        depth: int,
        tier: HostTier,
        disk: FlatDisk,
        policy_ns: tuple[int, int],
        lanes: int,
    ) -> None:
        super().__init__(policy, setup, signals, costs, depth, policy_ns=policy_ns, lanes=lanes)
        self.tier, self.disk = tier, disk
        self.memory: dict[int, Held] = {}
        self.heads = simpy.Resource(self.env, capacity=disk.lanes)
        self.on_disk: list[int] = []  # experts of the reads under way
        self.from_cache: list[int] = []  # those of them that the page cache serves
        self.cached: list[tuple[int, list[int]]] = []  # experts and numbers of their cached chunks, the last read last
        self.told: set[int] = set()  # of whose load the keeper has heard
        self.asker = ""
        self.owed = 0
        self.most = 0
        alone = Setup(
            setup.n_layers, setup.n_experts, setup.top_k, setup.expert_bytes, 1, tier.capacity, costs, setup.seed
        )
        self.keeper = registry.build(tier.policy, alone, {})
        view = View(self.memory.__contains__, _not_asked, _not_asked, self.may_leave, *[_not_asked] * 4)
        self.keeper.attach(view, Actions(_not_asked, _not_asked, _not_asked, _not_asked, _not_asked))
        for index in range(setup.n_experts):
            for layer in range(setup.n_layers):
                if self.there_is_room(setup.experts_of(layer)[index]):
                    self.enter(setup.experts_of(layer)[index], whole=True)
        self.begin_window()

    @property
    def counts(self) -> TierAccounts:
        assert self.accounts.tier is not None
        return self.accounts.tier

    def begin_window(self) -> None:
        pages = PageCacheAccounts() if self.disk.page_cache else None
        held = sum(held.nbytes for held in self.memory.values())
        self.accounts.tier = TierAccounts(start_bytes=held, page_cache=pages)
        self.most = self.bytes_held()

    # Who is in host memory

    def chunks_of(self, expert: int) -> list[int]:
        return self.chunks[self.setup.layer_of(expert)]

    def bytes_held(self) -> int:
        return sum(sum(held.chunks) for held in self.memory.values())

    def there_is_room(self, expert: int) -> bool:
        return self.bytes_held() + sum(self.chunks_of(expert)) <= self.tier.capacity

    def enter(self, expert: int, *, whole: bool) -> None:
        chunks = self.chunks_of(expert)
        n = len(chunks) if whole else 0
        self.memory[expert] = Held(chunks, n, n)
        self.most = max(self.most, self.bytes_held())
        assert self.bytes_held() <= self.tier.capacity
        self.keeper.on_slot(expert)

    def leave(self, expert: int) -> int:
        held = self.memory.pop(expert)
        self.keeper.on_evict(expert)
        return held.nbytes

    def may_leave(self, expert: int) -> bool:
        held, load = self.memory.get(expert), self.loads.get(expert)
        if held is None or held.given > held.done or (load is not None and load.on_link):
            return False
        wanted = expert in self.pinned and not self.complete(expert)
        if self.asker == "urgent":
            return not (wanted and self.resident(expert))
        waits = load is not None and load.speculative and not load.complete
        return not wanted and not (waits and self.asker == "prediction")

    def make_place(self, expert: int, asker: str) -> bool:
        if expert in self.memory:
            return True
        self.asker = asker
        while not self.there_is_room(expert):
            victim = self.keeper.victim(expert, asker == "prediction")
            if victim is None:
                return False
            assert self.may_leave(victim)
            self.counts.dropped_bytes += self.leave(victim)
        self.enter(expert, whole=False)
        return True

    def tell_the_keeper(self, expert: int) -> None:
        if expert in self.told:
            return
        self.told.add(expert)
        chunks, held = self.chunks_of(expert), self.memory.get(expert)
        arrived = sum(chunks[: held.done]) if held else 0
        self.counts.lookups += 1
        self.counts.hits += arrived == sum(chunks)
        self.counts.asked_bytes += sum(chunks)
        self.counts.ready_bytes += arrived
        layer = self.setup.layer_of(expert)
        self.keeper.on_gate(LayerEvent(layer, False, (expert,), (1,), (0,), (1,), self.shown))

    # What ends a load

    def forget(self, load: Load) -> None:
        self.told.discard(load.expert)
        super().forget(load)

    def evict(self, load: Load) -> None:
        expert, whole = load.expert, load.complete
        super().evict(load)
        if whole and self.tier.exclusive and expert not in self.memory and self.make_place(expert, "prediction"):
            held = self.memory[expert]
            held.given = held.done = len(held.chunks)
            self.counts.returned_bytes += held.nbytes
            self.owed += held.nbytes

    def chunk_done(self, load: Load) -> None:
        if load.done + 1 == len(load.chunks):
            self.told.discard(load.expert)
            if self.tier.exclusive:
                self.counts.moved_bytes += self.leave(load.expert)
        super().chunk_done(load)

    # The disk and the link

    def hand_over(self) -> None:
        super().hand_over()
        while len(self.on_disk) < self.disk.lanes and (load := self.choose_read()):
            held = self.memory[load.expert]
            nbytes = held.chunks[held.given]
            if load.speculative:
                self.counts.speculative_bytes += nbytes
            else:
                self.counts.demand_bytes += nbytes
            self.charge()
            self.on_disk.append(load.expert)
            from_cache = self.is_cached(load.expert, held.given, nbytes)
            held.given += 1
            self.env.process(self.read_chunk(load.expert, nbytes, from_cache))

    def is_cached(self, expert: int, number: int, nbytes: int) -> bool:
        """Whether the page cache has a chunk that is to be read; from now on it does, if its expert fits."""
        if (pages := self.counts.page_cache) is None:
            return False
        known = [numbers for name, numbers in self.cached if name == expert]
        numbers = known[0] if known else []
        self.cached = [entry for entry in self.cached if entry[0] != expert] + [(expert, numbers)]
        while self.cached and sum(sum(self.chunks_of(name)) for name, _ in self.cached) > self.disk.page_cache:
            fits = sum(self.chunks_of(expert)) <= self.disk.page_cache
            self.cached.pop(0 if fits else -1)
        found = number in numbers
        if found:
            pages.reads += 1
            pages.nbytes += nbytes
            self.from_cache.append(expert)
        else:
            numbers.append(number)
            pages.disk_reads += 1
            pages.disk_bytes += nbytes
        return found

    def choose_read(self) -> Load | None:
        wanted = list(self.unread(self.demand))
        for load in [load for load in wanted if load.slot] + [load for load in wanted if not load.slot]:
            self.tell_the_keeper(load.expert)
            last = load.slot or not self.anything_goes_on()
            if self.make_place(load.expert, "demand") or (last and self.make_place(load.expert, "urgent")):
                return load
        for load in self.unread(self.speculative):
            self.tell_the_keeper(load.expert)
            return load if self.make_place(load.expert, "prediction") else None
        return None

    def unread(self, loads: list[Load]) -> Iterator[Load]:
        for load in loads:
            held = self.memory.get(load.expert)
            if held is None or held.given < len(held.chunks):
                yield load

    def anything_goes_on(self) -> bool:
        moves = [load for load in self.loads.values() if load.on_link]
        return bool(self.on_disk or moves or [load for load in self.demand if self.can_copy(load)])

    def can_copy(self, load: Load) -> bool:
        return load.expert in self.memory and load.handed < self.memory[load.expert].done

    def read_chunk(self, expert: int, nbytes: int, from_cache: bool) -> Process:
        with self.heads.request() as turn:
            yield turn
            yield self.after(self.disk.cached_ns(nbytes) if from_cache else self.disk.read_ns(nbytes), READ)
        self.charge()
        self.on_disk.remove(expert)
        if from_cache:
            self.from_cache.remove(expert)
        self.memory[expert].done += 1
        self.hand_over()

    def choose(self) -> Load | None:
        there = [load for load in self.demand if self.can_copy(load)]
        if there and self.give_slot(there[0]):
            return there[0]
        for load in there:
            if load.slot:
                return load
        if there:
            self.let_one_pass()
        while guesses := [load for load in self.speculative if self.can_copy(load)]:
            order = guesses[0].order
            if self.give_slot(guesses[0]):
                return guesses[0]
            if self.queued_as(guesses[0], order):
                return None
        return None

    def copy(self, load: Load, nbytes: int, number: int) -> Process:
        self.tell_the_keeper(load.expert)
        back, self.owed = self.owed, 0
        return self.copied(load, self.costs.copy_ns(nbytes) + (self.disk.back_ns(back) if back else 0), number)

    def copied(self, load: Load, duration: int, number: int) -> Process:
        with self.link.request(priority=number) as turn:
            yield turn
            self.charge()
            self.copying.append(load)
            yield self.after(duration, 2)
        self.chunk_done(load)

    # The accounts

    def wake(self) -> None:
        self.charge()
        super().wake()

    def charge(self) -> None:
        now, since = self.env.now, self.charged_until
        self.accounts.link_busy_ns += len(self.copying) * (now - since)
        self.counts.busy_ns += (len(self.on_disk) - len(self.from_cache)) * (now - since)
        if (self.copying or self.on_disk) and self.woken is not None:
            self.accounts.stall_ns[self.kind][self.layer][self.cause()] += now - max(since, self.waiting_since)
        self.charged_until = now

    def cause(self) -> int:
        if [load for load in self.copying if not load.speculative and not load.upgraded]:
            return DEMAND_COPY
        if [load for load in self.copying if not load.speculative]:
            return LATE_PREFETCH
        wanted = [expert for expert in self.on_disk if expert in self.pinned]
        return DISK_READ if wanted else QUEUEING

    def measure_from_here(self) -> None:
        super().measure_from_here()
        self.begin_window()

    def finish(self) -> None:
        super().finish()
        self.counts.end_bytes = sum(held.nbytes for held in self.memory.values())
        self.counts.peak_bytes = self.most


def _not_asked(*_: object) -> NoReturn:
    raise AssertionError("a caching policy asks for this")
