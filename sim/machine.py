"""The simulated machine: one GPU stream, one host-to-device link, one predictor thread, on SimPy.

Time is analytic wherever no other actor can act before the next decision: the link is a queue of (end, chunk)
that is advanced lazily, in time order, and SimPy sees one timeout per pass. Facts at the same time come in the
order chunk, prediction, expert, gate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from heapq import heappop, heappush, heapreplace

import simpy

from sim.core.accounts import PREDICTOR, Accounts
from sim.core.core import Core
from sim.core.state import CoreError
from sim.core.words import NONE, WAIT
from sim.prices.costs import Costs
from sim.results.timeline import LEAD, Timeline
from sim.timings import Timings
from sim.workload.passes import Pass

_BURST = 1 << 16  # predictions at one instant that no policy can mean


class Link:
    """Copies chunks in the order that the core gives, ``depth`` of them handed over at a time; runs predictions."""

    def __init__(self, core: Core, copy_ns: Sequence[int], depth: int, predictor_threads: int) -> None:
        self.core, self.copy_ns, self.depth = core, copy_ns, depth
        self.next_chunk, self.chunk_done = core.next_chunk, core.chunk_done
        self.busy_ns = 0
        self.under_way: deque[tuple[int, int]] = deque()  # (end, chunk)
        self.predictions: list[tuple[int, int, int]] = []  # (end, order of asking, tag)
        self.predictor_free = [0] * predictor_threads
        self.asked = self.burst = self.asked_at = 0
        self.timeline: Timeline | None = None

    def show(self, timeline: Timeline) -> None:
        """Note in ``timeline`` what was on the link, and what compute waited for."""
        self.timeline, tell, kinds, chunks = timeline, self.chunk_done, self.core.kind, self.core.setup.chunks

        def arrived(chunk: int, now: int) -> None:
            timeline.copy(now - self.copy_ns[chunk], now, chunk, kinds[chunk // chunks])
            tell(chunk, now)
            timeline.occupancy(now, self.core.state.used)

        self.chunk_done = arrived

    def pump(self, now: int) -> None:
        """Hand chunks over, as long as the core has some and the link takes them."""
        core, under_way = self.core, self.under_way
        while core.pending and len(under_way) < self.depth:
            chunk = self.next_chunk()
            if chunk == NONE:
                return
            ns = self.copy_ns[chunk]
            self.busy_ns += ns
            under_way.append(((under_way[-1][0] if under_way else now) + ns, chunk))

    def advance(self, now: int) -> None:
        """Tell the core all that ends up to ``now``, in time order, a chunk before a prediction."""
        core, under_way, predictions = self.core, self.under_way, self.predictions
        while True:
            if under_way and under_way[0][0] <= now and not (predictions and predictions[0][0] < under_way[0][0]):
                end, chunk = under_way.popleft()
                self.chunk_done(chunk, end)
            elif predictions and predictions[0][0] <= now:
                end, _, tag = heappop(predictions)
                core.prediction(tag, end)
            else:
                return
            if core.pending or core.predictions:
                self.after(end)

    def after(self, now: int) -> None:
        """Something has ended: what the policy wants next, and what the link can take next."""
        self.pump(now)
        if self.core.predictions and self.ask(now) > now:
            raise CoreError("a prediction may block the GPU only from on_step and on_gate")

    def wait(self, now: int, stalls: list[int]) -> int:
        """Compute waits until an expert is ready: charge each nanosecond to the chunk on the link; returns when."""
        core, under_way, predictions, chunk_done = self.core, self.under_way, self.predictions, self.chunk_done
        ready, kind, chunks, timeline = core.ready, core.kind, core.setup.chunks, self.timeline
        while not ready:
            if not under_way:
                raise CoreError("deadlock: compute waits and nothing can be copied")
            end, chunk = under_way[0]
            stalls[kind[chunk // chunks]] += end - now
            if timeline is not None:
                timeline.stall(now, end, kind[chunk // chunks])
            now = end
            if predictions:
                self.advance(now)
                continue
            under_way.popleft()
            chunk_done(chunk, now)
            if core.pending:
                self.pump(now)
            if core.predictions:
                self.after(now)
        return now

    def ask(self, now: int) -> int:
        """Start the predictions that the policy asked for; returns when the last blocking one ends (or ``now``)."""
        blocked = now
        self.burst = self.burst + 1 if now == self.asked_at else 0
        self.asked_at = now
        if self.burst > _BURST:
            raise CoreError(f"a policy asks for one prediction after the other at {now} ns, and time does not pass")
        for tag, latency, blocking in self.core.predictions:
            if blocking:
                end = blocked = blocked + latency
            else:
                end = max(now, self.predictor_free[0]) + latency
                heapreplace(self.predictor_free, end)
            if self.timeline is not None:
                self.timeline.predict(end - latency, end, blocking)
            self.asked += 1
            heappush(self.predictions, (end, self.asked, tag))
        self.core.predictions.clear()
        return blocked

    def busy_after(self, now: int) -> int:
        """Nanoseconds of the copies handed over that lie after ``now``."""
        left, start = 0, now
        for end, _ in self.under_way:
            left += end - start
            start = end
        return left


class Machine:
    """Replays passes on one GPU; ``progress`` is told the rows of each pass that has ended.

    ``policy_ns``: the policy's own time, per prefill and per decode pass. It is spread evenly over the pass's layer
    events, the first one's with the remainder (a pass without any has decided nothing): after each gate compute waits
    for it, within ``compute_ns``, while copies go on.
    """

    def __init__(
        self,
        core: Core,
        costs: Costs,
        *,
        depth: int = 1,
        predictor_threads: int = 1,
        progress: Callable[[int], None] | None = None,
        timeline: Timeline | None = None,
        policy_ns: tuple[int, int] = (0, 0),
    ) -> None:
        self.core, self.costs, self.policy_ns = core, costs, policy_ns
        self.link = Link(core, [costs.copy_ns(b) for b in core.state.chunk_bytes], depth, predictor_threads)
        self.timings = Timings()
        self.progress = progress
        self.timeline = timeline
        if timeline is not None:
            self.link.show(timeline)
        self.env = simpy.Environment()
        self.steps = 0

    def run(self, warmup: Iterable[Pass], measured: Iterable[Pass]) -> Accounts:
        """Replay ``warmup``, then ``measured``; the accounts are those of the latter."""
        self.env.process(self._gpu(warmup))
        self.env.run()
        start = int(self.env.now)
        if self.steps:
            self.core.measure_from(start)
            self.link.busy_ns = self.link.busy_after(start)
            self.timings = Timings()
            if self.timeline is not None:
                self.timeline.start(start)
        self.env.process(self._gpu(measured))
        self.env.run()
        now = int(self.env.now)
        self.core.accounts.link_busy_ns = self.link.busy_ns - self.link.busy_after(now)
        return self.core.finish(now)

    def _gpu(self, passes: Iterable[Pass]) -> Generator[simpy.Event, object, None]:
        """The GPU stream: per layer the dense part, the gate, then the experts as they are complete."""
        env, core, costs, link = self.env, self.core, self.costs, self.link
        under_way, predictions = link.under_way, link.predictions
        pump, after, advance, wait, gate = link.pump, link.after, link.advance, link.wait, core.gate
        next_expert, expert_done = core.next_expert, core.expert_done
        launch, depth, timeline = costs.launch_ns, link.depth, self.timeline
        single_ns = [costs.expert_table(layer, 1)[1] + launch for layer in range(core.setup.n_layers)]
        now = int(env.now)
        for step in passes:
            self.steps += 1
            accounts = core.accounts
            began, computed, stalled = now, 0, accounts.stall_ns[0 if step.prefill else 1]
            core.step_begin(self.steps, step.prefill, step.requests, step.parts, now)
            now = self._settle(now, stalled[0])
            waited = now - began
            lead = costs.lead_ns(step.rows, step.kv_tokens, step.pairs)
            now += lead
            computed += lead
            software = costs.layer_overhead_ns
            dense = costs.dense_ns(step.rows, step.kv_tokens, step.pairs) + software
            if timeline is not None:
                timeline.layer(now - lead, now, LEAD)
            own, rest = self._own_ns(step)
            ns_by_layer = single_ns if step.rows == 1 and not core.routes else None
            for layer, (demand, tokens) in enumerate(zip(step.demand, step.tokens, strict=True)):
                now += dense
                computed += dense
                if timeline is not None:
                    timeline.layer(now - dense, now - software, layer)
                if (under_way and under_way[0][0] <= now) or predictions:
                    advance(now)
                if not demand:
                    continue
                event = gate(layer, demand, tokens, now)
                if core.pending:
                    pump(now)
                if core.predictions:
                    free = self._settle(now, stalled[layer])
                    waited += free - now
                    now = free
                if own or rest:
                    spent, rest = own + rest, 0
                    now += spent
                    computed += spent
                    accounts.policy_ns += spent
                    if timeline is not None:
                        timeline.decide(now - spent, now)
                    if (under_way and under_way[0][0] <= now) or predictions:
                        advance(now)
                if ns_by_layer is not None:
                    ns, cost = ns_by_layer[layer], None
                else:
                    table = costs.expert_table(layer, step.rows)
                    pairs = zip(event.demand, event.tokens, strict=True)
                    cost = {x: table[n] + launch if n else 0 for x, n in pairs}
                while True:
                    x = next_expert()
                    if x >= 0:
                        if cost is not None:
                            ns = cost[x]
                        now += ns
                        computed += ns
                        if timeline is not None:
                            timeline.compute(now - ns, now, (x,))
                        if (under_way and under_way[0][0] <= now) or predictions:
                            advance(now)
                        expert_done(x, now)
                        if (core.pending and len(under_way) < depth) or core.predictions:
                            after(now)
                    elif x == WAIT:
                        free = wait(now, stalled[layer])
                        waited += free - now
                        now = free
                    else:
                        break
            head = costs.head_ns(len(step.requests))
            now += head
            computed += head
            if timeline is not None:
                timeline.layer(now - head, now, core.setup.n_layers)
            advance(now)
            core.step_end(now)
            yield env.timeout(now - env.now)
            accounts.compute_ns += computed
            if now - began != computed + waited:
                raise CoreError(f"step {self.steps}: {now - began} ns passed, {computed} + {waited} are accounted for")
            if timeline is not None:
                timeline.step(began, now, self.steps, step.prefill)
            self.timings.note(step, began, now)
            if self.progress is not None:
                self.progress(step.rows)

    def _own_ns(self, step: Pass) -> tuple[int, int]:
        """The policy's own time for each layer event of the pass, and what the first one has more."""
        own = self.policy_ns[0 if step.prefill else 1]
        events = sum(map(bool, step.demand)) if own else 0
        return divmod(own, events) if events else (0, 0)

    def _settle(self, now: int, stalls: list[int]) -> int:
        """Start the copies and predictions that the policy wants; returns when the GPU is free of the latter."""
        self.link.pump(now)
        if not self.core.predictions:
            return now
        free = self.link.ask(now)
        stalls[PREDICTOR] += free - now
        if self.timeline is not None:
            self.timeline.stall(now, free, PREDICTOR)
        self.link.advance(free)
        return free
