"""Tiny random models of three families, built here: no weights are at hand where the tests run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the collector needs the extra 'hf'")
transformers = pytest.importorskip("transformers", reason="the collector needs the extra 'hf'")

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 299,
    "pad_token_id": None,
    "initializer_range": 0.3,  # routers that differ, so that a mix-up cannot hide
}
L, E, K = 4, 8, 3


def olmoe() -> Any:
    return transformers.OlmoeConfig(**SIZES, num_experts=E)


def mixtral() -> Any:
    return transformers.MixtralConfig(**SIZES, num_local_experts=E)


def gpt_oss() -> Any:
    sizes = SIZES | {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
    return transformers.GptOssConfig(**sizes, num_local_experts=E, sliding_window=16, rope_parameters=ROPE)


ROPE = {"rope_type": "default", "rope_theta": 10000.0}
FAMILIES = {"olmoe": olmoe, "mixtral": mixtral, "gpt_oss": gpt_oss}


def tiny(family: str) -> Any:
    """A random model of the family, in evaluation mode; biases are random too."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]())
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def save_with_tokenizer(model: Any, folder: Path) -> Path:
    """Save `model` with a tokenizer of one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=bytewise).save_pretrained(folder)
    return folder
