"""Durations: whole nanoseconds, exact, rounded up, monotone."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.experiment.budget import Room
from sim.prices import HardwareProfile, ModelProfile, shipped
from sim.prices.costs import Costs, attended_pairs
from sim.prices.curves import Affine, Roofline
from traces.kit.errors import UserError

A100 = HardwareProfile.from_dict(shipped("hardware", "a100"))
OLMOE = ModelProfile.from_dict(shipped("model", "olmoe_1b_7b"))
DEEPSEEK = ModelProfile.from_dict(shipped("model", "deepseek_v2_lite"))
COSTS = Costs(OLMOE, A100)
BYTES = st.integers(1, 10**10)
TOKENS = st.integers(1, 4096)
RATES = st.fractions(Fraction(1, 1000), 10_000, max_denominator=1000)


def test_figures_by_hand() -> None:
    size, hbm, link = 12_582_912, Fraction(2039), Fraction("26.08")
    assert COSTS.expert_bytes == (size,) * 16
    assert COSTS.copy_ns(size) == math.ceil(10_000 + size / link) == 492_474
    assert COSTS.expert_ns(0, 1) == math.ceil(size / hbm) == 6_172
    assert COSTS.expert_ns(0, 4096) == math.ceil(Fraction(2 * 6_291_456 * 4096, 312_000)) == 165_192
    weights = 2 * (16_785_408 + 131_072)
    assert COSTS.dense_ns(1, 1024, 1024) == math.ceil((weights + 1024 * 8192) / hbm)
    assert COSTS.lead_ns(1, 1024, 1024) + COSTS.head_ns(1) == math.ceil(2 * 103_024_640 / hbm)
    assert (COSTS.launch_ns, COSTS.layer_overhead_ns) == (5_000, 0)


def test_prefill_is_bound_by_flops() -> None:
    tokens, params = 2048, 16_785_408 + 131_072
    pairs = attended_pairs(tokens, 0)
    flops = 2 * params * tokens + 2 * 4096 * pairs
    assert COSTS.dense_ns(tokens, tokens, pairs) == math.ceil(Fraction(flops, 312_000))


def test_leading_dense_layers_are_paid_once_per_pass() -> None:
    costs = Costs(DEEPSEEK, A100)
    one = math.ceil(Fraction(2 * 81_007_104 + 100 * 1152, 2039))
    assert costs.lead_ns(1, 100, 100) == one
    assert costs.head_ns(1) == math.ceil(Fraction(2 * 209_717_248, 2039))


@given(BYTES, BYTES)
def test_copies_are_monotone_and_exact(a: int, b: int) -> None:
    exact = 10_000 + Fraction(a) / A100.link.h2d_gb_per_s
    assert COSTS.copy_ns(a) == math.ceil(exact)
    assert COSTS.copy_ns(min(a, b)) <= COSTS.copy_ns(max(a, b))


@given(st.lists(BYTES, min_size=1, max_size=20), st.fractions(0, 10, max_denominator=100), RATES)
def test_no_cut_of_the_bytes_beats_the_floor(pieces: list[int], overhead: Fraction, rate: Fraction) -> None:
    link = Affine(overhead, 1 / rate)
    assert link.floor_ns(sum(pieces)) <= sum(link.ns(piece) for piece in pieces)
    assert link.floor_ns(sum(pieces)) == math.floor(sum(pieces) / rate)


@given(TOKENS, TOKENS)
def test_more_tokens_cost_more_and_together_less_than_apart(a: int, b: int) -> None:
    for costs in (COSTS, Costs(DEEPSEEK, A100, "int4")):
        apart = costs.expert_ns(0, a) + costs.expert_ns(0, b)
        assert max(costs.expert_ns(0, a), costs.expert_ns(0, b)) <= costs.expert_ns(0, a + b) <= apart


@given(TOKENS, TOKENS, st.integers(0, 10**5), st.integers(0, 10**5))
def test_dense_and_step_grow_with_tokens_and_context(a: int, b: int, c: int, d: int) -> None:
    (a, b), (c, d) = sorted((a, b)), sorted((c, d))
    costs = Costs(DEEPSEEK, A100)
    less, more = (a, a + c, attended_pairs(a, c)), (b, b + d, attended_pairs(b, d))
    assert costs.dense_ns(*less) <= costs.dense_ns(*more)
    assert costs.lead_ns(*less) <= costs.lead_ns(*more)
    assert costs.head_ns(a) <= costs.head_ns(b)


@given(st.integers(0, 10**15), st.integers(0, 10**12), RATES, RATES)
def test_a_roofline_is_the_longer_of_two_rounded_up(flops: int, nbytes: int, f: Fraction, b: Fraction) -> None:
    assert Roofline(f, b).ns(flops, nbytes) == math.ceil(max(flops * f, nbytes * b))


@given(st.integers(0, 200), st.integers(0, 1000))
def test_attended_pairs_are_counted_row_by_row(tokens: int, context: int) -> None:
    assert attended_pairs(tokens, context) == sum(context + row + 1 for row in range(tokens))


def test_a_table_grows_in_place_and_equal_layers_share_it() -> None:
    costs = Costs(OLMOE, A100)
    table = costs.expert_table(0, 4)
    assert table[0] == 0
    assert costs.expert_ns(15, 9) == table[9]
    assert len(table) == 10
    assert costs.expert_table(3, 2) is table


def test_sizes_differ_by_layer() -> None:
    section = {"name": "tiny", "n_layers": 2, "n_experts": 4, "top_k": 2, "shapes": None, "dtype": None}
    costs = Costs(ModelProfile.from_manifest({**section, "expert_bytes": [2039, 20390]}), A100)
    assert [costs.expert_ns(layer, 4096) for layer in (0, 1)] == [1, 10]  # bytes / HBM, whatever the tokens
    assert costs.dense_ns(8, 8, 8) == costs.lead_ns(8, 8, 8) == costs.head_ns(1) == 0


def test_the_dense_part_of_unknown_shapes_is_its_bytes_where_the_trace_has_them() -> None:
    section = {"name": "tiny", "n_layers": 2, "n_experts": 4, "top_k": 2, "shapes": None, "dtype": None}
    sizes, sums = [2039, 20390], 2039 * 30
    model = ModelProfile.from_manifest({**section, "expert_bytes": sizes, "dense_bytes": (2039 * 10, 2039 * 20)})
    costs = Costs(model, A100)
    assert costs.dense_ns(1, 1, 1) == costs.dense_ns(9, 900, 9) == sums // 2 // 2039 == 15, "whatever the tokens"
    assert costs.lead_ns(8, 8, 8) == costs.head_ns(1) == 0
    assert costs.sources["dense"] == "bytes / HBM bandwidth (the trace's dense_bytes, the mean of its layers)"
    assert Room.of(model, A100, [3], 1).dense_bytes == sums
    bare = ModelProfile.from_manifest({**section, "expert_bytes": sizes})
    assert Room.of(bare, A100, [3], 1).dense_bytes == Costs(bare, A100).dense_ns(1, 1, 1) == 0


def test_the_peak_of_a_link_is_the_sum_of_its_lanes() -> None:
    four = Costs(OLMOE, replace(A100, link=replace(A100.link, lanes=4)))
    assert four.copy_ns(10**6) == COSTS.copy_ns(10**6), "a lane's rate is the profile's"
    assert four.link_floor_ns(10**9) == COSTS.link_floor_ns(10**9) // 4


def test_efficiency_slows_down() -> None:
    half = replace(A100.gpu.efficiency, hbm=Fraction(1, 2))
    slow = Costs(OLMOE, replace(A100, gpu=replace(A100.gpu, efficiency=half)))
    assert slow.expert_ns(0, 1) == math.ceil(2 * Fraction(12_582_912, 2039))


def test_what_has_no_price_is_refused() -> None:
    with pytest.raises(UserError, match=r"dtype='int3': allowed: bfloat16, fp8, int4"):
        Costs(OLMOE, A100, "int3")
    bare = replace(A100, gpu=replace(A100.gpu, tflops={"float16": Fraction(312)}))
    with pytest.raises(UserError, match=r"compute_dtype='bfloat16': no peak in hardware 'a100'; allowed: float16"):
        Costs(OLMOE, bare)


@given(BYTES, st.integers(1, 40))
def test_the_software_of_a_copy_is_paid_per_call_and_never_in_a_bound(nbytes: int, calls: int) -> None:
    software = replace(A100.software, copy_overhead_us=Fraction(7, 2))
    costs = Costs(OLMOE, replace(A100, software=software))
    assert calls * costs.copy_ns(nbytes) == calls * (COSTS.copy_ns(nbytes) + 3_500)
    assert costs.link_floor_ns(nbytes) == COSTS.link_floor_ns(nbytes)
    assert costs.sources["copy_overhead"] == "constants"
