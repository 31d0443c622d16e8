"""Several GPUs in a configuration, what its result says, and what is divided by their number."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.core.log import replay
from sim.experiment.cell import make_cell, make_core, make_policy
from sim.experiment.compose import read_config
from sim.experiment.provenance import identify
from sim.experiment.run import run
from sim.prices import HardwareProfile, ModelProfile, shipped
from sim.prices.chosen import changed
from sim.prices.costs import Costs
from sim.prices.placement import WHOLE, Spread

PEERS = "hardware.peer={gb_per_s: 20, latency_us: 10}"
WORDS = ("policy=lru", "budget=4GB", "limit=1", "bounds=false")


@pytest.mark.parametrize("placement", WHOLE)
def test_the_result_adds_up_by_gpu(placement: str, tmp_path: Path) -> None:
    words = ("policy=gate_ahead", *WORDS[1:], "hardware.gpus=3", PEERS, f"placement={placement}", "log=true")
    found = run(*words, out=tmp_path)
    result, totals = found.document, found.document["totals"]
    gpus, wall = result["gpus"], totals["wall_ns"]
    each = gpus["by_gpu"]
    assert (gpus["count"], gpus["placement"], gpus["budget_bytes"]) == (3, placement, 4_000_000_000 // 3)
    for key in ("lookups", "complete_hits"):
        assert sum(its[key] for its in each) == totals[key]
    copied = sum(its["copied_bytes"] for its in each)
    assert copied == totals["demand_bytes"] + sum(totals["speculative_bytes"].values())
    for its in each:
        assert its["compute_ns"] + sum(its["stall_ns"].values()) + its["peer_ns"] + its["idle_ns"] == wall
        assert its["peak_bytes"] <= gpus["budget_bytes"]
        assert 0 < its["link_utilisation"] <= 1
    assert result["link_utilisation"] == pytest.approx(sum(its["link_utilisation"] for its in each) / 3)
    assert wall == totals["compute_ns"] + totals["peer_ns"] + sum(totals["stall_ns"].values())
    misses = [its["lookups"] - its["complete_hits"] for its in each]
    assert gpus["imbalance"]["misses"] == pytest.approx(max(misses) / (sum(misses) / 3))
    cell = make_cell(read_config(words))
    log = np.load(found.folder / "log.npy").tolist()
    assert replay(log, make_core(cell, make_policy(cell))) == result["provenance"]["decision_digest"]


def test_on_one_gpu_no_placement_is_another_cell(tmp_path: Path) -> None:
    usual, placed = (run(*WORDS, *more, out=tmp_path) for more in ((), ("placement=shard", "hardware.gpus=1")))
    assert usual.folder == placed.folder
    assert "gpus" not in usual.document
    hardware = usual.document["config"]["hardware"]
    assert not {"gpus", "peer", "root_gb_per_s"} & {*hardware, *hardware["sources"]}
    several = [run(*WORDS, "hardware.gpus=2", PEERS, f"placement={name}", out=tmp_path) for name in WHOLE]
    assert len({found.folder for found in several}) == 3
    assert several[0].document["provenance"]["hardware"]["changed"] == [
        "gpus",
        "peer.gb_per_s",
        "peer.latency_us",
    ]


def test_peers_and_a_root_are_of_several_gpus() -> None:
    """With one they are no part of a cell; the card's own peer is no change of it."""

    def of(*more: str) -> tuple[Any, list[str]]:
        cell = make_cell(read_config([*WORDS, *more]))
        return identify(cell, ()).resolved["hardware"], changed("hardware", cell.config.hardware)

    one, none = of()
    assert of(PEERS, "hardware.root_gb_per_s=26") == (one, none) == (one, [])
    two, only = of("hardware.gpus=2")
    assert only == ["gpus"]
    assert two["peer"] == {"gb_per_s": "239/20", "latency_us": "20"}
    assert two["sources"]["peer"].startswith("inferred")
    assert {**one, "sources": 0} == {k: v for k, v in two.items() if k not in ("gpus", "peer")} | {"sources": 0}
    assert of("hardware.gpus=2", "hardware.root_gb_per_s=26")[1] == ["gpus", "root_gb_per_s"]


def test_bounds_and_reference_rows(tmp_path: Path) -> None:
    found = run("policy=lru", "budget=2GB", "limit=1", "hardware.gpus=2", PEERS, out=tmp_path).document
    assert found["bounds"]["belady_bypass"]["gap"] >= 1
    assert found["bounds"]["time_lower_bound"]["gap"] >= 1
    rows = found["reference"]
    assert rows["infinite"]["wall_ns"] <= rows["oracle_ahead"]["wall_ns"] <= found["totals"]["wall_ns"]


def test_who_holds_the_same_has_less_room_and_who_holds_parts_copies_faster(tmp_path: Path) -> None:
    one, same, parts = (
        run(*WORDS, *more, out=tmp_path).document
        for more in (
            ("budget=2GB",),
            ("hardware.gpus=2", "placement=replicate"),
            ("hardware.gpus=2", "placement=shard", PEERS),
        )
    )
    # Two that do the same, each with half of the budget, are one with that.
    assert same["totals"]["stall_ns"] == one["totals"]["stall_ns"]
    assert same["memory"]["peak_bytes"] == 2 * one["memory"]["peak_bytes"] <= 4_000_000_000
    assert same["gpus"]["by_gpu"] is parts["gpus"]["by_gpu"] is None
    assert same["nulls"]["gpus.by_gpu"] == "all GPUs do the same at the same time"
    whole = run(*WORDS, out=tmp_path).document
    assert parts["hit_rate"] == whole["hit_rate"], "the same experts in the same memory"
    assert parts["totals"]["demand_bytes"] == whole["totals"]["demand_bytes"]
    assert sum(parts["totals"]["stall_ns"].values()) < 0.6 * sum(whole["totals"]["stall_ns"].values())
    assert same["totals"]["peer_ns"] == 0 < parts["totals"]["peer_ns"]


def test_prices_of_parts_and_of_the_same() -> None:
    figures: dict[str, Any] = {**shipped("hardware", "rtx_3090_x2"), "gpus": 4}
    model = ModelProfile.from_dict(shipped("model", "mixtral_8x7b"))
    hardware = HardwareProfile.from_dict(figures)
    whole, parts = Costs(model, hardware), Costs(model, hardware, None, Spread("shard", 4))
    size = whole.expert_bytes[0]
    assert parts.copy_ns(size) == whole.copy_ns(-(-size // 4))
    assert parts.expert_ns(0, 7) == -(-whole.expert_ns(0, 7) // 4)
    assert parts.link_floor_ns(size) == whole.link_floor_ns(size // 4)
    vectors = 7 * model.hidden * 2
    # In a ring of 4 each step sends a quarter, six times over; 12.5 GB/s and 20 us a step.
    assert parts.peers.all_reduce_ns(7) == -(-Fraction(6 * vectors, 4) / Fraction(25, 2) // 1) + 6 * 20_000
    assert whole.peers.ns(7) == -(-vectors * 2 // 25) + 20_000

    narrow = HardwareProfile.from_dict({**figures, "root_gb_per_s": 13})
    same, shared = Costs(model, narrow, None, Spread("replicate", 4)), Costs(model, narrow, None, Spread("shard", 4))
    assert same.copy_ns(size) == -(-4 * size // 13), "four whole copies through the root"
    assert shared.copy_ns(size) == -(-size // 13), "the parts are one copy together"
    assert sum(same.copy_ns(n) for n in (size // 3, size - size // 3)) >= same.link_floor_ns(size)


def test_shipped_machines_with_several(tmp_path: Path) -> None:
    found = run("policy=lru", "budget=6GB", "limit=1", "bounds=false", "hardware=rtx_3090_x6", out=tmp_path).document
    assert found["gpus"]["count"] == 6
    assert found["provenance"]["hardware"]["changed"] == []
    assert json.loads(json.dumps(found)) == found


def test_all_experts_fit_where_all_are_meant_to() -> None:
    """A GPU may hold more experts than others: auto is enough for it."""
    words = ["policy=lru", "budget=auto", "limit=1", "hardware.gpus=5", PEERS, "hardware=rtx_4090"]
    cell = make_cell(read_config(words))
    held = [sum(layer) for layer in cell.setup.by_pool()]
    size = cell.setup.expert_bytes[0]
    assert max(held) == 16 * 13
    assert cell.setup.budget == 5 * max(held) * size > cell.total_expert_bytes
    same = make_cell(read_config([*words[:3], "hardware.gpus=5", "placement=replicate"]))
    assert same.setup.budget == same.total_expert_bytes
