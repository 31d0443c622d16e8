"""A config.json gives what ``conf/model`` says, to the byte; what cannot be priced is refused in a line."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sim.prices import ModelProfile, shipped
from tests.traces.models.tiny import FAMILIES, MORE, TOKENS, E, there, tiny, torch
from traces.kit.conf import MODEL_DIR
from traces.kit.errors import UserError
from traces.models.families import cache_key
from traces.models.parts import Parts, parts_of
from traces.models.profile import profile_of
from traces.models.shapes import PUBLISHED

CONFIGS = Path(__file__).with_name("configs")
QWEN3: dict[str, Any] = json.loads((CONFIGS / "qwen3_30b_a3b.json").read_text())
TEXT = ("title", "source")
LATENT = {"deepseek_v2", "deepseek_v2_greedy", "deepseek_v3", "longcat_flash"}
COMPRESSED = {"deepseek_v4"}
ALL = sorted(FAMILIES | MORE)


def settings_of(family: str, **changed: Any) -> dict[str, Any]:
    model_type, sizes = (FAMILIES | MORE)[family]
    return {"model_type": model_type, **sizes, "torch_dtype": "bfloat16", **changed}


def priced(tmp_path: Path, settings: Any) -> dict[str, Any]:
    file = tmp_path / "config.json"
    file.write_text(settings if isinstance(settings, str) else json.dumps(settings))
    return profile_of(tmp_path)


def n_params(profile: dict[str, Any]) -> int:
    """Of the whole model, by its profile."""
    lead = profile["leading_dense_layers"]
    layer = sum(profile[f"{part}_params"] for part in ("attention", "router", "shared_expert"))
    layers = profile["moe_layers"] * (layer + profile["experts"] * profile["expert_params"])
    table = 0 if profile.get("tied_embeddings") else profile["vocab"] * profile["hidden"]
    return layers + lead["count"] * lead["params_per_layer"] + profile["head_params"] + table


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_config_is_the_shipped_profile(name: str) -> None:
    found, given = profile_of(CONFIGS / f"{name}.json"), in_dtypes_of_a_config(shipped("model", name))
    assert {key: value for key, value in found.items() if key != "source"} == {
        key: value for key, value in given.items() if key not in TEXT
    }
    whole = str(given["source"]).partition("; ")[2]
    assert whole.endswith("parameters in all")
    assert whole in found["source"]
    ModelProfile.from_dict(found)


def in_dtypes_of_a_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """A shipped profile without the sizes that it has for policies that load experts in lower dtypes."""
    floats = given["dtype"] == "float32"
    added = {"int8", "int2", *(["int4"] if floats else [])}
    kept = {dtype: size for dtype, size in given["expert_bytes"].items() if dtype not in added}
    return {**given, "expert_bytes": kept}


def test_tiny_moe_is_the_shipped_profile(tmp_path: Path) -> None:
    found = priced(tmp_path, json.loads((MODEL_DIR / "config.json").read_text()) | {"dtype": "float32"})
    given = in_dtypes_of_a_config(shipped("model", "tiny-moe"))
    assert {**found, "name": "tiny-moe", "source": ""} == {
        **{key: value for key, value in given.items() if key != "title"},
        "source": "",
    }


@pytest.mark.parametrize("family", ALL)
def test_the_parts_are_the_whole(family: str) -> None:
    """No parameter is lost, and none is in two parts, but a matrix that is embeddings and head."""
    model, parts = tiny(there(family)), parts_of(family, settings_of(family))
    idle = {"longcat_flash": 4 * 3 * 2 * 24 * 32}  # what its library holds of choices that compute nothing
    assert parts.params == sum(p.numel() for p in model.parameters()) - idle.get(family, 0)
    table = parts.vocab * parts.hidden if parts.tied else 0
    assert parts.embeddings + parts.head - table + sum(layer.params for layer in parts.layers) == parts.params
    routed = [layer for layer in parts.layers if layer.experts]
    biases = 32 + 2 * 24 if family == "gpt_oss" else 0
    assert [layer.experts for layer in routed] == [E * (3 * 32 * 24 + biases)] * 4
    per_choice = {"afmoe": 33, "ernie4_5_moe": 33, "gpt_oss": 33, "gemma4": 37}.get(family, 32)  # biases and scales
    assert {layer.router for layer in routed} == {per_choice * parts.shape.choices}
    assert all(layer.attention > 0 for layer in parts.layers)


@pytest.mark.parametrize("family", sorted({*ALL} - {"qwen2_moe", "gemma4", *COMPRESSED}))
def test_a_profile_is_the_whole(family: str, tmp_path: Path) -> None:
    profile = priced(tmp_path, settings_of(there(family)))
    assert n_params(profile) == parts_of(family, settings_of(family)).params
    ModelProfile.from_dict(profile)


@pytest.mark.parametrize("family", sorted({*ALL} - LATENT - COMPRESSED))
def test_keys_and_values_are_those_that_the_library_caches(family: str) -> None:
    model, parts = tiny(there(family)), parts_of(family, settings_of(family))
    with torch.inference_mode():
        cache = model(input_ids=TOKENS, use_cache=True)[cache_key(model)]
    kept = [layer.keys.shape[1] * (layer.keys.shape[3] + layer.values.shape[3]) for layer in cache.layers]
    assert [layer.kv for layer in parts.layers] == kept
    heads = model.config.num_attention_heads
    assert [layer.width for layer in parts.layers] == [heads * 2 * layer.keys.shape[3] for layer in cache.layers]


def test_a_latent_attention_keeps_the_latent() -> None:
    parts = parts_of("", settings_of("deepseek_v3"))
    assert {(layer.kv, layer.width) for layer in parts.layers} == {(8 + 8, 4 * (8 + 8 + 8))}
    twice = parts_of("", settings_of(there("longcat_flash")))  # two attentions in a layer
    assert {(layer.kv, layer.width) for layer in twice.layers} == {(2 * 16, 2 * 4 * 24)}


def test_dense_layers_between_are_part_of_the_layers_that_follow(tmp_path: Path) -> None:
    every_second = priced(tmp_path, settings_of("qwen3_moe"))
    assert (every_second["moe_layers"], every_second["leading_dense_layers"]["count"]) == (4, 0)
    each = priced(tmp_path, settings_of("qwen3_moe", num_hidden_layers=4, decoder_sparse_step=1))
    assert every_second == each | {
        **{key: 2 * each[key] for key in ("attention_params", "attention_width", "kv_bytes_per_token")},
        "shared_expert_params": 3 * 32 * 40,
        "source": every_second["source"],
    }
    assert "4 dense layers counted with the layers of experts that follow them" in every_second["source"]


def test_layers_that_differ_are_priced_as_their_mean(tmp_path: Path) -> None:
    profile, parts = priced(tmp_path, settings_of("deepseek_v4")), parts_of("", settings_of("deepseek_v4"))
    assert 0 <= n_params(profile) - parts.params < len(parts.layers)
    assert "layers differ: their mean; compressed_sparse_attention" in profile["source"]


def test_a_tied_matrix_is_in_memory_once(tmp_path: Path) -> None:
    tied, apart = (priced(tmp_path, QWEN3 | {"tie_word_embeddings": tied}) for tied in (True, False))
    assert tied.pop("tied_embeddings") is True
    assert {**tied, "source": ""} == {**apart, "source": ""}
    assert "30,220,957,696 parameters" in tied["source"]


def test_the_text_part_of_a_model_of_several_inputs(tmp_path: Path) -> None:
    text = settings_of("gemma4", hidden_size_per_layer_input=0)
    whole = priced(tmp_path, {"model_type": "gemma4", "text_config": text})
    assert whole["source"].startswith("config.json of gemma4, of which gemma4_text alone; ")
    alone = priced(tmp_path, text)
    assert {**whole, "source": ""} == {**alone, "source": ""}


@pytest.mark.parametrize(
    ("quantised", "sizes"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, {"fp8": 4719744}),
        ({"quant_method": "fp8", "weight_block_size": [64, 128]}, {"fp8": 4718592 + 2 * 1152}),
        ({"quant_method": "mxfp4"}, {"mxfp4": 4718592 // 2 + 4718592 // 32}),
    ],
)
def test_quantised_experts(quantised: dict[str, Any], sizes: dict[str, int], tmp_path: Path) -> None:
    found = priced(tmp_path, QWEN3 | {"quantization_config": quantised})
    assert {found["dtype"]: found["expert_bytes"][found["dtype"]]} == sizes
    assert found["expert_bytes"]["bfloat16"] == 9437184
    assert (found["compute_dtype"], found["dense_bytes_per_param"]) == ("bfloat16", 2)


def test_types_and_ragged_blocks(tmp_path: Path) -> None:
    assert priced(tmp_path, settings_of("mixtral"))["expert_bytes"] == {
        "bfloat16": 2 * 2304,
        "fp8": 2304 + 3 * 4,  # a block in each matrix, however little of it is there
        "int4": 2304 // 2 + (24 + 24 + 32) * 5 // 2,  # a group in each row
    }
    single = priced(tmp_path, settings_of("mixtral", torch_dtype="float32"))
    assert single["expert_bytes"] == {"float32": 4 * 2304, "bfloat16": 2 * 2304}
    assert (single["compute_dtype"], single["dense_bytes_per_param"]) == ("float32", 4)
    unstated = priced(tmp_path, settings_of("mixtral", torch_dtype=None))
    assert "no dtype stated: bfloat16" in unstated["source"]
    assert unstated["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{", "not JSON: Expecting property name"),
        ("[1]", "holds [1]; allowed: what a model's config.json holds, a mapping"),
        ("[" * 100_000, "not JSON: "),
        ('{"a": {"__float__": null}}', "not JSON: "),
        ({}, "model_type=None: unknown to transformers"),
        ({"model_type": "qwen3_moee"}, "did you mean qwen3_moe?"),
        ({"model_type": "t5"}, "of type 't5', an encoder with a decoder; allowed: a decoder alone"),
        ({"model_type": "switch_transformers"}, "an encoder with a decoder; allowed: a decoder alone"),
        ({"model_type": "nllb-moe"}, "an encoder with a decoder; allowed: a decoder alone"),
        ({"model_type": "vit"}, "of which the library has no language model for text alone"),
        (
            {"model_type": "qwen3_vl_moe", "vision_config": {}},
            "(vision_config), and the library has no language model of",
        ),
        (
            {"model_type": "llama", "num_hidden_layers": 2},
            "model_type=llama: no layer of experts; allowed: one that has",
        ),
        (settings_of("gemma4"), "other embeddings (model.embed_tokens_per_layer); allowed: those of its input"),
        (
            settings_of("qwen2_moe"),
            "dense layers (d) among those of experts (E), 'EdEEE'; allowed: dense layers that lead",
        ),
        ({"model_type": "jetmoe"}, "which cannot be recorded: its attention is routed to experts too"),
        (QWEN3 | {"num_hidden_layers": 0}, "num_hidden_layers=0; allowed: a whole number from 1 to 1000"),
        (QWEN3 | {"num_hidden_layers": 10**6}, "num_hidden_layers=1000000; allowed: a whole number from 1 to 1000"),
        (QWEN3 | {"hidden_size": -4}, "hidden_size=-4; allowed: a whole number from 1"),
        (QWEN3 | {"vocab_size": "many"}, "vocab_size='many'; allowed: a whole number from 1"),
        (QWEN3 | {"num_experts": 0}, "num_experts=0; allowed: a whole number from 1"),
        (QWEN3 | {"num_key_value_heads": 5}, "num_key_value_heads=5; allowed: what divides num_attention_heads=32"),
        (QWEN3 | {"num_experts_per_tok": 129}, "top-129 of 128 experts; allowed: top-1 to top-128"),
        (QWEN3 | {"hidden_act": "nope"}, "transformers cannot build it: KeyError"),
        (QWEN3 | {"torch_dtype": "float8"}, "dtype='float8'; allowed: bfloat16, float16, float32"),
        (QWEN3 | {"quantization_config": {"quant_method": "awq"}}, "quant_method='awq': its bytes are not known"),
        (QWEN3 | {"quantization_config": {"load_in_4bit": True}}, "quant_method='bitsandbytes': its bytes"),
        (QWEN3 | {"quantization": {"group_size": 64, "bits": 4}}, "quant_method='unknown': its bytes are not known"),
        (QWEN3 | {"quantization_config": "awq"}, "quant_method='unknown': its bytes are not known"),
        (
            QWEN3 | {"quantization_config": {"quant_method": "fp8", "weight_block_size": None}},
            "weight_block_size=None; allowed: outputs and inputs",
        ),
        (
            QWEN3 | {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["mlp.experts"]}},
            "modules_to_not_convert=['mlp.experts']: keeps experts as they are",
        ),
        (
            QWEN3 | {"quantization_config": {"quant_method": "fp8"}, "expert_dtype": "fp4"},
            "expert_dtype='fp4'; allowed: fp8, as the rest",
        ),
    ],
)
def test_what_cannot_be_priced_is_refused_in_a_line(settings: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        priced(tmp_path, settings)
    line = str(error.value)
    assert line.startswith("model=")
    assert str(tmp_path) in line
    assert said in line
    assert "\n" not in line


def test_what_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json; allowed: a model's config\.json, or a folder that"):
        profile_of(tmp_path)
    with pytest.raises(UserError, match="no such file; allowed: a model's"):
        profile_of(tmp_path / "none.json")


def test_code_of_the_models_own_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    assert priced(tmp_path, QWEN3 | {"auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}})


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("My-Model/config.json", "My-Model"),
        ("My-Model/other.json", "other"),
        ("models--org--My-Model/snapshots/0123/config.json", "My-Model"),
    ],
)
def test_it_is_called_after_its_folder_or_file(place: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(settings_of("mixtral")))
    assert profile_of(file)["name"] == name


def test_without_transformers_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "traces.models.parts", None)
    with pytest.raises(UserError, match=r"is built with transformers: pip install 'moe-offload-workbench\[hf\]'$"):
        priced(tmp_path, QWEN3)


def test_a_whole_model_is_never_in_memory() -> None:
    parts: Parts = parts_of("", QWEN3 | {"num_experts": 10**6})
    assert parts.params > 2 * 10**14
