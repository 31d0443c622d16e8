"""A measured profile's tables become the simulator's costs, where they apply and nowhere else."""

from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.api import Setup
from policies.lru import LRU
from sim.core.core import Core
from sim.experiment.run import run
from sim.machine.machine import Machine
from sim.prices import HardwareProfile, ModelProfile, shipped
from sim.prices.costs import Costs, attended_pairs
from sim.workload.passes import Pass
from sim.workload.signals import TraceSignals
from traces.kit.errors import UserError

OLMOE = ModelProfile.from_dict(shipped("model", "olmoe_1b_7b"))
MIXTRAL = ModelProfile.from_dict(shipped("model", "mixtral_8x7b"))
Profile = dict[str, Any]


def test_one_copy_of_any_measured_size_takes_the_measured_time(profile: Profile) -> None:
    curve = profile["measured"]["copy_h2d_pinned"]
    hardware = HardwareProfile.from_dict(profile)
    step = Pass(False, (0,), [(0, 1)], 1, 1, 1, [[0]], [[1]])
    for nbytes, ns in zip(curve["bytes"], curve["ns"], strict=True):
        model = replace(OLMOE, moe_layers=1, experts=1, top_k=1, expert_bytes={"bfloat16": nbytes})
        costs = Costs(model, hardware)
        setup = Setup(1, 1, 1, (nbytes,), 1, nbytes, costs, 0)
        machine = Machine(Core(LRU(setup), setup, TraceSignals(None)), costs, depth=hardware.link.depth)
        accounts = machine.run([], [step])
        assert accounts.link_busy_ns == ns == sum(accounts.stall_row())
        assert accounts.demand_bytes == nbytes


def test_tables_of_the_same_shape_are_the_costs(profile: Profile) -> None:
    costs = Costs(OLMOE, HardwareProfile.from_dict(profile))
    assert [costs.expert_ns(3, n) for n in (0, 1, 2, 9, 16, 128)] == [0, 6_001, 6_001, 6_752, 7_503, 11_000]
    assert costs.copy_ns(12_582_912) == 252_000
    curve = profile["measured"]["copy_h2d_pinned"]
    points = zip(curve["bytes"], curve["ns"], strict=True)
    assert costs.link_floor_ns(10**12) == min(10**12 * ns // nbytes for nbytes, ns in points), "its best measured rate"
    for tokens, context in ((1, 512), (8, 0), (64, 2048)):
        pairs = attended_pairs(tokens, context)
        assert costs.dense_ns(tokens, tokens + context, pairs) == 40_000 + 300 * tokens + 7 * context
    assert costs.sources == {
        "copy": "table copy_h2d_pinned (bytes 65536 to 536870912, beyond by asymptote)",
        "launch": "constants",
        "layer_overhead": "constants",
        "copy_overhead": "constants",
        "experts": "table models.olmoe_1b_7b.expert (tokens 1 to 128, beyond by asymptote)",
        "dense": "table models.olmoe_1b_7b.dense (tokens 1 to 64, context 0 to 2048, beyond by asymptote)",
        "step": "roofline",
    }


def roofline(model: ModelProfile, profile: Profile, dtype: str | None = None) -> Costs:
    return Costs(model, replace(HardwareProfile.from_dict(profile), measured=None), dtype)


def same(a: Costs, b: Costs, *, experts: bool, dense: bool) -> None:
    assert ([a.expert_ns(0, n) for n in (1, 100)] == [b.expert_ns(0, n) for n in (1, 100)]) is experts
    assert ([a.dense_ns(n, n, n) for n in (1, 100)] == [b.dense_ns(n, n, n) for n in (1, 100)]) is dense


@pytest.mark.parametrize("key", ["hidden", "expert_width", "expert_params", "attention_params", "top_k"])
def test_another_shape_is_priced_by_the_roofline_and_says_so(profile: Profile, key: str) -> None:
    profile["measured"]["models"]["olmoe_1b_7b"]["shape"][key] += 1
    costs = Costs(OLMOE, HardwareProfile.from_dict(profile))
    same(costs, roofline(OLMOE, profile), experts=True, dense=True)
    assert costs.sources["experts"] == costs.sources["dense"]
    assert costs.sources["dense"] == "roofline (no table of this shape; measured: olmoe_1b_7b)"


def test_what_has_no_table_is_priced_by_the_roofline_and_says_why(profile: Profile) -> None:
    hardware = HardwareProfile.from_dict(profile)
    costs = Costs(OLMOE, hardware, "int4")
    same(costs, roofline(OLMOE, profile, "int4"), experts=True, dense=False)
    assert costs.sources["experts"] == "roofline (measured in bfloat16, not int4)"
    half = Costs(replace(OLMOE, compute_dtype="float16"), hardware)
    assert half.sources["dense"] == "roofline (measured in bfloat16, not float16)"
    unknown = Costs(replace(OLMOE, shapes_known=False), hardware)
    assert unknown.sources["experts"] == "roofline (the model's shapes are not all known)"
    profile["measured"]["models"] = None
    none = Costs(MIXTRAL, HardwareProfile.from_dict(profile)).sources
    assert none["dense"] == "roofline (no table of this shape; measured: none)"
    assert none["copy"].startswith("table")


def test_a_run_says_which_costs_are_from_tables(profile: Profile, tmp_path: Path) -> None:
    file = tmp_path / "machine.yaml"
    file.write_text(yaml.safe_dump(profile))
    words = ("policy=lru", "budget=4GB", "limit=2", "bounds=false")
    result = run(*words, f"hardware={file}", out=tmp_path).document
    assert result["provenance"]["compute"] == "measured tables (dense, experts), roofline for the rest"
    assert result["provenance"]["costs"]["experts"].startswith("table models.olmoe_1b_7b.expert")
    assert result["provenance"]["hardware"]["provenance"] == "measured"
    bare = run(*words, f"hardware={file}", "hardware.measured=null", out=tmp_path).document
    assert bare["provenance"]["compute"] == bare["provenance"]["costs"]["experts"] == "roofline"
    assert bare["totals"]["wall_ns"] != result["totals"]["wall_ns"]
    assert bare["provenance"]["cell"] != result["provenance"]["cell"]


EXPERT = "measured.models.olmoe_1b_7b.expert"
DENSE = "measured.models.olmoe_1b_7b.dense"
PAIR = "measured.models.olmoe_1b_7b.pair"
PINNED = "measured.copy_h2d_pinned"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("provenance", "published", r"hardware\.provenance='published': allowed: measured"),
        ("link.h2d_gb_per_s", 50, r"link\.h2d_gb_per_s=50\.0: allowed: 50\.175, .*or hardware\.measured=null"),
        (
            "link.lanes",
            2,
            r"link\.lanes=2: allowed: 1, as hardware\.measured\.copy_h2d_pinned is of one copy at a time; or",
        ),
        ("link.overhead_us", 0, r"link\.overhead_us=0\.0: allowed: 7\.6.*hardware\.measured=null"),
        ("measured.machine", {"gpu": 3}, r"measured\.machine\.gpu=3"),
        ("measured.copy_h2d", {}, r"measured\.copy_h2d=\{\}: no such key"),
        (f"{PINNED}.bytes", [], r"length of .*copy_h2d_pinned\.bytes=0: allowed: at least one"),
        (f"{PINNED}.bytes", [1, 3, 2, 4, 5], r"bytes\[2\]=2: allowed: above the value before it, 3"),
        (f"{PINNED}.bytes", [0, 1, 2, 3, 4], r"bytes\[0\]=0: allowed: a whole number of at least 1"),
        (f"{PINNED}.ns", [1, 3, 2, 4, 5], r"ns\[2\]=2: allowed: at least the value before it, 3"),
        (f"{PINNED}.ns", [1, 2], r"length of .*\.ns=2: allowed: as many values as .*bytes"),
        (f"{PINNED}.q1_ns", [10**9] * 5, r"median_ns\[0\]=9000: allowed: between the quartiles"),
        (f"{PINNED}.mean", [1], r"copy_h2d_pinned\.mean: no such key; allowed: bytes, ns"),
        (f"{EXPERT}.tokens", [2, 3, 16, 128], r"expert\.tokens\[0\]=2: allowed: 1"),
        (f"{DENSE}.context", [1] * 9, r"dense: allowed: every pair of tokens and context once, sorted"),
        (f"{DENSE}.ns", [9, 9, 9, 1, 9, 9, 9, 9, 9], r"dense\.ns at context 0\[1\]=1"),
        (f"{DENSE}.ns", [9, 8, 9, 9, 9, 9, 9, 9, 9], r"dense\.ns at 1 tokens\[1\]=8"),
        ("measured.models", {}, r"measured\.models=\{\}"),
        ("measured.noise", {"threshold": 0.2}, r"^hardware\.measured\.noise"),
        ("measured.noise", {"threshold": 2, "spread": {"x": 1}, "noisy": None}, r"^hardware\.measured\.noise"),
        (PAIR, {"expert_bytes": 1}, r"olmoe_1b_7b\.pair\.copy is missing"),
        (f"{PAIR}.expert_bytes", 0, r"pair\.expert_bytes=0: allowed: a whole number of at least 1"),
        (f"{PAIR}.copy.threads", [2, 2], r"pair\.copy\.threads\[1\]=2: allowed: above the value before it, 2"),
        (f"{PAIR}.cpu.threads", [1, 3], r"pair\.cpu\.threads=\(1, 3\): allowed: \(1, 2\), as in hardware\.measured"),
        (f"{PAIR}.cpu_with_copy.tokens", [1, 1], r"cpu_with_copy\.tokens: no such key; allowed: threads, ns"),
        ("measured.models.olmoe_1b_7b.launch_ns", -1, r"launch_ns=-1"),
    ],
)
def test_a_wrong_table_is_named_in_one_line(profile: Profile, path: str, value: Any, message: str) -> None:
    *parents, key = path.split(".")
    reduce(lambda node, parent: node[parent], parents, profile)[key] = value
    with pytest.raises(UserError, match=message) as error:
        HardwareProfile.from_dict(profile)
    assert "\n" not in str(error.value)


# A profile of before there was a pair, and one in which it was not measured.
@pytest.mark.parametrize("written", [False, True])
def test_a_profile_without_a_pair_reads_as_before(profile: Profile, written: bool) -> None:
    model = profile["measured"]["models"]["olmoe_1b_7b"]
    del model["pair"]
    if written:
        model["pair"] = None
    measured = HardwareProfile.from_dict(profile).measured
    assert measured is not None
    assert measured.models is not None
    assert measured.models["olmoe_1b_7b"].pair is None
    assert measured.noisy() == {}


NO_PRICE = (
    "policy=fiddler: computes experts on the host, which has no price here; allowed: hardware.host.cpu_tflops and"
)
OF = r"as measured\.models\.olmoe_1b_7b\.cpu_expert is of 1 thread or more"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hardware=jetson_agx_orin",), NO_PRICE),
        (("hardware=a100", "hardware.host.cpu_tflops=null"), NO_PRICE),
        (("hardware=a100", "hardware.host.dram_gb_per_s=null"), NO_PRICE),
        (("hardware=a100", "hardware.host.workers=31"), r"hardware\.host\.workers=31: allowed: at most cpu_threads=30"),
        (
            ("hardware=a100", "hardware.host.workers=0"),
            r"hardware\.host\.workers=0: allowed: a whole number of at least",
        ),
        (("hardware=a100", "hardware.host.workers=two"), r"hardware\.host\.workers='two': allowed: a whole number of"),
        (("{file}", "hardware.host.cpu_tflops=null", "model.dtype=int4"), NO_PRICE),
        (
            ("{file}", "hardware.host.cpu_threads=null", "hardware.host.workers=3"),
            f"workers=3: allowed: at most 2, {OF}",
        ),
        (
            ("{file}", "hardware.host.cpu_threads=2", "hardware.host.workers=3"),
            "workers=3: allowed: at most cpu_threads=2",
        ),
    ],
)
def test_a_host_that_cannot_be_is_named_in_one_line(
    profile: Profile, words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "machine.yaml"
    file.write_text(yaml.safe_dump(profile))
    given = [word.format(file=f"hardware={file}") for word in words]
    with pytest.raises(UserError, match=message) as error:
        run("policy=fiddler", "budget=4GB", "limit=1", "bounds=false", *given, out=tmp_path)
    assert "\n" not in str(error.value)


def test_a_run_says_what_priced_the_host(profile: Profile, tmp_path: Path) -> None:
    file = tmp_path / "machine.yaml"
    file.write_text(yaml.safe_dump(profile))
    words = ("policy=fiddler", "budget=4GB", "limit=1", f"hardware={file}")
    found = run(*words, "hardware.host.cpu_threads=2", out=tmp_path).document
    host = found["provenance"]["costs"]["host"]
    assert host.startswith(
        "table models.olmoe_1b_7b.cpu_expert (threads 2); both at once: table models.olmoe_1b_7b.pair."
    )
    assert found["bounds"]["time_lower_bound"]["gap"] >= 1
