"""Golden digests (rule 1): what every preset of conf/policy decides on small made traces, and what that costs.

No change may alter one where nothing new is configured: a new part of the machine, a new account or a new option
leaves this file as it is. Only a change of one policy that is meant to decide otherwise may, and then the diff names
no other policy. ``python -m tests.sim.test_golden --write`` makes the file again.
"""

import hashlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies import registry
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.run import simulate
from sim.results.store import layer_rows, request_rows
from tests.sim.golden_traces import write_traces
from tests.sim.small_trace import MACHINE, config, in_two_dtypes
from traces import Trace
from traces.kit import conf

GOLDEN = Path(__file__).with_name("golden.json")
LOOKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "few": ("eight", "4.2MB", {"chunks": 1, "batch": 1}),
    "some": ("eight", "7MB", {"chunks": 3, "batch": 2, "warmup": 1}),
    "many": ("twelve", "13MB", {"chunks": 2, "batch": 3, "seed": 1}),
}
"""A trace, a budget (of 15.4 MB of experts, and of 18), and what else is given."""
HARDWARE: dict[str, Any] = {
    **MACHINE,
    "gpu": {**MACHINE["gpu"], "memory_bytes": 20_000_000},
    "link": {**MACHINE["link"], "overhead_us": 10, "depth": 2},
    "software": {"layer_overhead_us": 20},
}
"""An expert is copied in some 250 us and computed in 80: a prediction comes early enough to matter."""
COLUMNS = {
    "requests": "request admitted_ns prefill_end_ns end_ns prefill_rows decode_steps ttft_ns tpot_ns",
    "layers": "phase layer lookups recall resident complete bytes_ready bytes_demanded predicted fetched"
    " stall_demand_copy_ns stall_late_prefetch_ns stall_queueing_ns stall_predictor_ns",
    "run": "fates fate_bytes issued demand_bytes speculative_bytes compute_ns link_busy_ns start_ns end_ns quality",
}
"""The accounts that there were when the file was made; one that is added later is not digested."""
PRESETS = sorted(conf.names("policy"))


def digests(preset: str, traces: dict[str, Trace]) -> dict[str, str]:
    """Of the decisions and of the accounts, by preset and look."""
    policy = yaml.safe_load((conf.FOLDER / "policy" / f"{preset}.yaml").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for look, (trace, budget, given) in LOOKS.items():
        chosen = replace(config(traces[trace], budget, hardware=HARDWARE, **given), policy=policy)
        if registry.find(policy["name"]).versions:
            chosen = replace(chosen, model=in_two_dtypes(traces[trace]))
        cell = make_cell(chosen)
        outcome = simulate(cell, make_policy(cell))
        tables = {
            "requests": request_rows(outcome),
            "layers": layer_rows(outcome),
            "run": [{key: getattr(outcome.accounts, key) for key in COLUMNS["run"].split()}],
        }
        kept = {name: [[row[key] for key in COLUMNS[name].split()] for row in rows] for name, rows in tables.items()}
        accounts = hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]
        found |= {f"{preset} {look} decisions": outcome.core.digest(), f"{preset} {look} accounts": accounts}
    return found


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trace]:
    return write_traces(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def golden() -> dict[str, str]:
    found: dict[str, str] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_every_decision_and_every_account_is_as_it_was(
    preset: str, traces: dict[str, Trace], golden: dict[str, str]
) -> None:
    assert digests(preset, traces) == {key: value for key, value in golden.items() if key.split()[0] == preset}


def test_no_digest_is_of_a_policy_that_is_gone(golden: dict[str, str]) -> None:
    assert {key.split()[0] for key in golden} == set(PRESETS)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        made = write_traces(Path(folder))
        every = dict(item for preset in PRESETS for item in digests(preset, made).items())
    GOLDEN.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
