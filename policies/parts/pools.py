"""Who may give a slot up for whom: all experts in one pool, or those of each layer in one of their own."""

from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from policies.api import Policy, Setup

Scope = Literal["global", "layer"]


class Order(Protocol):
    """The experts of a pool that have a slot, in the order in which they would give it up."""

    def add(self, expert: int) -> None:
        """It has taken a slot."""

    def discard(self, expert: int) -> None:
        """It has lost its slot."""

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        """The first that is allowed, which stays a member; None if none is."""


AnyOrder = TypeVar("AnyOrder", bound=Order)


class Pooled(Policy, Generic[AnyOrder]):
    """Evict the first evictable expert in the order of its pool; an expert enters it when it takes its slot.

    ``scope=global``: one pool for all layers; ``scope=layer``: one per layer, each with an even share of the budget.
    ``order``: makes that of a pool, of these experts.
    """

    def __init__(self, setup: Setup, scope: Scope, order: Callable[[range], AnyOrder]) -> None:
        super().__init__(setup)
        self.by_layer = scope == "layer"
        n_pools, n = (setup.n_layers if self.by_layer else 1), setup.n_layers * setup.n_experts
        self.span = n // n_pools
        """Experts per pool: one belongs to pool ``expert // span``."""
        self.pools = [order(range(first, first + self.span)) for first in range(0, n, self.span)]

    def min_budget(self) -> int:
        return self.gpu_bytes() + sum(self.setup.expert_bytes) if self.by_layer else super().min_budget()

    def layer_budgets(self) -> list[int] | None:
        return self.setup.layer_budgets(self.setup.budget - self.gpu_bytes()) if self.by_layer else None

    def on_slot(self, expert: int) -> None:
        self.pools[expert // self.span].add(expert)

    def on_evict(self, expert: int) -> None:
        self.pools[expert // self.span].discard(expert)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return self.pools[incoming // self.span].lowest(self.view.evictable)
