"""Fiddler: misses are computed where that is faster, and nothing moves in for good."""

from collections.abc import Sequence
from typing import Literal

from policies.api import LayerEvent, Schedule, Setup
from policies.parts.lanes import alone_ns
from policies.parts.sides import Sides, hottest_first, lookups
from policies.static import Static


class Fiddler(Static):
    """Popular experts lie on the GPU; of another, the weights go to the GPU or the activations to the host.

    Fiddler (arXiv 2402.07033), and its code: an expert on s tokens that is not on the GPU is fetched if the host takes
    longer than copy and GPU together (its copy goes to a place that the next one takes), else the host computes it.
    ``rule=paper``: host and GPU at once, a tie to the host. ``rule=code``: the GPU first and then the host, a tie to
    the GPU; the code minimises the sum of all costs of a layer, which is to choose for each expert alone. ``rule=max``,
    which a comment of the code names: both at once, and a layer's misses split so that the later side ends as early
    as can be; of equals the fewest copies, then the hotter fetched (how a side is timed, and up to how many misses that
    is exact: :class:`~policies.parts.sides.Sides`). The popular set is that of ``static``, loaded before anything else.
    O(1) per lookup; ``max``: O(n log n) for each of up to 256 splits of n misses. Lossless; needs no signals, but train
    requests.
    """

    name = "fiddler"
    title = "Fiddler"

    def __init__(
        self, setup: Setup, *, rule: Literal["paper", "code", "max"] = "paper", staging: int = 1, preload: bool = True
    ) -> None:
        super().__init__(setup, staging=staging, preload=preload)
        self.rule = rule
        self.copy_ns = [alone_ns(setup, layer) + setup.costs.launch_ns for layer in range(setup.n_layers)]
        """To fetch an expert of each layer, and its launch."""
        self.sooner: list[dict[int, bool]] = [{} for _ in range(setup.n_layers)]  # by tokens
        self.sides = Sides(setup, staging)
        self.hosted: Sequence[int] = ()  # of the event, by ``max``

    def uses(self, hook: str) -> bool:
        return super().uses(hook) and (hook != "schedule" or self.rule == "max")

    def serial(self) -> bool:
        return self.rule == "code"

    def place(self, event: LayerEvent) -> Sequence[int]:
        if self.rule == "max":
            self.hosted = self.sides.best_split(event.layer, lookups(event, self.view))
            return self.hosted
        layer, complete, sooner, found = event.layer, self.view.complete, self.sooner[event.layer], []
        for expert, tokens in zip(event.demand, event.tokens, strict=True):
            if not complete(expert):
                if tokens not in sooner:
                    sooner[tokens] = self._sooner(layer, tokens)
                if sooner[tokens]:
                    found.append(expert)
        return found

    def _sooner(self, layer: int, tokens: int) -> bool:
        """Whether the host computes an expert that is not on the GPU before that has fetched and computed it."""
        host = self.setup.host
        assert host is not None  # else it was not built
        on_gpu = self.copy_ns[layer] + self.setup.costs.expert_ns(layer, tokens)
        return host.expert_ns(layer, tokens) < on_gpu + (self.rule == "paper")

    def schedule(self, event: LayerEvent) -> Schedule:
        return hottest_first(event, self.hosted, self.view)
