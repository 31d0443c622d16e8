"""A GPU's compute stream: a forward pass layer by layer, each layer's experts as they are complete."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat

from policies.api import LayerEvent
from sim.core.core import Core
from sim.core.words import WAIT
from sim.machine.behind import Behind
from sim.machine.listener import LEAD, SpanListener
from sim.prices.costs import Costs
from sim.workload.passes import Pass


class Gpu:
    """Computes what the core gives, and waits for what is behind it. Time is a number that is handed on, in ns.

    Further GPUs are further streams with a core's pools, a link and a queue each, and a layer ends with the slowest;
    experts that the host computes run from the gate on, beside :meth:`_experts`, which then waits for them.
    """

    def __init__(
        self, core: Core, costs: Costs, behind: Behind, listener: SpanListener, policy_ns: tuple[int, int]
    ) -> None:
        self.core, self.costs, self.behind, self.listener, self.policy_ns = core, costs, behind, listener, policy_ns
        self.steps = 0
        self._waited = 0  # in the pass
        self._single_ns = [costs.expert_table(layer, 1)[1] + costs.launch_ns for layer in range(core.setup.n_layers)]

    def run(self, step: Pass, began: int) -> int:
        """One forward pass: per layer the dense part, the gate, the experts. Returns when it has ended."""
        core, costs, behind, listener = self.core, self.costs, self.behind, self.listener
        self.steps += 1
        self._waited = 0
        stalls = core.accounts.stall_ns[0 if step.prefill else 1]
        core.step_begin(self.steps, step.prefill, step.requests, step.parts, began)
        now = self._blocked(began, stalls[0])
        lead = costs.lead_ns(step.rows, step.kv_tokens, step.pairs)
        now += lead
        listener.layer(now - lead, now, LEAD)
        software = costs.layer_overhead_ns
        dense = costs.dense_ns(step.rows, step.kv_tokens, step.pairs) + software
        own_ns = self._own_ns(step)
        for layer, (demand, tokens) in enumerate(zip(step.demand, step.tokens, strict=True)):
            now += dense
            listener.layer(now - dense, now - software, layer)
            behind.advance(now)
            if demand:
                event = core.gate(layer, demand, tokens, now)
                now = self._blocked(now, stalls[layer])
                if own := next(own_ns):
                    now = self._decided(now, own)
                now = self._experts(step.rows, event, now, stalls[layer])
        head = costs.head_ns(len(step.requests))
        now += head
        listener.layer(now - head, now, core.setup.n_layers)
        behind.advance(now)
        core.step_end(now)
        core.accounts.compute_ns += now - began - self._waited
        listener.step(began, now, self.steps, step.prefill)
        return now

    def _experts(self, rows: int, event: LayerEvent, now: int, stalls: list[int]) -> int:
        """The experts of an event, in the core's order; returns when the last one is computed."""
        core, behind, tell = self.core, self.behind, self.listener.compute
        next_expert, expert_done, advance = core.next_expert, core.expert_done, behind.advance
        copies, predictions, depth = behind.link.under_way, behind.predictor.under_way, behind.link.depth
        ns, by_expert = self._prices(rows, event)
        while True:
            x = next_expert()
            if x >= 0:
                if by_expert is not None:
                    ns = by_expert[x]
                now += ns
                tell(now - ns, now, (x,))
                if predictions or (copies and copies[0][0] <= now):
                    advance(now)
                expert_done(x, now)
                if (core.pending and len(copies) < depth) or core.predictions:
                    behind.go_on(now)
            elif x == WAIT:
                free = behind.wait_for_expert(now, stalls)
                self._waited += free - now
                now = free
            else:
                return now

    def _prices(self, rows: int, event: LayerEvent) -> tuple[int, dict[int, int] | None]:
        """Nanoseconds of an expert, its launch within: of each alike, or by expert where they differ in tokens."""
        if rows == 1 and not self.core.routes:
            return self._single_ns[event.layer], None
        table, launch = self.costs.expert_table(event.layer, rows), self.costs.launch_ns
        pairs = zip(event.demand, event.tokens, strict=True)
        return 0, {x: table[n] + launch if n else 0 for x, n in pairs}

    def _blocked(self, now: int, stalls: list[int]) -> int:
        """A fact of the model's was told: returns when compute goes on."""
        free = self.behind.block(now, stalls)
        self._waited += free - now
        return free

    def _decided(self, now: int, own: int) -> int:
        """The policy's own time passes, as compute, while copies go on."""
        self.core.accounts.policy_ns += own
        self.listener.decide(now, now + own)
        self.behind.advance(now + own)
        return now + own

    def _own_ns(self, step: Pass) -> Iterator[int]:
        """The policy's own time at each layer event of the pass, the first one's with the remainder."""
        total = self.policy_ns[0 if step.prefill else 1]
        own, rest = divmod(total, sum(map(bool, step.demand)) or 1)
        return chain((own + rest,), repeat(own))
