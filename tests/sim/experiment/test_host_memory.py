"""``host_memory=``: what a run above a disk says, its address, and what is refused."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from real.words import configuration
from sim import load, load_layers
from sim.experiment.bounds import floors, own_bounds
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.config import RunConfig, dump_configs
from sim.experiment.provenance import identify
from sim.experiment.run import run_config, simulate
from sim.prices.disk import Disk, DiskPrices
from sim.results.columns import row
from sim.results.titles import titles
from tests.sim.experiment.serving import KEYS
from tests.sim.small_trace import MACHINE, Plan, config, one_layer
from traces.kit.errors import UserError
from traces.kit.readers import record

DISK = {"gb_per_s": {"4": 0.5, "12": 1}, "latency_us": 0.002}
"""An expert of 12 bytes takes 2 + 12 ns."""
WITH_DISK: Mapping[str, Any] = {**MACHINE, "disk": DISK}
MEMORY = 60
"""Of the host."""


def with_cache(page_cache: Any, **changes: Any) -> dict[str, Any]:
    """That machine with a page cache, out of which 12 bytes take 3 ns."""
    disk = {**DISK, "page_cache": page_cache, "page_cache_gb_per_s": 4, **changes}
    return {**WITH_DISK, "disk": disk, "host": {**MACHINE["host"], "memory_bytes": MEMORY}}


SMALL = {**with_cache("auto"), "host": {**MACHINE["host"], "memory_bytes": 35}}
EXPERTS = [2, 0, 1, 2, 3, 2, 1, 0, 3, 2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Two places on the GPU; of four experts the host holds the first two at the start."""
    trace = one_layer(tmp_path_factory.mktemp("trace") / "t", [Plan((1,), 9, split="test")], EXPERTS)
    return config(trace, 24, hardware=WITH_DISK, host_memory=24)


@pytest.fixture(scope="module")
def made(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("out")
    every = {}
    for name, changes in {
        "some": {"bounds": True},
        "exclusive": {"host_tier": "exclusive"},
        "all": {"host_memory": "100%", "bounds": True},
        "none": {"host_memory": None, "bounds": True},
        "cached": {"bounds": True, "hardware": with_cache(36)},
    }.items():
        every[name] = run_config(replace(base, **changes), out).document
    return out, every


def test_the_result_adds_up(made: tuple[Path, dict[str, Any]]) -> None:
    for name in ("some", "exclusive"):
        found = made[1][name]
        totals, tier = found["totals"], found["totals"]["host_memory"]
        assert totals["wall_ns"] == totals["compute_ns"] + sum(totals["stall_ns"].values())
        came = tier["start_bytes"] + tier["demand_bytes"] + tier["speculative_bytes"] + tier["returned_bytes"]
        assert came == tier["end_bytes"] + tier["dropped_bytes"] + tier["moved_bytes"]
        assert tier["busy_ns"] == (tier["demand_bytes"] + tier["speculative_bytes"]) // 12 * 14 > 0
        assert totals["stall_ns"]["disk_read"] > 0
        assert found["host_memory"]["hit_rate"] == tier["hits"] / tier["lookups"]
    assert made[1]["exclusive"]["totals"]["host_memory"]["returned_bytes"] > 0


def test_what_is_read_twice_is_read_out_of_the_page_cache(made: tuple[Path, dict[str, Any]]) -> None:
    """It changes no decision, and who served what adds up."""
    some, cached = made[1]["some"], made[1]["cached"]
    tier, usual = cached["totals"]["host_memory"], some["totals"]["host_memory"]
    pages = tier["page_cache"]
    assert pages["nbytes"] > 0
    assert pages["nbytes"] + pages["disk_bytes"] == tier["demand_bytes"] == usual["demand_bytes"]
    assert tier["busy_ns"] == pages["disk_reads"] * 14
    assert cached["totals"]["wall_ns"] < some["totals"]["wall_ns"]
    assert cached["provenance"]["decision_digest"] == some["provenance"]["decision_digest"]
    assert cached["config"]["page_cache_bytes"] == 36
    assert cached["host_memory"]["page_cache_share"] == pages["nbytes"] / tier["demand_bytes"]
    assert cached["bounds"]["time_lower_bound"]["disk_bytes"] <= pages["disk_bytes"]
    assert not {key for key in (*usual, *some["host_memory"], *some["config"]) if "page_cache" in key}


@pytest.mark.parametrize(("held", "page_cache"), [(12, 48), (24, 36), (48, 12)])
def test_what_host_memory_leaves_is_the_page_cache(base: RunConfig, held: int, page_cache: int) -> None:
    auto = identify(make_cell(replace(base, host_memory=held, hardware=with_cache("auto"))), ())
    assert auto.resolved["page_cache_bytes"] == page_cache


def test_where_nothing_is_left_there_is_none(base: RunConfig) -> None:
    assert "page_cache_bytes" not in identify(make_cell(replace(base, hardware=SMALL)), ()).resolved


def test_half_of_the_memory_is_inferred() -> None:
    disk = record(Disk)({"gb_per_s": 1, "latency_us": 0, "page_cache": "1KB", "lanes": 2}, "disk")
    assert disk.page_cache == 1000
    assert DiskPrices(disk).cached_gb_per_s(Fraction(90)) == 90 / Fraction(4)
    assert DiskPrices(disk).cached_gb_per_s(None) is None
    assert DiskPrices(replace(disk, page_cache_gb_per_s=Fraction(7))).cached_gb_per_s(Fraction(90)) == 7


def test_a_host_that_holds_all_is_as_one_without_a_disk(made: tuple[Path, dict[str, Any]]) -> None:
    all_, none = made[1]["all"], made[1]["none"]
    assert all_["provenance"]["decision_digest"] == none["provenance"]["decision_digest"]
    for key in ("latency_ms", "hit_rate", "bytes_per_token", "prefetch", "link_utilisation", "reference"):
        assert all_[key] == none[key], key
    assert all_["totals"]["wall_ns"] == none["totals"]["wall_ns"]
    assert all_["bounds"]["time_lower_bound"]["disk_ms"] == 0
    assert "host_memory" not in none
    assert "disk_read" not in none["totals"]["stall_ns"]
    assert "disk" not in none["config"]["hardware"]


def test_the_bound_knows_what_must_be_read(made: tuple[Path, dict[str, Any]]) -> None:
    """Four experts are demanded, and two are there; the GPU and the host together have room for all four."""
    bound, totals = made[1]["some"]["bounds"]["time_lower_bound"], made[1]["some"]["totals"]
    assert bound["disk_bytes"] == 24
    assert bound["disk_ms"] * 1e6 == 28
    assert totals["host_memory"]["demand_bytes"] >= 24
    assert bound["gap"] >= 1


def test_tables_have_it_and_read_what_is_older(made: tuple[Path, dict[str, Any]]) -> None:
    runs = load(made[0]).sort_values("wall_ns")
    assert runs["stall_ms_per_token"].notna().all()
    assert runs["stall_disk_read_ms_per_token"].notna().all()
    whole = runs["host_memory_bytes"].isna()
    assert list(runs.loc[whole, "stall_disk_read_ms_per_token"]) == [0.0]
    assert set(runs.loc[~whole, "host_tier"]) == {"inclusive", "exclusive"}
    layers = load_layers(made[0])
    by_run = layers.groupby("folder")["stall_disk_read_ns"].sum()
    assert sorted(by_run > 0) == [False, False, True, True, True]
    stalls = dict(zip(runs["folder"], runs["stall_disk_read_ms_per_token"] * runs["generated_tokens"], strict=True))
    assert by_run.to_dict() == pytest.approx({folder: ms * 1e6 for folder, ms in stalls.items()})


def test_it_is_said_where_it_was_simulated(made: tuple[Path, dict[str, Any]]) -> None:
    said = {name: titles(row(document, "")).where for name, document in made[1].items()}
    assert said["none"] == "simulated on by_hand (published figures)"
    assert (
        said["some"]
        == "simulated on by_hand (published figures, 24 B of experts in host memory (inclusive, lru) above a disk)"
    )


def test_its_address_is_its_own_and_without_it_no_disk_is_in_any(base: RunConfig) -> None:
    def key(**changes: Any) -> str:
        return identify(make_cell(replace(base, **changes)), ()).key

    slow = {**WITH_DISK, "disk": {**DISK, "latency_us": 1}}
    keys = [
        *(key(), key(host_memory=36), key(host_policy="lfu"), key(host_tier="exclusive"), key(hardware=slow)),
        *(key(hardware={**WITH_DISK, "disk": {**DISK, f: 2}}) for f in ("lanes", "reads_per_expert")),
        key(host_memory=None),
    ]
    cached = [with_cache(12), with_cache(24), with_cache("auto"), with_cache(24, page_cache_gb_per_s=1)]
    keys += [key(hardware=hardware) for hardware in cached]
    assert len(set(keys)) == len(keys)
    assert key(hardware=with_cache(0)) == key(hardware=with_cache(None)) == key()
    assert key(host_memory=None) == key(host_memory=None, hardware=MACHINE) == key(host_memory=None, hardware=slow)
    assert key(host_memory=24) == key(host_memory="24B") == key(host_memory="50%")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host_memory": 11}, "host_memory=11: an expert passes through it; allowed: at least 12 bytes"),
        ({"host_memory": "x"}, "host_memory='x': not a positive size; allowed: "),
        ({"hardware": MACHINE}, "host_memory=24: hardware=by_hand has no disk"),
        ({"hardware": {**WITH_DISK, "gpus": 2, "peer": None}, "placement": "replicate"}, "of one GPU so far"),
        ({"timeline": True}, "timeline=true: shows no disk"),
        ({"hardware": with_cache(11)}, "page_cache=11: whole experts are cached; allowed: at least 12 bytes"),
        ({"hardware": with_cache("8QB")}, "page_cache='8QB': not a positive size; allowed: "),
        ({"hardware": with_cache("none")}, "or auto: what host_memory= leaves of hardware.host.memory_bytes"),
        ({"hardware": {**with_cache("auto"), "host": MACHINE["host"]}}, "memory_bytes, which is null; allowed: bytes"),
        ({"hardware": SMALL, "host_memory": 36}, "host_memory=36: more than hardware.host.memory_bytes=35, of which"),
        ({"hardware": with_cache(24, page_cache_gb_per_s=0)}, "page_cache_gb_per_s=0: allowed: a finite number above"),
        ({"policy": {"name": "static_split"}}, "policy=static_split has the host compute, which needs all experts"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(base: RunConfig, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        make_policy(make_cell(replace(base, **changes)))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("host_memory", True, "a size, such as 32GB, 32GiB or 50%, or null"),
        ("host_policy", "promoe", "lru, fifo, lfu, lfu_incache, lfru, random"),
        ("host_tier", "both", "inclusive, exclusive"),
    ],
)
def test_words_are_of_an_allowed_set(base: RunConfig, key: str, value: object, allowed: str) -> None:
    with pytest.raises(UserError, match=f"{key}=.*allowed: {allowed}"):
        RunConfig.from_dict({**{name: getattr(base, name) for name in base.__slots__}, key: value})


def test_a_device_runs_no_disk(base: RunConfig, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(dump_configs([base]), encoding="utf-8")
    with pytest.raises(
        UserError, match="host_memory=24: allowed: null on a device; experts on a disk are simulated only"
    ):
        configuration((), str(file))


def test_what_reads_take() -> None:
    disk = record(Disk)({"gb_per_s": {"1000": 0.1, 3000: 0.2}, "latency_us": 1, "reads_per_expert": 3}, "disk")
    prices = DiskPrices(disk)
    assert prices.read_ns(1000) == 1000 + 10_000
    assert prices.read_ns(2000) == 1000 + 12_500  # between the points a line
    assert prices.read_ns(6000) == 1000 + 30_000  # beyond them the last one's rate
    assert prices.chunks_ns([3000]) == [3 * 11_000]
    # Each half has a third whole and a half of the second, which is two reads.
    assert prices.chunks_ns([1500, 1500]) == [prices.read_ns(1000) + prices.read_ns(500)] * 2
    packed = DiskPrices(replace(disk, reads_per_expert=1))
    assert packed.chunks_ns([3000]) == [1000 + 15_000]
    assert packed.floor_ns(3000) <= packed.chunks_ns([3000])[0]


@pytest.mark.parametrize(
    ("gb_per_s", "said"),
    [
        ({}, "GB/s, or a mapping of the bytes of a read to GB/s"),
        ({"x": 1}, "a whole number"),
        ({1000: 1, 2000: 3}, r"disk.gb_per_s.2000=3.0: allowed: at most 2, so that 2000 bytes take no less than 1000"),
        (0, "a finite number above 0"),
    ],
)
def test_a_table_of_reads_is_one(gb_per_s: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        record(Disk)({"gb_per_s": gb_per_s, "latency_us": 0}, "disk")


@pytest.mark.parametrize(("key", "value"), [("host_policy", "lfu"), ("host_tier", "exclusive")])
def test_what_is_of_host_memory_alone_is_refused_without_it(base: RunConfig, key: str, value: str) -> None:
    given = {**{name: getattr(base, name) for name in base.__slots__}, "host_memory": None, key: value}
    with pytest.raises(UserError, match=f"{key}={value}: of host_memory=, which is null; allowed here: "):
        RunConfig.from_dict(given)


def test_the_bound_of_what_is_served_knows_the_reads(base: RunConfig) -> None:
    """One request at a time, all there at once: the passes are those of the closed loop, and so is the bound."""
    workload = {**KEYS, "arrivals": "constant", "rate": 10**9, "max_num_seqs": 1}
    slow = replace(base, hardware={**WITH_DISK, "disk": {"gb_per_s": 0.001, "latency_us": 0}}, bounds=True)
    cell = make_cell(replace(slow, workload=workload))
    served = simulate(cell, make_policy(cell)).serving
    assert served is not None
    (floor,) = floors(make_cell(slow), [cell.setup.budget])
    assert floor.ns > max(floor.compute_ns, floor.link_ns, floor.windows_ns)  # it is the disk's
    assert own_bounds(cell, served, hosted=False).ns == floor.ns
