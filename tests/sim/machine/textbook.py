"""The slow oracle: a textbook SimPy machine, with an event for each thing that happens.

Written from docs/design.md. It shares the policies with the engine and nothing of ``sim/core``; it fills the
same :class:`Accounts`, so that the two can be compared field by field.

The GPU is a process, each copy call and each prediction is a process, the link and the predictor's thread are
resources. What happens at the same nanosecond is ordered by SimPy's own event priority.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import simpy

from policies.api import Actions, LayerEvent, Policy, Schedule, Setup, Step
from sim.core.accounts import Accounts
from sim.core.core import StepSignals
from sim.workload.passes import Pass
from tests.sim.machine.textbook_host import CHUNK, EXPERT, GATE, PREDICTION, Process, WithHost
from tests.sim.machine.textbook_state import (
    BYTES_DEMANDED,
    BYTES_READY,
    COMPLETE,
    FETCHED,
    IN_FLIGHT,
    LOOKUPS,
    PREDICTED,
    PREDICTOR,
    RECALL,
    RESIDENT,
    USELESS,
    Load,
)


class Textbook(WithHost):
    """One run of one policy."""

    def __init__(
        self,
        policy: Policy,
        setup: Setup,
        signals: StepSignals,
        costs: Any,
        depth: int = 1,
        predictor_threads: int = 1,
        policy_ns: tuple[int, int] = (0, 0),
        lanes: int = 1,
    ) -> None:
        super().__init__(policy, setup)
        self.signals, self.costs, self.depth = signals, costs, depth * lanes
        self.policy_ns = policy_ns
        self.shown = signals.shown()
        self.link = simpy.PriorityResource(self.env, capacity=lanes)
        self.predictor = simpy.Resource(self.env, capacity=predictor_threads)
        self.outstanding = self.handed = 0

        self.computing = False
        self.blocking: deque[tuple[int, int, float]] = deque()
        self.asked = 0

        policy.attach(self.view(), Actions(self.prefetch, self.cancel, self.expect, self.predict, self.vacate))

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
            prompts = step.prompt_rows or (counts if step.prefill else [0] * len(counts))
            self.policy.on_step(Step(number, step.prefill, step.rows, step.requests, counts, self.shown, prompts))
            self.hand_over()
            self.phase, self.layer, began = 0 if step.prefill else 1, 0, self.env.now
            self.kind = 2 if step.prompt_rows else self.phase
            yield from self.predict_blocking()
            self.step, pieces = step, step.pieces or [(step.rows, step.kv_tokens, step.pairs, len(step.requests))]
            yield self.compute(sum(costs.lead_ns(*piece[:3]) for piece in pieces), GATE)
            thinking = self.thinking(step)
            dense_ns = sum(costs.dense_ns(*piece[:3]) + costs.layer_overhead_ns for piece in pieces)
            for layer, (demand, tokens) in enumerate(zip(step.demand, step.tokens, strict=True)):
                yield self.compute(dense_ns, GATE)
                if demand:
                    self.layer = layer
                    event = LayerEvent(
                        layer, step.prefill, demand, tokens, step.requests, counts, self.shown, prompt_rows=prompts
                    )
                    self.gate(event)
                    yield from self.predict_blocking()
                    if thinks := thinking.pop():
                        self.accounts.policy_ns += thinks
                        yield self.compute(thinks, GATE)
                    yield from self.experts({x: n for x, n in self.tokens.items() if x not in self.hosted_in_all})
                    yield from self.rest_of_the_host()
            yield self.compute(sum(costs.head_ns(piece[3]) for piece in pieces), GATE)
            self.settle([])
            self.accounts.pass_ns[self.kind] += self.env.now - began

    def thinking(self, step: Pass) -> list[int]:
        """The policy's own time at each layer event, the last event's first."""
        total = self.policy_ns[0] if step.prefill else self.policy_ns[1]
        events = len([demand for demand in step.demand if demand])
        shares = [total // events] * events if events else []
        if events:
            shares[-1] += total - sum(shares)
        return shares

    def gate(self, event: LayerEvent) -> None:
        self.signals.layer = self.gated = self.layer
        expected = self.expected.pop((self.number, self.layer), set())
        self.route(event)
        self.tokens = dict(zip(event.demand, event.tokens, strict=True))
        placed = list(self.policy.place(event))
        self.set_places(placed, dict(self.policy.precompute(event)))
        self.hosted_in_all = set(placed)
        self.accounts.host_lookups += len(placed)
        self.pinned |= set(event.demand) - self.hosted_in_all
        for expert in expected:
            hits = self.accounts.hits[self.whose(expert)][self.layer]
            hits[PREDICTED] += 1
            hits[FETCHED] += self.any_version_complete(expert)
        for expert, tokens in zip(event.demand, event.tokens, strict=True):
            hits, load = self.accounts.hits[self.whose(expert)][self.layer], self.loads.get(expert)
            if tokens:
                hits[LOOKUPS] += 1
                hits[BYTES_READY] += 0 if load is None else sum(load.chunks[: load.done])
                hits[BYTES_DEMANDED] += self.size(expert)
                hits[RECALL] += self.plain(expert) in expected
                hits[RESIDENT] += load is not None and load.slot
                hits[COMPLETE] += load is not None and load.complete
                self.count_version(expert, tokens)
            if expert not in self.hosted_in_all:
                self.want(expert, load)
        self.policy.on_gate(event)
        self.set_order(event, self.policy.schedule(event) or Schedule())
        self.hand_over()
        if not self.host_is_last:
            self.start_the_host()

    def count_version(self, expert: int, tokens: int) -> None:
        if self.setup.versions:
            own = self.accounts.by_version[self.version_of(expert)]
            own.lookups += 1
            own.complete += self.complete(expert)
            own.tokens += tokens

    def whose(self, expert: int) -> int:
        """Whose rows chose it: those of prompts (0), decode rows (1), or both, or nobody knows (2)."""
        if self.kind != 2:
            return self.kind
        demand, tokens, plain = self.step.demand[self.layer], self.step.tokens[self.layer], self.plain(expert)
        if plain not in demand:
            return 2
        of_prompts, all_of_them = (
            self.step.prompt_tokens[self.layer][demand.index(plain)],
            tokens[demand.index(plain)],
        )
        return {0: 1, all_of_them: 0}.get(of_prompts, 2)

    def expert_ns(self, expert: int, tokens: int) -> int:
        """Its compute, with a launch for each piece of the pass that has tokens of it."""
        step, launch, plain = self.step, self.costs.launch_ns, self.plain(expert)
        counts = [tokens] if tokens else []
        if step.pieces:
            demand = step.demand[self.layer]
            counts = step.piece_tokens[self.layer][demand.index(plain)] if plain in demand else []
            if sum(counts) != tokens:
                counts, left = [], tokens
                for rows, *_ in step.pieces:
                    counts.append(min(rows, left))
                    left -= counts[-1]
        return sum(self.costs.expert_ns(expert // self.setup.n_experts, n) + launch for n in counts if n)

    def experts(self, tokens: dict[int, int]) -> Process:
        for _ in tokens:
            while (expert := self.next_in_turn()) is None:
                self.waiting_since = self.env.now
                self.woken = self.env.event()
                yield self.woken
                self.woken = None
            self.computing = True
            yield self.compute(self.expert_ns(expert, tokens[expert]), EXPERT)
            self.computing = False
            self.arrived.remove(expert)
            self.pinned.remove(expert)
            if not self.policy.keep(expert) and self.resident(expert):
                self.evict(self.loads[expert])
            if self.turns is not None:
                self.turns.remove(expert)
                self.queue_what_is_near()
            self.hand_over()

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
            if self.setup.versions:
                own = self.accounts.by_version[self.version_of(load.expert)]
                own.copied_bytes += nbytes
                own.loads += load.handed == 1
            if load.handed == len(load.chunks):
                self.unqueue(load)
            self.outstanding += 1
            self.handed += 1
            self.env.process(self.copy(load, nbytes, self.handed))

    def choose(self) -> Load | None:
        if self.demand and self.give_slot(self.demand[0]):
            return self.demand[0]
        for load in self.demand:
            if load.slot:
                return load
        if self.demand:
            self.let_one_pass()
        while self.speculative:
            load = self.speculative[0]
            order = load.order
            if self.give_slot(load):
                return load
            if self.queued_as(load, order):
                return None
        return None

    def copy(self, load: Load, nbytes: int, number: int) -> Process:
        with self.link.request(priority=number) as turn:
            yield turn
            self.charge()
            self.copying.append(load)
            yield self.after(self.read(nbytes, self.costs.copy_ns(nbytes), by_link=True), CHUNK)
        self.chunk_done(load)

    def chunk_done(self, load: Load) -> None:
        self.charge()
        self.copying.remove(load)
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

    # Predictions

    def predict_blocking(self) -> Process:
        while self.blocking:
            tag, latency, fact = self.blocking.popleft()
            self.accounts.stall_ns[self.kind][self.layer][PREDICTOR] += latency
            yield self.after(latency, fact)
            self.policy.on_prediction(tag)
            self.hand_over()

    def predict_aside(self, tag: int, latency: int, fact: float) -> Process:
        with self.predictor.request() as turn:
            yield turn
            yield self.after(latency, fact)
        self.policy.on_prediction(tag)
        self.hand_over()

    def predict(self, tag: int, latency_ns: int, blocking: bool) -> None:
        self.asked += 1
        fact = PREDICTION + self.asked / 1e9  # those that end at the same time: in the order of asking
        if blocking:
            self.blocking.append((tag, latency_ns, fact))
        else:
            self.env.process(self.predict_aside(tag, latency_ns, fact))

    # The measured window

    def measure_from_here(self) -> None:
        open_loads = [load for load in self.loads.values() if load.speculative]
        shape, predicts = self.accounts, self.accounts.predicts
        self.accounts = Accounts(shape.n_layers, versions=shape.versions, predicts=predicts, start_ns=self.env.now)
        self.accounts.issued = len(open_loads)
        for load in open_loads:
            load.speculative_bytes = 0
        self.charged_until = self.env.now
        self.peak = self.used

    def finish(self) -> None:
        self.charge()
        for load in self.loads.values():
            if load.speculative:
                self.meet_fate(load, USELESS if load.complete else IN_FLIGHT)
        self.accounts.end_ns = self.env.now
