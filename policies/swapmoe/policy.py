"""SwapMoE: virtual experts, masked gating, and swaps in the background."""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from policies.api import History, LayerEvent, Learned, Policy, Routing, Setup, Shapes, Signal, Step
from policies.parts.ranges import between
from policies.swapmoe.planner import (
    Genetic,
    Plan,
    Rehearsal,
    TrainInputs,
    Unit,
    frequencies,
    profile,
    swaps_per_pass,
    uniform,
)
from policies.swapmoe.virtual_experts import importance, masked_gate, ranked, token_norms
from traces.kit.errors import UserError

MOST = 1_000_000  # of inputs, swaps and shares: more than anything has; what is far beyond it leaves 64 bits
MOST_PLANS = 10_000  # per generation, and generations: both together take minutes


class SwapMoE(Policy):
    """A few experts per layer stand in for all: the gate is masked to them, so that no token ever waits for a copy.

    SwapMoE (arXiv 2308.15030, ACL'24). Every ``frequency`` inputs (an input is a request, as the paper's samples, or a
    forward pass) the experts of the inputs since then are ranked by importance, sum of ||x|| G(x) ||E|| over the tokens
    that the gate itself sends there; what is now among the best of its layer is swapped in, the most important first,
    for the least important that no longer is: at most ``swaps_per_step`` a pass (null: what the link copies while one
    token's experts compute) and ``outstanding`` at a time. A swap copies into a spare slot, and one expert leaves when
    the other is complete. ||E|| is 1, and ||x|| too unless ``norms`` is hidden. The planner gives experts per layer,
    at least ``least`` (null: K, what a gate chooses), and frequency; see planner.Genetic. At t = 0 nothing is there:
    the first event of each layer waits for all of its virtual experts, and no other event waits. An update takes
    O(L E log E), an event O(rows x E log E). Lossy; needs router_probs and expert_weights, and train requests.
    """

    name = "swapmoe"
    title = "SwapMoE"
    lossless = False
    signals = frozenset({Signal.ROUTER_PROBS, Signal.WEIGHTS})
    without: ClassVar[Mapping[Signal, str]] = {Signal.HIDDEN: "policy.norms=one"}
    unlearned = "policy.planner=uniform policy.start=index"

    def __init__(
        self,
        setup: Setup,
        *,
        planner: Literal["genetic", "uniform"] = "genetic",
        frequency: int | None = None,
        unit: Unit = "request",
        least: int | None = None,
        outstanding: int = 1,
        swaps_per_step: int | None = None,
        start: Literal["train", "index"] = "train",
        norms: Literal["one", "hidden"] = "one",
        latency_weight: float = 1.0,
        population: int = 32,
        generations: int = 64,
    ) -> None:
        super().__init__(setup)
        for key, value, low, high, what in (
            ("frequency", frequency, 1, MOST, "inputs, or null"),
            ("least", least, 1, setup.n_experts, "experts per layer, or null"),
            ("outstanding", outstanding, 1, MOST, "swaps"),
            ("swaps_per_step", swaps_per_step, 1, MOST, "swaps, or null"),
            ("latency_weight", latency_weight, 0, MOST, "shares of gate mass"),
            ("population", population, 2, MOST_PLANS, "plans"),
            ("generations", generations, 1, MOST_PLANS, "generations"),
        ):
            if value is not None:
                between(key, value, low, high, what)
        self.planner, self.frequency, self.unit, self.start = planner, frequency, unit, start
        self.least = setup.top_k if least is None else least
        self.outstanding = outstanding
        self.swaps_per_step = swaps_per_pass(setup) if swaps_per_step is None else swaps_per_step
        self.hidden = norms == "hidden"
        self.latency_weight, self.population, self.generations = latency_weight, population, generations
        self.room = setup.budget - outstanding * max(setup.expert_bytes)

        shape = setup.n_layers, setup.n_experts
        self.ranking = np.tile(np.arange(setup.n_experts), (setup.n_layers, 1))  # that knows nothing
        self.window = np.zeros(shape)  # importance since the last update
        self.virtual: NDArray[np.bool_] = np.zeros(shape, np.bool_)
        self.loaded = [False] * setup.n_layers
        self.plan: Plan | None = None
        self.seen: set[int] = set()  # requests
        self.inputs = 0  # since the last update
        self.quota = 0  # swaps that may still begin in this step
        self.queue = deque[tuple[int, int]]()  # (in, out), not begun
        self.coming: dict[int, int] = {}  # in -> out, being copied
        self.leaving: set[int] = set()  # replaced, but still to be computed
        if not self.wants_history():
            self._begin(uniform(setup, self.room, frequency or 1))

    def needs(self) -> frozenset[Signal]:
        return self.signals | {Signal.HIDDEN} if self.hidden else self.signals

    def wants_history(self) -> bool:
        return self.planner == "genetic" or self.start == "train"

    def one_gpu(self) -> str:
        return "what is swapped in takes the place of another, and its plan knows one memory"

    def min_budget(self) -> int:
        return self.least * sum(self.setup.expert_bytes) + self.outstanding * max(self.setup.expert_bytes)

    @staticmethod
    def learn(shapes: Shapes, history: History, given: Mapping[str, Any]) -> Learned:
        train = TrainInputs(history, shapes, given["unit"], hidden=given["hidden"])
        if not train.importance.any():
            raise UserError("policy=swapmoe: the train requests demand no expert; allowed: a trace with a train split")
        importance = {"importance": train.importance.sum(0)}
        if not given["planned"]:
            return Learned(importance)
        choices = [given["frequency"]] if given["frequency"] else frequencies(train.count)
        firsts = train.firsts() if given["ranked"] else [train.unknown()] * 2
        found = Rehearsal.of(train, choices, firsts).kept()
        return Learned({**importance, **found.arrays}, found.facts)

    def learns_by(self) -> Mapping[str, Any]:
        given = {"unit": self.unit, "hidden": self.hidden, "planned": self.planner == "genetic"}
        return {**given, "frequency": self.frequency, "ranked": self.start == "train"} if given["planned"] else given

    def recall(self, learned: Learned) -> None:
        if self.start == "train":
            self.ranking = ranked(self.ranking, np.asarray(learned.arrays["importance"], np.float64))
        if self.planner == "uniform":
            self._begin(uniform(self.setup, self.room, self.frequency or 1))
            return
        known = profile(Rehearsal.recalled(learned), self.setup)
        genetic = Genetic(self.setup, known, self.room, self.least, self.latency_weight)
        self._begin(genetic.search(self.population, self.generations))

    def decided(self) -> Mapping[str, Any]:
        plan = self._planned()
        return {"experts_per_layer": plan.experts, "frequency": plan.frequency, "swaps_per_step": self.swaps_per_step}

    def _planned(self) -> Plan:
        if self.plan is None:
            raise RuntimeError("swapmoe was not fitted")
        return self.plan

    def _begin(self, plan: Plan) -> None:
        self.plan, self.experts = plan, np.array(plan.experts)
        self.virtual = self._best()

    def _best(self) -> NDArray[np.bool_]:
        best = np.zeros_like(self.virtual)
        np.put_along_axis(best, self.ranking, np.arange(self.setup.n_experts) < self.experts[:, None], 1)
        return best

    def on_step(self, step: Step) -> None:
        plan = self._planned()
        begun = 1 if self.unit == "pass" else len(set(step.requests) - self.seen)
        self.seen.update(step.requests)
        if begun and self.inputs >= plan.frequency:
            self._update()
        self.inputs += begun
        self.quota = self.swaps_per_step
        self._swap()

    def route(self, event: LayerEvent) -> Routing:
        layer, signals, virtual = event.layer, event.signals, self.virtual[event.layer]
        ids, weights = signals.expert_ids(), signals.expert_weights()
        norms = token_norms(signals.hidden()) if self.hidden else None
        self.window[layer] += importance(ids, weights, norms, self.setup.n_experts)
        first = layer * self.setup.n_experts
        routing = masked_gate(ids, weights, signals.router_probs(), virtual, first, event.masked_weights)
        if self.loaded[layer]:
            return routing
        self.loaded[layer] = True
        rest = [first + x for x in np.nonzero(virtual)[0].tolist() if first + x not in routing.demand]
        return replace(routing, demand=[*routing.demand, *rest], tokens=[*routing.tokens, *[0] * len(rest)])

    def _update(self) -> None:
        """Choose the virtual experts anew, and queue the swaps that lead to them, the most important first."""
        self.ranking = ranked(self.ranking, self.window)
        best, n_experts = self._best(), self.setup.n_experts
        swaps: list[tuple[float, int, int]] = []
        for layer in np.nonzero((best & ~self.virtual).any(1))[0].tolist():
            first, order = layer * n_experts, self.ranking[layer].tolist()
            here, wanted = self.virtual[layer], best[layer]
            ins = [x for x in order if wanted[x] and not here[x] and first + x not in self.coming]
            going = self.coming.values()
            outs = [x for x in reversed(order) if here[x] and not wanted[x] and first + x not in going]
            pairs = zip(ins, outs, strict=False)  # a swap under way for what is not wanted any more takes the place
            swaps += [(-float(self.window[layer, x]), first + x, first + y) for x, y in pairs]
        self.queue = deque((x, y) for _, x, y in sorted(swaps, key=lambda swap: swap[0]))
        self.window[:] = 0
        self.inputs = 0

    def _swap(self) -> None:
        while self.queue and self.quota and len(self.coming) + len(self.leaving) < self.outstanding:
            expert, out = self.queue.popleft()
            self.actions.prefetch(expert, 0.0)
            self.coming[expert] = out
            self.quota -= 1

    def on_complete(self, expert: int) -> None:
        if expert in self.coming:  # else of a layer's first event
            out = self.coming.pop(expert)
            self.virtual.flat[[expert, out]] = True, False
            self.leaving.add(out)
            self.actions.evict(out)

    def keep(self, expert: int) -> bool:
        return expert not in self.leaving

    def on_evict(self, expert: int) -> None:
        self.leaving.discard(expert)
        self._swap()

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return None  # there is always room: for the plan, and for the swaps under way
