"""What a policy asks of the core, and what it says it has decided: checked here, and of no effect on the past."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from policies.api import Actions, LayerEvent, Policy, Step
from sim.core.accounts import CANCELLED
from sim.core.loads import Loads
from sim.core.state import NO_FATE, PENDING, SPECULATIVE, CoreError


class Acting:
    """The actions of one core's policy, while ``step`` and ``event`` are under way.

    CoreError for what means nothing: an unknown expert, a time that is none.
    """

    def __init__(self, loads: Loads, step: Step, event: LayerEvent) -> None:
        self.loads, self.state, self.step, self.event = loads, loads.state, step, event
        self.evictable = loads.state.view().evictable
        self.n_all = loads.setup.n_all
        self.expected: list[set[int]] = [set() for _ in range(loads.setup.n_layers)]
        """What each layer is expected to demand, in the step ``_due``."""
        self._due = [0] * loads.setup.n_layers

    def actions(self) -> Actions:
        """What the policy is given."""
        return Actions(self.prefetch, self.cancel, self.expect, self.predict, self.evict)

    def prefetch(self, x: int, priority: float = 0.0) -> bool:
        self.known(x)
        if not isfinite(priority):
            raise CoreError(f"policy {self.loads.policy.name} gave expert {x} the priority {priority}")
        loads, state = self.loads, self.state
        if state.done[x] == state.chunks or state.pinned[x]:
            return False
        if state.spec[x] == NO_FATE:
            state.spec[x] = PENDING
            state.kind[x] = SPECULATIVE
            state.spec_bytes[x] = 0
            loads.accounts.issued += 1
        state.dropping[x] = 0
        if state.given[x] < state.chunks:
            loads.speculative.push(x, priority)
            loads.pending = True
        return True

    def cancel(self, x: int) -> bool:
        self.known(x)
        loads, state = self.loads, self.state
        if state.spec[x] != PENDING:
            return False
        loads.speculative.drop(x)
        if state.given[x] > state.done[x]:
            state.dropping[x] = 1
        elif state.slot[x]:
            loads.evict(x)
        else:
            loads.settle(x, CANCELLED)
        return True

    def evict(self, x: int) -> bool:
        self.known(x)
        if not self.evictable(x):
            return False
        self.loads.evict(x)
        return True

    def expect(self, experts: Iterable[int]) -> None:
        self.loads.accounts.predicts = True
        for x in experts:
            self.known(x)
            x %= self.n_all  # in whatever version
            layer = x // self.state.n_experts
            due = self.step.number + (layer <= self.event.layer)
            if self._due[layer] != due:
                self._due[layer] = due
                self.expected[layer].clear()
            self.expected[layer].add(x)

    def foretold(self, layer: int) -> set[int] | None:
        """Take what was expected of this step's event; None if there is nothing, or it was meant for another step."""
        if not self.expected[layer] or self._due[layer] > self.step.number:
            return None
        foretold, self.expected[layer] = self.expected[layer], set()
        return foretold if self._due[layer] == self.step.number else None

    def predict(self, tag: int, latency_ns: int, blocking: bool) -> None:
        if type(latency_ns) is not int or latency_ns < 0:
            name = self.loads.policy.name
            raise CoreError(f"policy {name} predicts in {latency_ns} ns; whole, not negative, is wanted")
        self.loads.predictions.append((tag, latency_ns, blocking))

    def known(self, x: int) -> None:
        if not 0 <= x < len(self.state.done):
            raise CoreError(f"policy {self.loads.policy.name} named expert {x}; there are {len(self.state.done)}")


def stated(policy: Policy) -> dict[str, Any]:
    """Ask a policy what it has decided, once. A copy, in its order; CoreError for what is not plain JSON."""
    found = policy.decided()
    if not isinstance(found, Mapping):
        raise CoreError(f"policy {policy.name} states {found!r}; allowed: a mapping")
    for name in found:
        if type(name) is not str or not name:
            raise CoreError(f"policy {policy.name} states something by the name {name!r}; allowed: a text")
    return {name: _plain(policy, name, value) for name, value in found.items()}


def _plain(policy: Policy, name: str, value: object) -> Any:
    if type(value) in (list, tuple):
        return [_plain(policy, name, item) for item in value]  # type: ignore[attr-defined]
    if value is None or type(value) in (str, bool, int) or (type(value) is float and isfinite(value)):
        return value
    raise CoreError(
        f"policy {policy.name} states {name}={value!r}, a {type(value).__name__};"
        " allowed: text, true, false, null, whole and finite numbers, lists of these"
    )
