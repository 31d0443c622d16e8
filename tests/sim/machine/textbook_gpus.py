"""The textbook machine with several GPUs: a process and a link for each, and one queue of which each sees its part.

What a GPU holds is added up anew whenever it is asked for. Facts of one instant are ordered by kind, then by GPU.
"""

from fractions import Fraction
from math import ceil
from typing import Any

import simpy

from policies.api import LayerEvent, Policy, Schedule, Setup
from sim.core.accounts import STALLS, Accounts
from sim.core.core import StepSignals
from tests.sim.machine.textbook import Textbook
from tests.sim.machine.textbook_host import CHUNK, EXPERT, Process
from tests.sim.machine.textbook_state import DEMAND_COPY, LATE_PREFETCH, PREDICTOR, QUEUEING, Load

BEGIN = 1.5
"""Before any fact of that instant: the chunks that begin, by GPU."""


class TextbookGpus(Textbook):
    """One run of one policy on several GPUs."""

    def __init__(
        self,
        policy: Policy,
        setup: Setup,
        signals: StepSignals,
        costs: Any,
        depth: int,
        root: Fraction | None,
        policy_ns: tuple[int, int],
        lanes: int,
    ) -> None:
        self.asked_for: int | None = None  # the GPU that wants a victim
        super().__init__(policy, setup, signals, costs, depth, policy_ns=policy_ns, lanes=lanes)
        gpus = range(setup.gpus)
        self.gpus, self.home, self.root = gpus, list(setup.homes), root
        self.links = [simpy.PriorityResource(self.env, capacity=lanes) for _ in gpus]
        self.on_lanes: list[list[Load]] = [[] for _ in gpus]
        self.sent, self.may, self.works = [0 for _ in gpus], [False for _ in gpus], [False for _ in gpus]
        self.charged, self.since = [0 for _ in gpus], [0 for _ in gpus]
        self.sleeping: list[simpy.Event | None] = [None for _ in gpus]
        self.lines: list[list[int]] | None = None
        self.copies_ahead: int | None = None
        self.peaks = [0 for _ in gpus]
        self.rows = 0
        self.stalls: dict[int, list[int]] = {}
        self.busy: dict[int, int] = {}
        self.accounts = Accounts(setup.n_layers, setup.gpus, predicts=self.accounts.predicts)

    # What each GPU holds

    def held_on(self, gpu: int, layer: int | None = None) -> int:
        mine = [load for load in self.loads.values() if load.slot and self.home[load.expert] == gpu]
        return sum(sum(load.chunks) for load in mine if layer in (None, self.setup.layer_of(load.expert)))

    def give_slot(self, load: Load) -> bool:
        given, gpu = super().give_slot(load), self.home[load.expert]
        self.peaks[gpu] = max(self.peaks[gpu], self.held_on(gpu))
        return given

    def fits(self, load: Load) -> bool:
        gpu, layer, size = self.home[load.expert], self.setup.layer_of(load.expert), sum(load.chunks)
        if self.shares and self.held_on(gpu, layer) + size > self.shares[gpu * self.setup.n_layers + layer]:
            return False
        return self.held_on(gpu) + size <= (self.setup.budget - self.policy.gpu_bytes()) // len(self.gpus)

    def victim_for(self, load: Load) -> int | None:
        self.asked_for = self.home[load.expert]
        victim = super().victim_for(load)
        self.asked_for = None
        assert victim is None or self.home[victim] == self.home[load.expert]
        return victim

    def evictable(self, expert: int) -> bool:
        return self.asked_for in (None, self.setup.homes[expert]) and super().evictable(expert)

    def free_bytes(self) -> int:
        each = (self.setup.budget - self.policy.gpu_bytes()) // self.setup.gpus
        return each * self.setup.gpus - self.used

    # The links

    def prefetch(self, expert: int, priority: float) -> bool:
        wanted = super().prefetch(expert, priority)
        if wanted and self.loads[expert] in self.speculative:
            self.may[self.home[expert]] = True
        return wanted

    def hand_over(self) -> None:
        self.may = [True for _ in self.gpus]
        while any(self.may[gpu] and self.sent[gpu] < self.depth for gpu in self.gpus):
            for gpu in self.gpus:
                while self.may[gpu] and self.sent[gpu] < self.depth:
                    load = self.choose_for(gpu)
                    if load is None:
                        self.may[gpu] = False
                    else:
                        self.send(load, gpu)

    def send(self, load: Load, gpu: int) -> None:
        nbytes = load.chunks[load.handed]
        self.accounts.by_gpu[gpu].copied_bytes += nbytes
        if load.speculative:
            self.accounts.speculative_bytes += nbytes
            load.speculative_bytes += nbytes
        else:
            self.accounts.demand_bytes += nbytes
        load.handed += 1
        if load.handed == len(load.chunks):
            self.unqueue(load)
        self.sent[gpu] += 1
        self.handed += 1
        self.env.process(self.copy_to(gpu, load, nbytes, self.handed))

    def choose_for(self, gpu: int) -> Load | None:
        demand = [load for load in self.demand if self.home[load.expert] == gpu]
        if demand and self.give_slot(demand[0]):
            return demand[0]
        for load in demand:
            if load.slot:
                return load
        if demand:
            self.let_another_pass(gpu)
        while mine := [load for load in self.speculative if self.home[load.expert] == gpu]:
            order = mine[0].order
            if self.give_slot(mine[0]):
                return mine[0]
            if self.queued_as(mine[0], order):
                return None
        return None

    def copy_to(self, gpu: int, load: Load, nbytes: int, number: int) -> Process:
        with self.links[gpu].request(priority=number) as turn:
            yield turn
            yield self.after(0, BEGIN + gpu / 100)
            self.charge_for(gpu)
            self.on_lanes[gpu].append(load)
            yield self.after(self.through_the_root(nbytes, self.costs.copy_ns(nbytes)), CHUNK + gpu / 100)
        self.charge_for(gpu)
        self.on_lanes[gpu].remove(load)
        self.sent[gpu] -= 1
        load.done += 1
        if load.complete:
            self.policy.on_complete(load.expert)
            if load.expert in self.pinned:
                self.arrived.append(load.expert)
                self.wake()
        elif load.dropped and not load.on_link:
            self.evict(load)
        self.hand_over()

    def through_the_root(self, nbytes: int, alone: int) -> int:
        if alone == 0 or self.root is None:
            return alone
        now, rate = self.env.now, Fraction(nbytes, alone)
        self.reading = [entry for entry in self.reading if entry[0] > now]
        wanted = rate + sum(other for _, other, _ in self.reading)
        duration = ceil(alone / min(Fraction(1), self.root / wanted))
        self.reading.append((now + duration, rate, True))
        return duration

    def charge_for(self, gpu: int) -> None:
        now, since, loads = self.env.now, self.charged[gpu], self.on_lanes[gpu]
        self.accounts.by_gpu[gpu].link_busy_ns += len(loads) * (now - since)
        self.accounts.link_busy_ns += len(loads) * (now - since)
        if loads and self.sleeping[gpu] is not None:
            causes = {QUEUEING if x.speculative else LATE_PREFETCH if x.upgraded else DEMAND_COPY for x in loads}
            first = next(cause for cause in (DEMAND_COPY, LATE_PREFETCH, QUEUEING) if cause in causes)
            self.stalls[gpu][first] += now - max(since, self.since[gpu])
        self.charged[gpu] = now

    # A layer event

    def gate(self, event: LayerEvent) -> None:
        self.rows = sum(event.counts)
        super().gate(event)

    def want(self, expert: int, load: Load | None) -> None:
        if self.tokens[expert]:
            its = self.accounts.by_gpu[self.home[expert]]
            its.lookups += 1
            its.complete += load is not None and load.complete
        super().want(expert, load)

    def set_order(self, event: LayerEvent, schedule: Schedule) -> None:
        self.lines, self.copies_ahead = None, schedule.ahead
        if schedule.compute is not None:
            self.lines = [[x for x in schedule.compute if self.home[x] == gpu] for gpu in self.gpus]
        by_copy = schedule.copy or schedule.compute or event.demand
        self.ranks = {expert: place for place, expert in enumerate(by_copy)}
        if schedule.ahead is not None:
            self.held_back = [load for load in self.demand if not load.upgraded]
            self.demand = [load for load in self.demand if load.upgraded]
        self.queue_what_is_near()

    held_back: list[Load]

    def queue_what_is_near(self) -> None:
        if self.lines is not None and self.copies_ahead is not None:
            near = {expert for line in self.lines for expert in line[: self.copies_ahead + 1]}
            self.demand += [load for load in self.held_back if load.expert in near]
            self.held_back = [load for load in self.held_back if load.expert not in near]
        self.demand.sort(key=lambda load: self.ranks[load.expert])

    def next_on(self, gpu: int) -> int | None:
        if self.lines is not None:
            line = self.lines[gpu]
            return line[0] if line and line[0] in self.arrived else None
        return next((x for x in self.arrived if self.home[x] == gpu), None)

    def let_another_pass(self, gpu: int) -> None:
        line = self.lines[gpu] if self.lines else []
        if line and not self.works[gpu] and not self.sent[gpu] and not self.resident(line[0]):
            for expert in line:
                if expert in self.arrived:
                    line.remove(expert)
                    line.insert(0, expert)
                    self.wake()
                    return

    def wake(self) -> None:
        for gpu in self.gpus:
            event = self.sleeping[gpu]
            if event is not None and not event.triggered and self.next_on(gpu) is not None:
                event.succeed()

    def experts(self, tokens: dict[int, int]) -> Process:
        began, accounts = self.env.now, self.accounts
        by_gpu = {gpu: {x: n for x, n in tokens.items() if self.home[x] == gpu} for gpu in self.gpus}
        self.stalls = {gpu: [0] * len(STALLS) for gpu in self.gpus}
        self.busy = dict.fromkeys(self.gpus, 0)
        ends: dict[int, tuple[int, int]] = {}
        yield self.env.all_of([self.env.process(self.on(gpu, its, ends)) for gpu, its in by_gpu.items() if its])
        if not ends:
            return
        last = max(end for end, _ in ends.values())
        slowest = min(gpu for gpu, (end, _) in ends.items() if end == last)
        assert self.env.now == last
        accounts.compute_ns += self.busy[slowest]
        accounts.peer_ns += ends[slowest][1]
        row = accounts.stall_ns[self.kind][self.layer]
        for cause, ns in enumerate(self.stalls[slowest]):
            row[cause] += ns
        for gpu, its_own in enumerate(accounts.by_gpu):
            its_own.compute_ns += self.busy[gpu]
            its_own.expert_ns += self.busy[gpu]
            its_own.stall_ns = [a + b for a, b in zip(its_own.stall_ns, self.stalls[gpu], strict=True)]
            end, way = ends.get(gpu, (began, 0))
            its_own.peer_ns += way
            its_own.idle_ns += last - end

    def on(self, gpu: int, tokens: dict[int, int], ends: dict[int, tuple[int, int]]) -> Process:
        rows = min(sum(tokens.values()), self.rows)
        way, fact = self.costs.peer_ns(rows) if gpu and rows else 0, EXPERT + gpu / 100
        yield self.after(way, fact)
        for _ in tokens:
            while (expert := self.next_on(gpu)) is None:
                self.since[gpu] = self.env.now
                self.sleeping[gpu] = event = self.env.event()
                yield event
                self.sleeping[gpu] = None
            self.works[gpu] = True
            duration = self.expert_ns(expert, tokens[expert])
            self.busy[gpu] += duration
            yield self.after(duration, fact)
            self.works[gpu] = False
            self.arrived.remove(expert)
            self.pinned.remove(expert)
            if not self.policy.keep(expert) and self.resident(expert):
                self.evict(self.loads[expert])
            if self.lines is not None:
                self.lines[gpu].remove(expert)
                self.queue_what_is_near()
            self.hand_over()
        yield self.after(way, fact)
        ends[gpu] = self.env.now, 2 * way

    # GPU 0 alone

    def compute(self, duration: int, fact: float) -> simpy.Event:
        for gpu, its in enumerate(self.accounts.by_gpu):
            its.compute_ns += 0 if gpu else duration
            its.idle_ns += duration if gpu else 0
        return super().compute(duration, fact)

    def predict_blocking(self) -> Process:
        began = self.env.now
        yield from super().predict_blocking()
        for gpu, its in enumerate(self.accounts.by_gpu):
            its.stall_ns[PREDICTOR] += 0 if gpu else self.env.now - began
            its.idle_ns += self.env.now - began if gpu else 0

    # The measured window

    def measure_from_here(self) -> None:
        super().measure_from_here()
        predicts, issued = self.accounts.predicts, self.accounts.issued
        self.accounts = Accounts(self.setup.n_layers, self.setup.gpus, predicts=predicts, start_ns=self.env.now)
        self.accounts.issued = issued
        self.charged = [self.env.now for _ in self.gpus]
        self.peaks = [self.held_on(gpu) for gpu in self.gpus]

    def finish(self) -> None:
        for gpu in self.gpus:
            self.charge_for(gpu)
        super().finish()
