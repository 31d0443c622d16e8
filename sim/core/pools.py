"""Residency on several GPUs, each of which has its part of the budget, and may share it out over its layers."""

from collections.abc import Sequence
from dataclasses import replace

from policies.api import Policy, Setup, View
from sim.core.state import CoreError, State


class Pools(State):
    """The same tables over all experts, and what each GPU holds of its pool.

    ``capacity``: of all, of which each has an even part; ``shares``: of the layers of each GPU (Setup.layer_budgets).
    """

    def __init__(self, setup: Setup, capacity: int, shares: Sequence[int] | None) -> None:
        gpus, n_layers, each = setup.gpus, setup.n_layers, setup.pool_bytes(capacity)
        super().__init__(setup.n_experts, setup.expert_bytes, setup.chunks, gpus * each, None)
        self.home = list(setup.homes)
        self.pool_capacity = each
        self.pool_used, self.pool_peak = [0] * gpus, [0] * gpus
        self.layer_capacity = [each] * (gpus * n_layers) if shares is None else list(shares)
        """[G x L]; without shares a layer may fill its GPU."""
        self._share = [g * n_layers + x // setup.n_experts for x, g in enumerate(self.home)]
        self.share_used = [0] * len(self.layer_capacity)
        self.asking: int | None = None
        """The GPU that wants a victim now."""
        if shares is not None:
            small = any(self.layer_capacity[share] < self.size[x] for x, share in enumerate(self._share))
            of_gpu = [sum(self.layer_capacity[g * n_layers : (g + 1) * n_layers]) for g in range(gpus)]
            if len(shares) != gpus * n_layers or small or max(of_gpu) > each:
                raise CoreError(f"layer shares {list(shares)} do not suit {each} bytes on each of {gpus} GPUs")

    def take(self, x: int) -> None:
        """``x`` has taken a slot of its GPU. CoreError where there was no room for it."""
        gpu, size = self.home[x], self.size[x]
        self.pool_used[gpu] += size
        self.share_used[self._share[x]] += size
        self.pool_peak[gpu] = max(self.pool_peak[gpu], self.pool_used[gpu])
        if self.pool_used[gpu] > self.pool_capacity:
            raise CoreError(f"budget of GPU {gpu} exceeded: {self.pool_used[gpu]} > {self.pool_capacity} bytes")

    def leave(self, x: int) -> None:
        """``x`` has lost its slot."""
        self.pool_used[self.home[x]] -= self.size[x]
        self.share_used[self._share[x]] -= self.size[x]

    def view(self) -> View:
        """As with one GPU; but while a victim is asked for, only experts of that GPU can be evicted."""
        whole, home = super().view(), self.home
        anywhere = whole.evictable

        def evictable(expert: int) -> bool:
            return (self.asking is None or home[expert] == self.asking) and anywhere(expert)

        return replace(whole, evictable=evictable)

    def fits(self, expert: int) -> bool:
        """Whether there is room on its GPU for a slot for ``expert``."""
        size, share = self.size[expert], self._share[expert]
        if self.pool_used[self.home[expert]] + size > self.pool_capacity:
            return False
        return self.share_used[share] + size <= (self.layer_capacity or ())[share]


def state_of(setup: Setup, capacity: int, policy: Policy) -> State:
    """Tables for a core of ``setup``, empty, with ``capacity`` bytes for experts, shared out as ``policy`` says."""
    shares = policy.layer_budgets()
    if policy.uses("version_budgets") and (by_version := policy.version_budgets()) is not None:
        if shares is not None or not setup.versions:
            raise CoreError(f"policy {policy.name} has a pool per version, which is for versions and not with layers'")
        return State(setup.n_experts, setup.expert_bytes, setup.chunks, capacity, by_version, setup.n_layers)
    if setup.gpus > 1:
        return Pools(setup, capacity, shares)
    return State(setup.n_experts, setup.expert_bytes, setup.chunks, capacity, shares)
