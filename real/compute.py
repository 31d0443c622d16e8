"""The experts' compute: complete ones one by one or all in one kernel, summed in one order whatever came first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.integrations.moe import grouped_mm_experts_forward

from real.pool import Pool
from traces.calibrate.layers import expert_forward

MAX_GROUPS = 1024
"""Groups of one grouped product on a GPU."""


class LayerCompute:
    """One layer's experts module, with the pool's slots as its weights."""

    def __init__(self, module: Any, layer: int, pool: Pool) -> None:
        self.pool, self.layer = pool, layer
        self._slots = _stand_in(module, pool.weights, pool.slots)
        if pool.holds_all:  # each expert has a slot of its own: a layer's are as in the library's module
            first = layer * pool.store.n_experts
            own = {name: weight[first : first + pool.store.n_experts] for name, weight in pool.weights.items()}
            self._whole = _stand_in(module, own, pool.store.n_experts)
        # A CPU's kernel visits every group, used or not: over a pool it takes 13 times as long as one expert at a time.
        on_gpu = pool.backend.device.type != "cpu"
        self.can_group = pool.holds_all or (on_gpu and pool.slots <= MAX_GROUPS)

    def together(self, hidden: Tensor, ids: Tensor, weights: Tensor, some_absent: bool = False) -> Tensor:
        """All experts that the tokens chose, which are complete, in the library's grouped kernel.

        hidden [n, D]; ids int64 [n, K] on the device; weights [n, K] -> [n, D]. ``some_absent``: ids of E and above
        stand for no expert.
        """
        module, n_experts = self._slots, self.pool.store.n_experts
        if self.pool.holds_all:
            module = self._whole
        else:
            ids = torch.where(
                ids < n_experts, self.pool.table(self.layer)[ids.clamp(max=n_experts - 1)], self.pool.slots
            )
        module._is_expert_parallel = some_absent
        return grouped_mm_experts_forward(module, hidden, ids, weights)

    def one_by_one(
        self,
        hidden: Tensor,
        ids: NDArray[Any],
        weights: Tensor,
        turns: Iterator[list[int]],
        tell: Callable[[list[int]], None],
    ) -> Tensor:
        """Each expert when it has its turn. ``ids`` [n, K], of E and above for no expert; ``turns``: flat numbers that
        may be computed now, until none is left; ``tell`` is called when they have been launched."""
        n, top_k = ids.shape
        device, n_experts = hidden.device, self.pool.store.n_experts
        flat = ids.reshape(-1).astype(np.int64)
        order = np.argsort(flat, kind="stable")
        ends = np.cumsum(np.bincount(flat, minlength=n_experts)[:n_experts])
        place = torch.from_numpy(order).to(device)
        inputs = hidden[place // top_k]
        outputs = torch.zeros_like(inputs)
        first = self.layer * n_experts
        for batch in turns:
            for x in batch:
                index = x - first
                begin, end = int(ends[index - 1]) if index else 0, int(ends[index])
                if end > begin:
                    outputs[begin:end] = expert_forward(self._slots, self.pool.slot_of[x], inputs[begin:end])
            tell(batch)
        weighted = outputs * weights.reshape(-1)[place].unsqueeze(-1)
        back = torch.empty_like(place)
        back[place] = torch.arange(len(place), device=device)
        return weighted[back].view(n, top_k, -1).sum(dim=1).to(hidden.dtype)


def _stand_in(module: Any, weights: dict[str, Tensor], n_experts: int) -> Any:
    """What the library's kernels ask an experts module for."""
    return SimpleNamespace(
        **weights,
        num_experts=n_experts,
        is_transposed=module.is_transposed,
        has_bias=module.has_bias,
        has_gate=getattr(module, "has_gate", True),
        has_post_expert_norm=False,
        act_fn=getattr(module, "act_fn", None),
        _apply_gate=getattr(module, "_apply_gate", None),
        _is_expert_parallel=False,
    )
