"""The shipped machines and their strict reader."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from sim.prices import HardwareProfile, shipped
from traces.kit import conf
from traces.kit.errors import UserError

NAMES = ["a100", "h100", "h200", "jetson_agx_orin", "rtx_3090", "rtx_4090"]


def test_every_shipped_machine_is_tested() -> None:
    assert sorted(conf.names("hardware")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_shipped_machines_load_and_say_where_their_figures_are_from(name: str) -> None:
    hardware = HardwareProfile.from_dict(shipped("hardware", name))
    assert hardware.name == name
    assert hardware.provenance == "published"
    assert {"bfloat16", "float16"} <= set(hardware.gpu.tflops)
    assert hardware.link.h2d_gb_per_s < hardware.gpu.hbm_gb_per_s
    assert set(hardware.inferred) < set(vars(hardware.sources))


@pytest.mark.parametrize("name", NAMES)
def test_a_published_machine_charges_nothing_for_decisions(name: str) -> None:
    assert shipped("hardware", name)["software"]["policy_us"] == {}
    assert HardwareProfile.from_dict(shipped("hardware", name)).software.policy_us == {}


def test_decisions_are_charged_in_whole_nanoseconds() -> None:
    mapping: Any = copy.deepcopy(dict(shipped("hardware", "a100")))
    mapping["software"]["policy_us"] = {"fmoe": {"decode": 0.0011}, "lru": {"prefill": 7, "decode": 2.5}}
    policy_us = HardwareProfile.from_dict(mapping).software.policy_us
    assert {name: own.ns() for name, own in policy_us.items()} == {"fmoe": (0, 2), "lru": (7000, 2500)}
    del mapping["software"]["policy_us"]  # as in a profile that was written before
    assert HardwareProfile.from_dict(mapping).software.policy_us == {}


def test_figures_that_no_price_depends_on_may_be_left_out() -> None:
    mapping: Any = copy.deepcopy(dict(shipped("hardware", "a100")))
    unread = ("link", "d2h_gb_per_s"), ("link", "pageable_gb_per_s"), ("host", "dram_gb_per_s"), ("host", "cpu_threads")
    for group, key in unread:
        del mapping[group][key]
        mapping["sources"].pop(key, None)
    hardware = HardwareProfile.from_dict(mapping)
    assert [getattr(getattr(hardware, group), key) for group, key in unread] == [None] * 4
    whole = HardwareProfile.from_dict(shipped("hardware", "a100"))
    assert replace(hardware, link=whole.link, host=whole.host, sources=whole.sources) == whole


def test_the_unpublished_link_of_the_h200_is_marked() -> None:
    assert "h2d_gb_per_s" in HardwareProfile.from_dict(shipped("hardware", "h200")).inferred
    assert "h2d_gb_per_s" not in HardwareProfile.from_dict(shipped("hardware", "a100")).inferred


def test_decimals_are_exact() -> None:
    hbm = HardwareProfile.from_dict(shipped("hardware", "rtx_3090")).gpu.hbm_gb_per_s
    assert (hbm.numerator, hbm.denominator) == (4681, 5)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("provenance", "guessed", r"hardware\.provenance='guessed': allowed: published, measured"),
        ("link.h2d_gb_per_s", 0, r"hardware\.link\.h2d_gb_per_s=0: .*above 0"),
        ("link.h2d_gb_per_s", -1.5, r"hardware\.link\.h2d_gb_per_s=-1\.5"),
        ("link.h2d_gb_per_s", "fast", r"hardware\.link\.h2d_gb_per_s='fast'"),
        ("link.h2d_gb_per_s", True, r"hardware\.link\.h2d_gb_per_s=true"),
        ("link.h2d_gb_per_s", float("nan"), r"hardware\.link\.h2d_gb_per_s=nan: .*finite"),
        ("link.h2d_gb_per_s", float("inf"), r"hardware\.link\.h2d_gb_per_s=inf: .*finite"),
        ("link.overhead_us", -1, r"hardware\.link\.overhead_us=-1: .*at least 0"),
        ("link.depth", 0, r"hardware\.link\.depth=0"),
        ("link.bandwith", 1, r"hardware\.link\.bandwith=1: no such key; allowed: h2d_gb_per_s"),
        ("gpu.tflops", {}, r"hardware\.gpu\.tflops=\{\}"),
        ("gpu.efficiency.hbm", 1.1, r"hardware\.gpu\.efficiency\.hbm=1\.1: .*at most 1"),
        ("gpu", None, r"hardware\.gpu=null: allowed: a mapping with the keys memory_bytes"),
        ("sources.tflops", "", r"hardware\.sources\.tflops=''"),
        ("host.cpu_threads", 0, r"hardware\.host\.cpu_threads=0"),
        ("software.policy_us", None, r"hardware\.software\.policy_us=null: allowed: a mapping of policies"),
        ("software.policy_us", {"fmeo": {"decode": 1}}, r"software\.policy_us=fmeo: unknown; allowed: .*fmoe, "),
        ("software.policy_us", {7: {"decode": 1}}, r"software\.policy_us=7: unknown; allowed: .*fmoe, "),
        ("software.policy_us", {"belady_forced": {"decode": 1}}, r"policy_us='belady_forced': .*reference row"),
        ("software.policy_us", {"fmoe": {}}, r"policy_us\.fmoe=\{\}: allowed: .*prefill, decode"),
        ("software.policy_us", {"fmoe": 5000}, r"policy_us\.fmoe=5000: allowed: .*prefill, decode"),
        ("software.policy_us", {"fmoe": {"token": 1}}, r"policy_us\.fmoe\.token=1: .*allowed: prefill, decode"),
        ("software.policy_us", {"fmoe": {"decode": -1}}, r"policy_us\.fmoe\.decode=-1: .*at least 0"),
        ("software.policy_us", {"fmoe": {"decode": True}}, r"policy_us\.fmoe\.decode=true: "),
        ("software.policy_us", {"fmoe": {"decode": "5ms"}}, r"policy_us\.fmoe\.decode='5ms': "),
        ("software.policy_us", {"fmoe": {"decode": float("nan")}}, r"policy_us\.fmoe\.decode=nan: .*finite"),
        (
            "software.policy_us",
            {"fmoe": {"decode": 1e12}},
            r"fmoe\.decode=1000000000000\.0: .*at most 1000000000",
        ),
    ],
)
def test_a_wrong_value_is_named_in_one_line(path: str, value: Any, message: str) -> None:
    mapping: Any = copy.deepcopy(dict(shipped("hardware", "a100")))
    *parents, key = path.split(".")
    node = mapping
    for parent in parents:
        node = node[parent]
    node[key] = value
    with pytest.raises(UserError, match=message) as error:
        HardwareProfile.from_dict(mapping)
    assert "\n" not in str(error.value)


RUNTIME = {
    "date": "2026-11-20 13:00 UTC",
    "model": "reference",
    "routing": "synthetic routing",
    "method": "by hand",
    "layer_overhead_us": 80.5,
    "launch_us": 30,
    "copy_overhead_us": 0.1,
    "fit": {"decode": 0.01},
}


def with_runtime() -> Any:
    mapping: Any = copy.deepcopy(dict(shipped("hardware", "a100")))
    mapping["runtime"] = dict(RUNTIME)
    mapping["software"] = {key: RUNTIME[key] for key in ("layer_overhead_us", "copy_overhead_us")}
    mapping["gpu"]["launch_us"] = RUNTIME["launch_us"]
    return mapping


def test_a_profile_says_whose_overheads_it_holds() -> None:
    assert HardwareProfile.from_dict(shipped("hardware", "a100")).overheads.startswith("none of the runtime's")
    said = HardwareProfile.from_dict(with_runtime()).overheads
    assert said == "the runtime's own, measured 2026-11-20 13:00 UTC with reference on synthetic routing"


@pytest.mark.parametrize("path", ["software.layer_overhead_us", "gpu.launch_us", "software.copy_overhead_us"])
def test_overheads_that_were_changed_are_no_longer_the_runtimes(path: str) -> None:
    mapping = with_runtime()
    group, key = path.split(".")
    mapping[group][key] += 1
    with pytest.raises(
        UserError, match=rf"hardware\.{path}=.*hardware\.runtime\.{key} gives; or hardware\.runtime=null"
    ):
        HardwareProfile.from_dict(mapping)
    assert HardwareProfile.from_dict(mapping | {"runtime": None}).overheads.startswith("none")


def test_a_profile_without_an_overhead_per_copy_has_none() -> None:
    assert HardwareProfile.from_dict(shipped("hardware", "a100")).software.copy_overhead_us == 0
