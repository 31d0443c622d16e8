"""The shipped models against their published totals, and the strict reader."""

from typing import Any

import pytest

from sim.prices import AS_TRACED, ModelProfile, figures, shipped
from traces.kit import conf
from traces.kit.errors import UserError

# all parameters of the published checkpoints
PUBLISHED = {
    "olmoe_1b_7b": 6_919_161_856,
    "mixtral_8x7b": 46_702_792_704,
    "phi_3_5_moe": 41_873_153_344,
    "qwen1_5_moe_a2_7b": 14_315_784_192,
    "deepseek_v2_lite": 15_706_484_224,
    "qwen3_30b_a3b": 30_532_122_624,
    "gpt_oss_20b": 20_914_757_184,
    "gpt_oss_120b": 116_829_156_672,
    "reference": 14_819_456,  # our own, counted in its files
}
# SYSTEMS.md 0.1: one expert in MB, all routed experts in GB, top-k per token in GB, seconds at 25 GB/s
TABLE = {
    "mixtral_8x7b": (352.3, 90.2, 22.5, 0.90),
    "phi_3_5_moe": (157.3, 80.5, 10.1, 0.40),
    "qwen1_5_moe_a2_7b": (17.3, 24.9, 1.66, 0.066),
    "deepseek_v2_lite": (17.3, 28.8, 2.70, 0.108),
    "qwen3_30b_a3b": (9.44, 58.0, 3.62, 0.145),
    "olmoe_1b_7b": (12.6, 12.9, 1.61, 0.064),
}


def model(name: str) -> ModelProfile:
    return ModelProfile.from_dict(shipped("model", name))


def test_every_shipped_model_has_its_check() -> None:
    assert conf.names("model") == {*PUBLISHED, AS_TRACED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_add_up_to_the_published_total(name: str) -> None:
    m = model(name)
    assert m.name == name
    layer = m.experts * m.expert_params + m.attention_params + m.router_params + m.shared_expert_params
    dense = m.leading_dense_layers.count * m.leading_dense_layers.params_per_layer
    assert m.moe_layers * layer + dense + m.head_params + m.vocab * m.hidden == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_expert_sizes_follow_from_the_shapes(name: str) -> None:
    m = model(name)
    weights = 3 * m.hidden * m.expert_width
    biases = m.expert_params - weights
    assert biases == (3 * 2880 if name.startswith("gpt_oss") else 0)
    sizes = {
        "bfloat16": 2 * m.expert_params,
        "float32": 4 * m.expert_params,
        "fp8": weights + 4 * weights // 128**2,
        "int4": weights // 2 + 5 * weights // 256,
        "mxfp4": weights // 2 + weights // 32 + 2 * biases,
    }
    assert m.expert_bytes == {dtype: sizes[dtype] for dtype in m.expert_bytes}
    assert m.priced() == (sizes[m.dtype],) * m.moe_layers


@pytest.mark.parametrize("name", TABLE)
def test_shared_arithmetic_table(name: str) -> None:
    m = model(name)
    expert_mb, total_gb, token_gb, seconds = TABLE[name]
    (size,) = set(m.priced("bfloat16"))
    assert size / 1e6 == pytest.approx(expert_mb, rel=5e-3)
    assert m.total_expert_bytes("bfloat16") / 1e9 == pytest.approx(total_gb, rel=5e-3)
    assert m.moe_layers * m.top_k * size / 1e9 == pytest.approx(token_gb, rel=5e-3)
    assert m.moe_layers * m.top_k * size / 25e9 == pytest.approx(seconds, rel=1e-2)


def test_known_sizes() -> None:
    assert set(model("olmoe_1b_7b").priced()) == {12_582_912}
    assert set(model("gpt_oss_20b").priced("bfloat16")) == {49_783_680}
    assert set(model("gpt_oss_20b").priced()) == {13_236_480}


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"expets": 8}, r"model\.expets=8: no such key; allowed: name, .*top_k"),
    ({"experts": 0}, r"model\.experts=0: .*at least 1"),
    ({"experts": "64"}, r"model\.experts='64': .*whole number"),
    ({"experts": True}, r"model\.experts=true"),
    ({"experts": 64.0}, r"model\.experts=64\.0"),
    ({"top_k": 65}, r"model\.top_k=65: allowed: at most experts=64"),
    ({"name": " "}, r"model\.name=' '"),
    ({"dtype": "fp4"}, r"model\.dtype='fp4': allowed: bfloat16, fp8, int4"),
    ({"compute_dtype": "int4"}, r"model\.compute_dtype='int4': allowed: bfloat16, float16"),
    ({"expert_bytes": {}}, r"model\.expert_bytes=\{\}"),
    ({"expert_bytes": {"bfloat16": -1}}, r"model\.expert_bytes\.bfloat16=-1"),
    ({"expert_bytes_per_layer": {"mixed": [1, 2]}}, r"model\.expert_bytes_per_layer\.mixed=\(1, 2\): .*16"),
    ({"expert_bytes_per_layer": {"mixed": [0] * 16}}, r"model\.expert_bytes_per_layer\.mixed\[0\]=0"),
    ({"expert_bytes_per_layer": {"int4": [1] * 16}}, r"a dtype not in expert_bytes"),
    ({"leading_dense_layers": {"count": 0}}, r"model\.leading_dense_layers\.params_per_layer is missing"),
    ({"leading_dense_layers": 0}, r"model\.leading_dense_layers=0: allowed: a mapping"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_wrong_key_or_value_is_named_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        ModelProfile.from_dict({**shipped("model", "olmoe_1b_7b"), **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", figures(shipped("model", "olmoe_1b_7b")))
def test_no_figure_is_optional(key: str) -> None:
    mapping = {k: v for k, v in shipped("model", "olmoe_1b_7b").items() if k != key}
    with pytest.raises(UserError, match=rf"model\.{key} is missing"):
        ModelProfile.from_dict(mapping)


def test_unknown_names_and_dtypes_list_what_there_is() -> None:
    with pytest.raises(UserError, match=r"model='olmo': unknown; allowed: deepseek_v2_lite, .*qwen3_30b_a3b"):
        shipped("model", "olmo")
    with pytest.raises(UserError, match=r"dtype='fp4': allowed: bfloat16, mxfp4"):
        model("gpt_oss_20b").priced("fp4")


def test_sizes_per_layer() -> None:
    mixed = [100 + layer for layer in range(16)]
    mapping = {**shipped("model", "olmoe_1b_7b"), "expert_bytes_per_layer": {"mixed": mixed}}
    m = ModelProfile.from_dict(mapping)
    assert m.priced("mixed") == tuple(mixed)
    assert m.total_expert_bytes("mixed") == 64 * sum(mixed)
    assert set(m.priced()) == {12_582_912}


MANIFEST = {"name": "tiny", "revision": None, "n_layers": 2, "n_experts": 4, "top_k": 2, "scoring": "softmax"}


def test_a_trace_is_priced_by_its_manifest() -> None:
    m = ModelProfile.from_manifest({**MANIFEST, "expert_bytes": (10, 20), "shapes": None, "dtype": None})
    assert not m.shapes_known
    assert m.priced() == (10, 20)
    assert m.total_expert_bytes() == 120
    assert m.expert_params == 0
    shapes = {"hidden": 8, "expert_width": 4}
    known = ModelProfile.from_manifest({**MANIFEST, "expert_bytes": [192] * 2, "shapes": shapes, "dtype": "bfloat16"})
    assert known.expert_params == 96
    assert known.priced("bfloat16") == (192, 192)


def test_a_trace_without_sizes_asks_for_a_model() -> None:
    with pytest.raises(UserError, match=r"model=as_traced: .*'tiny'.*model="):
        ModelProfile.from_manifest({**MANIFEST, "expert_bytes": None, "shapes": None, "dtype": None})
