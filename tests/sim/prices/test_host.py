"""Experts on the host, by hand: measured or peak and bandwidth, with activations there and back."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from sim.machine.host import Memory
from sim.prices import HardwareProfile, ModelProfile, shipped
from sim.prices.costs import Costs
from sim.prices.host import HostPrices, host_of
from sim.prices.measured import MeasuredModel, Pair, Points, Shape
from tests.sim.prices.test_profiles import MACHINES
from traces.kit.errors import UserError

OLMOE = ModelProfile.from_dict(shipped("model", "olmoe_1b_7b"))
A100 = HardwareProfile.from_dict(shipped("hardware", "a100"))


def priced(hardware: HardwareProfile = A100, model: ModelProfile = OLMOE, dtype: str | None = None) -> HostPrices:
    found = host_of(Costs(model, hardware, dtype))
    assert found is not None
    return found


def with_host(**changed: Any) -> HardwareProfile:
    return replace(A100, host=replace(A100.host, **changed))


# A price that forgets the flops of a prompt, a way, or an overhead; 12,582,912 bytes at 93.7 GB/s, 1.2 Tflop/s.
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_peak_and_bandwidth_and_activations_there_and_back(tokens: int) -> None:
    compute = math.ceil(max(Fraction(2 * 6_291_456 * tokens, 1200), Fraction(12_582_912) / Fraction("93.7")))
    there = math.ceil(10_000 + Fraction(tokens * 2048 * 2, 23))
    back = math.ceil(10_000 + tokens * 2048 * 2 / Fraction("26.08"))
    assert priced().expert_ns(3, tokens) == compute + there + back
    assert priced().source == "roofline"
    assert (priced().workers, priced().dram) == (1, Fraction("93.7"))


def test_workers_share_the_flops_and_not_the_memory() -> None:
    one, three = priced(), priced(with_host(workers=3))
    assert three.expert_ns(0, 1) == one.expert_ns(0, 1)  # bound by bytes
    ways = one.activations_ns(900)
    assert three.expert_ns(0, 900) - ways == pytest.approx(3 * (one.expert_ns(0, 900) - ways), abs=3)
    with pytest.raises(UserError, match=r"hardware\.host\.workers=31: allowed: at most cpu_threads=30"):
        priced(with_host(workers=31))


# A device's activations take no copy call of the experts' thread: charged with its software, Fiddler left hosts idle.
def test_the_software_of_a_copy_call_is_of_experts_alone() -> None:
    slower = replace(A100, software=replace(A100.software, copy_overhead_us=Fraction(105)))
    assert priced(slower).expert_ns(3, 7) == priced().expert_ns(3, 7)


def test_more_tokens_never_cost_less_and_fewer_bits_never_more() -> None:
    ns = [priced().expert_ns(0, tokens) for tokens in range(1, 200)]
    assert ns == sorted(ns)
    assert priced(dtype="int4").expert_ns(0, 1) < priced().expert_ns(0, 1)


def test_a_link_that_says_nothing_of_the_other_direction_is_as_fast_there() -> None:
    same = priced(replace(A100, link=replace(A100.link, d2h_gb_per_s=None)))
    assert same.activations_ns(1000) == 2 * (10_000 + math.ceil(1000 * 4096 / Fraction("26.08")))


# Two workers read as much as one, since one has the whole memory: what both want together is what is shared.
@pytest.mark.parametrize("workers", [1, 2])
def test_link_and_workers_share_the_memory_by_their_rates_alone(workers: int) -> None:
    found = priced(with_host(workers=workers))
    wanted = (
        Fraction(12_582_912, found._costs.copy_ns(12_582_912)),
        Fraction(workers * 12_582_912, found.expert_ns(0, 1)),
    )
    link, host = found.together(0)
    assert found.alone(0) == (wanted[0], min(wanted[1], Fraction("93.7")))
    assert (link / host, link + host) == (wanted[0] / wanted[1], min(sum(wanted), Fraction("93.7")))
    roomy = priced(with_host(workers=workers, dram_gb_per_s=Fraction(1000)))
    assert roomy.together(0) == roomy.alone(0)
    assert roomy.alone(0)[0] == wanted[0]
    lanes = priced(replace(with_host(workers=workers), link=replace(A100.link, lanes=5)))
    assert lanes.alone(0) == (Fraction("93.7"), found.alone(0)[1])
    assert lanes.together(0)[0] / lanes.together(0)[1] == 5 * wanted[0] / wanted[1]


@pytest.mark.parametrize("missing", ["dram_gb_per_s", "cpu_tflops"])
def test_without_peak_or_bandwidth_there_is_no_price(missing: str) -> None:
    assert host_of(Costs(OLMOE, with_host(**{missing: None}))) is None


def test_where_shapes_are_unknown_it_is_bytes_over_bandwidth() -> None:
    section = {"name": "tiny", "n_layers": 2, "n_experts": 4, "top_k": 2, "shapes": None, "dtype": None}
    model = ModelProfile.from_manifest({**section, "expert_bytes": [937_000, 93_700]})
    found = priced(with_host(cpu_tflops=None), model)
    assert [found.expert_ns(layer, 50) - 20_000 for layer in (0, 1)] == [10_000, 1_000]


@pytest.mark.parametrize("name", MACHINES)
def test_every_shipped_machine_has_a_price_or_says_why_not(name: str) -> None:
    hardware = HardwareProfile.from_dict(shipped("hardware", name))
    assert hardware.sources.cpu_tflops
    assert (host_of(Costs(OLMOE, hardware)) is None) == name.startswith(("apple_", "jetson_", "oneplus_"))
    assert hardware.host.dram_gb_per_s is not None


def table(threads: tuple[int, ...], tokens: tuple[int, ...], ns: tuple[int, ...]) -> Points:
    return Points({"threads": threads, "tokens": tokens}, ns, ns, ns, ns, (1,) * len(ns))


def measured(cpu: Points, dtype: str = "bfloat16", pair: Pair | None = None, **host: Any) -> HardwareProfile:
    """The A100 with that table, as if it had been measured there; its constants stay."""
    keys = Shape.__dataclass_fields__
    flat = Points({"tokens": (1,)}, (1,), (1,), (1,), (1,), (1,))
    shape = Shape(**{key: getattr(OLMOE, key) for key in keys})
    dense = replace(flat, axes={"tokens": (1,), "context": (0,)})
    of_model = MeasuredModel(shape, dtype, dense, flat, flat, cpu, 0, 0, pair)
    copies = Points({"bytes": (1000, 2000)}, (500, 900), (500, 900), (500, 900), (500, 900), (1, 1))

    class Tables:
        copy_h2d_pinned = copy_d2h_pinned = copies
        models = {"olmoe": of_model}  # noqa: RUF012

    found = with_host(**host)
    object.__setattr__(found, "measured", Tables())
    return found


# A table that nobody reads, or whose row is of other threads than a worker has.
@pytest.mark.parametrize(
    ("host", "threads"),
    [
        ({"cpu_threads": None}, 8),
        ({"cpu_threads": None, "workers": 4}, 2),  # of those that were measured
        ({"cpu_threads": 8}, 8),
        ({"cpu_threads": 30}, 8),
        ({"cpu_threads": 7}, 2),
        ({"cpu_threads": 8, "workers": 4}, 2),
        ({"cpu_threads": 8, "workers": 5}, 1),
    ],
)
def test_the_table_of_a_workers_threads(host: dict[str, Any], threads: int) -> None:
    rows = table((1, 1, 2, 2, 8, 8), (1, 4, 1, 4, 1, 4), (800, 1100, 400, 700, 100, 400))
    found = priced(measured(rows, **host))
    assert found.source == f"table models.olmoe.cpu_expert (threads {threads})"
    first = {1: 800, 2: 400, 8: 100}[threads]
    ways = [found.expert_ns(0, n) - compute for n, compute in ((1, first), (2, first + 100), (4, first + 300))]
    assert ways == [found.activations_ns(n) for n in (1, 2, 4)]
    assert found.activations_ns(1) == 2 * math.ceil(4096 * Fraction(900, 2000))  # beyond the table at its last rate


def test_medians_that_fall_with_the_tokens_are_pooled_and_other_dtypes_have_no_table() -> None:
    falling = table((2, 2, 2, 2), (1, 4, 16, 64), (15, 21, 17, 22))
    found = priced(measured(falling))
    compute = [found.expert_ns(0, n) - found.activations_ns(n) for n in (1, 4, 16, 64)]
    assert compute == sorted(compute)
    assert (compute[0], compute[-1]) == (15, 22)
    assert priced(measured(falling), dtype="int4").source == "roofline"


EVERY = table((1, 1, 2, 2, 8, 8), (1, 4, 1, 4, 1, 4), (800, 1100, 400, 700, 100, 400))


# What is refused by a machine without threads of its own: the table's are all that is known of it.
@pytest.mark.parametrize(
    ("threads", "host", "message"),
    [
        ((1, 2, 8), {"workers": 31}, "workers=31: allowed: at most cpu_threads=30"),
        ((1, 2, 8), {"cpu_threads": None, "workers": 9}, "workers=9: allowed: at most 8, as {of} 1 .*share 8"),
        ((8,), {"cpu_threads": None, "workers": 2}, "workers=2: allowed: at most 1, as {of} 8 .*share 8"),
        ((8,), {"workers": 4}, "workers=4: allowed: at most 3, as {of} 8 .*share 30"),
        ((8,), {"cpu_threads": 4}, "cpu_threads=4: allowed: at least 8, as {of} 8"),
    ],
)
def test_a_worker_has_no_fewer_threads_than_were_measured(
    threads: tuple[int, ...], host: dict[str, Any], message: str
) -> None:
    rows = table(threads, (1,) * len(threads), (100,) * len(threads))
    message = message.format(of=r"measured\.models\.olmoe\.cpu_expert is of")
    with pytest.raises(UserError, match=rf"^hardware\.host\.{message}") as error:
        priced(measured(rows, **host))
    assert "\n" not in str(error.value)


def pair_of(copy: tuple[int, ...], cpu: tuple[int, ...]) -> Pair:
    """Of 1, 2 and 8 threads, beside each other; alone everything takes 1 ns."""
    alone, *busy = (Points({"threads": (1, 2, 8)}, ns, ns, ns, ns, (1, 1, 1)) for ns in ((1, 1, 1), copy, cpu))
    return Pair(1000, alone, alone, *busy)


PAIR = pair_of((20, 25, 50), (40, 50, 80))


# A pair of other threads, of nobody's, or without the way of the activations.
@pytest.mark.parametrize(("cpu_threads", "row"), [(None, 2), (30, 2), (8, 2), (7, 1), (1, 0)])
def test_what_both_reach_while_both_are_busy_is_as_measured(cpu_threads: int | None, row: int) -> None:
    found = priced(measured(EVERY, pair=PAIR, cpu_threads=cpu_threads, dram_gb_per_s=Fraction(3)))
    threads, copy, cpu = (1, 2, 8)[row], PAIR.copy_with_cpu.ns[row], PAIR.cpu_with_copy.ns[row]
    assert found.together(5) == (Fraction(1000, copy), Fraction(1000, cpu + found.activations_ns(1)))
    tables = ("cpu_expert", "pair.copy_with_cpu", "pair.cpu_with_copy")
    own, beside_cpu, beside_copy = (f"table models.olmoe.{name} (threads {threads})" for name in tables)
    assert found.source == f"{own}; both at once: {beside_cpu} and {beside_copy}"
    assert found.dram == 3, "the profile's own"
    slower = replace(A100.software, copy_overhead_us=Fraction(1, 100))
    found = priced(replace(measured(EVERY, pair=PAIR, cpu_threads=cpu_threads), software=slower))
    assert found.together(5) == (Fraction(1000, copy + 10), Fraction(1000, cpu + found.activations_ns(1)))


@pytest.mark.parametrize(
    ("words", "dtype"),
    [({"workers": 2, "pair": PAIR}, None), ({}, None), ({"pair": PAIR}, "int4")],
    ids=["of one worker alone", "none", "of another dtype"],
)
def test_else_it_is_modelled(words: dict[str, Any], dtype: str | None) -> None:
    found, without = (priced(measured(EVERY, **given), dtype=dtype) for given in (words, {**words, "pair": None}))
    assert found.together(0) == without.together(0)
    assert sum(found.together(0)) <= Fraction("93.7")
    assert found.source == without.source
    assert "pair" not in found.source


# Contention that a machine without bandwidth of its memory would not have.
def test_without_a_bandwidth_the_memory_gives_what_both_had_together() -> None:
    for workers, row in ((1, 2), (2, 2)):
        bare = measured(EVERY, pair=PAIR, dram_gb_per_s=None, cpu_threads=None, workers=workers)
        found = priced(bare)
        assert found.dram == Fraction(1000, PAIR.copy_with_cpu.ns[row]) + Fraction(1000, PAIR.cpu_with_copy.ns[row])
        assert sum(found.together(0)) <= found.dram
    assert priced(measured(EVERY, dram_gb_per_s=None)).dram is None


def test_a_memory_of_a_pair_slows_whoever_wants_more_down_to_what_the_pair_had() -> None:
    """Alone 1000 bytes take 40 and 60 ns, which is 41.7 a ns; the pair had 32.5 together, and so has the machine."""
    dram = priced(measured(EVERY, pair=PAIR, dram_gb_per_s=None)).dram
    assert dram == Fraction(65, 2)
    memory, roomy = (
        Memory(dram),
        Memory(priced(measured(EVERY, pair=pair_of((40,) * 3, (60,) * 3), dram_gb_per_s=None)).dram),
    )
    assert [it.read(1000, 40, 0, by_link=True) for it in (memory, roomy)] == [40, 40]
    assert memory.read(1000, 60, 0, by_link=False) == math.ceil(60 * (25 + Fraction(1000, 60)) / dram) == 77
    assert roomy.read(1000, 60, 0, by_link=False) == 60, "neither slowed the other"
