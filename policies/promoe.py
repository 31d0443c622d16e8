"""ProMoE: learned predictions some layers ahead, and the demand of the moment before them."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policies.api import LayerEvent, Schedule, Setup, Signal, Step
from policies.lru import LRU
from policies.parts.scoped import Scope
from traces.errors import UserError, one_of

Source = Literal["hidden", "routing", "gate_ahead"]


def fitted_name(source: str, stride: int) -> str:
    """The name under which the outputs of a fitted predictor are looked for, unless another is given."""
    return "promoe" + ("_routing" if source == "routing" else "") + (f"_stride{stride}" if stride != 2 else "")


class ProMoE(LRU):
    """When gate l has run, predict the experts of layer l + ``stride`` and prefetch them in the order of the forecast.

    ProMoE (arXiv 2410.22134, section 4). A predicted expert that is there is refreshed in its layer's LRU list; the
    others are queued behind all demand, first come first served (the union over tokens: most tokens first). Run it with
    ``chunks=3``, the paper's three matrices per expert. ``preemption``: a gate drops what was queued for its layer, and
    queues all that it misses at once; else each miss is queued on its turn and stale predictions stay. ``reordering``:
    compute what is there, then what arrives, most chunks first; else by ascending index. One prediction at a time, each
    ``latency_us``, on a thread or on the GPU (``blocking``); an input whose layer has been passed is dropped.
    ``predictor``: hidden or routing (the outputs of ``python -m policies fit`` beside the trace), or gate_ahead (the
    later gate on the present hidden state, as FineMoE's re-implementation has it). O(rows x K + E) per event, O(pinned)
    per victim. Lossless; needs a fitted predictor, or gate_ahead.
    """

    name = "promoe"

    def __init__(
        self,
        setup: Setup,
        *,
        predictor: Source = "hidden",
        fitted: str | None = None,
        stride: int = 2,
        preemption: bool = True,
        reordering: bool = True,
        latency_us: float = 200.0,
        blocking: bool = False,
        scope: Scope = "layer",
    ) -> None:
        super().__init__(setup, scope=scope)
        if stride < 1:
            raise UserError(f"policy.stride={stride}: allowed: at least 1 (layers)")
        if latency_us < 0:
            raise UserError(f"policy.latency_us={latency_us}: allowed: at least 0 (microseconds)")
        if fitted is not None and predictor == "gate_ahead":
            raise UserError(f"policy.fitted={fitted}: allowed with policy.predictor=gate_ahead: null")
        self.source, self.stride, self.fitted = predictor, stride, fitted or fitted_name(predictor, stride)
        self._check_fitted()
        self.preemption, self.reordering = preemption, reordering
        self.latency_ns, self.blocking = round(latency_us * 1000), blocking
        self.inputs = deque[tuple[int, list[int]]]()  # (layer, experts): not predicted yet, its gate not passed
        self.under_way: tuple[int, list[int]] | None = None
        self.layer = -1  # whose gate was the last to run in this step
        self.low: list[dict[int, None]] = [{} for _ in range(setup.n_layers)]
        """Speculative loads that are neither complete nor demanded, by layer."""

    def _check_fitted(self) -> None:
        if self.source == "gate_ahead":
            return
        found = self.setup.predictors.get(self.fitted)
        if found is None:
            raise UserError(
                f"policy=promoe needs the predictor {self.fitted}, which was not fitted for this trace; there are:"
                f" {one_of(self.setup.predictors) or 'none'}; allowed: python -m policies fit promoe, where a trace has"
                " hidden states, or policy.predictor=routing (fitted with input=routing) or gate_ahead"
            )
        if found.facts.get("input") != self.source:
            raise UserError(
                f"policy.fitted={self.fitted}: was fitted on {found.facts.get('input')};"
                f" allowed with policy.predictor={self.source}: one fitted with input={self.source}"
            )
        if found.stride != self.stride:
            raise UserError(f"policy.stride={self.stride}: allowed with policy.fitted={self.fitted}: {found.stride}")

    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.GATE_AHEAD}) if self.source == "gate_ahead" else frozenset()

    def predictors(self) -> frozenset[str]:
        return frozenset() if self.source == "gate_ahead" else frozenset({self.fitted})

    def on_step(self, step: Step) -> None:
        self.layer = -1
        self.inputs.clear()
        if self.under_way is not None:
            self.under_way = -1, []  # it is for the step before
        if self.preemption:  # of layers that had no gate
            for layer in range(self.setup.n_layers):
                self._drop_low(layer)

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self.layer = layer = event.layer
        if self.preemption:
            self._drop_low(layer)
        else:
            for expert in event.demand:
                self.low[layer].pop(expert, None)
        while self.inputs and self.inputs[0][0] <= layer:
            self.inputs.popleft()
        target = layer + self.stride
        if target < self.setup.n_layers:
            self.inputs.append((target, self._named(event, target)))
            self._start()

    def schedule(self, event: LayerEvent) -> Schedule | None:
        chunks_done = self.view.chunks_done
        ahead = None if self.preemption else 0
        if not self.reordering:
            return Schedule(compute=sorted(event.demand), ahead=ahead)
        ready_first = sorted(event.demand, key=chunks_done, reverse=True)  # stable: among equals, in token order
        if not self.preemption:
            return Schedule(compute=ready_first, ahead=ahead)
        return Schedule(copy=[x for x in ready_first if not self.view.complete(x)])

    def on_prediction(self, tag: int) -> None:
        found, self.under_way = self.under_way, None
        if found is not None and found[0] > self.layer:
            self._foretell(*found)
        self._start()

    def on_complete(self, expert: int) -> None:
        self.low[self.setup.layer_of(expert)].pop(expert, None)

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        self.low[self.setup.layer_of(expert)].pop(expert, None)

    def _named(self, event: LayerEvent, layer: int) -> list[int]:
        """What is predicted for ``layer``: the union over tokens, most tokens first, then first come."""
        by_gate = self.source == "gate_ahead"
        ids = event.signals.gate_ahead(self.stride) if by_gate else event.signals.predicted(self.fitted)
        return [layer * self.setup.n_experts + x for x in union(ids, self.setup.n_experts)]

    def _start(self) -> None:
        """Let the predictor take the next input, if it is free."""
        while self.inputs and self.under_way is None:
            target, experts = self.inputs.popleft()
            if not self.latency_ns:
                self._foretell(target, experts)
                continue
            self.under_way = target, experts
            self.actions.predict(0, self.latency_ns, self.blocking)

    def _foretell(self, layer: int, experts: list[int]) -> None:
        view, low, order = self.view, self.low[layer], self.orders[layer * self.setup.n_experts // self.span]
        self.actions.expect(experts)
        for expert in experts:
            if view.resident(expert):
                order.move_to_end(expert)
            if expert not in low and self.actions.prefetch(expert, 0.0):
                low[expert] = None

    def _drop_low(self, layer: int) -> None:
        """Cancel the speculative loads of a layer; those that are demanded now are that no more, and stay."""
        if self.low[layer]:
            low, self.low[layer] = self.low[layer], {}
            for expert in low:
                self.actions.cancel(expert)


def union(ids: NDArray[np.integer[Any]], n_experts: int) -> list[int]:
    """The experts named in [rows, K'], each once: those of most tokens first, then first come; absent ones left out."""
    named = ids.ravel()
    named = named[named < n_experts]
    if len(ids) == 1:
        return [int(x) for x in named.tolist()]
    tokens = np.bincount(named, minlength=n_experts)
    first = np.full(n_experts, len(named))
    first[named[::-1]] = np.arange(len(named))[::-1]  # of several, the last written is the first come
    return [x for x in np.lexsort((first, -tokens)).tolist() if tokens[x]]
