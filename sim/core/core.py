"""The passive core: residency, queue, pins and accounts, driven by facts and questions (docs/design.md, rule 1).

It has no clock and does no I/O. A machine (simulated or real) tells it what happened, in time order, and asks it
what to do next; the same sequence of facts and questions gives the same answers on any machine. The answers are
hashed as they are given: :meth:`Core.digest`.
"""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from policies.api import LayerEvent, Policy, Routing, Setup, Signals, Step
from sim.core.accounts import (
    BYTES_DEMANDED,
    BYTES_READY,
    COMPLETE,
    DECODE,
    FETCHED,
    LATE_FATE,
    LOOKUPS,
    MIXED,
    PREDICTED,
    PREFILL,
    RECALL,
    RESIDENT,
    USEFUL,
)
from sim.core.acting import Acting
from sim.core.loads import NONE, Loads
from sim.core.mixed import check_rows, classes, count
from sim.core.places import Places
from sim.core.routing import discount, reroute
from sim.core.state import ARRIVED, DEMAND, LATE, PENDING
from sim.core.turns import Turns

WAIT, END = -1, -2
"""Answers of ``next_expert``: a load must arrive first; all of the event's experts have been handed out."""

Rows = tuple[int, int]
"""Rows of the trace: (first row, rows)."""


class StepSignals(Protocol):
    """Signals that the core moves along: only the current step, only the layer whose gate has run."""

    layer: int

    def enter(self, parts: Sequence[Rows]) -> None:
        """A step begins; no gate has run."""

    def shown(self) -> Signals:
        """The signals as a policy gets them, which has no way to move them."""


class Core(Loads):
    """One GPU's experts. ``policy`` decides; the core keeps the rules.

    Facts: prompts, step_begin, gate, prediction, chunk_done, host_done, expert_done, step_end, each with its time for
    the log. Questions: next_chunk, next_expert, next_host. Chunks are numbered ``expert * C + i``.
    """

    def __init__(self, policy: Policy, setup: Setup, signals: StepSignals) -> None:
        super().__init__(policy, setup)
        self.signals = signals
        self._turns = Turns(self.state) if policy.uses("schedule") else None
        self.ready: deque[int] = deque() if self._turns is None else self._turns
        """Experts of the event that may run now; read by machines, to wait no longer than needed."""
        self._uncomputed = 0
        shown = signals.shown()
        self.step = Step(0, False, 0, (), (), shown)
        self.event = LayerEvent(-1, False, (), (), (), (), shown)
        self.kind = DECODE
        """Of the step: an index into accounts by kind of pass."""
        self._prompts: Sequence[int] = ()
        self._classes: dict[int, int] | None = None  # of the event's lookups, where it is of a mixed pass
        self._route = policy.route if policy.uses("route") or not policy.lossless else None
        self.routing: Routing | None = None
        """What the policy has put in the place of the last gate's choice."""
        self.hosted: deque[int] = deque()
        """Experts that the host may take now, the event's first; read by machines, to ask no longer than needed."""
        places = policy.uses("place") or policy.uses("precompute")
        self.places = Places(policy, self.hosted) if places else None
        self._keep = policy.keep if policy.uses("keep") else None
        self.acting = Acting(self, self.step, self.event)
        policy.attach(self.state.view(), self.acting.actions())
        self._bind()

    @property
    def routes(self) -> bool:
        """Whether an event may be computed otherwise than it was recorded."""
        return self._route is not None

    # -- facts --------------------------------------------------------------------------------------------------

    def prompts(self, counts: Sequence[int], now: int) -> None:
        """Of the mixed pass that begins next: of each request, how many rows are of its prompt. Of its event whose gate
        is told next: of each expert, how many tokens are. Told before each of these, and in no other pass."""
        self._prompts = counts

    def step_begin(self, number: int, prefill: bool, requests: Sequence[int], parts: Sequence[Rows], now: int) -> None:
        """A forward pass over ``parts`` begins: the trace's rows of each of ``requests``."""
        self.signals.enter(parts)
        step = self.step
        step.number, step.prefill, step.requests = number, prefill, requests
        step.counts = counts = tuple([rows for _, rows in parts])
        step.rows = sum(counts)
        event = self.event
        step.prompt_rows = event.prompt_rows = self._rows_of_prompts(prefill, counts)
        event.prefill, event.layer, event.requests, event.counts = prefill, -1, requests, counts
        self.policy.on_step(step)
        if self._queue:  # what the policy refused to make room for, it may accept now
            self.pending = True

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> LayerEvent:
        """The gate of ``layer`` has run: classify, pin, queue what is missing, tell the policy (rule 3).

        Returns the event as it is to be computed; it is valid until the next gate.
        """
        self.signals.layer = layer
        event = self.event
        event.layer, event.demand, event.tokens = layer, demand, tokens
        if self.kind == MIXED:
            self._classes, self._prompts = classes(demand, tokens, self._prompts), ()
        foretold = self.acting.foretold(layer) if self.accounts.predicts else None
        if self._route is not None:
            self.routing = routing = self._route(event)
            self._answers.extend(reroute(routing, event, self.policy, self.accounts.quality[0 if event.prefill else 1]))
        if self.places is not None:
            self._answers.extend(self.places.follow(event, self.accounts))
        self._classify(event, foretold)
        if self._demand or self._queue:
            self.pending = True
        self.policy.on_gate(event)
        if self._turns is not None:
            self._turns.follow(self.policy.schedule(event), self._on_gpu(event), self._demand)
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
        if self._keep is not None and not self._keep(x) and self._slot[x]:
            self.evict(x)
        if self._turns is not None:
            self._turns.computed(x, self._demand)
        if self.places is not None:
            self.places.computed()
        if self._demand or self._queue:
            self.pending = True

    def host_done(self, x: int, now: int) -> None:
        """An expert that :meth:`next_host` gave has been computed by the host."""
        assert self.places is not None
        self.places.done(x)

    def step_end(self, now: int) -> None:
        """The forward pass has ended."""
        if self.places is not None:
            self.places.end(self.accounts, self.step.prefill)
        self._answers.flush()

    # -- questions ----------------------------------------------------------------------------------------------

    def next_expert(self) -> int:
        """Which expert of the event to compute: in the policy's order, or as they completed; WAIT or END."""
        if self.ready:
            x = self.ready.popleft()
            self._uncomputed -= 1
        else:
            x = WAIT if self._uncomputed else END
        self._answers.append(x)
        return x

    def next_host(self) -> int:
        """Which expert the host is to compute now, in the policy's order, or NONE; those of the next event are last."""
        x = self.places.take() if self.places is not None and self.hosted else NONE
        self._answers.append(x)
        return x

    def next_chunk(self) -> int:
        """Which chunk to copy: demand before speculative, then priority, then first come. Takes the slot."""
        queue, given, chunks = self._demand, self._given, self._chunks
        x = NONE
        if queue:
            x = queue[0]
            if not self._slot[x] and not self._make_room(x, False):
                x = self._next_in_wave()
        if x != NONE:
            chunk = x * chunks + given[x]
            self.accounts.demand_bytes += self.state.chunk_bytes[chunk]
            given[x] += 1
            if given[x] == chunks:
                queue.remove(x)
                self.pending = bool(queue or self._queue)
        else:
            chunk = self._next_speculative()
        self._answers.append(chunk)
        return chunk

    # -- inside -------------------------------------------------------------------------------------------------

    def _rows_of_prompts(self, prefill: bool, counts: Sequence[int]) -> Sequence[int]:
        """Of each request, of the pass that begins. CoreError where this was told of another."""
        told, self._prompts, self._classes = self._prompts, (), None
        self.kind = MIXED if told else PREFILL if prefill else DECODE
        if told:
            check_rows(told, counts, prefill=prefill)
            return tuple(told)
        return counts if prefill else (0,) * len(counts)

    def _classify(self, event: LayerEvent, foretold: set[int] | None) -> None:
        """Pin the event's demand, count its hits, give loads their fates, queue what is missing."""
        layer, state, chunks = event.layer, self.state, self._chunks
        demand = event.demand if self.places is None else self._on_gpu(event)
        done, pinned, kind, spec = state.done, state.pinned, state.kind, state.spec
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
                bytes_ready += state.arrived_bytes[x // state.n_experts * (chunks + 1) + arrived]
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
        self._uncomputed = n = len(demand)
        if self.places is not None:
            self.accounts.host_lookups += len(self.places.experts)
        if self._classes is not None:
            count(self.accounts.hits, event, state, self._classes, foretold)
            return
        size = state.size[layer * state.n_experts]
        row = self.accounts.hits[0 if event.prefill else 1][layer]
        row[LOOKUPS] += n
        row[RESIDENT] += complete + resident
        row[COMPLETE] += complete
        row[BYTES_READY] += complete * size + bytes_ready
        row[BYTES_DEMANDED] += n * size
        if self.places is not None:
            self.places.count(row, state)
        if foretold is not None:
            row[RECALL] += sum(x in foretold for x in event.demand)
            row[PREDICTED] += len(foretold)
            row[FETCHED] += sum(done[x] == chunks for x in foretold)
        if self._route is not None:
            discount(row, event, state, foretold)

    def _on_gpu(self, event: LayerEvent) -> Sequence[int]:
        """What of the demand the GPU computes."""
        if self.places is None or not (hosted := self.places.experts):
            return event.demand
        return [x for x in event.demand if x not in hosted]

    def _next_in_wave(self) -> int:
        """Where there is no room for the first in line: an upgraded load that holds its slot already, or NONE."""
        x = next((y for y in self._demand if self._slot[y]), NONE)
        if x == NONE and self._turns is not None:
            self._turns.let_one_pass()
        return x
