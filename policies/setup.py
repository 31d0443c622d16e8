"""What a policy knows of model and machine before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from policies.costs import Costs, Host
from policies.signals import Predictor


@dataclass(frozen=True, slots=True)
class Setup:
    """What a policy knows before the first step: shapes, sizes, costs. All sizes in bytes.

    With several GPUs each expert has a home, and each GPU an even part of the budget: its pool. A victim comes from the
    pool of the incoming; while one is asked for, :attr:`View.evictable` is false for all others. GPUs that hold a part
    of each expert, or all the same, are one here.

    An expert may be there in several versions, each in a dtype of its own: loads, slots, victims, prefetches and a
    routing then name *items*, ``item = expert + version * L * E``. Version 0 is the model's own, so that its items are
    the experts' numbers, and what a gate demands is of version 0. A policy that wants no other never sees another.
    """

    n_layers: int
    n_experts: int
    top_k: int
    expert_bytes: tuple[int, ...]  # bytes of one expert, per layer [L]; with versions, one after the other [V x L]
    chunks: int  # copy calls per expert
    budget: int  # of all GPUs
    costs: Costs
    seed: int = 0
    predictors: Mapping[str, Predictor] = field(default_factory=dict)  # the fitted predictors there are, by name
    predictor_threads: int = 1
    """Predictions that the machine works on at a time; what else is asked for waits its turn."""
    host: Host | None = None
    """Who computes what :meth:`Policy.place` names; None: this machine has no price for it."""
    lanes: int = 1
    """Copies that the link carries at a time, each in the time that it takes alone."""
    gpus: int = 1
    homes: Sequence[int] = ()
    """The GPU of each expert, by its number; empty: all are on the one that there is."""
    dtype: str = ""
    """Of the experts, as the model has them."""
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Bytes of one expert, per layer [L], in each other dtype that the model has a size in."""
    versions: tuple[str, ...] = ()
    """The dtypes that an expert can be loaded in, ``dtype`` first; () where that is the only one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "predictors", MappingProxyType(dict(self.predictors)))
        object.__setattr__(self, "others", MappingProxyType(dict(self.others)))
        if self.gpus > 1 and (len(self.homes) != self.n_layers * self.n_experts or max(self.homes) >= self.gpus):
            raise ValueError(f"homes of {len(self.homes)} experts on {self.gpus} GPUs: each expert has one of them")

    def layer_of(self, expert: int) -> int:
        """Layer of an expert number, or of an item."""
        layer = expert // self.n_experts
        return layer if layer < self.n_layers else layer % self.n_layers

    def with_versions(self, lower: Sequence[str]) -> Setup:
        """The same, with experts in these ``others`` as well. ValueError for a dtype that is none of them."""
        if not lower:
            return self
        if strangers := [dtype for dtype in lower if dtype not in self.others]:
            raise ValueError(f"no size of an expert in {strangers}; there are {list(self.others)}")
        own = self.expert_bytes[: self.n_layers]
        sizes = (size for dtype in lower for size in self.others[dtype])
        return replace(self, versions=(self.dtype, *lower), expert_bytes=(*own, *sizes))

    @property
    def n_all(self) -> int:
        """How many experts there are, L x E, in however many versions."""
        return self.n_layers * self.n_experts

    def version_of(self, item: int) -> int:
        """In which version an item is, an index into ``versions``: 0 is the model's own."""
        return item // self.n_all

    def expert_of(self, item: int) -> int:
        """The number of an item's expert, whatever its version."""
        return item % self.n_all

    def item(self, expert: int, version: int) -> int:
        """An expert, by its number, in a version."""
        return expert + version * self.n_all

    def bytes_of(self, item: int) -> int:
        """Bytes of an expert, by its number, or of an item."""
        return self.expert_bytes[item // self.n_experts]

    def experts_of(self, layer: int) -> range:
        """Numbers of a layer's experts."""
        return range(layer * self.n_experts, (layer + 1) * self.n_experts)

    def pool_of(self, expert: int) -> int:
        """The GPU on which an expert is held and computed."""
        return self.homes[expert] if self.homes else 0

    def pool_bytes(self, budget: int | None = None) -> int:
        """What each GPU has of the budget, rounded down: the remainder is nobody's."""
        return (self.budget if budget is None else budget) // self.gpus

    def by_pool(self, first: int = 0, layers: int | None = None) -> list[list[int]]:
        """How many experts each GPU holds of so many layers from ``first`` on (None: of all), [G][layers]."""
        last = self.n_layers if layers is None else first + layers
        held = [[0] * (last - first) for _ in range(self.gpus)]
        for layer in range(first, last):
            for expert in self.experts_of(layer):
                held[self.pool_of(expert)][layer - first] += 1
        return held

    def chunk_ns(self, layer: int) -> list[int]:
        """Copy time of each chunk of an expert of a layer; the first ones are the larger by a byte."""
        small, larger = divmod(self.expert_bytes[layer], self.chunks)
        return [self.costs.copy_ns(small + (i < larger)) for i in range(self.chunks)]

    def layer_budgets(self, budget: int | None = None) -> list[int]:
        """Share the budget evenly over layers in whole experts, [L] bytes; remainders go to the lowest layers.

        With several GPUs each shares its part over the layers that it has experts of, [G x L], GPU by GPU.
        """
        shares: list[int] = []
        for held in self.by_pool():
            left, own = self.pool_bytes(budget), [0] * self.n_layers
            for place in range(self.n_experts):
                for layer, size in enumerate(self.expert_bytes[: self.n_layers]):
                    if place < held[layer] and size <= left:
                        own[layer] += size
                        left -= size
            shares += own
        return shares
