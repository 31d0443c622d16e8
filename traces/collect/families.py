"""What the collector must know about a model: where its routers and experts are, and how it scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from traces.errors import UserError, one_of

SCORING = {"gpt_oss": "softmax", "mixtral": "softmax", "olmoe": "softmax"}
"""Model type -> what its router makes of its logits. A family enters with a test that recomputes its scores."""

ROUTER_NAMES = ("gate", "router")


@dataclass(frozen=True)
class MoeLayer:
    """One MoE layer. `router(hidden [n, D])` gives (logits [n, E], weights [n, K], ids [n, K])."""

    name: str
    router: Any
    experts: Any


@dataclass(frozen=True)
class MoeModel:
    """A model with its MoE layers, all of E experts and top-K, in the order in which they run."""

    model: Any
    layers: tuple[MoeLayer, ...]
    n_experts: int
    top_k: int
    scoring: str

    def scores(self, logits: Tensor) -> Tensor:
        """The family's own scores over all experts: float32 [n, E] of `logits` [n, E]."""
        return torch.softmax(logits.float(), dim=-1)

    def expert_bytes(self) -> list[int]:
        """Bytes of one expert as it lies in memory, per layer, biases included."""
        return [
            sum(p.numel() * p.element_size() for p in layer.experts.parameters()) // self.n_experts
            for layer in self.layers
        ]

    def shapes(self) -> dict[str, int]:
        """The sizes a cost model asks for, by the names of `conf/model/`, and a few more of the config's."""
        config = self.model.config.get_text_config()
        experts = self.layers[0].experts
        # down_proj is [E, D, I], or [E, I, D] where the family stores it transposed.
        width = experts.down_proj.shape[1 if experts.is_transposed else 2]
        sizes = {
            "hidden": config.hidden_size,
            "expert_width": width,
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "vocab": config.vocab_size,
        }
        return {name: int(size) for name, size in sizes.items() if size}


def inspect_model(model: nn.Module) -> MoeModel:
    """Find the MoE layers of a transformers model; UserError where it has none, or of an unknown kind."""
    config: Any = model.config
    family = config.model_type
    if family not in SCORING:
        raise UserError(f"model type {family!r} cannot be recorded yet; allowed: {one_of(SCORING)}")
    layers = tuple(
        MoeLayer(name, _router_beside(model, name), module)
        for name, module in model.named_modules()
        if _dispatches(module)
    )
    if not layers:
        raise UserError(f"model type {family!r}: this one has no layer of experts")
    shapes = {(int(layer.experts.num_experts), int(layer.router.top_k)) for layer in layers}
    if len(shapes) > 1:
        raise UserError(f"layers differ in (experts, top-K): {sorted(shapes)}; allowed: one pair for all")
    ((n_experts, top_k),) = shapes
    return MoeModel(model, layers, n_experts, top_k, SCORING[family])


def _dispatches(module: nn.Module) -> bool:
    """Whether `module`'s forward goes through ALL_EXPERTS_FUNCTIONS; the library's decorator leaves these."""
    return hasattr(module, "num_experts") and hasattr(module, "is_transposed") and hasattr(module, "has_bias")


def _router_beside(model: nn.Module, experts_name: str) -> nn.Module:
    block = model.get_submodule(experts_name.rpartition(".")[0])
    for name in ROUTER_NAMES:
        router = getattr(block, name, None)
        if isinstance(router, nn.Module) and hasattr(router, "top_k"):
            return router
    found = [name for name, _ in block.named_children()]
    raise UserError(f"no router beside {experts_name}: found {one_of(found)}; allowed: {one_of(ROUTER_NAMES)}")
