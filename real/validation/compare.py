"""One cell on the device and in the simulator: what was measured, what was predicted, and whether the replay agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from real.diff import differences
from real.runtime.forced import DeviceRun, run_forced
from real.runtime.offloaded import Offloaded
from sim.cell import Cell
from sim.core.accounts import Accounts
from sim.provenance import code_digest
from sim.replay import RecordingCore, replay
from sim.results import document
from sim.run import simulate

TIMES = ("tpot_ms", "ttft_ms", "stall_ms_per_token")
HITS = ("recall", "resident", "complete", "bytes")
KEPT = (
    "latency_ms",
    "throughput_tokens_per_s",
    "hit_rate",
    "stall_ms_per_token",
    "compute_ms_per_token",
    "bytes_per_token",
    "prefetch",
    "link_utilisation",
    "memory",
    "totals",
    "quality",
    "nulls",
)
"""Of a result document: what differs between device and simulator. The rest is the cell's."""
COUNTED = ("hits", "fates", "fate_bytes", "issued", "demand_bytes", "speculative_bytes", "predicts", "quality")
"""Of the accounts: what the core counts, which a replay must count alike. Nanoseconds are the machine's."""


@dataclass(frozen=True)
class Logs:
    """The two logs of a cell."""

    device: RecordingCore
    simulated: RecordingCore


def compare(cell: Cell, model: Offloaded, repeat: int = 1) -> tuple[dict[str, Any], Logs]:
    """Run a cell on the device, replay its log without a clock, simulate the same cell: one row of the result.

    Of several runs the one of median time is the row's; ``spread`` says how far apart they are, [least, most].
    """
    runs = sorted((_run(cell, model) for _ in range(repeat)), key=lambda it: it.run.outcome.wall_ns)
    middle = runs[(repeat - 1) // 2]
    run, digest, unlike = middle.run, middle.digest, middle.unlike
    outcome = simulate(cell, cell.policy(), record=True)
    measured, predicted = document(cell, run.outcome, None), document(cell, outcome, None)
    every = [document(cell, it.run.outcome, None) for it in runs]
    times = {name: [time for it in every if (time := _time(it, name)) is not None] for name in TIMES}
    assert isinstance(outcome.core, RecordingCore)
    logs = Logs(run.core, outcome.core)
    parted = differences(run.core.log, outcome.core.log, cell.setup.n_experts, cell.setup.chunks)
    return {
        "policy": dict(cell.resolved()["policy"]),
        "budget": cell.config.budget,
        "budget_bytes": cell.setup.budget,
        "errors": errors(measured, predicted),
        "spread": {name: [min(found), max(found)] if found else None for name, found in times.items()},
        "replay": {
            "device_digest": run.core.digest(),
            "replayed_digest": digest,
            "agrees": all(it.digest == it.run.core.digest() for it in runs),
            "accounts_agree": not any(it.unlike for it in runs),
            "unlike": unlike,
        },
        "simulated_digest": outcome.core.digest(),
        "first_differences": [
            {"of": it.of, "same_before": it.place, "device": it.first, "simulated": it.second} for it in parted
        ],
        "device": {key: measured[key] for key in KEPT} | {"slots": run.core.pool.facts()},
        "simulated": {key: predicted[key] for key in KEPT},
        "code": code_digest(outcome.policy.name),
        "cell": cell.key(),
        "costs": predicted["provenance"]["costs"],
        "lossless": outcome.policy.lossless,
    }, logs


@dataclass(frozen=True)
class _Run:
    run: DeviceRun
    digest: str
    """Of the log, replayed without a clock."""
    unlike: list[str]
    """Accounts in which the replay differs."""


def _run(cell: Cell, model: Offloaded) -> _Run:
    run = run_forced(cell, model, cell.policy())
    digest, accounts = replayed(cell, run)
    return _Run(run, digest, [k for k in COUNTED if getattr(accounts, k) != getattr(run.outcome.accounts, k)])


def replayed(cell: Cell, run: DeviceRun) -> tuple[str, Accounts]:
    """The device's log fed to a fresh core of the same cell, without a clock: its digest and its accounts."""
    core = cell.core(cell.policy())
    digest = replay(run.core.log, core)
    return digest, core.finish(core.accounts.start_ns)  # no nanosecond is told: a window of none


def errors(measured: Mapping[str, Any], predicted: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By figure: what was measured, what was predicted, and how far they are apart.

    Of a time, ``error`` is (device - simulated) / device; of a hit rate, device - simulated. Null where there is none.
    """
    found = {}
    for name in TIMES:
        device, simulated = (_time(side, name) for side in (measured, predicted))
        off = (device - simulated) / device if device and simulated is not None else None
        found[name] = {"device": device, "simulated": simulated, "error": off}
    for name in HITS:
        device, simulated = (side["hit_rate"][name] for side in (measured, predicted))
        off = None if device is None or simulated is None else device - simulated
        found[f"hit_{name}"] = {"device": device, "simulated": simulated, "error": off}
    return found


def _time(side: Mapping[str, Any], name: str) -> float | None:
    if name == "stall_ms_per_token":
        causes = side[name].values()
        return None if None in causes else float(sum(causes))
    spread = side["latency_ms"][name.removesuffix("_ms")]
    return None if spread is None else float(spread["mean"])
