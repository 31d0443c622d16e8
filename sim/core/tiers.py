"""Host memory that does not hold all experts: a tier between a disk and the GPU (docs/design.md, The machine model).

An expert that is to be copied and is not there is read first, chunk by chunk: a chunk can be copied once it has been
read. Like the core this has no clock: a machine tells it what was read, and asks what to read next.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from policies import registry
from policies.api import Actions, LayerEvent, Policy, Setup
from sim.core.accounts import CANCELLED, Accounts, TierAccounts
from sim.core.core import Core, Rows, StepSignals
from sim.core.host_memory import URGENT, HostMemory, HostTier, TieredQueue, filled
from sim.core.loads import NONE
from sim.core.state import DEMAND, PENDING, SPECULATIVE, CoreError

LEFT = -(1 << 61)
"""In the digest, an expert x that lost its place in host memory is LEFT - x."""


class TieredCore(Core):
    """One GPU's experts above a host that holds some, and a disk that has all.

    Further facts and questions: read_done, next_read. ``policy`` decides as ever, and sees nothing of the host; a
    caching policy of the host's own sees each load as an event of one expert when it first takes or wants something of
    the host, and its places as slots.
    """

    def __init__(self, policy: Policy, setup: Setup, signals: StepSignals, tier: HostTier) -> None:
        super().__init__(policy, setup, signals)
        if self.places is not None:
            raise CoreError(f"policy {policy.name} computes on the host, which needs all experts there")
        self.tier, self.host = tier, HostMemory(setup, tier.capacity, self.state)
        self.reading = False
        """Whether asking next_read may give a chunk."""
        self.owed_bytes = 0
        """Written back since the machine last asked for it (:meth:`take_owed`)."""
        self._read, self._handed = self.host.done, self.host.given
        self._told = bytearray(len(self.host.slot))  # loads of which the host's policy was told
        self.speculative = self.ahead = TieredQueue(self, len(self.host.slot))
        self._queue = self.speculative.heap
        alone = replace(setup, budget=tier.capacity, host=None, predictors={})
        self.keeper = registry.build(tier.policy, alone, {})
        self.keeper.attach(self.host.view(), Actions(_no, _no, _no, _no, _no))
        self.accounts.tier = TierAccounts()
        self._fill()

    def _fill(self) -> None:
        host = self.host
        for x in filled(self.setup, host.capacity):
            host.take(x)
            host.given[x] = host.done[x] = host.chunks
            self.keeper.on_slot(x)
        self._start()

    def _start(self) -> None:
        """A window begins with what is there."""
        host = self.host
        host.peak = host.used
        self.counts.start_bytes = sum(host.bytes_given(x) for x, has in enumerate(host.slot) if has)

    @property
    def counts(self) -> TierAccounts:
        """The tier's part of the accounts."""
        assert self.accounts.tier is not None
        return self.accounts.tier

    # -- facts --------------------------------------------------------------------------------------------------

    def step_begin(self, number: int, prefill: bool, requests: Sequence[int], parts: Sequence[Rows], now: int) -> None:
        super().step_begin(number, prefill, requests, parts, now)
        self._reconsider()

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> LayerEvent:
        event = super().gate(layer, demand, tokens, now)
        self._reconsider()
        self.pending = self.pending or self.reading  # a machine then lets things go on
        return event

    def prediction(self, tag: int, now: int) -> None:
        super().prediction(tag, now)
        self._reconsider()

    def read_done(self, chunk: int, now: int) -> None:
        """A chunk that :meth:`next_read` gave is in host memory, and can be copied."""
        x = chunk // self._chunks
        self._read[x] += 1
        self.ahead.arrived(x)
        if self._demand or self._queue:
            self.pending = True
        self._reconsider()

    def chunk_done(self, chunk: int, now: int) -> None:
        x = chunk // self._chunks
        if self._done[x] + 1 == self._chunks:
            self._told[x] = 0
            if self.tier.exclusive:
                self.counts.moved_bytes += self._lose(x, moved=True)
        super().chunk_done(chunk, now)
        self._reconsider()

    def expert_done(self, x: int, now: int) -> None:
        super().expert_done(x, now)
        self._reconsider()
        self.pending = self.pending or self.reading

    # -- questions ----------------------------------------------------------------------------------------------

    def next_read(self) -> int:
        """Which chunk to read from the disk, or NONE: demand before speculative, then priority, then first come."""
        x = self._read_for_demand()
        counts, demand = self.counts, x != NONE
        if x == NONE:
            x = self._read_ahead()
        if x == NONE:
            self.reading = False
            self._answers.append(NONE)
            return NONE
        chunk = x * self._chunks + self._handed[x]
        self._handed[x] += 1
        nbytes = self.host.chunk_bytes[chunk]
        if demand:
            counts.demand_bytes += nbytes
        else:
            counts.speculative_bytes += nbytes
        self._answers.append(chunk)
        return chunk

    def next_chunk(self) -> int:
        """As without a disk, of what has been read."""
        queue, slot = self._demand, self._slot
        there = [x for x in queue if self.copyable(x)]
        x = there[0] if there else NONE
        if x != NONE and not slot[x] and not self._make_room(x, False):
            x = next((y for y in there if slot[y]), NONE)
            if x == NONE and self._turns is not None:
                self._turns.let_one_pass()
        if x != NONE:
            chunk = x * self._chunks + self._given[x]
            self.accounts.demand_bytes += self.state.chunk_bytes[chunk]
            self._given[x] += 1
            if self._given[x] == self._chunks:
                queue.remove(x)
                self.pending = bool(queue or self._queue)
        else:
            chunk = self._next_speculative()
            x = chunk // self._chunks if chunk != NONE else NONE
        if x != NONE:
            self._begin(x)
        self._answers.append(chunk)
        self._reconsider()
        return chunk

    def take_owed(self) -> int:
        """Bytes that were written back to the host since the last time: the link carries them before its next chunk."""
        owed, self.owed_bytes = self.owed_bytes, 0
        return owed

    def copyable(self, x: int) -> bool:
        """Whether the next chunk of a load is in host memory."""
        return self._given[x] < self._read[x]

    def unread(self, x: int) -> bool:
        """Whether the disk has a chunk of it to read."""
        return self._handed[x] < self._chunks

    # -- what it is told of loads -------------------------------------------------------------------------------

    def evict(self, x: int) -> None:
        whole = self._done[x] == self._chunks
        self._told[x] = 0
        super().evict(x)
        if whole and self.tier.exclusive:
            self._come_back(x)

    def settle(self, x: int, fate: int) -> None:
        super().settle(x, fate)
        if fate == CANCELLED:
            self._told[x] = 0

    def measure_from(self, now: int) -> None:
        super().measure_from(now)
        self.accounts.tier = TierAccounts()
        self._start()

    def finish(self, now: int) -> Accounts:
        host = self.host
        self.counts.end_bytes = sum(host.bytes_given(x) for x, has in enumerate(host.slot) if has)
        self.counts.peak_bytes = host.peak
        return super().finish(now)

    # -- inside -------------------------------------------------------------------------------------------------

    def _reconsider(self) -> None:
        """Something has happened: the disk may be asked again, if there is something to read."""
        if self.ahead.reads or any(map(self.unread, self._demand)):
            self.reading = True

    def _read_for_demand(self) -> int:
        """The first in line that has a place in host memory or can have one. Who holds a slot on the GPU goes first:
        nobody else can have that slot."""
        wanted = [x for x in self._demand if self.unread(x)]
        if not wanted:
            return NONE
        host, slot = self.host, self._slot
        for x in sorted(wanted, key=lambda x: not slot[x]):
            self._begin(x)
            if host.slot[x] or self._place(x, DEMAND) or ((slot[x] or self._stuck()) and self._place(x, URGENT)):
                return x
        return NONE

    def _stuck(self) -> bool:
        """Whether nothing of the event is on its way or can be copied."""
        host = self.host
        return (
            not any(map(self.copyable, self._demand))
            and host.given == host.done
            and self.state.given == self.state.done
        )

    def _read_ahead(self) -> int:
        """The next in the queue of predictions that has a place in host memory or can have one."""
        x = self.ahead.read_head()
        if x == NONE:
            return NONE
        self._begin(x)
        return x if self.host.slot[x] or self._place(x, SPECULATIVE) else NONE

    def _begin(self, x: int) -> None:
        """The host's policy hears of a load, once, and its accounts say how much of it is there."""
        if self._told[x]:
            return
        self._told[x] = 1
        host, counts, step = self.host, self.counts, self.step
        layer, there = x // host.n_experts, self._read[x]
        counts.lookups += 1
        counts.hits += there == host.chunks
        counts.asked_bytes += host.size[x]
        counts.ready_bytes += host.arrived_bytes[layer * (host.chunks + 1) + there]
        self.keeper.on_gate(LayerEvent(layer, step.prefill, (x,), (1,), step.requests, step.counts, step.signals))

    def _place(self, x: int, asking: int) -> bool:
        """Give ``x`` a place in host memory, if one can be had."""
        host = self.host
        host.asking = asking
        while not host.fits(x):
            victim = self.keeper.victim(x, asking == SPECULATIVE)
            if victim is None:
                return False
            if not host.evictable(victim):
                raise CoreError(f"host policy {self.tier.policy} gives up {victim}, which cannot go")
            self.counts.dropped_bytes += self._lose(victim)
        host.take(x)
        self.keeper.on_slot(x)
        return True

    def _lose(self, x: int, *, moved: bool = False) -> int:
        """``x`` gives up its place. Returns how many bytes of it were there."""
        held = self.host.leave(x)
        self._answers.append(LEFT - x)
        self.keeper.on_evict(x)
        if not moved and self.state.spec[x] == PENDING:
            self.ahead.lost(x)
        return held

    def _come_back(self, x: int) -> None:
        """An exclusive host gets back what the GPU gives up, if its policy makes room; else it is dropped."""
        host = self.host
        if host.slot[x] or not self._place(x, SPECULATIVE):
            return
        host.given[x] = host.done[x] = host.chunks
        self.counts.returned_bytes += host.size[x]
        self.owed_bytes += host.size[x]
        self.ahead.arrived(x)  # if it was asked for anew meanwhile


def _no(*_: Any) -> NoReturn:
    raise CoreError("a host's policy acts; it may only say who gives up its place")
