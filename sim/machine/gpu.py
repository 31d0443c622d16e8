"""The GPU's compute stream: what a pass takes on it, and what it waits for.

Within a pass time is analytic: no other actor can act before the next decision (sim.machine.behind). Facts at the same
time come in the order chunk, prediction, host expert, expert, gate.
"""

from collections.abc import Callable, Iterator
from itertools import chain, repeat

from policies.api import LayerEvent
from sim.core.core import WAIT, Core
from sim.machine.behind import Behind
from sim.machine.listener import LEAD, NOBODY, SpanListener
from sim.prices.costs import Costs
from sim.workload.passes import Pass
from sim.workload.pricing import dense_of, piece_prices, reduced_ns


class Gpu:
    """Computes what the core gives, and waits for what is behind it. Time is a number that is handed on, in ns.

    Experts that the host computes are behind it, too: they run from the gate on, and the layer ends when its own have.
    """

    def __init__(
        self,
        core: Core,
        costs: Costs,
        behind: Behind,
        listener: SpanListener,
        policy_ns: tuple[int, int],
        all_reduce_ns: Callable[[int], int] | None = None,
    ) -> None:
        self.core, self.costs, self.behind, self.listener, self.policy_ns = core, costs, behind, listener, policy_ns
        self.all_reduce_ns = all_reduce_ns
        self.steps = 0
        self._expert_done: Callable[[int, int], None] = core.expert_done if listener is NOBODY else self._shown
        self._routes = core.routes
        self._versions = bool(core.setup.versions)
        self._single_ns = [costs.expert_table(layer, 1)[1] + costs.launch_ns for layer in range(core.setup.n_layers)]
        self._step: Pass  # under way
        self._own_ns: Iterator[int] | None = None  # the policy's, of the pass
        self._ns = 0  # of any expert of the event, with its launch
        self._by_expert: dict[int, int] | None = None  # where they differ

    def run(self, step: Pass, began: int) -> int:
        """One forward pass: per layer the dense part, the gate, the experts. Returns when it has ended."""
        core, costs, behind, listener = self.core, self.costs, self.behind, self.listener
        self.steps += 1
        accounts, waited = core.accounts, behind.waited_ns
        stalls, prompts = accounts.stall_ns[step.kind], step.prompt_tokens
        if step.prompt_rows:
            core.prompts(step.prompt_rows, began)
        core.step_begin(self.steps, step.prefill, step.requests, step.parts, began)
        now = behind.block(began, stalls[0])
        lead, dense, software, head = dense_of(step, costs)
        now += lead
        listener.layer(now - lead, now, LEAD)
        dense += software
        reduce_ns = 0 if self.all_reduce_ns is None else reduced_ns(step, self.all_reduce_ns)
        self._step = step
        peer_ns = 0
        self._own_ns = own_times(self.policy_ns[0 if step.prefill else 1], step)
        for layer, (demand, tokens) in enumerate(zip(step.demand, step.tokens, strict=True)):
            now += dense
            listener.layer(now - dense, now - software, layer)
            if behind.copies or behind.predictions or behind.hosts:
                behind.advance(now)
            if demand:
                if prompts:
                    core.prompts(prompts[layer], now)
                event = core.gate(layer, demand, tokens, now)
                now = self._event(step.rows, event, now, stalls[layer])
                if reduce_ns:
                    listener.peer(now, now + reduce_ns)
                    now += reduce_ns
                    peer_ns += reduce_ns
        now += head
        listener.layer(now - head, now, core.setup.n_layers)
        behind.advance(now)
        core.step_end(now)
        accounts.compute_ns += now - began - (behind.waited_ns - waited) - peer_ns
        accounts.peer_ns += peer_ns
        listener.step(began, now, self.steps, step.prefill)
        return now

    def idle(self, now: int, until: int) -> None:
        """Nothing is to be computed, while copies go on."""
        self.behind.advance(until)
        self.core.accounts.idle_ns += until - now

    def _event(self, rows: int, event: LayerEvent, now: int, stalls: list[int]) -> int:
        """What is computed once a gate has run: the experts in the core's order. Returns when the last one has been."""
        core, behind = self.core, self.behind
        if core.pending or core.predictions or core.hosted:
            now = behind.block(now, stalls)
        if self._own_ns is not None:
            now = self._decided(now, next(self._own_ns))
        if rows == 1 and not self._routes:
            ns, by_expert = self._single_ns[event.layer], None
        else:
            ns, by_expert = 0, self._prices(rows, event)
        self._ns, self._by_expert = ns, by_expert
        next_expert, expert_done = core.next_expert, self._expert_done
        copies, predictions, depth, hosts = behind.copies, behind.predictions, behind.link.depth, behind.hosts
        while True:
            x = next_expert()
            if x >= 0:
                if by_expert is not None:
                    ns = by_expert[x]
                now += ns
                if predictions or hosts or (copies and copies[0][0] <= now):
                    behind.advance(now)
                expert_done(x, now)
                if (core.pending and len(copies) < depth) or core.predictions:
                    behind.go_on(now)
            elif x == WAIT:
                now = behind.wait_for_expert(now, stalls)
            else:
                return behind.wait_for_host(now, stalls) if hosts or core.hosted else now

    def _prices(self, rows: int, event: LayerEvent) -> dict[int, int]:
        """What each expert of the event takes with its tokens, the launch within."""
        if self._step.pieces:
            return piece_prices(
                self._step, event.layer, event.demand, event.tokens, self.costs, self.core.setup.n_experts
            )
        if self._versions:
            costs, n_experts, launch = self.costs, self.core.setup.n_experts, self.costs.launch_ns
            return {
                x: costs.expert_table(x // n_experts, rows)[n] + launch if n else 0
                for x, n in zip(event.demand, event.tokens, strict=True)
            }
        table, launch = self.costs.expert_table(event.layer, rows), self.costs.launch_ns
        return {x: table[n] + launch if n else 0 for x, n in zip(event.demand, event.tokens, strict=True)}

    def _shown(self, x: int, now: int) -> None:
        """As the core's ``expert_done``, for a listener."""
        ns = self._ns if self._by_expert is None else self._by_expert[x]
        self.listener.compute(now - ns, now, (x,))
        self.core.expert_done(x, now)

    def _decided(self, now: int, own: int) -> int:
        """The policy's own time passes, as compute, while copies go on."""
        self.core.accounts.policy_ns += own
        self.listener.decide(now, now + own)
        self.behind.advance(now + own)
        return now + own


def own_times(total: int, step: Pass) -> Iterator[int] | None:
    """A policy's own time at each layer event of a pass, the first one's with the remainder; None: no time."""
    if not total:
        return None
    own, rest = divmod(total, sum(map(bool, step.demand)) or 1)
    return chain((own + rest,), repeat(own))
