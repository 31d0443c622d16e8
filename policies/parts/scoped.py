"""What decides among all experts alike can also decide layer by layer."""

from __future__ import annotations

from typing import Literal

from policies.api import Policy, Setup

Scope = Literal["global", "layer"]


class Scoped(Policy):
    """``scope=global``: one pool for all layers; ``scope=layer``: one per layer, each with an even share."""

    def __init__(self, setup: Setup, scope: Scope) -> None:
        super().__init__(setup)
        self.by_layer = scope == "layer"
        self.n_pools = setup.n_layers if self.by_layer else 1
        self.span = setup.n_layers * setup.n_experts // self.n_pools
        """Expert numbers per pool: an expert belongs to pool ``expert // span``."""

    def min_budget(self) -> int:
        return self.gpu_bytes() + sum(self.setup.expert_bytes) if self.by_layer else super().min_budget()

    def layer_budgets(self) -> list[int] | None:
        return self.setup.layer_budgets(self.setup.budget - self.gpu_bytes()) if self.by_layer else None
