"""The passive core: residency, queue, pins and accounts, driven by facts and questions (DESIGN section 4).

It has no clock and does no I/O. A machine (simulated or real) tells it what happened, in time order, and asks it
what to do next; the same sequence of facts and questions gives the same answers on any machine. The answers are
hashed as they are given: :meth:`Core.digest`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from policies.api import LayerEvent, Policy, Setup, Step
from sim.core.accounts import (
    BYTES_DEMANDED,
    BYTES_READY,
    CANCELLED,
    COMPLETE,
    IN_FLIGHT,
    LATE_FATE,
    LOOKUPS,
    RECALL,
    RESIDENT,
    USEFUL,
    USELESS,
    Accounts,
)
from sim.core.acting import Acting
from sim.core.digest import Digest
from sim.core.queue import EMPTY, SpeculativeQueue
from sim.core.state import ARRIVED, DEMAND, LATE, NO_FATE, PENDING, State
from sim.core.words import END, NONE, WAIT, Rows, StepSignals

_EVICTED = -3  # in the digest, the eviction of x is _EVICTED - x


def _overridden(policy: Policy, hook: str) -> bool:
    return getattr(type(policy), hook) is not getattr(Policy, hook)


class Core:
    """One GPU's experts. ``policy`` decides; the core keeps the rules.

    Facts: step_begin, gate, prediction, chunk_done, expert_done, step_end, each with its time ``now`` for the log.
    Questions: next_chunk, next_expert. Chunks are numbered ``expert * C + i``.
    """

    def __init__(self, policy: Policy, setup: Setup, signals: StepSignals) -> None:
        own = policy.gpu_bytes()
        state = State(setup.n_experts, setup.expert_bytes, setup.chunks, setup.budget - own, policy.layer_budgets())
        self.setup, self.policy, self.state, self.own_bytes = setup, policy, state, own
        self.signals = signals
        self.accounts = Accounts(setup.n_layers)
        self.pending = False
        """Whether asking next_chunk may give a chunk: something is queued and not known to be blocked."""
        self.predictions: list[tuple[int, int, bool]] = []
        """Predictions asked for and not yet taken by the machine: (tag, latency ns, blocking)."""
        self.kind = state.kind
        # The hottest tables, without the way through the state.
        self._slot, self._given, self._done, self._pinned = state.slot, state.given, state.done, state.pinned
        self._chunk_bytes = state.chunk_bytes
        self._chunks = setup.chunks
        self._demand: deque[int] = deque()
        self.speculative = SpeculativeQueue(len(state.done))
        self._queue = self.speculative.heap
        self.ready: deque[int] = deque()
        """Experts of the event that could be computed now; read by machines, to wait no longer than needed."""
        self._uncomputed = 0
        self.expected: list[set[int]] = [set() for _ in range(setup.n_layers)]
        self.due = [0] * setup.n_layers  # the step that an expectation is for
        self.spec_bytes = [0] * len(state.done)
        self._digest = Digest()
        self._answers = self._digest.answers
        shown = signals.shown()
        self.step = Step(0, False, 0, (), shown)
        self.event = LayerEvent(-1, False, (), (), shown)
        self._hits = self.accounts.hits[0]
        self._on_gate, self._victim = policy.on_gate, policy.victim
        self._on_slot = policy.on_slot if _overridden(policy, "on_slot") else None
        self._on_complete = policy.on_complete if _overridden(policy, "on_complete") else None
        self._on_evict = policy.on_evict if _overridden(policy, "on_evict") else None
        self._keep = policy.keep if _overridden(policy, "keep") else None
        policy.attach(state.view(), Acting(self).actions())

    # -- facts --------------------------------------------------------------------------------------------------

    def step_begin(self, number: int, prefill: bool, requests: Sequence[int], parts: Sequence[Rows], now: int) -> None:
        """A forward pass over ``parts`` begins: the trace's rows of each of ``requests``."""
        self.signals.enter(parts)
        step = self.step
        step.number, step.prefill, step.requests = number, prefill, requests
        step.rows = sum(rows for _, rows in parts)
        self.event.prefill, self.event.layer = prefill, -1
        self._hits = self.accounts.hits[0 if prefill else 1]
        self.policy.on_step(step)
        if self._queue:  # what the policy refused to make room for, it may accept now
            self.pending = True

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> LayerEvent:
        """The gate of ``layer`` has run: classify, pin, queue what is missing, tell the policy (rule 3).

        Returns the event as it is to be computed; it is valid until the next gate.
        """
        state, chunks, spec = self.state, self._chunks, self.state.spec
        done, pinned, kind = state.done, state.pinned, state.kind
        ready, queue = self.ready, self._demand
        complete = resident = bytes_ready = 0
        for x in demand:
            pinned[x] = 1
            arrived = done[x]
            if arrived == chunks:
                complete += 1
                if spec[x]:
                    self.settle(x, USEFUL)
                ready.append(x)
                continue
            if arrived:
                bytes_ready += state.arrived_bytes[layer * (chunks + 1) + arrived]
            if state.slot[x]:
                resident += 1
            if spec[x]:  # upgraded where it stands
                self.settle(x, LATE_FATE)
                kind[x] = LATE
                state.dropping[x] = 0
                if state.given[x] < chunks:
                    queue.append(x)
            else:
                kind[x] = DEMAND
                queue.append(x)
        n = len(demand)
        self._uncomputed = n
        size = state.size[layer * state.n_experts]
        row = self._hits[layer]
        row[LOOKUPS] += n
        row[RESIDENT] += complete + resident
        row[COMPLETE] += complete
        row[BYTES_READY] += complete * size + bytes_ready
        row[BYTES_DEMANDED] += n * size
        expected = self.expected[layer]
        if expected and self.due[layer] <= self.step.number:
            if self.due[layer] == self.step.number:
                row[RECALL] += sum(x in expected for x in demand)
            expected.clear()
        if queue or self._queue:
            self.pending = True
        self.signals.layer = layer
        event = self.event
        event.layer, event.demand, event.tokens = layer, demand, tokens
        self._on_gate(event)
        return event

    def prediction(self, tag: int, now: int) -> None:
        """A prediction asked for with ``actions.predict`` is done."""
        self.policy.on_prediction(tag)
        if self._demand or self._queue:  # the policy may have freed a slot by cancelling its load
            self.pending = True

    def chunk_done(self, chunk: int, now: int) -> None:
        """A chunk that :meth:`next_chunk` gave has arrived."""
        x = chunk // self._chunks
        arrived = self._done[x] + 1
        self._done[x] = arrived
        if arrived == self._chunks:
            state = self.state
            state.dropping[x] = 0
            if self._pinned[x]:
                self.ready.append(x)
            elif state.spec[x] == PENDING:
                state.spec[x] = ARRIVED
            if self._on_complete is not None:
                self._on_complete(x)
        elif self.state.dropping[x] and arrived == self._given[x]:
            self.state.dropping[x] = 0
            self.evict(x)
        if self._demand or self._queue:  # what was on the link can be evicted now
            self.pending = True

    def expert_done(self, x: int, now: int) -> None:
        """An expert that :meth:`next_expert` gave has been computed: its pin ends."""
        self._pinned[x] = 0
        if self._keep is not None and not self._keep(x):
            self.evict(x)
        if self._demand or self._queue:
            self.pending = True

    def step_end(self, now: int) -> None:
        """The forward pass has ended."""
        self._digest.flush()

    # -- questions ----------------------------------------------------------------------------------------------

    def next_expert(self) -> int:
        """Which expert of the event to compute: complete ones in order of completion; WAIT or END."""
        if self.ready:
            x = self.ready.popleft()
            self._uncomputed -= 1
        else:
            x = WAIT if self._uncomputed else END
        self._answers.append(x)
        return x

    def next_chunk(self) -> int:
        """Which chunk to copy: demand before speculative, then priority, then first come. Takes the slot."""
        queue, given, chunks = self._demand, self._given, self._chunks
        if queue:
            x = queue[0]
            if not self._slot[x] and not self._make_room(x, False):
                # Waves: no room for the first in line, but an upgraded load may hold its slot already.
                x = next((y for y in queue if self._slot[y]), NONE)
            if x != NONE:
                chunk = x * chunks + given[x]
                given[x] += 1
                if given[x] == chunks:
                    queue.remove(x)
                    self.pending = bool(queue or self._queue)
                self.accounts.demand_bytes += self._chunk_bytes[chunk]
                self._answers.append(chunk)
                return chunk
        x = self._next_speculative()
        if x == NONE:
            self.pending = False
            self._answers.append(NONE)
            return NONE
        chunk = x * chunks + given[x]
        given[x] += 1
        if given[x] == chunks:
            self.speculative.drop(x)
            self.pending = self.speculative.head() != EMPTY
        self.spec_bytes[x] += self._chunk_bytes[chunk]
        self.accounts.speculative_bytes += self._chunk_bytes[chunk]
        self._answers.append(chunk)
        return chunk

    def digest(self) -> str:
        """Hash of all answers given so far, evictions included."""
        return self._digest.hexdigest()

    # -- the measured window ------------------------------------------------------------------------------------

    def measure_from(self, now: int) -> None:
        """Forget what was counted so far (warm-up). Loads without a fate are carried in, without their bytes so far."""
        carried = [x for x, fate in enumerate(self.state.spec) if fate]
        self.accounts = Accounts(self.setup.n_layers, predicts=self.accounts.predicts, start_ns=now)
        self.accounts.issued = len(carried)
        for x in carried:
            self.spec_bytes[x] = 0
        self.state.peak = self.state.used

    def finish(self, now: int) -> Accounts:
        """Settle the loads without a fate, close the window and return the accounts."""
        for x, fate in enumerate(self.state.spec):
            if fate:
                self.settle(x, USELESS if fate == ARRIVED else IN_FLIGHT)
        self.accounts.end_ns = now
        self.accounts.check()
        return self.accounts

    # -- inside -------------------------------------------------------------------------------------------------

    def _next_speculative(self) -> int:
        queue = self.speculative
        while (x := queue.head()) != EMPTY:
            entry = queue.entry(x)
            if self._slot[x] or self._make_room(x, True):
                return x
            if queue.entry(x) == entry:
                break
        return NONE

    def _make_room(self, x: int, speculative: bool) -> bool:
        """Give x a slot. False: none can be had, or the policy has cancelled or re-queued x meanwhile."""
        state, entry = self.state, self.speculative.entry(x)
        need = state.size[x]
        while state.used + need > state.capacity or not state.layer_fits(x):
            victim = self._victim(x, speculative)
            if victim is None:
                return False
            self.evict(victim)
            if speculative and self.speculative.entry(x) != entry:
                return False
        state.take(x)
        if self._on_slot is not None:
            self._on_slot(x)
        return state.slot[x] == 1

    def evict(self, x: int) -> None:
        state = self.state
        state.release(x)
        if state.spec[x]:
            self.settle(x, USELESS if state.spec[x] == ARRIVED else CANCELLED)
        self._answers.append(_EVICTED - x)
        if self._on_evict is not None:
            self._on_evict(x)

    def settle(self, x: int, fate: int) -> None:
        self.state.spec[x] = NO_FATE
        self.speculative.drop(x)
        self.accounts.fates[fate] += 1
        self.accounts.fate_bytes[fate] += self.spec_bytes[x]
        self.spec_bytes[x] = 0
