"""The profile that predicts: the device's own figures and the runtime's overheads; and how sure it is."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from real.calibrate import overheads
from real.calibrate.overheads import Sample
from sim.experiment.cell import Cell, make_cell, make_policy
from sim.experiment.config import RunConfig
from sim.experiment.run import simulate
from sim.results.document import latencies
from traces.calibrate.tables import pooled
from traces.kit.errors import UserError


def samples(found: Mapping[str, Any], traces: Path, hardware: Mapping[str, Any]) -> list[Sample]:
    """The runs of the step overheads, priced by ``hardware`` without overheads: what is measured of the device may
    have been less when they were made. Their traces lie in ``traces``. UserError if damaged."""
    priced = {"hardware": overheads.without(hardware)}
    try:
        runs = []
        for row in found["samples"]:
            config = dict(row["config"])
            given = {key: value for key, value in row.items() if key != "config"}
            config |= priced | {"trace": str(traces / config["trace"])}
            runs.append(Sample(config=RunConfig.from_dict(config), **given))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"overheads.json: not of python -m real measure ({error}); remove it, and measure it again"
        ) from None
    return runs


def fitted(hardware: Mapping[str, Any], found: Mapping[str, Any], traces: Path, name: str) -> dict[str, Any]:
    """The profile with the overheads that the runs show."""
    runs = samples(found, traces, hardware)
    return overheads.with_overheads(hardware, overheads.fit(runs), name, found["model"], found["seed"], found["date"])


def expected(cell: Cell) -> float | None:
    """How far TPOT may be off, as a share, by what was measured before the cell was run; None where nothing was.

    The prediction moves by so much between the quartiles of all that was timed; and of what is not waiting, the
    overheads explain their own runs of decoding to the worst of their residuals.
    """
    hardware = cell.config.hardware
    if not hardware.get("measured"):
        return None
    tpot, waiting = _tpot(cell, hardware)
    if tpot is None:
        return None
    apart = 0.0
    for quartile in ("q1_ns", "q3_ns"):
        moved, _ = _tpot(cell, shifted(hardware, quartile))
        assert moved is not None
        apart = max(apart, abs(moved - tpot) / tpot)
    fit = (hardware.get("runtime") or {}).get("fit", {})
    residuals = [float(share) for name, share in fit.items() if name.startswith("decode")]
    return apart + (1 - waiting) * max(residuals, default=0.0)


def _tpot(cell: Cell, hardware: Mapping[str, Any]) -> tuple[float | None, float]:
    """TPOT in ms, and the share of time that compute waits, on a machine."""
    priced = make_cell(replace(cell.config, hardware=dict(hardware)), cell.inputs)
    outcome = simulate(priced, make_policy(priced))
    spread = latencies(outcome.timings)["tpot"]
    waiting = sum(outcome.accounts.stall_row()) / max(1, outcome.wall_ns)
    return (spread["mean"] if spread else None), waiting


def shifted(hardware: Mapping[str, Any], quartile: str) -> dict[str, Any]:
    """A measured machine whose copies and layers take a quartile of what they took, rather than the median."""
    measured = dict(hardware["measured"])
    copies = measured["copy_h2d_pinned"] = _at(measured["copy_h2d_pinned"], quartile)
    best = max(Fraction(n, ns) for n, ns in zip(copies["bytes"], copies["ns"], strict=True))
    overhead = max(Fraction(0), copies["ns"][0] - copies["bytes"][0] / best) / 1000
    link = dict(hardware["link"]) | {"h2d_gb_per_s": float(best), "overhead_us": float(overhead)}
    models = {
        name: dict(model) | {"expert": _at(model["expert"], quartile)}
        for name, model in (measured["models"] or {}).items()
    }
    measured["models"] = models or None
    return dict(hardware) | {"measured": measured, "link": link}


def _at(table: Mapping[str, Any], quartile: str) -> dict[str, Any]:
    return dict(table) | {"ns": pooled(table[quartile])}
