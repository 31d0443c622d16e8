"""A model's parts and the parameters of each: of the model itself, built on the meta device from its settings."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from traces.kit.errors import UserError, meant, one_of, shown
from traces.kit.fields import MAX_INT
from traces.kit.telling import in_short
from traces.models.families import block_of, family_of, is_transposed, router_of, sizes_of, top_k_of, way_of, width_of
from traces.models.laws import FAMILIES
from traces.models.load import check_type
from traces.models.quantised import AUTO, KEYS

MOST_LAYERS = 1000
"""A deeper model is a slip, and would take minutes to build."""
_SIZES = (
    *("hidden_size", "vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim", "kv_lora_rank"),
    *("intermediate_size", "moe_intermediate_size", "expert_ffn_hidden_size", "num_hidden_layers", "num_layers"),
    *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok"),
)
_MLPS = ("mlp", "mlps", "feed_forward", "ffn", "shared_mlp", "shared_expert", "shared_experts")
"""What every token goes through, where it is a child of a layer."""
_WITHOUT_KEYS = ("linear_attention", "mamba", "conv", "moe", "mlp", "sparse", "dense")
"""Kinds of layers whose state does not grow with the context, or which have none."""
_EXACT = ("full_attention", "attention", *_WITHOUT_KEYS)


@dataclass(frozen=True)
class Layer:
    """Parameters of one layer; 0 where it has no such part."""

    attention: int
    """With norms, and whatever else is in none of the other parts."""
    shared: int
    """Shared experts, or the MLP of a dense layer."""
    router: int
    experts: int
    kv: int
    """Numbers in the KV cache per token; of a latent attention, in the latent."""
    width: int
    """Multiply-adds per query-key pair: heads x (key dim + value dim)."""

    @property
    def params(self) -> int:
        return self.attention + self.shared + self.router + self.experts


@dataclass(frozen=True, order=True)
class Shape:
    """Of one layer's experts. `matrices`: (outputs, inputs) of those of one expert; `biases`: its other parameters."""

    experts: int
    choices: int
    """What the router chooses from: the experts, and what computes nothing."""
    top_k: int
    width: int
    matrices: tuple[tuple[int, int], ...]
    biases: int

    @property
    def params(self) -> int:
        return sum(map(math.prod, self.matrices)) + self.biases


@dataclass(frozen=True)
class Parts:
    """All of a model."""

    model_type: str
    hidden: int
    vocab: int
    shape: Shape
    layers: tuple[Layer, ...]
    embeddings: int
    head: int
    """With the final norm, and whatever else is in no layer."""
    beside: tuple[str, ...]
    """Embeddings beside the input's, by name: their parameters are in `embeddings`."""
    tied: bool
    """Whether the head's matrix is that of the embeddings, and counted in both."""
    as_if_full: tuple[str, ...]
    """Kinds of attention that keep or read less than all keys, which `kv` and `width` do not know."""
    params: int
    """Of the whole model, but for what the library holds of choices that compute nothing."""


def parts_of(name: str, settings: Mapping[str, Any]) -> Parts:
    """The parts of the model that `settings`, of a config.json, describe; UserError for none of ours.

    Of a model of several kinds of input, its language model's. Nothing is fetched, and no code of the model's is run.
    """
    said: Any = logging
    verbosity = said.get_verbosity()
    said.set_verbosity_error()
    try:
        config = _configuration(name, settings)
        with torch.device("meta"):
            model: Any = AUTO.from_config(config)
    except UserError:
        raise
    except Exception as error:  # settings can be wrong in every way, and the library takes them as they come
        raise UserError(f"transformers cannot build it: {in_short(error, kind=True)}") from None
    finally:
        said.set_verbosity(verbosity)
    try:
        return _parts(config, model)
    except AttributeError as error:  # of a module that is made otherwise than those of the families
        raise UserError(f"model_type={config.model_type}: its modules are not understood: {in_short(error)}") from None


def _configuration(name: str, settings: Mapping[str, Any]) -> Any:
    """The library's configuration of the language model, its sizes checked."""
    kind = settings.get("model_type")
    known: Any = CONFIG_MAPPING
    loaded: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    if not isinstance(kind, str) or kind not in known:
        why = f"unknown to transformers {transformers.__version__}; tested:"
        raise UserError(f"model_type={shown(kind)}: {why} {one_of(FAMILIES)}{meant(kind, FAMILIES)}")
    plain = {key: value for key, value in settings.items() if key not in ("auto_map", *KEYS)}
    _check_sizes(plain)
    config: Any = known[kind].from_dict(plain)
    if getattr(config, "is_encoder_decoder", False):
        check_type(name, config)
    text = config.get_text_config()
    if text is not config and type(text) not in loaded:
        inputs = one_of(sorted(key for key in settings if key.endswith("_config") and key not in KEYS))
        raise UserError(
            f"model_type={kind}: of several kinds of input ({inputs}), and the library has no language model of its"
            f" text part alone, {text.model_type}; allowed: a model that has one"
        )
    check_type(name, text)
    _check_sizes(text.to_dict())
    return text


def _check_sizes(settings: Mapping[str, Any]) -> None:
    for key in _SIZES:
        value, most = settings.get(key), MOST_LAYERS if key.endswith("_layers") else MAX_INT
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
            raise UserError(f"{key}={shown(value)}; allowed: a whole number from 1 to {most}")
    heads, kv_heads = (settings.get(key) for key in ("num_attention_heads", "num_key_value_heads"))
    if heads and kv_heads and heads % kv_heads:
        raise UserError(f"num_key_value_heads={kv_heads}; allowed: what divides num_attention_heads={heads}")


def _parts(config: Any, model: Any) -> Parts:
    family = family_of(config)
    ways = {name: way for name, module in model.named_modules() if (way := way_of(family, module))}
    if not ways:
        raise UserError(
            f"model_type={config.model_type}: no layer of experts; allowed: one that has, as {one_of(FAMILIES)}"
        )
    stack, routed = _places(ways)
    kinds = list(getattr(config, "layer_types", None) or [])
    layers, shapes, idle = [], set[Shape](), 0
    for index, layer in enumerate(model.get_submodule(stack)):
        attended = _attended(config, layer, index, kinds[index] if index < len(kinds) else "")
        if (name := routed.get(index)) is None:
            mlp = _count(_mlps(layer))
            layers.append(Layer(_count(layer.parameters()) - mlp, mlp, 0, 0, *attended))
            continue
        block, experts = block_of(model, name), model.get_submodule(name)
        router = router_of(family, name, block)
        shapes.add(shape := _shape(experts, ways[name], top_k_of(router, block) or 0))
        idle += _count(experts.parameters()) - shape.experts * shape.params
        layers.append(_routed(layer, block, experts, router, shape, attended))
    if len(shapes) > 1:
        raise UserError(f"its layers differ in their experts: {one_of(sorted(shapes))}; allowed: all alike")
    (shape,) = shapes
    if not 1 <= shape.top_k <= shape.choices:
        raise UserError(f"top-{shape.top_k} of {shape.choices} experts; allowed: top-1 to top-{shape.choices}")
    if not any(layer.kv for layer in layers):
        raise UserError("no layer with keys and values that are understood; allowed: attention with a KV cache")
    table, top = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    tables = {name: part.weight for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    beside = {name: weight for name, weight in tables.items() if weight is not table}
    outside = [p for name, p in model.named_parameters() if not name.startswith(f"{stack}.")]
    embeddings = [table, *beside.values()]
    return Parts(
        model_type=str(config.model_type),
        hidden=int(config.hidden_size),
        vocab=int(config.vocab_size),
        shape=shape,
        layers=tuple(layers),
        embeddings=_count(embeddings),
        head=_count(outside, without=embeddings) + (_count([top]) if top is table else 0),
        beside=tuple(beside),
        tied=top is table,
        as_if_full=tuple(sorted({*kinds} - {*_EXACT})),
        params=_count(model.parameters()) - idle,
    )


def _places(names: Iterable[str]) -> tuple[str, dict[int, str]]:
    """The name of the list of layers, and by a layer's index that of its experts: model.layers.3.mlp.experts."""
    words = {name: name.split(".") for name in names}
    places = {name: next((i for i, word in enumerate(found) if word.isdecimal()), 0) for name, found in words.items()}
    stacks = {".".join(words[name][:place]) for name, place in places.items()}
    routed = {int(words[name][place]): name for name, place in places.items() if place}
    if len(stacks) > 1 or len(routed) < len(words):
        raise UserError(f"experts at {shown(one_of(words))}; allowed: in one place of each layer")
    return stacks.pop(), routed


def _routed(layer: Any, block: Any, experts: Any, router: Any, shape: Shape, attended: tuple[int, int]) -> Layer:
    """`block`: where router and experts lie, the layer itself or a part of it."""
    routing, others = [*router.parameters()], _mlps(layer)
    if block is not layer:
        routing += block.parameters(recurse=False)  # a bias of the choice
        others += block.parameters()
    taken = [*routing, *experts.parameters()]
    attention = _count(layer.parameters(), without=[*taken, *others])
    return Layer(attention, _count(others, without=taken), _count(routing), shape.experts * shape.params, *attended)


def _count(parameters: Iterable[Any], without: Iterable[Any] = ()) -> int:
    left_out = {id(parameter) for parameter in without}
    once = {id(parameter): parameter for parameter in parameters}
    return sum(math.prod(parameter.shape) for key, parameter in once.items() if key not in left_out)


def _mlps(layer: nn.Module) -> list[Any]:
    """Parameters of what lies in the layer itself and every token goes through, experts in it included."""
    return [p for name, child in layer.named_children() if name in _MLPS for p in child.parameters()]


def _shape(experts: Any, way: str, top_k: int) -> Shape:
    """Its weights hold all experts: [E, out, in] or [E, in, out], or [E x out, in]; its biases are [E, out]."""
    n_experts, idle = sizes_of(experts)
    n_choices = n_experts + idle
    transposed = is_transposed(experts, way)
    matrices, biases = list[tuple[int, int]](), 0
    for name, weights in experts.named_parameters():
        first, *rest = weights.shape
        count = n_choices if first == n_choices else n_experts
        if len(rest) < 2 and first == count:
            biases += weights.numel() // count
            continue
        rows, columns = rest if len(rest) == 2 else (first // count, *rest)
        outputs, inputs = (columns, rows) if transposed else (rows, columns)
        halves = 2 if "gate_up" in name else 1
        matrices += [(outputs // halves, inputs)] * halves
    return Shape(n_experts, n_choices, top_k, width_of(experts, way) or 0, tuple(matrices), biases)


def _attended(config: Any, layer: nn.Module, index: int, kind: str) -> tuple[int, int]:
    """(kv, width) of a layer, of all its attentions together: see :class:`Layer`."""
    found = [(name, part) for name, part in layer.named_modules() if hasattr(part, "num_key_value_groups")]
    found = [(name, part) for name, part in found if hasattr(part, "head_dim") or hasattr(part, "kv_lora_rank")]
    inner = [name for name, _ in found]
    found = [(name, part) for name, part in found if not any(name.startswith(f"{other}.") for other in inner)]
    if not found and kind not in _WITHOUT_KEYS:
        raise UserError(
            f"layer {index}{f' ({kind})' if kind else ''}: no attention that is understood; allowed: with heads"
        )
    sizes = [_attention(config, part) for _, part in found]
    return sum(kv for kv, _ in sizes), sum(width for _, width in sizes)


def _attention(config: Any, part: Any) -> tuple[int, int]:
    if hasattr(part, "kv_lora_rank"):  # a latent attention keeps the latent, and computes as if expanded
        return part.kv_lora_rank + part.qk_rope_head_dim, part.num_heads * (part.qk_head_dim + part.v_head_dim)
    key = int(part.head_dim)
    value = int(getattr(part, "v_head_dim", key))
    if getattr(part, "is_kv_shared_layer", False):  # reads what another layer keeps
        return 0, config.num_attention_heads * (key + value)
    if hasattr(part, "kv_proj") and not hasattr(part, "k_proj"):  # one vector, key and value
        return part.kv_proj.out_features, part.num_heads * 2 * key
    kv_heads = getattr(part, "num_key_value_heads", None) or part.k_proj.out_features // key
    return kv_heads * (key + value), kv_heads * part.num_key_value_groups * (key + value)
