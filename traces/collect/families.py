"""What the collector must know about a model: where its routers and experts are, and the law of each router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from traces.collect.scoring import FAMILIES, Law, law_of
from traces.errors import UserError, one_of

ROUTER_NAMES = ("gate", "router")


@dataclass(frozen=True)
class MoeLayer:
    """One MoE layer. `router(hidden)` gives logits [n, E], weights [n, K] and ids [n, K]."""

    name: str
    router: Any
    experts: Any
    law: Law


@dataclass(frozen=True)
class MoeModel:
    """A model with its MoE layers, all of E experts and top-K, in the order in which they run.

    Dense layers and shared experts are no part of it. `scoring`: "softmax" or "sigmoid", what the scores are.
    """

    model: Any
    layers: tuple[MoeLayer, ...]
    n_experts: int
    top_k: int
    scoring: str

    @property
    def has_choice(self) -> bool:
        """Whether top-K is taken from something else than the scores (a bias, groups): see `Law.choice`."""
        return any(layer.law.has_choice for layer in self.layers)

    @property
    def is_listed(self) -> bool:
        """Whether the family is one of those that are tested; any other one is taken for what it looks like."""
        return self.model.config.model_type in FAMILIES

    def expert_bytes(self) -> list[int]:
        """Bytes of one expert as the model holds it, per layer, biases included; also of weights that are offloaded."""
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
    """Find the MoE layers of a transformers model; UserError where it has none, or none that can be understood.

    Nothing is computed, and no weights are read but a router's bias: the model may be spread over several devices, or
    offloaded. A family that is not listed in `scoring` is judged by its routers' structure, and by every token that it
    routes: where the law guessed does not hold, recording stops.
    """
    config: Any = model.config
    family = config.model_type
    layers = tuple(_layer(model, family, name, module) for name, module in model.named_modules() if is_experts(module))
    if not layers:
        raise UserError(f"model type {family!r}: this one has no layer of experts; tested: {one_of(FAMILIES)}")
    shapes = {(int(layer.experts.num_experts), int(layer.router.top_k)) for layer in layers}
    if len(shapes) > 1:
        raise UserError(f"layers differ in (experts, top-K): {sorted(shapes)}; allowed: one pair for all")
    ((n_experts, top_k),) = shapes
    scorings = {layer.law.scoring for layer in layers}
    if len(scorings) > 1:
        raise UserError(f"layers differ in scoring: {one_of(sorted(scorings))}; allowed: one for all")
    return MoeModel(model, layers, n_experts, top_k, scorings.pop())


def is_experts(module: nn.Module) -> bool:
    """Whether `module`'s forward goes through ALL_EXPERTS_FUNCTIONS; the library's decorator leaves these."""
    return hasattr(module, "num_experts") and hasattr(module, "is_transposed") and hasattr(module, "has_bias")


def _layer(model: nn.Module, family: str, name: str, experts: nn.Module) -> MoeLayer:
    block = model.get_submodule(name.rpartition(".")[0])
    candidates = [getattr(block, child, None) for child in ROUTER_NAMES]
    routers = [each for each in candidates if isinstance(each, nn.Module) and hasattr(each, "top_k")]
    where = f"model type {family!r}, {name}"
    if len(routers) != 1:
        found = one_of(child for child, _ in block.named_children())
        need = f"one of {one_of(ROUTER_NAMES)} with a top_k, as in {one_of(FAMILIES)}"
        raise UserError(f"{where}: {len(routers)} routers among {found}; allowed: {need}")
    if next(routers[0].parameters()).is_meta and not hasattr(routers[0], "_hf_hook"):
        raise UserError(f"{where}: its router is on the meta device; allowed: on a device, or offloaded by accelerate")
    try:
        return MoeLayer(name, routers[0], experts, law_of(family, routers[0]))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
