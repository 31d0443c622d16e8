"""ProMoE: learned predictions some layers ahead, and the demand of the moment before them."""

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policies.api import LayerEvent, Schedule, Setup, Signal, Step
from policies.lru import LRU
from policies.parts.foreseen import PredictorLine, by_tokens
from policies.parts.pools import Scope
from policies.parts.ranges import latency_ns, layers_ahead
from traces.kit.errors import UserError

Source = Literal["hidden", "routing", "gate_ahead"]


def fitted_name(source: str, stride: int) -> str:
    """The name under which the outputs of a fitted predictor are looked for, unless another is given."""
    return "promoe" + ("_routing" if source == "routing" else "") + (f"_stride{stride}" if stride != 2 else "")


class ProMoE(LRU):
    """When gate l has run, predict the experts of layer l + ``stride`` and prefetch them in the order of the forecast.

    ProMoE (arXiv 2410.22134, section 4), to be run with ``chunks=3`` (README.md). A predicted expert that is there is
    refreshed in its layer's LRU list; the others are queued behind all demand, first come first served.
    ``preemption``: a gate drops what was queued for its layer, and queues all that it misses at once; else each miss is
    queued on its turn and stale predictions stay. ``reordering``: compute what is there, then what arrives, most chunks
    first; else by ascending index. A prediction takes ``latency_us`` of a predictor thread, or the GPU waits for it
    (``blocking``); one that is overtaken is not begun. ``predictor``: hidden or routing (the outputs of ``python -m
    policies fit`` beside the trace), or gate_ahead. O(rows x K + E) per event, O(pinned) per victim. Lossless; needs a
    fitted predictor, or gate_ahead.
    """

    name = "promoe"
    title = "ProMoE"
    ahead = "stride"
    fitter = "policies.promoe.fit:ProMoEFitter"

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
        if fitted is not None and predictor == "gate_ahead":
            raise UserError(f"policy.fitted={fitted}: allowed with policy.predictor=gate_ahead: null")
        self.source, self.stride = predictor, layers_ahead("stride", stride, setup)
        self.fitted = fitted_name(predictor, stride) if fitted is None else fitted
        found = None if predictor == "gate_ahead" else setup.predictors.get(self.fitted)  # None: see unfitted
        if found is not None and (read := found.about.get("input", predictor)) != predictor:
            raise UserError(
                f"policy.fitted={self.fitted}: was fitted on {read};"
                f" allowed with policy.predictor={predictor}: one fitted with input={predictor}"
            )
        if found is not None and found.stride != stride:
            raise UserError(f"policy.stride={stride}: allowed with policy.fitted={self.fitted}: {found.stride}")
        self.preemption, self.reordering = preemption, reordering
        self.line = PredictorLine(self, latency_ns("latency_us", latency_us), blocking, self._foretell)
        self.low: list[dict[int, None]] = [{} for _ in range(setup.n_layers)]
        """Speculative loads that are neither complete nor demanded, by layer."""

    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.GATE_AHEAD}) if self.source == "gate_ahead" else frozenset()

    def predictors(self) -> frozenset[str]:
        return frozenset() if self.source == "gate_ahead" else frozenset({self.fitted})

    def unfitted(self, recorded: Collection[Signal]) -> Sequence[str]:
        command = "python -m policies fit promoe"
        if self.source == "routing" or Signal.HIDDEN not in recorded:
            command += " input=routing"
            if Signal.ROUTER_PROBS not in recorded:
                command += " target=chosen"  # of the experts alone
        if self.stride != 2:
            command += f" stride={self.stride}"
        own = self.fitted != fitted_name(self.source, self.stride)
        if own:
            command += f" name={self.fitted}"
        if self.source == "hidden" and Signal.HIDDEN not in recorded:
            command = f"policy.predictor=routing after {command}"
        source = "policy.fitted=null policy.predictor=" if own else "policy.predictor="
        return command, f"{source}routing", f"{source}gate_ahead"

    def foretells(self, layer: int) -> NDArray[np.float64] | None:
        return self.line.foretold(layer)

    def on_step(self, step: Step) -> None:
        self.line.pass_by(self.setup.n_layers)
        if self.preemption:  # of layers that had no gate
            for layer in range(self.setup.n_layers):
                self._drop_low(layer)

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        layer = event.layer
        if self.preemption:
            self._drop_low(layer)
        else:
            for expert in event.demand:
                self.low[layer].pop(expert, None)
        self.line.pass_by(layer)
        target = layer + self.stride
        if target < self.setup.n_layers:
            by_gate = self.source == "gate_ahead"
            ids = event.signals.gate_ahead(self.stride) if by_gate else event.signals.predicted(self.fitted)
            self.line.ask(target, by_tokens(ids, target, self.setup.n_experts))

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
        self.line.done(tag)

    def on_complete(self, expert: int) -> None:
        self.low[self.setup.layer_of(expert)].pop(expert, None)

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        self.low[self.setup.layer_of(expert)].pop(expert, None)

    def _foretell(self, layer: int, experts: list[int]) -> None:
        view, low, order = self.view, self.low[layer], self.pools[layer * self.setup.n_experts // self.span]
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
