"""Some layers on the host for good, the others on the GPU."""

from collections.abc import Mapping, Sequence
from typing import Any

from policies.api import LayerEvent, Policy, Setup
from policies.parts.ranges import between


class StaticSplit(Policy):
    """The host computes all experts of the first layers, the GPU those of the others, which stay once they are there.

    llama.cpp's --n-cpu-moe, tuned: ``host_layers`` = null takes as few layers as leave room for all the others in the
    budget. The baseline that most published gains over llama.cpp were not held against. Nothing is ever evicted, so
    each expert is copied once, on its first demand. O(1) per lookup; no ties. Lossless; needs no signals.
    """

    name = "static_split"
    title = "static split"

    def __init__(self, setup: Setup, *, host_layers: int | None = None) -> None:
        super().__init__(setup)
        layers = [setup.n_experts * nbytes for nbytes in setup.expert_bytes]
        self._least = 0
        if host_layers is None:
            host_layers = next(n for n in range(setup.n_layers + 1) if sum(layers[n:]) <= setup.budget)
        else:
            self._least = sum(layers[between("host_layers", host_layers, 0, setup.n_layers, "layers") :])
        self.host_layers = host_layers

    def min_budget(self) -> int:
        return max(self._least, super().min_budget())

    def decided(self) -> Mapping[str, Any]:
        return {"host_layers": self.host_layers}

    def place(self, event: LayerEvent) -> Sequence[int]:
        return event.demand if event.layer < self.host_layers else ()

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return None  # there is room for all that the GPU ever computes
