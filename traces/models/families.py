"""What the collector must know about a model: where its routers and experts are, and the law of each router."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from traces.kit.errors import UserError, one_of
from traces.models.laws import FAMILIES, law_of
from traces.models.routers import Read, RecordingError, reader, takes
from traces.models.scoring import Law

ROUTER_NAMES = ("gate", "router")

INTERFACE, MODULE, INPUTS = "interface", "module", "inputs"
"""How experts are handed their work: through the library's ALL_EXPERTS_FUNCTIONS; by a call of their module, with the
hidden states, ids and weights; or by such a call with all tokens for each expert, times its weight, most of them 0."""
HANDED = ("hidden_states", "top_k_index", "top_k_weights")

REFUSED = {
    "doge": "its experts are rows of an embedding, and which ones a token has depends on the other tokens of its pass",
    "inkling2_loop": "some of its layers run several times in a pass, and a trace has each layer once",
    "jetmoe": "its attention is routed to experts too, and a trace holds those of feed-forward layers alone",
    "zaya": "its router may choose to skip all experts, and reads what the router before it has left",
}
"""Families whose routing a trace cannot hold, and why."""


@dataclass(frozen=True)
class MoeLayer:
    """One MoE layer. `router(hidden, ...)` gives what `read` turns into logits [n, E], weights [n, K] and ids [n, K].

    `way`: INTERFACE, MODULE or INPUTS.
    """

    name: str
    router: Any
    experts: Any
    law: Law
    read: Read
    way: str


@dataclass(frozen=True)
class MoeModel:
    """A model with its MoE layers, all of E experts and top-K, in the order in which they run.

    Dense layers and shared experts are no part of it. `scoring`: softmax, sigmoid or sqrtsoftplus, what the scores are.
    `idle`: further numbers, from E on, that a router may choose and that compute nothing (LongCat's zero experts).
    """

    model: Any
    layers: tuple[MoeLayer, ...]
    n_experts: int
    top_k: int
    scoring: str
    idle: int = 0

    @property
    def n_choices(self) -> int:
        """What a router chooses from."""
        return self.n_experts + self.idle

    @property
    def has_choice(self) -> bool:
        """Whether top-K is taken from something else than the scores (a bias, groups): see `Law.choice`."""
        return any(layer.law.has_choice for layer in self.layers)

    @property
    def is_listed(self) -> bool:
        """Whether the family is one of those that are tested; any other one is taken for what it looks like."""
        return family_of(self.model.config) in FAMILIES

    def expert_bytes(self) -> list[int]:
        """Bytes of one expert as the model holds it, per layer, biases included; also of weights that are offloaded."""

        def nbytes(weights: Any) -> int:
            count = self.n_choices if weights.shape[0] == self.n_choices else self.n_experts
            return int(weights.numel() // count * weights.element_size())

        return [sum(map(nbytes, layer.experts.parameters())) for layer in self.layers]

    def shapes(self) -> dict[str, int]:
        """The sizes a cost model asks for, by the names of `conf/model/`, and a few more of the config's."""
        config = self.model.config.get_text_config()
        sizes = {
            "hidden": _setting(config, "hidden_size"),
            "expert_width": width_of(self.layers[0].experts, self.layers[0].way),
            "layers": _setting(config, "num_hidden_layers"),
            "heads": _setting(config, "num_attention_heads"),
            "kv_heads": _setting(config, "num_key_value_heads"),
            "vocab": _setting(config, "vocab_size"),
        }
        return {name: int(size) for name, size in sizes.items() if isinstance(size, int) and size}

    def read_router(self, index: int, output: Any, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [n, E], weights and ids [n, K] of what a layer's router returned for n tokens; E: `n_choices`."""
        try:
            logits, weights, ids = (x.detach() for x in self.layers[index].read(output))
        except (ValueError, TypeError, AttributeError):
            raise RecordingError(f"layer {index}: its router does not return logits, weights and ids") from None
        logits = logits.reshape(-1, logits.shape[-1])
        sizes, E, K = [tuple(x.shape) for x in (logits, weights, ids)], self.n_choices, self.top_k
        if sizes != [(n, E), (n, K), (n, K)] or ids.is_floating_point():
            expected = f"for {n} tokens, {E} experts and top-{K}"
            raise RecordingError(f"layer {index}: its router returns logits, weights, ids of shapes {sizes} {expected}")
        return logits, weights, ids


def _setting(config: Any, name: str) -> Any:
    """None where there is no such setting, or one per layer, which some configurations refuse to give."""
    try:
        return getattr(config, name, None)
    except Exception:  # of the library's own kind
        return None


def family_of(config: Any) -> str:
    """The model type; of a model of several kinds of input, that of its language model: "gemma4", "gemma4_text"."""
    return str(config.get_text_config().model_type).removesuffix("_text")


def inspect_model(model: nn.Module) -> MoeModel:
    """Find the MoE layers of a transformers model; UserError where it has none, or none that can be understood.

    Nothing is computed, and no weights are read but a router's bias: the model may be spread over several devices, or
    offloaded. A family that is not listed in `laws` is judged by its routers' structure, and by every token that it
    routes: where the law guessed does not hold, recording stops.
    """
    config: Any = model.config
    family = family_of(config)
    if family in REFUSED:
        raise UserError(f"model type {family!r} cannot be recorded: {REFUSED[family]}")
    found = [(name, module, way) for name, module in model.named_modules() if (way := way_of(family, module))]
    if not found:
        raise UserError(f"model type {family!r}: this one has no layer of experts; tested: {one_of(FAMILIES)}")
    layers = tuple(_layer(model, family, name, module, way) for name, module, way in found)
    shapes = {(*sizes_of(layer.experts), top_k_of(layer.router, block_of(model, layer.name))) for layer in layers}
    if len(shapes) > 1:
        pairs = sorted((experts, top_k) for experts, _, top_k in shapes)
        raise UserError(f"layers differ in (experts, top-K): {pairs}; allowed: one pair for all")
    ((n_experts, idle, top_k),) = shapes
    scorings = {layer.law.scoring for layer in layers}
    if len(scorings) > 1:
        raise UserError(f"layers differ in scoring: {one_of(sorted(scorings))}; allowed: one for all")
    return MoeModel(model, layers, n_experts, int(top_k or 0), scorings.pop(), idle)


def is_experts(module: nn.Module) -> bool:
    """Whether `module`'s forward goes through ALL_EXPERTS_FUNCTIONS; the library's decorator leaves these."""
    return hasattr(module, "num_experts") and hasattr(module, "is_transposed") and hasattr(module, "has_bias")


def way_of(family: str, module: Any) -> str | None:
    """How `module` is handed its work, if it is experts."""
    if is_experts(module):
        return INTERFACE
    if {*HANDED} <= {*takes(module.__class__)}:
        return MODULE
    return INPUTS if family == "llama4" and type(module).__name__.endswith("Experts") else None


def block_of(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def sizes_of(experts: Any) -> tuple[int, int]:
    """(E, idle ones)."""
    if hasattr(experts, "zero_expert_num"):
        return int(experts.num_routed_experts), int(experts.zero_expert_num)
    return int(experts.num_experts), 0


def top_k_of(router: Any, block: Any) -> int | None:
    """K, wherever the family keeps it."""
    config = getattr(router, "config", None)
    places = ((router, "top_k"), (block, "top_k"), (config, "top_k_experts"))
    found = [getattr(holder, name, None) for holder, name in places]
    return next((int(top_k) for top_k in found if top_k is not None), None)


def is_transposed(experts: Any, way: str) -> bool:
    """Whether its matrices are [E, in, out], and not [E, out, in]."""
    return way == INPUTS or bool(getattr(experts, "is_transposed", False))


def width_of(experts: Any, way: str) -> int | None:
    """The hidden width of an expert."""
    if not hasattr(experts, "down_proj"):
        return getattr(experts, "ffn_hidden_size", None)
    return int(experts.down_proj.shape[1 if is_transposed(experts, way) else 2])


def router_of(family: str, name: str, block: Any) -> Any:
    """The router beside the experts at `name`, in their block; UserError where there is not one."""
    candidates = [getattr(block, child, None) for child in ROUTER_NAMES]
    found = [each for each in candidates if isinstance(each, nn.Module) and top_k_of(each, block) is not None]
    if len(found) != 1:
        children = one_of(child for child, _ in block.named_children())
        need = f"one of {one_of(ROUTER_NAMES)} with a top_k, as in {one_of(FAMILIES)}"
        raise UserError(f"model type {family!r}, {name}: {len(found)} routers among {children}; allowed: {need}")
    return found[0]


def _layer(model: nn.Module, family: str, name: str, experts: nn.Module, way: str) -> MoeLayer:
    block = block_of(model, name)
    router = router_of(family, name, block)
    where = f"model type {family!r}, {name}"
    if next(router.parameters()).is_meta and not any(hasattr(part, "_hf_hook") for part in router.modules()):
        raise UserError(f"{where}: its router is on the meta device; allowed: on a device, or offloaded by accelerate")
    top_k = top_k_of(router, block) or 0
    try:
        law = law_of(family, router, block, top_k, sum(sizes_of(experts)))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return MoeLayer(name, router, experts, law, reader(family, block, top_k), way)


def signal_shapes(moe: MoeModel, signals: Collection[str], ahead: int) -> dict[str, tuple[int, ...]]:
    """The optional arrays of the trace, with their shapes after the rows."""
    L, E, K = len(moe.layers), moe.n_experts, moe.top_k
    D = moe.model.config.get_text_config().hidden_size
    width = moe.model.get_input_embeddings().weight.shape[-1]
    known: dict[str, tuple[int, ...]] = {
        "expert_weights": (L, K),
        "router_probs": (L, E),
        "gate_ahead": (L, ahead, K),
        "hidden": (L, D),
        "embedding": (width,),
        "token_ids": (),
    }
    shapes = {name: shape for name, shape in known.items() if name in signals or name == "expert_weights"}
    if "router_probs" in shapes and moe.has_choice:
        shapes["router_choice"] = (L, E)
    return shapes


def cache_key(model: Any) -> str:
    """The keyword under which a model takes and returns its KV cache: "cache", or "past_key_values", which warns from
    transformers 5.24 on and is gone in 5.40, where its forward knows no other."""
    return "cache" if "cache" in takes(model.__class__) else "past_key_values"


def known(model: Any, **given: Any) -> dict[str, Any]:
    """Those of the keywords that the model's forward knows: another one would be an error, or go unheard.

    Positions are given wherever they can be: a model that is given none asks its cache how long it is, and some caches
    answer 0 (a first layer of linear attention keeps no keys).
    """
    return {name: value for name, value in given.items() if name in takes(model.__class__)}
