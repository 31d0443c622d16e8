"""From a model's name to one MoE layer of its shape with random weights, and the numbers of that shape."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from traces.kit.conf import MODEL_DIR
from traces.kit.errors import UserError, meant, one_of
from traces.models.families import ROUTER_NAMES, is_experts
from traces.models.quantised import AUTO, LOCAL

PUBLISHED: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
"""The models of ``conf/model`` as transformers configures them; the tests compare their parameters with it."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Block:
    """The last layer of a model as short as may be, and its parts."""

    model: Any
    layer: Any
    experts: Any
    shape: dict[str, int]  # by the names of the profile's `shape`


def configuration(name: str) -> Any:
    """The transformers configuration of a name of ``conf/model``, "tiny-moe", or a model on this machine."""
    if name in PUBLISHED:
        words = dict(PUBLISHED[name])
        return AutoConfig.for_model(words.pop("model_type"), **words)
    source = str(MODEL_DIR) if name == "tiny-moe" else name
    try:
        return AutoConfig.from_pretrained(source, **LOCAL)
    except (OSError, ValueError, StrictDataclassError) as error:
        why = "no such folder, and not in the local Hugging Face cache"
        if Path(source).exists():
            why = " ".join(str(error).split())[:200]
        allowed = f"tiny-moe, {one_of(PUBLISHED)}, a model's folder or one of the local Hugging Face cache"
        near = meant(name, ["tiny-moe", *PUBLISHED])
        raise UserError(f"model={name!r} is not known ({why}); allowed: {allowed}{near}") from None


def build(name: str, device: torch.device, dtype: str) -> Block:
    """Random weights for the fewest layers that have a layer of experts; UserError where none has."""
    config = configuration(name)
    text = config.get_text_config()
    for layers in range(1, text.num_hidden_layers + 1):
        text.num_hidden_layers = layers
        for key, kind in (("layer_types", "full_attention"), ("mlp_layer_types", None)):
            if kinds := getattr(text, key, None):
                setattr(text, key, kinds[:layers] if kind is None else [kind] * layers)
        with torch.device("meta"):
            modules = [*AUTO.from_config(config).named_modules()]
        if place := next((name for name, module in reversed(modules) if is_experts(module)), ""):
            break
    else:
        raise UserError(f"model={name!r}: no layer of experts; allowed: a model that has one")
    with torch.device(device):
        model: Any = AUTO.from_config(config, dtype=DTYPES[dtype])
    model.eval().requires_grad_(requires_grad=False)
    experts: Any = model.get_submodule(place)
    block = model.get_submodule(place.rpartition(".")[0])
    layer: Any = model.get_submodule(place[: place.index(".", place.index("layers.") + len("layers."))])
    routers = [module for child, module in block.named_children() if child in ROUTER_NAMES]
    if len(routers) != 1:
        raise UserError(f"{place}: {len(routers)} routers beside it; allowed: one of {one_of(ROUTER_NAMES)}")
    n_experts, top_k = int(experts.num_experts), int(model.config.get_text_config().num_experts_per_tok)
    down = experts.down_proj
    expert_params, router_params = _params(experts) // n_experts, _params(routers[0])
    shape = {
        "hidden": int(down.shape[2 if experts.is_transposed else 1]),
        "expert_width": int(down.shape[1 if experts.is_transposed else 2]),
        "experts": n_experts,
        "top_k": top_k,
        "expert_params": expert_params,
        "attention_params": _params(layer) - _params(block),
        "router_params": router_params,
        "shared_expert_params": _params(block) - _params(experts) - router_params,
    }
    return Block(model, layer, experts, shape)


def _params(module: Any) -> int:
    return sum(math.prod(parameter.shape) for parameter in module.parameters())
