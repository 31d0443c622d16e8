"""The shipped models and machines, against what is published of them, and their strict readers."""

import re
from dataclasses import replace
from typing import Any

import pytest

from sim.prices import AS_TRACED, HardwareProfile, ModelProfile, figures, shipped
from tests.sim.experiment.nested import put
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
    "tiny-moe": 14_819_456,  # our own, counted in its files
}
# SYSTEMS.md 0.1: one expert in MB, all routed experts in GB, top-k per token in GB
TABLE = {
    "mixtral_8x7b": (352.3, 90.2, 22.5),
    "phi_3_5_moe": (157.3, 80.5, 10.1),
    "qwen1_5_moe_a2_7b": (17.3, 24.9, 1.66),
    "deepseek_v2_lite": (17.3, 28.8, 2.70),
    "qwen3_30b_a3b": (9.44, 58.0, 3.62),
    "olmoe_1b_7b": (12.6, 12.9, 1.61),
}
DECODERS = {"switch_base_16": 4.08 * 2**30 / 1e9, "switch_base_128": 30.0, "switch_large_128": 105.6}
"""Of these the decoder alone; GB of the whole in float32, by SwapMoE (arXiv 2308.15030), Pre-gated MoE (2308.12066)."""
MACHINES = [
    *("a100", "apple_m4_max", "apple_m5_max", "h100", "h200", "jetson_agx_orin", "jetson_agx_orin_32gb", "jetson_nano"),
    *("l40s", "mi300x", "oneplus_15r", "rtx_3060", "rtx_3090"),
    *("rtx_3090_x2", "rtx_3090_x6", "rtx_4080", "rtx_4090", "rtx_5090", "rtx_a6000"),
]


def model(name: str) -> ModelProfile:
    return ModelProfile.from_dict(shipped("model", name))


def machine(name: str) -> HardwareProfile:
    return HardwareProfile.from_dict(shipped("hardware", name))


def test_every_shipped_profile_has_its_check() -> None:
    assert conf.names("model") == {*PUBLISHED, *DECODERS, AS_TRACED}
    assert sorted(conf.names("hardware")) == MACHINES


# -- models -----------------------------------------------------------------------------------------------------


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
        "int8": weights + 2 * (2 * m.expert_width + m.hidden),
        "int4": weights // 2 + 5 * weights // 256,
        "int2": weights // 4 + 9 * weights // 512,
        "mxfp4": weights // 2 + weights // 32 + 2 * biases,
    }
    assert m.expert_bytes == {dtype: sizes[dtype] for dtype in m.expert_bytes}
    assert m.priced() == (sizes[m.dtype],) * m.moe_layers


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_with_its_encoder_is_what_is_published(name: str) -> None:
    """An encoder has as many experts, and no cross-attention, which is half of what a decoder's attention has."""
    m = model(name)
    assert m.expert_params == m.shared_expert_params == 2 * m.hidden * m.expert_width, "two matrices, no gate"
    assert m.expert_bytes == {"float32": 4 * m.expert_params, "float16": 2 * m.expert_params}
    assert m.attention_params == 2 * (8 * m.hidden**2 + 3 * m.hidden)
    layer = m.experts * m.expert_params + m.router_params + m.shared_expert_params
    both = m.moe_layers * (2 * layer + m.attention_params + m.attention_params // 2)
    assert 4 * (both + m.head_params) / 1e9 == pytest.approx(DECODERS[name], rel=0.022)
    decoder = m.moe_layers * (layer + m.attention_params) + m.head_params
    assert f"its decoder, {decoder:,} parameters in all" in m.source


@pytest.mark.parametrize("name", TABLE)
def test_shared_arithmetic_table(name: str) -> None:
    m = model(name)
    sizes = m.priced("bfloat16")
    found = sizes[0] / 1e6, m.experts * sum(sizes) / 1e9, m.top_k * sum(sizes) / 1e9
    assert found == pytest.approx(TABLE[name], rel=5e-3)


def test_sizes_per_layer() -> None:
    mixed = [100 + layer for layer in range(16)]
    m = ModelProfile.from_dict({**shipped("model", "olmoe_1b_7b"), "expert_bytes_per_layer": {"mixed": mixed}})
    assert m.priced("mixed") == tuple(mixed)
    assert set(m.priced()) == {12_582_912}


MANIFEST = {"name": "tiny", "revision": None, "n_layers": 2, "n_experts": 4, "top_k": 2, "scoring": "softmax"}


def test_a_trace_is_priced_by_its_manifest() -> None:
    m = ModelProfile.from_manifest({**MANIFEST, "expert_bytes": (10, 20), "shapes": None, "dtype": None})
    assert not m.shapes_known
    assert m.priced() == (10, 20)
    assert m.expert_params == 0
    shapes = {"hidden": 8, "expert_width": 4}
    known = ModelProfile.from_manifest({**MANIFEST, "expert_bytes": [192] * 2, "shapes": shapes, "dtype": "bfloat16"})
    assert known.expert_params == 96
    assert known.priced("bfloat16") == (192, 192)
    with pytest.raises(UserError, match=r"model=as_traced: .*'tiny'.*model="):
        ModelProfile.from_manifest({**MANIFEST, "expert_bytes": None, "shapes": None, "dtype": None})


# -- machines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MACHINES)
def test_shipped_machines_say_where_their_figures_are_from_and_charge_nothing_for_decisions(name: str) -> None:
    hardware = machine(name)
    assert hardware.name == name
    assert hardware.provenance == "published"
    assert {"bfloat16", "float16"} <= set(hardware.gpu.tflops)
    assert hardware.link.h2d_gb_per_s < hardware.gpu.hbm_gb_per_s
    assert set(hardware.inferred) < set(vars(hardware.sources))
    assert shipped("hardware", name)["software"]["policy_us"] == hardware.software.policy_us == {}


@pytest.mark.parametrize("name", MACHINES)
def test_a_discrete_card_has_a_way_to_others_of_its_kind_through_the_host(name: str) -> None:
    hardware = machine(name)
    several = HardwareProfile.from_dict({**shipped("hardware", name), "gpus": 2})
    if name.startswith(("apple", "jetson", "oneplus")):  # CPU and GPU share one memory
        assert hardware.peer is None
        assert "peer" not in several.inferred
        return
    assert hardware.peer is not None
    assert hardware.link.d2h_gb_per_s is not None
    assert hardware.peer.gb_per_s == min(hardware.link.h2d_gb_per_s, hardware.link.d2h_gb_per_s) / 2
    assert hardware.peer.latency_us == 2 * hardware.link.overhead_us
    assert "peer" in several.inferred
    assert ("peer" in hardware.inferred) == (hardware.gpus > 1), "one GPU has nobody to send to"


def test_the_unpublished_link_of_the_h200_is_marked() -> None:
    assert "h2d_gb_per_s" in machine("h200").inferred
    assert "h2d_gb_per_s" not in machine("a100").inferred


def test_decisions_are_charged_in_whole_nanoseconds() -> None:
    own = {"fmoe": {"decode": 0.0011}, "lru": {"prefill": 7, "decode": 2.5}}
    charged = HardwareProfile.from_dict(put(shipped("hardware", "a100"), ("software", "policy_us"), own))
    found = {name: own.ns() for name, own in charged.software.policy_us.items()}
    assert found == {"fmoe": (0, 2), "lru": (7000, 2500)}


def test_figures_that_no_price_depends_on_may_be_left_out_and_so_may_overheads_of_later_profiles() -> None:
    mapping: Any = {key: dict(it) if isinstance(it, dict) else it for key, it in shipped("hardware", "a100").items()}
    unread = ("link", "d2h_gb_per_s"), ("link", "pageable_gb_per_s"), ("host", "dram_gb_per_s"), ("host", "cpu_threads")
    for group, key in unread:
        del mapping[group][key]
        mapping["sources"].pop(key, None)
    del mapping["software"]["policy_us"], mapping["software"]["copy_overhead_us"]
    hardware, whole = HardwareProfile.from_dict(mapping), machine("a100")
    assert [getattr(getattr(hardware, group), key) for group, key in unread] == [None] * 4
    assert replace(hardware, link=whole.link, host=whole.host, sources=whole.sources) == whole


def test_decimals_are_exact() -> None:
    hbm = machine("rtx_3090").gpu.hbm_gb_per_s
    assert (hbm.numerator, hbm.denominator) == (4681, 5)


RUNTIME = {
    "date": "2026-11-20 13:00 UTC",
    "model": "tiny-moe",
    "routing": "synthetic routing",
    "method": "by hand",
    "layer_overhead_us": 80.5,
    "launch_us": 30,
    "copy_overhead_us": 0.1,
    "fit": {"decode": 0.01},
}
OVERHEADS = ("software", "layer_overhead_us"), ("gpu", "launch_us"), ("software", "copy_overhead_us")


def test_a_profile_says_whose_overheads_it_holds_and_changed_ones_are_no_longer_the_runtimes() -> None:
    assert machine("a100").overheads.startswith("none of the runtime's")
    mapping = {**shipped("hardware", "a100"), "runtime": RUNTIME}
    for path in OVERHEADS:
        mapping = put(mapping, path, RUNTIME[path[1]])
    said = HardwareProfile.from_dict(mapping).overheads
    assert said == "the runtime's own, measured 2026-11-20 13:00 UTC with tiny-moe on synthetic routing"
    for group, key in OVERHEADS:
        changed = put(mapping, (group, key), 99)
        allowed = rf"hardware\.{group}\.{key}=.*hardware\.runtime\.{key} gives; or hardware\.runtime=null"
        with pytest.raises(UserError, match=allowed):
            HardwareProfile.from_dict(changed)
        assert HardwareProfile.from_dict(changed | {"runtime": None}).overheads.startswith("none")


# -- the readers ------------------------------------------------------------------------------------------------

OWN = "hardware.software.policy_us"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("hardware.provenance", "guessed", "='guessed': allowed: published, measured"),
        ("hardware.link.h2d_gb_per_s", 0, "=0: .*above 0"),
        ("hardware.link.h2d_gb_per_s", "fast", "='fast'"),
        ("hardware.link.h2d_gb_per_s", True, "=true"),
        ("hardware.link.h2d_gb_per_s", float("nan"), "=nan: .*finite"),
        ("hardware.link.h2d_gb_per_s", float("inf"), "=inf: .*finite"),
        ("hardware.link.overhead_us", -1, "=-1: .*at least 0"),
        ("hardware.link.depth", 0, "=0"),
        ("hardware.link.lanes", 0, "=0: .*at least 1"),
        ("hardware.link.lanes", 1.5, r"=1\.5: .*whole number"),
        ("hardware.link.lanes", True, "=true: .*whole number"),
        ("hardware.link.lanes", 2**20, "=1048576: allowed: at most 65536"),
        ("hardware.link.bandwith", 1, "=1: no such key; allowed: h2d_gb_per_s"),
        ("hardware.gpu.tflops", {}, r"=\{\}"),
        ("hardware.gpu.efficiency.hbm", 1.1, r"=1\.1: .*at most 1"),
        ("hardware.gpu", None, "=null: allowed: a mapping with the keys memory_bytes"),
        ("hardware.sources.tflops", "", "=''"),
        ("hardware.host.cpu_threads", 0, "=0"),
        (OWN, None, "=null: allowed: a mapping of policies"),
        (OWN, {"fmeo": {"decode": 1}}, "=fmeo: unknown; allowed: .*fmoe, "),
        (OWN, {7: {"decode": 1}}, "=7: unknown; allowed: .*fmoe, "),
        (OWN, {"belady_forced": {"decode": 1}}, "='belady_forced': .*reference row"),
        (OWN, {"fmoe": {}}, r"\.fmoe=\{\}: allowed: .*prefill, decode"),
        (OWN, {"fmoe": 5000}, r"\.fmoe=5000: allowed: .*prefill, decode"),
        (OWN, {"fmoe": {"token": 1}}, r"\.fmoe\.token=1: .*allowed: prefill, decode"),
        (OWN, {"fmoe": {"decode": -1}}, r"\.fmoe\.decode=-1: .*at least 0"),
        (OWN, {"fmoe": {"decode": 1e12}}, r"\.fmoe\.decode=1000000000000\.0: .*at most 1000000000"),
        ("model.expets", 8, "=8: no such key; allowed: name, .*top_k"),
        ("model.experts", 0, "=0: .*at least 1"),
        ("model.experts", "64", "='64': .*whole number"),
        ("model.experts", True, "=true"),
        ("model.experts", 64.0, r"=64\.0"),
        ("model.top_k", 65, "=65: allowed: at most experts=64"),
        ("model.name", " ", "=' '"),
        ("model.dtype", "fp4", "='fp4': allowed: bfloat16, fp8, int4"),
        ("model.compute_dtype", "int4", "='int4': allowed: bfloat16, float16"),
        ("model.expert_bytes", {"bfloat16": -1}, r"\.bfloat16=-1"),
        ("model.expert_bytes_per_layer", {"mixed": [1, 2]}, r"\.mixed=\(1, 2\): .*16"),
        ("model.expert_bytes_per_layer", {"mixed": [0] * 16}, r"\.mixed\[0\]=0"),
        ("model.expert_bytes_per_layer", {"int4": [1] * 16}, ".*a dtype not in expert_bytes"),
        ("model.leading_dense_layers", {"count": 0}, r"\.params_per_layer is missing"),
        ("model.leading_dense_layers", 0, "=0: allowed: a mapping"),
    ],
)
def test_a_wrong_key_or_value_is_named_in_one_line(path: str, value: object, said: str) -> None:
    group, *inner = path.split(".")
    kind, name = (ModelProfile, "olmoe_1b_7b") if group == "model" else (HardwareProfile, "a100")
    with pytest.raises(UserError, match=re.escape(path) + said) as error:
        kind.from_dict(put(shipped(group, name), tuple(inner), value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", figures(shipped("model", "olmoe_1b_7b")))
def test_no_figure_of_a_model_is_optional(key: str) -> None:
    mapping = {k: v for k, v in shipped("model", "olmoe_1b_7b").items() if k != key}
    with pytest.raises(UserError, match=rf"model\.{key} is missing"):
        ModelProfile.from_dict(mapping)


def test_unknown_names_and_dtypes_list_what_there_is() -> None:
    with pytest.raises(UserError, match=r"model='olmo': unknown; allowed: deepseek_v2_lite, .*qwen3_30b_a3b"):
        shipped("model", "olmo")
    with pytest.raises(UserError, match=r"dtype='fp4': allowed: bfloat16, mxfp4"):
        model("gpt_oss_20b").priced("fp4")
