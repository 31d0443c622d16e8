"""HybriMoE: an event's experts are dealt out to GPU and host by who would be done with them first."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from typing import Any, Literal

import numpy as np

from policies.api import LayerEvent, Policy, Schedule, Setup, Signal, Step
from policies.parts.lanes import copied
from policies.parts.mixed import Mixed, as_prefill
from policies.parts.pools import Reals, Scores
from policies.parts.ranges import at_least, between

CODE_GPU, CODE_HOST, CODE_HOST_BEGINS, CODE_MOVE = 500, 1000, 790, 418
"""The code's constants in thousandths of its unit, which it does not state; the host's is per token."""


@dataclass(frozen=True, slots=True)
class Job:
    """An expert of an event, and what it takes in one unit of time: on the GPU, on the host, over the link."""

    expert: int
    gpu: int
    host: int
    move: int = 0  # it is there


def deal(line: Sequence[Job], workers: int, host_begins: int = 0) -> tuple[list[int], list[int]]:
    """Who computes what of a ``line``: the GPU's experts and the host's, in their order.

    Again and again the front of the line goes to the GPU or its back to the host, whichever is done the earlier; a tie
    goes to the GPU. What is not there waits for the link, which brings one after the other. The host begins with
    ``host_begins``, and each of its ``workers`` takes the next as soon as it is free.
    """
    on_gpu: list[int] = []
    on_host: list[int] = []
    gpu = link = 0
    free = [host_begins] * workers  # when each of them is, a heap
    left = deque(line)
    while left:
        front, back = left[0], left[-1]
        there = link + front.move if front.move else 0
        gpu_done, host_done = max(gpu, there) + front.gpu, free[0] + back.host
        if gpu_done <= host_done:
            gpu, link = gpu_done, max(link, there)
            on_gpu.append(left.popleft().expert)
        else:
            heapreplace(free, host_done)
            on_host.append(left.pop().expert)
    return on_gpu, on_host


class HybriMoE(Policy):
    """Decode: experts go to GPU or host by a greedy schedule, and a cache by gate scores. Prefill: whole layers.

    HybriMoE (arXiv 2504.05897), and its code. A decode event's experts stand in a line, the complete ones before the
    others, of each most tokens first, and are dealt out by :func:`deal`, at this machine's prices (``prices=machine``)
    or the code's constants (``code``). What the GPU is to compute and lacks is loaded into the layer's share of the
    cache, an even one, for those of the lowest S. At each gate S = ``alpha`` TopP(scores) + (1 - ``alpha``) S, where
    TopP keeps a token's 2K largest scores (and equals of the last; the mean over tokens); then the ``prefetch_size``
    experts of the next layer with the largest S are loaded. Prefill is the GPU's alone: at a gate all of the next layer
    is queued, to pass through a buffer of one layer, or to stay while its layer's share has room. ``mixed``: as which
    of the two a pass counts that has both. Ties: line, first in the event; S, lower number. O(rows E + K log K) per
    event, O(E) per victim. Lossless; needs router_probs.
    """

    name = "hybrimoe"
    title = "HybriMoE"
    of_mixed = frozenset({"mixed"})
    signals = frozenset({Signal.ROUTER_PROBS})

    def __init__(
        self,
        setup: Setup,
        *,
        prices: Literal["machine", "code"] = "machine",
        prefetch_size: int = 0,
        alpha: float = 0.5,
        mixed: Mixed = "prefill",
    ) -> None:
        super().__init__(setup)
        self.prices, self.mixed = prices, mixed
        self.prefetch_size = at_least(0, "prefetch_size", prefetch_size, "experts of the next layer")
        self.alpha = between("alpha", alpha, 0, 1, "weight of the newest scores")
        self.worth: Reals = np.zeros(setup.n_layers * setup.n_experts)  # S
        self.cached = [Scores(setup.experts_of(layer), self.worth.__getitem__) for layer in range(setup.n_layers)]
        self.shares = setup.layer_budgets(max(0, setup.budget - self._buffer_bytes()))
        self.held = [0] * setup.n_layers  # bytes cached; above the share while what is pinned waits in the buffer
        self.prefill = False
        self.waiting = deque[int]()  # of the next layer, not queued
        self.coming: dict[int, None] = {}  # queued for the buffer, without a slot
        self.buffered: dict[int, None] = {}
        self.wanted: set[int] = set()  # for the next gate, of what is streamed
        self.prefetched: list[int] = []  # for the next gate
        self.on_gpu: list[int] = []  # of the event under way, in the order of compute

    def min_budget(self) -> int:
        return self._buffer_bytes() + sum(self.setup.expert_bytes)

    def decided(self) -> Mapping[str, Any]:
        sizes = zip(self.shares, self.setup.expert_bytes, strict=True)
        return {"slots_per_layer": [share // size for share, size in sizes]}

    # -- hooks --------------------------------------------------------------------------------------------------

    def on_step(self, step: Step) -> None:
        self._forget()
        self.prefill = as_prefill(step, self.mixed)

    def place(self, event: LayerEvent) -> Sequence[int]:
        if self.prefill:
            return ()
        complete, tokens = self.view.complete, dict(zip(event.demand, event.tokens, strict=True))
        line = sorted(tokens, key=lambda x: (not complete(x), -tokens[x]))
        host = self.setup.host
        assert host is not None  # else it was not built
        if self.prices == "machine":
            jobs, workers, begins = [self._job(x, event.layer, tokens[x]) for x in line], host.workers, 0
        else:
            jobs = [Job(x, CODE_GPU, CODE_HOST * tokens[x], 0 if complete(x) else CODE_MOVE) for x in line]
            workers, begins = 1, CODE_HOST_BEGINS
        self.on_gpu, on_host = deal(jobs, workers, begins)
        return on_host

    def on_gate(self, event: LayerEvent) -> None:
        self._learn(event)
        self._forget()
        later = event.layer + 1
        if later == self.setup.n_layers:
            return
        if self.prefill:
            self.coming.update(dict.fromkeys(x for x in event.demand if not self.view.resident(x)))
            self.waiting.extend(self.setup.experts_of(later))
            self._stream()
        elif self.prefetch_size:
            self._prefetch(later)

    def schedule(self, event: LayerEvent) -> Schedule | None:
        return None if self.prefill else Schedule(compute=self.on_gpu)

    def on_slot(self, expert: int) -> None:
        layer = self.setup.layer_of(expert)
        size = self.setup.expert_bytes[layer]
        self.coming.pop(expert, None)
        if self.prefill and self.held[layer] + size > self.shares[layer]:
            self.buffered[expert] = None
        else:
            self.cached[layer].add(expert)
            self.held[layer] += size
            self._trim(layer, expert)
            self._stream()  # it has left the line for the buffer

    def on_complete(self, expert: int) -> None:
        if expert not in self.buffered:
            self._trim(self.setup.layer_of(expert))
        elif expert not in self.wanted:  # its last chunk was on the link when it was dropped
            self.actions.evict(expert)

    def on_evict(self, expert: int) -> None:
        if expert in self.buffered:
            del self.buffered[expert]
        else:
            layer = self.setup.layer_of(expert)
            self.cached[layer].discard(expert)
            self.held[layer] -= self.setup.expert_bytes[layer]
        self._stream()

    def keep(self, expert: int) -> bool:
        if expert in self.buffered:
            return False
        self._trim(self.setup.layer_of(expert))
        return True

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return None  # each layer keeps to its share, and the buffer has room for all that one event can lack

    # -- inside -------------------------------------------------------------------------------------------------

    def _buffer_bytes(self) -> int:
        return self.setup.n_experts * max(self.setup.expert_bytes)

    def _job(self, expert: int, layer: int, tokens: int) -> Job:
        setup = self.setup
        assert setup.host is not None
        move = copied([0] * setup.lanes, setup.chunk_ns(layer)[self.view.chunks_done(expert) :])
        gpu = setup.costs.launch_ns + setup.costs.expert_ns(layer, tokens)
        return Job(expert, gpu, setup.host.expert_ns(layer, tokens), move)

    def _learn(self, event: LayerEvent) -> None:
        scores = event.signals.router_probs().astype(np.float32)
        n = scores.shape[1]
        least = max(0, n - 2 * self.setup.top_k)
        edge = np.partition(scores, least, axis=1)[:, least, None]
        top = np.where(scores >= edge, scores, 0).mean(axis=0, dtype=np.float64)
        span = slice(event.layer * n, (event.layer + 1) * n)
        self.worth[span] = self.alpha * top + (1 - self.alpha) * self.worth[span]
        self.cached[event.layer].stale = True

    def _forget(self) -> None:
        """Drop what was streamed or prefetched for a gate that has run; of no effect on what the GPU waits for."""
        for expert in self.prefetched:
            self.actions.cancel(expert)  # one that is complete stays
        for expert in [*self.coming, *self.buffered]:
            if not self.actions.cancel(expert):
                self.actions.evict(expert)
        self.prefetched = []
        self.coming.clear()
        self.wanted.clear()
        self.waiting.clear()

    def _stream(self) -> None:
        """Queue what waits, as far as the buffer has places."""
        while self.waiting and len(self.coming) + len(self.buffered) < self.setup.n_experts:
            expert = self.waiting.popleft()
            if self.actions.prefetch(expert, 0.0):
                self.wanted.add(expert)
                if not self.view.resident(expert):
                    self.coming[expert] = None

    def _prefetch(self, layer: int) -> None:
        experts = self.setup.experts_of(layer)
        slots = self.shares[layer] // self.setup.expert_bytes[layer]
        order = np.argsort(-self.worth[experts.start : experts.stop], kind="stable")
        self.prefetched = [experts[i] for i in order[: min(self.prefetch_size, slots)].tolist()]
        self.actions.expect(self.prefetched)
        for expert in self.prefetched:
            self.actions.prefetch(expert, 0.0)

    def _trim(self, layer: int, but: int = -1) -> None:
        """Evict those of the lowest S until the layer keeps to its share, or the rest cannot go."""
        while self.held[layer] > self.shares[layer]:
            expert = self.cached[layer].lowest(lambda x: x != but and self.view.evictable(x))
            if expert is None:
                return
            self.actions.evict(expert)
