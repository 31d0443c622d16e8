"""KTransformers: a mask says which experts live on the GPU, and the host computes all others."""

from collections.abc import Iterable, Mapping
from random import Random as Generator
from typing import Any, Literal

from policies.api import History, LayerEvent, Learned, Policy, Setup, Shapes, Step
from policies.parts.ranges import at_least
from traces.kit.errors import UserError

Mask = Literal["uniform", "frequency", "front", "random"]


class KTransformers(Policy):
    """A mask of experts lives on the GPU, all others are computed on the host, always; no token waits for a copy.

    kt-kernel's expert scheduling (KTransformers, SOSP'25; doc/en/kt-kernel/experts-sched-Tutorial.md). ``uniform``: the
    first indices of each layer, the same number in each, one more in the lowest layers where that does not divide.
    ``frequency``: those that the train requests demanded most, of all layers. ``front``: layer after layer from the
    first on. ``random``: drawn evenly with ``mask_seed``. The mask is loaded before anything else; until an expert is
    there, the host computes it. ``dynamic``: when a gate has run in a prefill of ``threshold`` tokens or more, the
    layer's mask becomes the experts with most of these tokens, as many as before; what comes in is copied behind
    compute, to the places of those that go. Ties: the lower number; with ``dynamic`` first who is in already. O(1) per
    lookup, O(E log E) per event that changes the mask. Lossless; needs no signals, but train requests for
    ``frequency``.
    """

    name = "ktransformers"
    title = "KTransformers"
    learns = True
    unlearned = "policy.mask=uniform"

    def __init__(
        self, setup: Setup, *, mask: Mask = "uniform", mask_seed: int = 42, dynamic: bool = False, threshold: int = 512
    ) -> None:
        super().__init__(setup)
        self.mask, self.dynamic = mask, dynamic
        self.threshold = at_least(1, "threshold", threshold, "tokens of a prompt")
        draw = Generator(at_least(0, "mask_seed", mask_seed, "a seed")).random  # whose sequence Python guarantees
        self.kept: list[dict[int, None]] = []  # of each layer, once it is known
        self.waiting: list[int] | None = None  # the mask, the first to be loaded first, until it is asked for
        everything = range(setup.n_layers * setup.n_experts)
        if mask == "uniform":
            sizes = zip(setup.layer_budgets(), setup.expert_bytes, strict=True)
            counts = [share // size for share, size in sizes]
            self._keep(x for layer, n in enumerate(counts) for x in setup.experts_of(layer)[:n])
        elif mask == "front":
            self._keep(everything)
        elif mask == "random":
            self._keep(sorted(everything, key=lambda _: draw()))

    def uses(self, hook: str) -> bool:
        return super().uses(hook) and (self.dynamic or hook not in ("keep", "on_complete"))

    def wants_history(self) -> bool:
        return self.mask == "frequency"

    @staticmethod
    def learn(shapes: Shapes, history: History, given: Mapping[str, Any]) -> Learned:
        return Learned({"popularity": history.popularity()})

    def recall(self, learned: Learned) -> None:
        popularity = learned.arrays["popularity"].tolist()
        if not any(popularity):
            raise UserError(
                f"policy={self.name}: the train requests demand no expert; allowed: a trace with a train split"
            )
        self._keep(sorted(range(len(popularity)), key=lambda x: -popularity[x]))

    def _keep(self, order: Iterable[int]) -> None:
        """The mask is what fits of the experts in this order."""
        left, self.waiting = self.setup.budget, []
        self.kept = [{} for _ in range(self.setup.n_layers)]
        for expert in order:
            layer = self.setup.layer_of(expert)
            if (size := self.setup.expert_bytes[layer]) <= left:
                left -= size
                self.kept[layer][expert] = None
                self.waiting.append(expert)

    def decided(self) -> Mapping[str, Any]:
        return {"kept_per_layer": [len(experts) for experts in self.kept]}

    def on_step(self, step: Step) -> None:
        if not self.kept:
            raise RuntimeError(f"{self.name} was not fitted")
        if self.waiting:
            for i, expert in enumerate(self.waiting):
                self.actions.prefetch(expert, -float(i))
            self.waiting = None

    def place(self, event: LayerEvent) -> list[int]:
        complete = self.view.complete
        return [x for x in event.demand if not complete(x)]

    def on_gate(self, event: LayerEvent) -> None:
        if not self.dynamic or not event.prefill or sum(event.prompt_rows) < self.threshold:
            return
        tokens, old = dict(zip(event.demand, event.tokens, strict=True)), self.kept[event.layer]
        layer = self.setup.experts_of(event.layer)
        order = sorted(layer, key=lambda x: (-tokens.get(x, 0), x not in old, x))
        new = self.kept[event.layer] = dict.fromkeys(order[: len(old)])
        for expert in old:
            if expert not in new and not self.actions.cancel(expert):
                self.actions.evict(expert)  # or when this event has computed it
        for expert in new:
            if expert not in old:
                self.actions.prefetch(expert, 1.0)  # before what is left of the first mask

    def keep(self, expert: int) -> bool:
        return expert in self.kept[self.setup.layer_of(expert)]

    def on_complete(self, expert: int) -> None:
        if not self.keep(expert):  # its last chunk was on the link when it left the mask
            self.actions.evict(expert)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return None  # there is room for the mask, and for what comes in when those that it replaces have gone
