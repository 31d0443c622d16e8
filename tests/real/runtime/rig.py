"""A tiny model whose experts go through a machine, served with its own routing or with a given one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from policies.api import LayerEvent, Policy, Setup, Step
from policies.lru import LRU
from real.runtime.events import Feed, Run
from real.runtime.generate import Served, generate
from real.runtime.hosted import HostedMachine
from real.runtime.live import Live
from real.runtime.machine import Machine
from real.runtime.offloaded import Offloaded
from real.runtime.pool import Pool
from real.runtime.runner import running
from sim.check.synthetic import FakeSignals, FlatHost, Routing, draw
from sim.core.accounts import Accounts
from sim.core.core import Core
from sim.core.log import replay
from sim.workload.passes import Pass, ordered_union
from tests.sim.machine.cases import FlatCosts, NoSignals
from tests.traces.models.tiny import E, K

CPU = torch.device("cpu")
PROMPTS = ((5, 9, 200), tuple(range(40, 61)), (77,) * 9, (8,), (100, 3, 250, 17), (290, 1, 1, 60, 31, 12))
NEW_TOKENS = (4, 1, 6, 2, 3, 3)
"""More requests than places, of different lengths; the second prompt is longer than GPT-OSS's window here."""

ROUTING = draw(5, 3, E, K, decode=3)
"""Of a model of three layers."""

MakePolicy = Callable[[Setup], Policy]


class All(LRU):
    """Prefetches every expert as soon as it can."""

    def on_step(self, step: Step) -> None:
        super().on_step(step)
        for x in range(self.setup.n_layers * self.setup.n_experts):
            self.actions.prefetch(x, 0.0)


class Split(LRU):
    """The host computes every second expert, the GPU the others; ``last``: after the GPU."""

    def __init__(self, setup: Setup, *, last: bool = False) -> None:
        super().__init__(setup)
        self.last = last

    def serial(self) -> bool:
        return self.last

    def place(self, event: LayerEvent) -> Sequence[int]:
        return [x for x in event.demand if x % 2]


class Host(Split):
    """The host computes everything."""

    def place(self, event: LayerEvent) -> Sequence[int]:
        return event.demand


@dataclass
class Rig:
    """How to run: one offloaded model, and what its machine is made of."""

    model: Offloaded
    chunks: int = 1
    depth: int = 1
    core_type: type[Core] = Core
    pool_type: type[Pool] = Pool
    machine_type: type[Machine] = Machine
    seed: int = 0
    predictors: Any = field(default_factory=dict)
    host: Any = None
    """Who computes what is placed there (policies.api.Host), for a machine that has such a host."""

    @property
    def nbytes(self) -> int:
        """Of one expert."""
        return self.model.store.layout.nbytes

    @property
    def experts(self) -> int:
        """Of all layers."""
        return len(self.model.moe.layers) * self.model.moe.n_experts

    def setup(self, held: int) -> Setup:
        """With room for so many experts."""
        moe, sizes = self.model.moe, (self.nbytes,) * len(self.model.moe.layers)
        shape = (len(sizes), moe.n_experts, moe.top_k, sizes, self.chunks)
        return Setup(*shape, held * self.nbytes, FlatCosts(), self.seed, self.predictors, host=self.host)

    def machine(self, make: MakePolicy, held: int, signals: Any = None) -> Machine:
        policy, signals = make(self.setup(held)), signals or NoSignals()
        setup = policy.setup
        pool = self.pool_type(self.model.store, setup.budget - policy.gpu_bytes(), setup.chunks, self.model.backend)
        more = {} if self.host is None else {"workers": self.host.workers}
        return self.machine_type(self.core_type(policy, setup, signals), pool, depth=self.depth, **more)


def hosted(rig: Rig, workers: int = 1) -> Rig:
    """The same with a host that computes."""
    return replace(rig, machine_type=HostedMachine, host=FlatHost(1, None, workers))


@dataclass
class Ran:
    """What a run left. ``logits``: of each pass, [requests, V]."""

    logits: list[Any]
    made: list[list[int]]
    machine: Machine
    accounts: Accounts
    again: str
    """The digest of the log's replay without a clock, with a policy made anew."""
    live: Live | None = None
    """What the model has shown, where it chose for itself."""

    @property
    def core(self) -> Core:
        return self.machine.core

    def check(self) -> Ran:
        """The device's decisions are those of its log, and the accounts add up."""
        assert self.again == self.core.digest(), "the replay of the log decides differently"
        self.accounts.check()
        return self

    def same_logits(self, other: Ran) -> bool:
        return len(self.logits) == len(other.logits) and all(map(torch.equal, self.logits, other.logits))


def serve(
    rig: Rig,
    make: MakePolicy,
    held: int,
    batch: int = 1,
    *,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    new_tokens: Sequence[int] = NEW_TOKENS,
    ends: frozenset[int] = frozenset(),
) -> Ran:
    """Continue prompts greedily, with the model's own routing."""
    live, machine = Live(rig.model.moe, ()), rig.machine(make, held)
    logits: list[Any] = []

    def choose(scores: Any) -> int:
        logits.append(scores.clone()[None])
        return int(scores.argmax())

    pairs = zip(prompts, new_tokens, strict=True)
    requests = [Served(i, list(prompt), choose, wanted) for i, (prompt, wanted) in enumerate(pairs)]
    with running(rig.model, machine, live) as runner:
        generate(runner, live, requests, batch, ends)
        accounts = runner.finish().outcome.accounts
    setup = machine.core.setup
    again = replay(machine.core.log, Core(make(setup), setup, NoSignals()))
    return Ran(logits, [request.made for request in requests], machine, accounts, again, live)


def passes_of(routing: Routing) -> list[Pass]:
    """A routing's passes. An expert of 255 is none."""
    n_layers, n_experts = routing.ids.shape[1], routing.n_experts
    flat = routing.ids.astype(np.int64) + np.arange(n_layers)[:, None] * n_experts
    flat[routing.ids == 255] = n_layers * n_experts
    passes = []
    for prefill, first, rows in routing.steps:
        pairs = [ordered_union(flat[first : first + rows, layer], n_layers * n_experts) for layer in range(n_layers)]
        demand, tokens = (list(column) for column in zip(*pairs, strict=True))
        passes.append(Pass(prefill, (0,), [(first, rows)], rows, rows, rows, demand, tokens))
    return passes


class Given(Feed):
    """The feed of a routing that is held in memory."""

    def __init__(self, routing: Routing) -> None:
        self.ids = np.where(routing.ids == 255, routing.n_experts, routing.ids.astype(np.int64))
        self.signals = routing.signals["router_probs"], routing.signals["expert_weights"]

    def routing(self) -> Any:
        return np.concatenate([self.ids[first : first + n] for first, n in self.step.parts])

    def gate(self, layer: int, law: Any) -> Any:
        scores, weights = (
            np.concatenate([array[first : first + n, layer] for first, n in self.step.parts]) for array in self.signals
        )
        return torch.from_numpy(scores).float().log(), torch.from_numpy(weights).float()


def follow(rig: Rig, make: MakePolicy, held: int, routing: Routing) -> Ran:
    """Run a routing's passes through the whole model."""
    machine = rig.machine(make, held, FakeSignals(routing.signals))
    logits = list[Any]()
    with running(rig.model, machine, Given(routing)) as runner:
        for number, step in enumerate(passes_of(routing)):
            tokens = [(31 * number + i) % 290 for i in range(step.rows)]
            logits.append(runner.forward(step, tokens, lambda scores: scores.clone()))
        accounts = runner.finish().outcome.accounts
    setup = machine.core.setup
    again = replay(machine.core.log, Core(make(setup), setup, FakeSignals(routing.signals)))
    return Ran(logits, [], machine, accounts, again)


def drive(run: Run, layers: Sequence[Any], step: Pass, hidden: Any, routed: Sequence[Any], weights: Any) -> list[Any]:
    """One pass of experts alone, without a model around them; their outputs by layer."""
    run.begin(step)
    outputs = [run.event(layer, hidden, ids, weights) for layer, ids in zip(layers, routed, strict=True)]
    run.end()
    return outputs
