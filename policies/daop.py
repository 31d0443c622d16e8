"""DAOP: what the next layer seems to want of the host is computed there ahead of time, from the state of now."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policies.api import LayerEvent, Routing, Setup, Signal, Step
from policies.parts.lanes import alone_ns
from policies.parts.mixed import Mixed, as_prefill
from policies.parts.ranges import at_least, between
from policies.static import Static

MOST_RATIO = 1_000_000
FIRST_PREDICTED = 5  # of the 32 layers that its code is for


class Daop(Static):
    """As many experts of each layer on the GPU as fit, the others on the host; each prompt swaps some, decoding none.

    DAOP (arXiv 2501.10375, DATE'25), and its code. At first the most popular of the train requests are there. At each
    gate of a prompt up to ``swaps`` pairs of its layer change places, the hottest on the host against the coldest on
    the GPU, by tokens, where the one has more than ``swap_in_out`` times as many; what is on neither side of a swap is
    fetched and let go, or computed by the host, whichever is done first (a tie: fetched). In decoding the host computes
    what is not on the GPU. From layer ``first_predicted`` on (null: 5, or the middle of fewer than 10) the gate of a
    layer is applied to the hidden state of the layer before, and this prediction is the routing: the host begins its
    experts at once, from that state. Of a token that wants the host's alone, all but the first are replaced by the
    GPU's best by the gate's scores. ``mixed``: as which of the two a pass counts that has both. Ties: lower expert
    number. O(rows x K + E) per event, O(E log E) per gate of a prompt. Lossy; needs gate_ahead, router_probs and
    expert_weights, and train requests.
    """

    name = "daop"
    title = "DAOP"
    of_mixed = frozenset({"mixed"})
    lossless = False
    signals = frozenset({Signal.GATE_AHEAD, Signal.ROUTER_PROBS, Signal.WEIGHTS})
    ahead = 1
    unlearned = "policy.start=index"

    def __init__(
        self,
        setup: Setup,
        *,
        swap_in_out: float = 1.05,
        swaps: int = 4,
        first_predicted: int | None = None,
        start: Literal["train", "index"] = "train",
        staging: int = 1,
        preload: bool = True,
        mixed: Mixed = "prefill",
    ) -> None:
        super().__init__(setup, staging=staging, preload=preload)
        self.swap_in_out = between("swap_in_out", swap_in_out, 1, MOST_RATIO, "times the tokens")
        self.swaps = at_least(0, "swaps", swaps, "pairs per layer and prompt")
        last = max(1, setup.n_layers - 1)
        if first_predicted is None:
            first_predicted = min(FIRST_PREDICTED, max(1, setup.n_layers // 2))
        self.first_predicted = between("first_predicted", first_predicted, 1, last, "layers, or null")
        self.start, self.mixed = start, mixed
        if start == "index" and setup.budget >= self.staging_bytes:
            self.kept = dict.fromkeys(self.chosen([0] * (setup.n_layers * setup.n_experts)))
        self.fetch_ns = [alone_ns(setup, layer) + setup.costs.launch_ns for layer in range(setup.n_layers)]
        self.said_of = -1  # a layer; -1: none
        self.said: list[tuple[list[int], int]] = []
        """Of it, by token: the experts that are to compute it, and how many of the GPU's besides."""
        self.there: NDArray[np.bool_] = np.zeros(setup.n_experts, np.bool_)
        """Who of it was on the GPU when this was said."""
        self.early: dict[int, int] = {}  # what the host has begun of it, with its tokens

    def wants_history(self) -> bool:
        return self.start == "train"

    def chosen(self, popularity: Sequence[int]) -> Iterable[int]:
        """As many of each layer; in the room that is left, the most popular of all."""
        setup, room = self.setup, self.setup.budget - self.staging_bytes
        each = min(setup.n_experts, room // sum(setup.expert_bytes))
        ranked = sorted(range(len(popularity)), key=lambda x: -popularity[x])
        left, taken = room - each * sum(setup.expert_bytes), [0] * setup.n_layers
        chosen: list[int] = []
        others: list[int] = []
        for expert in ranked:
            layer = setup.layer_of(expert)
            taken[layer] += 1
            (chosen if taken[layer] <= each else others).append(expert)
        for expert in others:
            size = setup.expert_bytes[setup.layer_of(expert)]
            if size <= left:
                chosen.append(expert)
                left -= size
        return sorted(chosen, key=lambda x: (-popularity[x], x))

    def on_step(self, step: Step) -> None:
        super().on_step(step)
        self.said_of, self.early = -1, {}

    def route(self, event: LayerEvent) -> Routing:
        ids, weights = event.signals.expert_ids(), event.signals.expert_weights().astype(np.float64)
        present = ids < self.setup.n_experts
        mass, slots = float(weights[present].sum()), int(np.count_nonzero(present))
        if self.said_of != event.layer:
            return Routing(event.demand, event.tokens, mass, mass, slots)
        first, probs = event.layer * self.setup.n_experts, event.signals.router_probs()
        tokens: dict[int, int] = {}
        kept_mass, slots, substituted, skipped = 0.0, 0, 0, 0
        for row, (experts, replaced) in enumerate(self.said):
            computed = [*experts, *self._best(probs[row], replaced)]
            stays = present[row] & np.isin(ids[row], computed)
            chosen = int(present[row].sum())
            kept_mass += float(weights[row][stays].sum())
            slots += max(chosen, len(computed))
            substituted += len(computed) - int(stays.sum())
            skipped += max(0, chosen - len(computed))
            for x in computed:
                tokens[first + x] = tokens.pop(first + x, 0) + 1  # in order of last use, as a demand set is
        return Routing([*tokens], [*tokens.values()], min(kept_mass, mass), mass, slots, substituted, skipped)

    def place(self, event: LayerEvent) -> Sequence[int]:
        complete, demand = self.view.complete, event.demand
        if not as_prefill(event, self.mixed):
            return [x for x in demand if x in self.early or not complete(x)]
        costs, host, layer = self.setup.costs, self.setup.host, event.layer
        assert host is not None  # else it was not built
        come = self._swap(event)  # first: what goes is not complete any more
        on_gpu = {x for x in demand if x in come or complete(x)}
        pairs = [(x, n) for x, n in zip(demand, event.tokens, strict=True) if x not in on_gpu]
        return [x for x, n in pairs if host.expert_ns(layer, n) < self.fetch_ns[layer] + costs.expert_ns(layer, n)]

    def precompute(self, event: LayerEvent) -> Mapping[int, int]:
        setup, layer = self.setup, event.layer + 1
        self.said_of, self.early = -1, {}
        if as_prefill(event, self.mixed) or not self.first_predicted <= layer < setup.n_layers:
            return self.early
        first, self.said_of, self.said = layer * setup.n_experts, layer, []
        there = self.there = np.array([self.view.complete(x) for x in setup.experts_of(layer)])
        for row in event.signals.gate_ahead(1).tolist():
            wanted = [x for x in row if x < setup.n_experts]
            self.actions.expect(first + x for x in wanted)
            replaced = 0 if there[wanted].any() else max(0, min(len(wanted) - 1, int(there.sum())))
            experts = wanted[: len(wanted) - replaced]
            self.said.append((experts, replaced))
            for x in experts:
                if not there[x]:
                    self.early[first + x] = self.early.get(first + x, 0) + 1
        return self.early

    def on_complete(self, expert: int) -> None:
        if not self.keep(expert):  # its last chunk was on the link when it was swapped out
            self.actions.evict(expert)  # or later, if it is demanded

    def _swap(self, event: LayerEvent) -> set[int]:
        """Swap hot experts of the host for cold ones of the GPU; returns those that come."""
        kept = self.kept
        assert kept is not None  # since on_step
        tokens, experts = dict(zip(event.demand, event.tokens, strict=True)), self.setup.experts_of(event.layer)
        hot = sorted((x for x in experts if x not in kept), key=lambda x: -tokens.get(x, 0))
        cold = sorted((x for x in experts if x in kept), key=lambda x: tokens.get(x, 0))
        come: set[int] = set()
        for comes, goes in list(zip(hot, cold, strict=False))[: self.swaps]:
            if tokens.get(comes, 0) > self.swap_in_out * tokens.get(goes, 0):
                del kept[goes]
                kept[comes] = None
                come.add(comes)
                if not self.actions.evict(goes):
                    self.actions.cancel(goes)  # not there yet
        return come

    def _best(self, scores: NDArray[np.float16], n: int) -> list[int]:
        """The ``n`` experts of highest score that were on the GPU."""
        if not n:
            return []
        masked = np.where(self.there, scores.astype(np.float32), -np.inf)
        found: list[int] = np.argsort(-masked, kind="stable")[:n].tolist()
        return found
