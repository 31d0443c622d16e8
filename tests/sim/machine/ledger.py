"""A core that checks itself at every fact and question."""

from collections.abc import Sequence

from policies.api import LayerEvent, Policy, Setup
from sim.core.core import Core
from tests.sim.machine.cases import NoSignals


class Ledger(Core):
    """Checks at every fact and question what must always hold, and adds up for itself what the link was given."""

    def __init__(self, policy: Policy, setup: Setup) -> None:
        super().__init__(policy, setup, NoSignals())
        self.link_bytes = 0
        self.begins: list[tuple[int, int]] = []
        self.given_out: list[int] = []
        self.events: list[tuple[int, int, list[int], list[int]]] = []
        """What was to be computed: phase, layer, experts, tokens."""
        self.most = 0

    def watch(self) -> None:
        state = self.state
        sizes = self.setup.expert_bytes
        held = [0] * len(sizes)
        for x, slot in enumerate(state.slot):
            held[self.setup.layer_of(x)] += slot * sizes[self.setup.layer_of(x)]
        assert sum(held) == state.used <= self.setup.budget - self.policy.gpu_bytes()
        assert held == state.layer_used
        shares = self.policy.layer_budgets()
        assert shares is None or all(h <= s for h, s in zip(held, shares, strict=True))
        assert all(state.slot[x] or not state.done[x] for x in range(len(state.slot)))
        self.most = max(self.most, state.used)

    def step_begin(self, *args: object) -> None:
        self.begins.append((int(args[-1]), self.accounts.compute_ns + sum(self.accounts.stall_row())))  # type: ignore[call-overload]
        super().step_begin(*args)  # type: ignore[arg-type]
        self.watch()

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> LayerEvent:
        self.given_out = []
        event = super().gate(layer, demand, tokens, now)
        assert all(self.state.pinned[x] for x in event.demand)
        self.events.append((0 if event.prefill else 1, layer, list(event.demand), list(event.tokens)))
        self.watch()
        return event

    def prediction(self, tag: int, now: int) -> None:
        super().prediction(tag, now)
        self.watch()

    def chunk_done(self, chunk: int, now: int) -> None:
        super().chunk_done(chunk, now)
        self.watch()

    def expert_done(self, x: int, now: int) -> None:
        assert self.state.view().complete(x), "computed before it had arrived"
        super().expert_done(x, now)
        self.watch()

    def next_chunk(self) -> int:
        chunk = super().next_chunk()
        if chunk >= 0:
            self.link_bytes += self.state.chunk_bytes[chunk]
            assert self.state.slot[chunk // self.setup.chunks]
        self.watch()
        return chunk

    def next_expert(self) -> int:
        x = super().next_expert()
        if x >= 0:
            assert x not in self.given_out
            self.given_out.append(x)
        return x
