"""What was served on a device beside what was predicted: over the batches that the device made, and over its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policies.api import Policy
from real.serving.given import Given, Written, read
from real.serving.loop import apart_of
from sim.experiment.cell import Cell
from sim.experiment.run import simulate
from sim.results.document import NS_PER_MS, Outcome

LATENCIES = ("ttft", "queueing", "tpot", "itl", "request")
RATES = ("tokens_per_s", "requests_per_s")
PASSES = {"prefill_pass": "prefill", "decode_pass": "decode"}
"""Their mean times have no wait in them: over the device's batches they are off by the machine's prices alone."""


@dataclass(frozen=True)
class Predicted:
    """``free``: the arrivals, served on the simulated machine; ``given``: the batches of the device on it."""

    free: Outcome
    given: Outcome


def predict(cell: Cell, batches: Written, told: Policy, again: Policy) -> Predicted:
    """Simulate a cell whose requests arrive, batches cut as a device computes them, and then those of the device.

    ``told``, ``again``: the cell's policy, made twice.
    """
    own = apart_of(cell)
    free = simulate(cell, told, record=True, serving=own)
    given = Given(own.traffic, apart_of(cell).scheduler, own.rows, read(batches))
    return Predicted(free, simulate(cell, again, record=True, serving=given))


def served(
    config: Mapping[str, Any], measured: Mapping[str, Any], free: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """``serving`` of a validation's row. Of results (``serving`` of each) mean latencies and times of passes in ms, and
    the rates.

    ``error``: (device - simulated) / device; of the device's batches likewise. ``same_batches``: whether the simulated
    machine made the device's batches by itself.
    """
    sides = [it["serving"] for it in (measured, free, given)]
    figures = {}
    for name in (*LATENCIES, *PASSES, *RATES):
        device, simulated, same = (_figure(side, name) for side in sides)
        figures[name] = {
            "device": device,
            "simulated": simulated,
            "error": off(device, simulated),
            "of_its_batches": same,
            "of_its_batches_error": off(device, same),
        }
    passes = [{kind: it["count"] for kind, it in side["passes"].items()} for side in sides[:2]]
    return {
        "arrivals": arrivals_in_words(config),
        "instances": sides[0]["arrivals"]["arrivals"],
        "figures": figures,
        "passes": dict(zip(("device", "simulated"), passes, strict=True)),
        "preemptions": dict(zip(("device", "simulated"), (side["preemptions"] for side in sides[:2]), strict=True)),
        "same_batches": sides[0]["schedule_digest"] == sides[1]["schedule_digest"],
    }


def off(device: float | None, simulated: float | None) -> float | None:
    """By which share of the measured the prediction is less; None where there is no such share."""
    return (device - simulated) / device if device and simulated is not None else None


def arrivals_in_words(workload: Mapping[str, Any]) -> str:
    """Who arrives, and by whom they are scheduled."""
    rate = workload.get("rate")
    at = "" if rate is None else f" {float(rate):g}/s"
    return f"{workload['arrivals']}{at}, {workload['discipline']}"


def _figure(side: Mapping[str, Any], name: str) -> float | None:
    if name in RATES:
        rate: float | None = side[name]
        return rate
    if name in PASSES:
        it = side["passes"][PASSES[name]]
        mean: float | None = it["ns"] / it["count"] / NS_PER_MS if it["count"] else None
        return mean
    spread = side["latency_ms"][name]
    return None if spread is None else float(spread["mean"])
