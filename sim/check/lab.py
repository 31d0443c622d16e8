"""Policies tried on a synthetic machine, watched at every answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policies.api import LayerEvent, Policy, Setup
from policies.bounds.future import Clairvoyant, Future
from sim.check.synthetic import FakeSignals, Routing, some_history
from sim.core.accounts import Accounts
from sim.core.core import Core
from sim.core.log import record
from sim.machine.machine import Machine


@dataclass(frozen=True)
class Snapshot:
    """All that was decided until a fact was told."""

    step: int
    layer: int  # -1: the step's start
    told: int  # words of the log
    digest: str
    expected: tuple[tuple[int, ...], ...]
    predictions: int


class Witness(Core):
    """Watches the budget at every answer, and notes what was decided before each step and gate."""

    def __init__(self, policy: Policy, setup: Setup, signals: Any) -> None:
        super().__init__(policy, setup, signals)
        self.snapshots: list[Snapshot] = []
        self.number = -1
        self.asked = 0
        self.demanded_bytes = 0  # of what was to be there for an event, with tokens or without
        record(self)
        self.listen("gate", lambda layer, *_: self.note(layer))  # the log has not heard of it yet
        self.listen("step_begin", self._begun)

    def _begun(self, number: int, *_: Any) -> None:
        self.number = number
        self.note(-1)

    def note(self, layer: int) -> None:
        self.asked += len(self.predictions)
        expected = tuple(tuple(sorted(x)) for x in self.acting.expected)
        self.snapshots.append(Snapshot(self.number, layer, len(self.log), self.digest(), expected, self.asked))

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> LayerEvent:
        event = super().gate(layer, demand, tokens, now)
        self.demanded_bytes += sum(map(self.state.size.__getitem__, event.demand))
        return event

    def next_chunk(self) -> int:
        answer = super().next_chunk()
        state, setup = self.state, self.setup
        held = [x for x in range(len(state.slot)) if state.slot[x]]
        if sum(state.size[x] for x in held) + self.policy.gpu_bytes() > setup.budget:
            raise AssertionError("more bytes than the budget")
        for layer, share in enumerate(state.layer_capacity or ()):
            if sum(state.size[x] for x in held if setup.layer_of(x) == layer) > share:
                raise AssertionError(f"more bytes than the budget of layer {layer}")
        return answer


@dataclass
class Run:
    """What one replay left behind."""

    policy: Policy
    core: Witness
    accounts: Accounts
    machine: Machine

    @property
    def hits(self) -> int:
        """Lookups that were complete."""
        return self.accounts.hit_row()[3]

    @property
    def lookups(self) -> int:
        """Members of all demand sets."""
        return self.accounts.hit_row()[0]


def ready(policy: Policy, routing: Routing) -> Policy:
    """Give a policy what it may ask for before the first fact: train requests, the future."""
    if policy.wants_history():
        policy.fit(some_history(policy.setup, routing.world))
    if isinstance(policy, Clairvoyant):
        n_all = policy.setup.n_layers * policy.setup.n_experts
        policy.foresee(Future.of((d for p in routing.passes() for d in p.demand), n_all))
    return policy


def run(policy: Policy, routing: Routing, *, depth: int = 1, core_type: type[Core] = Witness) -> Run:
    """Replay a routing; AssertionError if the policy breaks a rule on the way."""
    core: Any = core_type(ready(policy, routing), policy.setup, FakeSignals(routing.signals))
    machine = Machine(core, policy.setup.costs, depth=depth)  # type: ignore[arg-type]
    passes = routing.passes()
    accounts = machine.run((), passes)
    if passes != routing.passes():  # the next cell of a sweep reads the same lists
        raise AssertionError("it changed the demand that it was shown")
    return Run(policy, core, accounts, machine)
