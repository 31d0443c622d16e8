"""Whole layers that stream through a cache: the next one is copied while this one is computed."""

from collections.abc import Iterable, Sequence

from policies.api import Setup
from policies.lru import LRU
from policies.parts.pools import least


class Layers(LRU):
    """The least recently used goes, those of the layer that is computed and of the one that comes only for a demand.

    O(E) per layer, O(E + pinned) per victim.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.coming = self.current = -1  # the layer that is prefetched, and the one that is computed

    def one_layer(self) -> int:
        """The least budget that holds any layer, on several GPUs each its part of it."""
        return least(self.setup, lambda held: max(self._layers(held)))

    def two_layers(self) -> int:
        """The same of two that follow each other, the first after the last; of one where there is no other."""
        return least(self.setup, lambda held: max(_pairs(self._layers(held))))

    def _layers(self, held: Sequence[int]) -> list[int]:
        return [n * size for n, size in zip(held, self.setup.expert_bytes, strict=True)]

    def reach(self, layer: int) -> None:
        """A gate has run (-1: a pass begins): what was to come for another layer, which no token saw, is dropped."""
        if self.coming not in (-1, layer):
            for expert in self.setup.experts_of(self.coming):
                self.actions.cancel(expert)
        self.current, self.coming = layer, -1

    def release(self, held: Iterable[int]) -> None:
        """Give up those of ``held`` that are not of the layer that is computed."""
        for expert in [x for x in held if self.setup.layer_of(x) != self.current]:
            self.actions.evict(expert)

    def copy_ahead(self, layer: int) -> None:
        """Prefetch what is missing of a layer, by index."""
        self.coming = layer
        for expert in self.setup.experts_of(layer):
            self.actions.prefetch(expert, 0.0)

    def candidates(self) -> Iterable[int]:
        """Whoever has a slot, the first to go first."""
        return self.pools[0]

    def victim(self, incoming: int, speculative: bool) -> int | None:
        evictable, n = self.view.evictable, self.setup.n_experts
        for expert in self.candidates():
            if expert // n not in (self.current, self.coming) and evictable(expert):
                return expert
        return None if speculative else next(filter(evictable, self.pools[0]), None)


def _pairs(nbytes: list[int]) -> list[int]:
    if len(nbytes) == 1:
        return nbytes
    return [size + after for size, after in zip(nbytes, (*nbytes[1:], nbytes[0]), strict=True)]
