"""Prices, traces, signals and train requests that are made up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import lru_cache, partial, partialmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import PastRequest, PastStep, Predictor, Setup
from policies.signals import PastRows
from sim.workload.passes import Pass

PREDICTORS = {"near": Predictor("near", 1, 3), "far": Predictor("far", 2, 2, {"recall": 0.7})}
"""Fitted predictors of every synthetic trace, beside those that a policy asks for."""
ABSENT = 255
LOWER = "int4"
"""The dtype of which every synthetic model has a size, beside its own."""


@dataclass(frozen=True)
class World:
    """What a policy is tried on: the model's layers, gates ahead that are recorded, fitted predictors."""

    layers: int = 3
    ahead: int = 2
    predictors: tuple[Predictor, ...] = tuple(PREDICTORS.values())


PLAIN = World()


@dataclass
class FlatCosts:
    """Everything costs the same everywhere, in ns."""

    copy: int = 100
    expert: int = 40
    launch_ns: int = 5
    dense: int = 30
    head: int = 7
    layer_overhead_ns: int = 3

    def copy_ns(self, nbytes: int) -> int:
        return self.copy * nbytes // 12

    def expert_ns(self, layer: int, tokens: int) -> int:
        return self.expert * tokens

    def expert_table(self, layer: int, tokens: int) -> list[int]:
        return [self.expert_ns(layer, n) for n in range(tokens + 1)]

    def dense_ns(self, rows: int, kv_tokens: int, pairs: int) -> int:
        return self.dense

    def lead_ns(self, rows: int, kv_tokens: int, pairs: int) -> int:
        return 0

    def head_ns(self, requests: int) -> int:
        return self.head


@dataclass
class FlatHost:
    """Two workers, an expert's price by its tokens, and a memory that the link alone would fill."""

    expert: int
    dram: Fraction | None
    workers: int = 2
    pair: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))  # of link and workers, both busy
    each: tuple[Fraction, Fraction] = (Fraction(1), Fraction(2))  # of both, the other idle

    def expert_ns(self, layer: int, tokens: int) -> int:
        return self.expert * tokens

    def alone(self, layer: int) -> tuple[Fraction, Fraction]:
        return self.each

    def together(self, layer: int) -> tuple[Fraction, Fraction]:
        return self.pair


FREE = FlatCosts(copy=0, expert=0, launch_ns=0, dense=0, head=0, layer_overhead_ns=0)


@dataclass
class Routing:
    """A trace in memory: what each row's tokens chose, and what each signal showed, by (row, layer)."""

    ids: NDArray[np.uint8]  # [N, L, K]
    steps: list[tuple[bool, int, int]]  # (prefill, first row, rows)
    n_experts: int
    signals: dict[str, NDArray[Any]] = field(default_factory=dict)
    world: World = PLAIN

    def passes(self) -> list[Pass]:
        out = []
        for prefill, first, rows in self.steps:
            demand, tokens = [], []
            for layer in range(self.ids.shape[1]):
                count: dict[int, int] = {}
                for x in self.ids[first : first + rows, layer].ravel().tolist():
                    flat = layer * self.n_experts + x
                    count[flat] = count.pop(flat, 0) + 1
                demand.append(list(count))
                tokens.append(list(count.values()))
            out.append(Pass(prefill, (0,), [(first, rows)], rows, rows, rows, demand, tokens))
        return out


class FakeSignals:
    """Signals of a :class:`Routing`; asking before the gate, or of another layer, is impossible."""

    def __init__(self, signals: dict[str, Any]) -> None:
        self.arrays = signals
        self.layer = -1
        self.parts: Sequence[tuple[int, int]] = ()

    def shown(self) -> Any:
        return self

    def enter(self, parts: Sequence[tuple[int, int]]) -> None:
        self.parts, self.layer = parts, -1

    def _rows(self, name: str, *index: int) -> Any:
        return np.concatenate([self.arrays[name][(slice(first, first + n), *index)] for first, n in self.parts])

    def _gated(self, name: str, *index: int) -> Any:
        if self.layer < 0:
            raise AssertionError(f"{name} was asked for before a gate had run")
        return self._rows(name, self.layer, *index)

    token_ids = partialmethod(_rows, "token_ids")
    embedding = partialmethod(_rows, "embedding")
    expert_ids = partialmethod(_gated, "expert_ids")
    expert_weights = partialmethod(_gated, "expert_weights")
    router_probs = partialmethod(_gated, "router_probs")
    hidden = partialmethod(_gated, "hidden")

    def gate_ahead(self, distance: int) -> Any:
        recorded = self.arrays["gate_ahead"].shape[2]
        if not 1 <= distance <= recorded:
            raise AssertionError(f"it reads gate_ahead {distance} layers ahead; it declares, and has, 1 to {recorded}")
        return self._gated("gate_ahead", distance - 1)

    def predicted(self, name: str) -> Any:
        return self._gated(f"predicted/{name}")

    def pregate(self) -> Any:
        here = self._gated("expert_ids")
        last = self.layer + 1 == self.arrays["expert_ids"].shape[1]
        return np.full_like(here, ABSENT) if last else self._rows("expert_ids", self.layer + 1)


def draw(
    seed: int,
    n_layers: int = 4,
    n_experts: int = 8,
    k: int = 2,
    decode: int = 14,
    prompts: int = 2,
    recall: float = 0.7,
    world: World = PLAIN,
) -> Routing:
    """Requests of one prefill and some decode steps, routed by Zipf with repetition; all signals of the world.

    Drawn once for the same words, and copied: whoever changes an array changes his own.
    """
    said = tuple((it.name, it.stride, it.top_k) for it in world.predictors)
    steps, drawn = _drawn(seed, n_layers, n_experts, k, decode, prompts, recall, world.ahead, said)
    signals = {name: array.copy() for name, array in drawn.items()}
    return Routing(signals["expert_ids"], list(steps), n_experts, signals, world)


@lru_cache(maxsize=32)
def _drawn(
    seed: int,
    n_layers: int,
    n_experts: int,
    k: int,
    decode: int,
    prompts: int,
    recall: float,
    world_ahead: int,
    predictors: tuple[tuple[str, int, int], ...],
) -> tuple[list[tuple[bool, int, int]], dict[str, NDArray[Any]]]:
    """The steps and the signals of :func:`draw`; of each predictor its name, stride and top-K."""
    rng = np.random.default_rng(seed)
    steps: list[tuple[bool, int, int]] = []
    n = 0
    for _ in range(prompts):
        rows = int(rng.integers(1, 7))
        steps += [(True, n, rows), *((False, n + rows + i, 1) for i in range(decode))]
        n += rows + decode
    weight = 1 / np.arange(1, n_experts + 1)
    ids = np.zeros((n, n_layers, k), np.uint8)
    for layer in range(n_layers):
        p = rng.permutation(weight / weight.sum())
        for row in range(n):
            again = row and rng.random() < 0.3
            ids[row, layer] = ids[row - 1, layer] if again else rng.choice(n_experts, k, replace=False, p=p)
    ahead = np.full((n, n_layers, world_ahead, k), ABSENT, np.uint8)
    for a in range(1, min(world_ahead, n_layers - 1) + 1):
        guess = np.argsort(rng.random((n, n_layers, n_experts)), axis=-1)[..., :k].astype(np.uint8)
        right = rng.random((n, n_layers, 1)) < recall
        ahead[:, : n_layers - a, a - 1] = np.where(right, ids, guess)[:, a:]
    probs = rng.random((n, n_layers, n_experts))
    signals: dict[str, NDArray[Any]] = {
        "expert_ids": ids,
        "expert_weights": rng.random((n, n_layers, k)).astype(np.float16),
        "router_probs": (probs / probs.sum(-1, keepdims=True)).astype(np.float16),
        "gate_ahead": ahead,
        "hidden": rng.standard_normal((n, n_layers, 6)).astype(np.float16),
        "embedding": rng.standard_normal((n, 6)).astype(np.float16),
        "token_ids": rng.integers(0, 50, n).astype(np.int32),
    }
    for name, stride, most in predictors:
        outputs = np.argsort(rng.random((n, n_layers, n_experts)), axis=-1).astype(np.uint8)
        outputs[:, max(0, n_layers - stride) :] = ABSENT
        signals[f"predicted/{name}"] = outputs[..., :most]
    return steps, signals


class Recorded:
    """Train requests with the passes of a routing, and a made-up popularity; a request begins with each prefill."""

    def __init__(self, routing: Routing) -> None:
        self.routing = routing

    def popularity(self) -> NDArray[np.int64]:
        n_all = self.routing.ids.shape[1] * self.routing.n_experts
        return np.asarray(np.random.default_rng(99).integers(0, 40, n_all))

    def steps(self) -> Iterator[PastStep]:
        request = -1
        for prefill, first, rows in self.routing.steps:
            request += prefill
            yield PastStep(request, rows, **self._signals(slice(first, first + rows)), prefill=prefill)

    def requests(self) -> Iterator[PastRequest]:
        begins = [i for i, (prefill, *_) in enumerate(self.routing.steps) if prefill]
        for request, (i, after) in enumerate(zip(begins, [*begins[1:], len(self.routing.steps)], strict=True)):
            own = self.routing.steps[i:after]
            firsts = np.array([first for _, first, _ in own])
            span = slice(int(firsts[0]), own[-1][1] + own[-1][2])
            rows, signals = span.stop - span.start, self._signals(span)
            yield PastRequest(request, rows, **signals, prompt_rows=own[0][2], firsts=firsts - firsts[0])

    def _signals(self, rows: slice) -> dict[str, Any]:
        return {field.name: partial(self._copy, field.name, rows) for field in fields(PastRows)[2:]}

    def _copy(self, name: str, rows: slice) -> NDArray[Any]:
        return self.routing.signals[name][rows].copy()


def some_history(setup: Setup, world: World = PLAIN) -> Recorded:
    """Train requests of a model's shape, with all signals."""
    return Recorded(draw(99, setup.n_layers, setup.n_experts, setup.top_k, decode=6, world=world))


def setup_of(
    routing: Routing, budget: int, *, chunks: int = 1, costs: FlatCosts | None = None, size: int = 12
) -> Setup:
    """A model of ``size`` bytes per expert, of the routing's shape, with its world's predictors."""
    n_layers, k = routing.ids.shape[1:]
    sizes, predictors = (size,) * n_layers, {it.name: it for it in routing.world.predictors}
    costs = costs or FlatCosts()
    host = FlatHost(2 * costs.expert, Fraction(size, max(1, costs.copy_ns(size))))
    shape = (n_layers, routing.n_experts, k, sizes, chunks, budget)
    others = {LOWER: (max(chunks, size // 3),) * n_layers}
    return Setup(*shape, costs, 1, predictors, host=host, dtype="bfloat16", others=others)
