"""The slow oracle: a textbook SimPy machine, with an event for each thing that happens.

Written from DESIGN sections 3-6. It shares the policies with the engine and nothing of ``sim/core``; it fills the
same :class:`Accounts`, so that the two can be compared field by field.

The GPU is a process, each copy call and each prediction is a process, the link and the predictor's thread are
resources. What happens at the same nanosecond is ordered by SimPy's own event priority.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import simpy

from policies.api import Actions, LayerEvent, Policy, Schedule, Setup, Step, View
from sim.core.accounts import Accounts
from sim.core.words import StepSignals
from sim.workload import Pass

# Facts of one instant come in this order; SimPy's own bookkeeping (0 and 1) settles between them.
CHUNK, PREDICTION, EXPERT, GATE = 2, 3, 4, 5

# The names of sim/core/accounts.py, written out again.
LOOKUPS, RECALL, RESIDENT, COMPLETE, BYTES_READY, BYTES_DEMANDED, PREDICTED, FETCHED = 0, 1, 2, 3, 4, 5, 6, 7
DEMAND_COPY, LATE_PREFETCH, QUEUEING, PREDICTOR = 0, 1, 2, 3
USEFUL, LATE, USELESS, CANCELLED, IN_FLIGHT = 0, 1, 2, 3, 4
KEPT_MASS, GATE_MASS, SLOTS, SUBSTITUTED, SKIPPED, LOW_PRECISION, UNSTATED = 0, 1, 2, 3, 4, 5, 6

Process = Generator[simpy.Event, Any, None]


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


class Textbook:
    """One run of one policy. It is also the policy's :class:`View`."""

    def __init__(
        self, policy: Policy, setup: Setup, signals: StepSignals, costs: Any, depth: int = 1, predictor_threads: int = 1
    ) -> None:
        self.policy, self.setup, self.signals, self.costs, self.depth = policy, setup, signals, costs, depth
        self.shown = signals.shown()
        self.env = simpy.Environment()
        self.link = simpy.PriorityResource(self.env)
        self.predictor = simpy.Resource(self.env, capacity=predictor_threads)
        self.accounts = Accounts(setup.n_layers)

        self.chunks = [split(size, setup.chunks) for size in setup.expert_bytes]
        self.loads: dict[int, Load] = {}
        self.demand: list[Load] = []
        self.speculative: list[Load] = []
        self.orders = 0

        self.shares = policy.layer_budgets()
        self.used = self.peak = 0
        self.used_by_layer = [0] * setup.n_layers

        self.outstanding = self.handed = 0
        self.copying: Load | None = None
        self.copying_since = 0

        self.layer = 0
        self.pinned: set[int] = set()
        self.computing = False
        self.arrived: list[int] = []  # complete and not computed, in order of completion
        self.turns: list[int] | None = None  # not computed, in the policy's order
        self.ranks: dict[int, int] = {}  # places in the order of copying
        self.ahead: int | None = None
        self.held: list[Load] = []  # missing, and not to be queued yet
        self.woken: simpy.Event | None = None
        self.waiting_since = 0
        self.blocking: deque[tuple[int, int, float]] = deque()
        self.asked = 0
        self.expected: dict[tuple[int, int], set[int]] = {}  # (step, layer) -> experts
        self.number, self.gated = 0, -1

        policy.attach(self.view(), Actions(self.prefetch, self.cancel, self.expect, self.predict, self.give_back))

    def run(self, warmup: Iterable[Pass], measured: Iterable[Pass]) -> Accounts:
        """Replay ``warmup``, then ``measured``; the accounts are those of the latter."""
        numbers = count(1)
        self.env.run(until=self.env.process(self.gpu(warmup, numbers)))
        self.measure_from_here()
        self.env.run(until=self.env.process(self.gpu(measured, numbers)))
        self.finish()
        return self.accounts

    # The GPU

    def gpu(self, passes: Iterable[Pass], numbers: Iterator[int]) -> Process:
        costs = self.costs
        for step in passes:
            number = next(numbers)
            self.number, self.gated = number, -1
            self.signals.enter(step.parts)
            counts = [rows for _, rows in step.parts]
            self.policy.on_step(Step(number, step.prefill, step.rows, step.requests, counts, self.shown))
            self.hand_over()
            self.phase, self.layer = 0 if step.prefill else 1, 0
            yield from self.predict_blocking()
            yield self.compute(costs.lead_ns(step.rows, step.kv_tokens, step.pairs), GATE)
            dense_ns = costs.dense_ns(step.rows, step.kv_tokens, step.pairs) + costs.layer_overhead_ns
            for layer, (demand, tokens) in enumerate(zip(step.demand, step.tokens, strict=True)):
                yield self.compute(dense_ns, GATE)
                if demand:
                    self.layer = layer
                    event = LayerEvent(layer, step.prefill, demand, tokens, step.requests, counts, self.shown)
                    self.gate(event)
                    yield from self.predict_blocking()
                    yield from self.experts(dict(zip(event.demand, event.tokens, strict=True)))
            yield self.compute(costs.head_ns(len(step.requests)), GATE)

    def gate(self, event: LayerEvent) -> None:
        self.signals.layer = self.gated = self.layer
        expected = self.expected.pop((self.number, self.layer), set())
        self.route(event)
        self.pinned |= set(event.demand)
        hits = self.accounts.hits[self.phase][self.layer]
        hits[PREDICTED] += len(expected)
        hits[FETCHED] += len([expert for expert in expected if self.complete(expert)])
        for expert, tokens in zip(event.demand, event.tokens, strict=True):
            load = self.loads.get(expert)
            hits[BYTES_DEMANDED] += self.setup.expert_bytes[self.layer]
            if load is not None:
                hits[BYTES_READY] += sum(load.chunks[: load.done])
            if tokens:
                hits[LOOKUPS] += 1
                hits[RECALL] += expert in expected
                hits[RESIDENT] += load is not None and load.slot
                hits[COMPLETE] += load is not None and load.complete
            self.want(expert, load)
        self.policy.on_gate(event)
        self.set_order(event, self.policy.schedule(event) or Schedule())
        self.hand_over()

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
            load = self.loads[expert] = Load(expert, self.chunks[self.layer], speculative=False)
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

    def experts(self, tokens: dict[int, int]) -> Process:
        for _ in tokens:
            while (expert := self.next_in_turn()) is None:
                self.waiting_since = self.env.now
                self.woken = self.env.event()
                yield self.woken
                self.woken = None
            self.computing = True
            duration = self.costs.expert_ns(self.layer, tokens[expert]) + self.costs.launch_ns
            yield self.compute(duration if tokens[expert] else 0, EXPERT)
            self.computing = False
            self.arrived.remove(expert)
            self.pinned.remove(expert)
            if not self.policy.keep(expert) and self.resident(expert):
                self.evict(self.loads[expert])
            if self.turns is not None:
                self.turns.remove(expert)
                self.queue_what_is_near()
            self.hand_over()

    def next_in_turn(self) -> int | None:
        if self.turns is None:
            return self.arrived[0] if self.arrived else None
        return self.turns[0] if self.turns[0] in self.arrived else None

    def let_one_pass(self) -> None:
        """The next in turn finds no room, and nothing is under way that would make any: another one must go first."""
        if self.turns and not self.computing and not self.outstanding and not self.resident(self.turns[0]):
            for expert in self.turns:
                if expert in self.arrived:
                    self.turns.remove(expert)
                    self.turns.insert(0, expert)
                    self.wake()
                    return

    def wake(self) -> None:
        if self.woken is not None and not self.woken.triggered and self.next_in_turn() is not None:
            self.woken.succeed()

    def compute(self, duration: int, fact: float) -> simpy.Event:
        self.accounts.compute_ns += duration
        return self.after(duration, fact)

    def after(self, duration: int, fact: float) -> simpy.Event:
        event = self.env.event()
        event._ok, event._value = True, None  # as simpy.Timeout does, which has no priority
        self.env.schedule(event, fact, duration)
        return event

    # The link

    def hand_over(self) -> None:
        """Give the link what it can take."""
        while self.outstanding < self.depth and (load := self.choose()):
            nbytes = load.chunks[load.handed]
            if load.speculative:
                self.accounts.speculative_bytes += nbytes
                load.speculative_bytes += nbytes
            else:
                self.accounts.demand_bytes += nbytes
            load.handed += 1
            if load.handed == len(load.chunks):
                self.unqueue(load)
            self.outstanding += 1
            self.handed += 1
            self.env.process(self.copy(load, nbytes, self.handed))

    def choose(self) -> Load | None:
        if self.demand and self.place(self.demand[0]):
            return self.demand[0]
        for load in self.demand:
            if load.slot:
                return load
        if self.demand:
            self.let_one_pass()
        while self.speculative:
            load = self.speculative[0]
            order = load.order
            if self.place(load):
                return load
            if self.queued_as(load, order):
                return None
        return None

    def queued_as(self, load: Load, order: int) -> bool:
        return self.loads.get(load.expert) is load and load.order == order

    def place(self, load: Load) -> bool:
        """Whether the load has a slot, made now if need be. Not if the policy cancels or re-queues it meanwhile."""
        if load.slot:
            return True
        layer, size, order = self.setup.layer_of(load.expert), sum(load.chunks), load.order
        budget = self.setup.budget - self.policy.gpu_bytes()

        def fits() -> bool:
            in_layer = not self.shares or self.used_by_layer[layer] + size <= self.shares[layer]
            return self.used + size <= budget and in_layer

        while not fits():
            victim = self.policy.victim(load.expert, load.speculative)
            if victim is not None:
                assert self.evictable(victim), f"{self.policy.name} evicts {victim}, which cannot go"
                self.evict(self.loads[victim])
            elif not fits():
                return False
            if not self.queued_as(load, order):
                return False
        load.slot = True
        self.used += size
        self.used_by_layer[layer] += size
        self.peak = max(self.peak, self.used)
        self.policy.on_slot(load.expert)
        return load.slot

    def copy(self, load: Load, nbytes: int, number: int) -> Process:
        with self.link.request(priority=number) as turn:
            yield turn
            self.copying, self.copying_since = load, self.env.now
            yield self.after(self.costs.copy_ns(nbytes), CHUNK)
        self.chunk_done(load)

    def chunk_done(self, load: Load) -> None:
        now = self.env.now
        self.accounts.link_busy_ns += now - self.copying_since
        if self.woken is not None:
            kind = QUEUEING if load.speculative else LATE_PREFETCH if load.upgraded else DEMAND_COPY
            self.accounts.stall_ns[self.phase][self.layer][kind] += now - max(self.copying_since, self.waiting_since)
        self.copying = None
        self.outstanding -= 1
        load.done += 1
        if load.complete:
            self.policy.on_complete(load.expert)
            if load.expert in self.pinned:
                self.arrived.append(load.expert)
                self.wake()
        elif load.dropped and not load.on_link:
            self.evict(load)
        self.hand_over()

    def unqueue(self, load: Load) -> None:
        for queue in (self.demand, self.speculative):
            if load in queue:
                queue.remove(load)

    def evict(self, load: Load) -> None:
        size = sum(load.chunks)
        self.used -= size
        self.used_by_layer[self.setup.layer_of(load.expert)] -= size
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

    # Predictions

    def predict_blocking(self) -> Process:
        while self.blocking:
            tag, latency, fact = self.blocking.popleft()
            self.accounts.stall_ns[self.phase][self.layer][PREDICTOR] += latency
            yield self.after(latency, fact)
            self.policy.on_prediction(tag)
            self.hand_over()

    def predict_aside(self, tag: int, latency: int, fact: float) -> Process:
        with self.predictor.request() as turn:
            yield turn
            yield self.after(latency, fact)
        self.policy.on_prediction(tag)
        self.hand_over()

    # Actions

    def prefetch(self, expert: int, priority: float) -> bool:
        load = self.loads.get(expert)
        if load is None:
            self.accounts.issued += 1
            load = self.loads[expert] = Load(expert, self.chunks[self.setup.layer_of(expert)], speculative=True)
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

    def give_back(self, expert: int) -> bool:
        if not self.evictable(expert):
            return False
        self.evict(self.loads[expert])
        return True

    def expect(self, experts: Iterable[int]) -> None:
        self.accounts.predicts = True
        for expert in experts:
            layer = self.setup.layer_of(expert)
            step = self.number if layer > self.gated else self.number + 1
            self.expected.setdefault((step, layer), set()).add(expert)

    def predict(self, tag: int, latency_ns: int, blocking: bool) -> None:
        self.asked += 1
        fact = PREDICTION + self.asked / 1e9  # those that end at the same time: in the order of asking
        if blocking:
            self.blocking.append((tag, latency_ns, fact))
        else:
            self.env.process(self.predict_aside(tag, latency_ns, fact))

    # What the policy sees

    def view(self) -> View:
        return View(self.resident, self.complete, self.chunks_done, self.evictable, self.loading, self.free_bytes)

    def resident(self, expert: int) -> bool:
        return expert in self.loads and self.loads[expert].slot

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

    # The measured window

    def measure_from_here(self) -> None:
        open_loads = [load for load in self.loads.values() if load.speculative]
        self.accounts = Accounts(self.setup.n_layers, predicts=self.accounts.predicts, start_ns=self.env.now)
        self.accounts.issued = len(open_loads)
        for load in open_loads:
            load.speculative_bytes = 0
        self.copying_since = self.env.now
        self.peak = self.used

    def finish(self) -> None:
        if self.copying is not None:
            self.accounts.link_busy_ns += self.env.now - self.copying_since
        for load in self.loads.values():
            if load.speculative:
                self.meet_fate(load, USELESS if load.complete else IN_FLIGHT)
        self.accounts.end_ns = self.env.now
