"""Synthetic shapes, passes and prices for tests of the machines; other tests may import these."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

from policies.api import Policy, Setup
from sim.core.accounts import Accounts
from sim.core.core import Core
from sim.core.host_memory import HostTier
from sim.core.log import record as recorded
from sim.core.log import replay
from sim.core.several import core_of
from sim.core.state import split_chunks
from sim.machine.disk import Reads
from sim.machine.listener import SpanListener
from sim.machine.machine import Machine
from sim.workload.passes import Pass


@dataclass(frozen=True)
class FlatCosts:
    """Prices with one knob per resource, in whole nanoseconds."""

    per_copy: int = 10
    per_byte: int = 1
    dense: int = 7
    per_token: int = 3
    per_step: int = 5
    launch_ns: int = 2
    layer_overhead_ns: int = 1
    per_peer: int = 4
    per_peer_token: int = 2

    def peer_ns(self, tokens: int) -> int:
        return self.per_peer + self.per_peer_token * tokens

    def copy_ns(self, nbytes: int) -> int:
        return self.per_copy + self.per_byte * nbytes

    def expert_ns(self, layer: int, tokens: int) -> int:
        return self.per_token * tokens

    def expert_table(self, layer: int, max_tokens: int) -> list[int]:
        return [self.expert_ns(layer, tokens) for tokens in range(max_tokens + 1)]

    def dense_ns(self, tokens: int, kv_tokens: int, pairs: int) -> int:
        return self.dense * tokens

    def lead_ns(self, tokens: int, kv_tokens: int, pairs: int) -> int:
        return 2 * self.per_step

    def head_ns(self, logit_rows: int) -> int:
        return self.per_step * logit_rows


@dataclass(frozen=True)
class FlatHost:
    """A host whose experts take a constant and a time per token and layer, in whole nanoseconds."""

    workers: int = 1
    dram: Fraction | None = None
    per_expert: int = 5
    per_token: int = 3
    per_layer: int = 0

    def expert_ns(self, layer: int, tokens: int) -> int:
        return self.per_expert + self.per_layer * layer + self.per_token * tokens


@dataclass(frozen=True)
class FlatDisk:
    """A disk with one knob per figure, in whole nanoseconds."""

    per_read: int = 9
    per_byte: int = 2
    lanes: int = 1
    per_back: int = 4
    page_cache: int = 0
    per_cached_byte: int = 1

    def read_ns(self, nbytes: int) -> int:
        return self.per_read + self.per_byte * nbytes

    def cached_ns(self, nbytes: int) -> int:
        return self.per_cached_byte * nbytes

    def back_ns(self, nbytes: int) -> int:
        return self.per_back + nbytes

    def reads(self, setup: Setup) -> Reads:
        """As the engine takes them."""
        every = [size for size in setup.expert_bytes for _ in range(setup.n_experts)]
        sizes = [b for size in every for b in split_chunks(size, setup.chunks)]
        cached_ns = [self.cached_ns(b) for b in sizes]
        return Reads([self.read_ns(b) for b in sizes], self.back_ns, self.lanes, self.page_cache, cached_ns)


FREE_LINK = FlatCosts(per_copy=0, per_byte=0)
FREE_COMPUTE = FlatCosts(dense=0, per_token=0, per_step=0, launch_ns=0, layer_overhead_ns=0)


class NoSignals:
    """A trace that recorded nothing but its routing."""

    layer = -1

    def shown(self) -> Any:
        return self

    def enter(self, parts: Sequence[tuple[int, int]]) -> None:
        self.layer = -1

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a policy under test asked for {name}")


def make_setup(
    sizes: Sequence[int], n_experts: int, budget: int, *, chunks: int = 1, costs: FlatCosts | None = None, seed: int = 0
) -> Setup:
    """A model with experts of ``sizes[layer]`` bytes."""
    costs = costs or FlatCosts()
    return Setup(len(sizes), n_experts, min(2, n_experts), tuple(sizes), chunks, budget, costs, seed)


def make_pass(
    chosen: Sequence[Sequence[Sequence[int]]], n_experts: int, *, prefill: bool = False, first_row: int = 0
) -> Pass:
    """A pass from the expert indices that each row chose, [row][layer][k]. A decode row is a request of its own."""
    rows = len(chosen)
    demand, tokens = [], []
    for layer, by_row in enumerate(zip(*chosen, strict=True)):
        counts: dict[int, int] = {}
        for indices in by_row:
            for index in indices:
                x = layer * n_experts + index
                counts[x] = counts.pop(x, 0) + 1  # token order: the last use counts
        demand.append(list(counts))
        tokens.append(list(counts.values()))
    requests = (0,) if prefill else tuple(range(rows))
    parts = [(first_row, rows)] if prefill else [(first_row + i, 1) for i in range(rows)]
    return Pass(prefill, requests, parts, rows, rows, rows, demand, tokens)


def decode(steps: Iterable[Sequence[Sequence[int]]], n_experts: int) -> list[Pass]:
    """One pass per step of one request, from the expert indices of each layer, [step][layer][k]."""
    return [make_pass([chosen], n_experts, first_row=i) for i, chosen in enumerate(steps)]


def simulate(
    policy: Policy,
    setup: Setup,
    passes: Iterable[Pass],
    *,
    warmup: Iterable[Pass] = (),
    depth: int = 1,
    lanes: int = 1,
    policy_ns: tuple[int, int] = (0, 0),
    root: Fraction | None = None,
    tier: HostTier | None = None,
    disk: FlatDisk | None = None,
    logged: bool = False,
    listener: SpanListener | None = None,
) -> tuple[Accounts, Core]:
    """Run the engine."""
    core = core_of(policy, setup, NoSignals(), tier)
    core = recorded(core) if logged else core
    costs: Any = setup.costs
    reads = None if disk is None else disk.reads(setup)
    machine = Machine(
        core,
        costs,
        depth=depth,
        lanes=lanes,
        policy_ns=policy_ns,
        root=root,
        peer_ns=costs.peer_ns,
        reads=reads,
        listener=listener,
    )
    return machine.run(warmup, passes), core


def record(
    make_policy: Callable[[Setup], Policy], setup: Setup, passes: Iterable[Pass], **given: Any
) -> tuple[Accounts, Core]:
    """Run the engine, and replay its log without a clock on a fresh policy: the decisions must be the same."""
    accounts, core = simulate(make_policy(setup), setup, passes, logged=True, **given)
    again = replay(core.log, core_of(make_policy(setup), setup, NoSignals(), given.get("tier")))
    assert again == core.digest(), "the replay of the log decides differently"
    return accounts, core


def some_passes(n_layers: int, n_experts: int, steps: int, *, k: int = 2, seed: int = 0) -> list[Pass]:
    random = Random(seed)
    return decode([[random.sample(range(n_experts), k) for _ in range(n_layers)] for _ in range(steps)], n_experts)


def distinct(passes: Sequence[Pass]) -> set[int]:
    return {x for step in passes for demand in step.demand for x in demand}


def compute_bound(passes: Sequence[Pass], costs: FlatCosts) -> int:
    total = 0
    for step in passes:
        dense = costs.dense_ns(step.rows, step.kv_tokens, step.pairs) + costs.layer_overhead_ns
        total += dense * len(step.demand)
        total += sum(costs.expert_ns(0, n) + costs.launch_ns for tokens in step.tokens for n in tokens)
        total += costs.lead_ns(step.rows, step.kv_tokens, step.pairs) + costs.head_ns(len(step.requests))
    return total
