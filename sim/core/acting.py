"""What a policy asks of the core: checked here, and of no effect on the past."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import TYPE_CHECKING

from policies.api import Actions
from sim.core.accounts import CANCELLED
from sim.core.state import NO_FATE, PENDING, SPECULATIVE, CoreError

if TYPE_CHECKING:
    from sim.core.core import Core


class Acting:
    """The actions of one core's policy. CoreError for what means nothing: an unknown expert, a time that is none."""

    def __init__(self, core: Core) -> None:
        self.core, self.state, self.chunks = core, core.state, core.setup.chunks
        self.evictable = core.state.view().evictable

    def actions(self) -> Actions:
        """What the policy is given."""
        return Actions(self.prefetch, self.cancel, self.expect, self.predict, self.evict)

    def prefetch(self, x: int, priority: float = 0.0) -> bool:
        self.known(x)
        if not isfinite(priority):
            raise CoreError(f"policy {self.core.policy.name} gave expert {x} the priority {priority}")
        core, state = self.core, self.state
        if state.done[x] == self.chunks or state.pinned[x]:
            return False
        if state.spec[x] == NO_FATE:
            state.spec[x] = PENDING
            state.kind[x] = SPECULATIVE
            core.spec_bytes[x] = 0
            core.accounts.issued += 1
        state.dropping[x] = 0
        if state.given[x] < self.chunks:
            core.speculative.push(x, priority)
            core.pending = True
        return True

    def cancel(self, x: int) -> bool:
        self.known(x)
        core, state = self.core, self.state
        if state.spec[x] != PENDING:
            return False
        core.speculative.drop(x)
        if state.given[x] > state.done[x]:
            state.dropping[x] = 1
        elif state.slot[x]:
            core.evict(x)
        else:
            core.settle(x, CANCELLED)
        return True

    def evict(self, x: int) -> bool:
        self.known(x)
        if not self.evictable(x):
            return False
        self.core.evict(x)
        return True

    def expect(self, experts: Iterable[int]) -> None:
        core = self.core
        core.accounts.predicts = True
        for x in experts:
            self.known(x)
            layer = x // self.state.n_experts
            due = core.step.number + (layer <= core.event.layer)
            if core.due[layer] != due:
                core.due[layer] = due
                core.expected[layer].clear()
            core.expected[layer].add(x)

    def predict(self, tag: int, latency_ns: int, blocking: bool) -> None:
        if type(latency_ns) is not int or latency_ns < 0:
            name = self.core.policy.name
            raise CoreError(f"policy {name} predicts in {latency_ns} ns; whole, not negative, is wanted")
        self.core.predictions.append((tag, latency_ns, blocking))

    def known(self, x: int) -> None:
        if not 0 <= x < len(self.state.done):
            raise CoreError(f"policy {self.core.policy.name} named expert {x}; there are {len(self.state.done)}")
