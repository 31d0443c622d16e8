"""The main job: what it prints, what it writes, and that it is the same every time."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from policies import registry
from sim.core.accounts import FATES
from sim.core.core import Core
from sim.core.log import replay
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.compose import read_config
from sim.experiment.config import RunConfig
from sim.experiment.run import run, run_config
from sim.workload.signals import TraceSignals
from traces.importers import Options, route_trace

ROOT = Path(__file__).resolve().parents[2]
ROUTE = ROOT.parent / "shared" / "data" / "route_trace" / "gptoss120b.route.csv"
Sim = Callable[..., subprocess.CompletedProcess[str]]

SHIPPED = [name for name in registry.names() if not registry.find(name).clairvoyant]
KEYS = {
    "config": {"policy", "trace", "budget_bytes", "seed", "hardware", "model", "workload"},
    "provenance": {"trace", "routing_from", "priced_as", "hardware", "seed", "code", "decision_digest"},
    "policy": {"name", "facts"},
    "latency_ms": {"ttft", "tpot", "request"},
    "throughput_tokens_per_s": None,
    "hit_rate": {"recall", "resident", "complete", "bytes", "prefill", "decode"},
    "stall_ms_per_token": {"demand_copy", "late_prefetch", "queueing", "predictor", "cpu_experts"},
    "compute_ms_per_token": None,
    "bytes_per_token": {"demand", "useful", "late", "useless", "cancelled", "in_flight_at_end"},
    "prefetch": {"issued", "useful", "late", "useless", "cancelled", "in_flight_at_end", "predictions"},
    "link_utilisation": None,
    "memory": {"budget_bytes", "peak_bytes"},
    "bounds": {"belady_bypass", "time_lower_bound"},
    "reference": {"infinite", "belady_forced", "perfect_next_layer", "oracle_ahead"},
}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all policies are run, which have the same bounds."""
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def usual() -> RunConfig:
    return read_config(["policy=lru", "budget=4GB", "limit=1"])


@pytest.mark.parametrize("policy", SHIPPED)
def test_every_policy_gives_the_whole_document_and_its_sums_hold(policy: str, usual: RunConfig, together: Path) -> None:
    own = {"name": policy, **registry.defaults(policy)}
    folder = run_config(replace(usual, policy=own), together).folder
    result = json.loads((folder / "result.json").read_text())
    for key, inner in KEYS.items():
        assert key in result
        if result[key] is None:
            assert key in result["nulls"], key
        else:
            assert inner is None or inner <= set(result[key]), key

    rates = result["hit_rate"]
    assert rates["complete"] <= rates["bytes"] <= rates["resident"]  # of experts that all have one size

    totals, prefetch = result["totals"], result["prefetch"]
    fates = [prefetch[fate] for fate in FATES]
    assert prefetch["issued"] == sum(fates)
    assert totals["wall_ns"] == totals["compute_ns"] + sum(totals["stall_ns"].values())
    tokens = totals["generated_tokens"]
    copied = totals["demand_bytes"] + sum(totals["speculative_bytes"].values())
    assert sum(result["bytes_per_token"].values()) * tokens == pytest.approx(copied)
    per_token = result["compute_ms_per_token"] + sum(result["stall_ms_per_token"].values())
    assert per_token * tokens * 1e6 == pytest.approx(totals["wall_ns"])
    requests = pd.read_parquet(folder / "requests.parquet")
    assert (requests["end_ns"] - requests["admitted_ns"]).sum() == totals["wall_ns"]
    layers = pd.read_parquet(folder / "layers.parquet")
    assert layers["lookups"].sum() == totals["lookups"]
    assert layers["complete"].sum() == totals["complete_hits"]
    stalls = layers[[name for name in layers if name.startswith("stall_")]]
    assert stalls.to_numpy().sum() == sum(totals["stall_ns"].values())

    assert result["memory"]["peak_bytes"] <= result["memory"]["budget_bytes"]
    exact = result["provenance"]["output"] != "lossy"
    assert (result["bounds"] is not None) == (result["reference"] is not None) == exact
    assert (result["quality"] is None) == exact
    if exact:
        least = result["bounds"]["belady_bypass"]["gap"]
        on_the_gpu = "host_lookups" not in totals
        assert least >= 1 if on_the_gpu else "bounds.belady_bypass" in result["nulls"] and least is None
        assert result["bounds"]["time_lower_bound"]["gap"] >= 1
    for group, keys in (
        ("hit_rate", ("recall", "resident", "complete", "bytes")),
        ("latency_ms", result["latency_ms"]),
    ):
        assert all(result[group][key] is not None or f"{group}.{key}" in result["nulls"] for key in keys)


def test_stdout_is_the_result_alone_and_the_same_in_every_process(sim: Sim, tmp_path: Path) -> None:
    words = ("run", "policy=gate_ahead", "budget=4GB", "limit=1", "format=json")
    first = sim(*words, f"out={tmp_path / 'a'}", hash_seed="1")
    second = sim(*words, f"out={tmp_path / 'b'}", hash_seed="2")
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    files = [next((tmp_path / name).glob("gate_ahead-*/result.json")).read_bytes() for name in "ab"]
    assert files[0] == files[1]
    assert json.loads(first.stdout) == json.loads(files[0])


def test_a_cell_is_read_when_asked_again(tmp_path: Path) -> None:
    first = run("policy=lru", "budget=4GB", "limit=2", out=tmp_path)
    again = run("policy=lru", "budget=4GB", "limit=2", out=tmp_path)
    other = run("policy=fifo", "budget=4GB", "limit=2", out=tmp_path)
    assert not first.cached
    assert again.cached
    assert again.document == json.loads(json.dumps(first.document))
    assert not other.cached
    assert len(list(tmp_path.glob("bounds-*"))) == 1  # shared by all policies
    assert not list(tmp_path.glob("*.partial"))


def test_another_seed_permutes_requests_and_changes_the_cell(tmp_path: Path) -> None:
    zero = run("policy=lru", "budget=4GB", "limit=5", "bounds=false", out=tmp_path)
    one = run("policy=lru", "budget=4GB", "limit=5", "seed=1", "bounds=false", out=tmp_path)
    assert zero.folder != one.folder
    orders = [pd.read_parquet(r.folder / "requests.parquet")["request"].tolist() for r in (zero, one)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_measured_are_the_test_requests(tmp_path: Path) -> None:
    cell = make_cell(read_config(["policy=lru", "budget=4GB"]))
    test = {r.request for r in cell.trace.requests if r.split == "test"}
    assert set(cell.selection.measured) == test
    assert test
    warm = run("policy=lru", "budget=8GB", "warmup=2", "limit=1", out=tmp_path)
    cold = run("policy=lru", "budget=8GB", "limit=1", out=tmp_path)
    assert warm.document["totals"]["lookups"] == cold.document["totals"]["lookups"]
    assert warm.document["hit_rate"]["complete"] > cold.document["hit_rate"]["complete"]
    assert warm.document["bounds"]["belady_bypass"]["gap"] >= 1


def test_the_kept_log_replays_to_the_digest(tmp_path: Path) -> None:
    words = ["policy=gate_ahead", "budget=4GB", "limit=2", "chunks=3", "log=true", "bounds=false"]
    result = run(*words, out=tmp_path)
    log = np.load(result.folder / "log.npy")
    cell = make_cell(read_config(words))
    core = Core(make_policy(cell), cell.setup, TraceSignals(cell.trace))
    assert replay(log.tolist(), core) == result.document["provenance"]["decision_digest"]


def test_paths_work_wherever_names_do(tmp_path: Path) -> None:
    odd = tmp_path / "a folder, with 'odd' = signs"
    odd.mkdir()
    (odd / "model.yaml").write_text((ROOT / "conf/model/olmoe_1b_7b.yaml").read_text())
    (odd / "machine.yaml").write_text((ROOT / "conf/hardware/h100.yaml").read_text())
    (odd / "trace").symlink_to(ROOT / "traces" / "sample")
    by_name = run("model=olmoe_1b_7b", "hardware=h100", "limit=1", "bounds=false", out=tmp_path / "x").document
    words = [f"model={odd / 'model.yaml'}", f"hardware={odd / 'machine.yaml'}", f"trace={odd / 'trace'}"]
    by_path = run(*words, "limit=1", "bounds=false", out=tmp_path / "y").document
    assert by_name == by_path


def test_torch_is_not_imported_to_simulate() -> None:
    code = (
        "import sys, sim.cli; sim.cli.main(['run', '--help']); import sim.experiment.run; print('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert printed.stdout.splitlines()[-1] == "False"


def test_help_is_for_people(sim: Sim) -> None:
    assert "python -m sim run policy=lru budget=8GB" in sim("--help").stdout
    listed = sim("run", "--help").stdout
    for name in SHIPPED:
        assert name in listed


@pytest.mark.skipif(not ROUTE.exists(), reason="the public recording is not beside this checkout")
def test_a_device_recorded_the_same_hits(tmp_path: Path) -> None:
    """gpt-oss-120b on a phone with a global LRU of 3000 MiB recorded 2,066 hits in 6,375 lookups (32.4 %)."""
    route_trace.import_trace(ROUTE, tmp_path / "trace", Options())
    result = run(f"trace={tmp_path / 'trace'}", "policy=lru", "budget=3000MiB", "bounds=false", out=tmp_path / "out")
    totals = result.document["totals"]
    assert (totals["complete_hits"], totals["lookups"]) == (2066, 6375)
