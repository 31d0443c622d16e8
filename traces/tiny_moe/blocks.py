"""Experts and attention as training computes them: on two cores a quarter faster than in float32, expert by expert.

They are registered with the library under EXPERTS and ATTENTION.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

EXPERTS, ATTENTION = "blocks", "float32"
ROWS = 128


class Blocks(torch.autograd.Function):
    """Experts over blocks of ROWS rows, each of one expert (as MegaBlocks does, Gale et al. 2022, section 5).

    However unequal the load, shapes stay the same from step to step, so that kernels are made once; padded rows have
    weight zero.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """hidden [n, D], ids [n, K], weights [n, K], gate_up [E, 2W, D], down [E, D, W] -> [n, D], in `dtype`."""
        (rows, top_k), (E, D, _), device = ids.shape, down.shape, ids.device
        flat = ids.reshape(-1)
        order = flat.argsort()
        counts = torch.bincount(flat, minlength=E)
        blocks = (counts + ROWS - 1) // ROWS
        n_blocks = rows * top_k // ROWS + E  # never fewer than the sum of `blocks`
        ends = blocks.cumsum(0)
        owner = torch.searchsorted(ends, torch.arange(n_blocks, device=device), right=True).clamp(max=E - 1)
        shift = (ends - blocks) * ROWS - (counts.cumsum(0) - counts)
        slot = torch.arange(rows * top_k, device=device) + shift[flat[order]]
        source = torch.zeros(n_blocks * ROWS, dtype=torch.long, device=device)
        source[slot] = order // top_k
        place = torch.empty_like(order)
        place[order] = slot
        weight = torch.zeros(n_blocks * ROWS, dtype=dtype, device=device)
        weight[place] = weights.reshape(-1).to(dtype)
        weight = weight.view(n_blocks, ROWS, 1)

        x = hidden.to(dtype).index_select(0, source).view(n_blocks, ROWS, D)
        of_blocks = gate_up.to(dtype).index_select(0, owner).chunk(2, 1)
        w_gate, w_up = (half.contiguous() for half in of_blocks)
        w_down = down.to(dtype).index_select(0, owner)
        gate, up = torch.bmm(x, w_gate.mT), torch.bmm(x, w_up.mT)
        sigmoid = gate.sigmoid()
        silu = gate * sigmoid
        inner = silu * up
        weighted = inner * weight
        output = torch.bmm(weighted, w_down.mT).view(-1, D)
        ctx.save_for_backward(
            x, w_gate, w_up, w_down, gate, up, sigmoid, silu, inner, weighted, weight, source, place, owner
        )
        ctx.shape = rows, top_k, E
        return output.index_select(0, place).view(rows, top_k, D).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """The gradients of hidden, weights, gate_up and down; those of parameters in float32."""
        x, w_gate, w_up, w_down, gate, up, sigmoid, silu, inner, weighted, weight, source, place, owner = (
            ctx.saved_tensors
        )
        rows, top_k, E = ctx.shape
        D = x.shape[-1]

        def by_expert(of_blocks: Tensor) -> Tensor:
            zeros = torch.zeros(E, *of_blocks.shape[1:], device=grad.device)
            return zeros.index_add_(0, owner, of_blocks.float())

        grad = grad.to(x.dtype).index_select(0, source).view_as(x)
        grad_down = by_expert(torch.bmm(grad.mT, weighted))
        grad_inner = torch.bmm(grad, w_down)
        grad_weight = (grad_inner * inner).sum(-1).view(-1)[place].view(rows, top_k).float()
        grad_inner *= weight
        grad_up = grad_inner * silu
        grad_gate = grad_inner * up * sigmoid * (1 + gate - silu)
        grad_gate_up = by_expert(torch.cat([torch.bmm(grad_gate.mT, x), torch.bmm(grad_up.mT, x)], 1))
        grad_x = torch.baddbmm(torch.bmm(grad_gate, w_gate), grad_up, w_up).view(-1, D)
        grad_hidden = grad_x.index_select(0, place).view(rows, top_k, D).sum(1)
        return grad_hidden, None, grad_weight, grad_gate_up, grad_down, None


def block_experts(module: Any, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """The library's signature around `Blocks`, in autocast's dtype: hidden [n, D], ids [n, K], weights [n, K]."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    apply: Any = Blocks.apply
    output: Tensor = apply(hidden, ids, weights, module.gate_up_proj, module.down_proj, dtype)
    return output


def float32_attention(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **_: Any) -> tuple[Tensor, None]:
    """Causal attention in float32: on a CPU the gradient of the bfloat16 kernel takes twice as long."""
    with torch.autocast(q.device.type, enabled=False):
        output = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True, enable_gqa=True)
    return output.to(q.dtype).transpose(1, 2).contiguous(), None


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, block_experts)
ALL_ATTENTION_FUNCTIONS.register(ATTENTION, float32_attention)
