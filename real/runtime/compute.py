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

from real.runtime.pool import Pool

MAX_GROUPS = 1024
"""Groups of one grouped product on a GPU."""
VECTORS = 64
"""Numbers that a CPU's loop over vectors takes at a time, at most: two vectors of 32 bfloat16."""


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
                    outputs[begin:end] = _expert(self._slots, self.pool.slot_of[x], inputs[begin:end])
            tell(batch)
        weighted = outputs * weights.reshape(-1)[place].unsqueeze(-1)
        back = torch.empty_like(place)
        back[place] = torch.arange(len(place), device=device)
        return weighted[back].view(n, top_k, -1).sum(dim=1).to(hidden.dtype)


def _expert(module: Any, slot: int, x: Tensor) -> Tensor:
    """The expert in a slot on x [n, D] -> [n, D], without its routing weight.

    A bias is added to the rounded product, as the grouped kernel does: a product that has it built in rounds otherwise.
    """

    def product(x: Tensor, name: str) -> Tensor:
        weight = getattr(module, name)[slot]
        result = torch.nn.functional.linear(x, weight.T if module.is_transposed else weight)
        return result.add_(getattr(module, f"{name}_bias")[slot]) if module.has_bias else result

    inner = product(x, "gate_up_proj" if module.has_gate else "up_proj")
    return product(module._apply_gate(inner) if module.has_gate else module.act_fn(inner), "down_proj")


def _gate(module: Any, down: Tensor) -> Any:
    """The module's gate, [n, 2I] -> [n, I], whose rows do not depend on how many there are.

    A CPU computes what its vectors leave over at the end of a tensor by other instructions, which round otherwise. The
    library's own gate works on halves of rows, each for itself; another one is given them one by one where I is such
    that something is left over.
    """
    gate = getattr(module, "_apply_gate", None)
    width = down.shape[1 if module.is_transposed else 2]
    if gate is None or gate.__name__ == "_default_apply_gate" or down.device.type != "cpu" or width % VECTORS == 0:
        return gate
    return lambda x: torch.cat([gate(row) for row in x.split(1)])


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
        _apply_gate=_gate(module, weights["down_proj"]),
        _is_expert_parallel=False,
    )
