"""Cores that watch the budget at every answer, and remember what was decided when."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from policies.api import LayerEvent, Policy, Setup
from sim.core.accounts import LOW_PRECISION, Accounts
from sim.core.core import Core
from sim.core.log import record
from sim.core.several import SeveralCore
from sim.core.tiers import TieredCore
from sim.core.versions import VersionedCore


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

    def __init__(self, policy: Policy, setup: Setup, signals: Any, *more: Any) -> None:
        super().__init__(policy, setup, signals, *more)
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
        held = list(compress(range(len(state.slot)), state.slot))
        if sum(state.size[x] for x in held) + self.policy.gpu_bytes() > setup.budget:
            raise AssertionError("more bytes than the budget")
        if state.layer_capacity is not None:
            left = list(state.layer_capacity)
            for x in held:
                left[number := self.share_of(x)] -= state.size[x]
                if left[number] < 0:
                    raise AssertionError(f"more bytes than the budget of {self.shared} {number}")
        return answer

    shared = "layer"
    """What has a share of the budget, where anything has."""

    def share_of(self, x: int) -> int:
        return self.setup.layer_of(x)


class VersionedWitness(Witness, VersionedCore):
    """Watches each version's part of the budget, and counts for itself what is of which."""

    def __init__(self, policy: Policy, setup: Setup, signals: Any) -> None:
        super().__init__(policy, setup, signals)
        versions = [0] * len(setup.versions)
        self.lookups, self.copied, self.low = list(versions), list(versions), 0
        self.by_pool = policy.version_budgets() is not None
        self.shared = "version" if self.by_pool else "layer"

    def share_of(self, x: int) -> int:
        row = x // self.setup.n_experts
        return row // self.setup.n_layers if self.by_pool else row

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> LayerEvent:
        event = super().gate(layer, demand, tokens, now)
        for x, n in zip(event.demand, event.tokens, strict=True):
            self.lookups[self.setup.version_of(x)] += n > 0
            self.low += n * (x >= self.setup.n_all)
        return event

    def next_chunk(self) -> int:
        chunk = super().next_chunk()
        if chunk >= 0:
            self.copied[self.setup.version_of(chunk // self.setup.chunks)] += self.state.chunk_bytes[chunk]
        return chunk

    def compare(self, accounts: Accounts) -> None:
        """AssertionError where the accounts by version are not what was seen. Of a run without a warm-up."""
        stated = [each.lookups for each in accounts.by_version], [each.copied_bytes for each in accounts.by_version]
        if stated != (self.lookups, self.copied) or self.low != accounts.quality_row()[LOW_PRECISION]:
            raise AssertionError(f"by version, {stated} are accounted for, and {self.lookups, self.copied} were seen")


class SeveralWitness(Witness, SeveralCore):
    """Watches each GPU's part of the budget."""

    def next_chunk_on(self, gpu: int) -> int:
        answer = super().next_chunk_on(gpu)
        state, setup, shares = self.state, self.setup, self.policy.layer_budgets()
        each, held = (setup.budget - self.policy.gpu_bytes()) // setup.gpus, [0] * (setup.gpus * setup.n_layers)
        for x in compress(range(len(state.slot)), state.slot):
            held[setup.pool_of(x) * setup.n_layers + setup.layer_of(x)] += state.size[x]
        for at in range(setup.gpus):
            if sum(held[at * setup.n_layers : (at + 1) * setup.n_layers]) > each:
                raise AssertionError(f"more bytes than the budget of GPU {at}")
        if shares is not None and any(more > share for more, share in zip(held, shares, strict=True)):
            raise AssertionError("more bytes than the budget of a layer of a GPU")
        return answer


class TieredWitness(Witness, TieredCore):
    """Watches host memory, too."""

    def next_read(self) -> int:
        answer = super().next_read()
        host, wanted = self.host, self.state
        if sum(size for size, has in zip(host.size, host.slot, strict=True) if has) > self.tier.capacity:
            raise AssertionError("more bytes than host memory")
        if any(wanted.given[x] != wanted.done[x] and not host.slot[x] for x in range(len(host.slot))):
            raise AssertionError("what is being copied has left host memory")
        return answer
