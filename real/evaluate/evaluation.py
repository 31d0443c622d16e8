"""All that is found in a folder of measurements."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from real.calibrate import overheads
from real.measure.record import FILE, read, read_step
from real.validation.compare import judge
from real.validation.ran import Runs, load_all, own_time
from real.validation.verdict import agrees
from real.validation.writing import document_of, provenance
from real.words import read_profile
from sim.core.state import CoreError
from sim.experiment.cell import Cell, Inputs, make_cell, make_policy
from sim.experiment.config import RunConfig
from sim.experiment.run import simulate
from sim.prices import HardwareProfile
from sim.results.document import latencies
from traces.calibrate.tables import pooled
from traces.kit.errors import UserError, one_of
from traces.kit.telling import in_short, say

GRIDS = {
    "cells": "recorded routing",
    "link": "drawn routing on few, large experts, for the link alone",
    "host": "recorded routing, and experts that the host computes",
    "arrivals": "recorded routing, of requests that arrive in time",
}
ABOUT = ("device", "host", "python", "torch", "transformers", "size", "code")
KEYS = {
    "copies": ("date", "curves"),
    "overheads": ("samples", "model", "seed", "date"),
    "decisions": ("where", "policy_us"),
    "peers": ("rows", "left_out"),
    "beside": ("rows", "left_out", "about", "prompt_tokens"),
    "exact": ("equal", "digests", "passes", "library", "grouped", "tpot_ms"),
    "passes": ("passes", "aten_calls_per_pass", "launches_per_pass", "policy", "budget"),
}
"""What a step's file is read for."""
UNREAD = (CoreError, ValueError, LookupError, TypeError)
"""What a log raises that is cut, or told by a runtime whose facts are others than this one's."""


class Evaluation:
    """Of the folder ``folder``; ``name``: of the profile. UserError for a folder that is none, or damaged."""

    def __init__(self, folder: Path, name: str = "") -> None:
        self.folder, self.inputs = folder, Inputs(keep=True)
        self.record = read(folder)
        self.about: Mapping[str, Any] = self.record["about"]
        if missing := [key for key in ABOUT if key not in self.about]:
            raise UserError(
                f"{folder}/{FILE}: does not say {one_of(missing)} of the machine; measure into a new folder"
            )
        self.runs = {grid: load_all(folder / grid, folder / "traces") for grid in GRIDS}
        profile = folder / "profile.yaml"
        self.device_only = read_profile(profile) if profile.exists() else None
        if self.device_only is not None:
            HardwareProfile.from_dict(self.device_only)
        self.name = name or str((self.device_only or {}).get("name", "unmeasured"))

    def step(self, name: str) -> Any:
        """What a step wrote as NAME.json; None where it did not come to it. UserError if it cannot be read."""
        return read_step(self.folder, name, KEYS[name])

    @cached_property
    def hardware(self) -> dict[str, Any] | None:
        """The profile that predicts; None where no copies were measured: then each cell's own is taken."""
        if self.device_only is None:
            return None
        found, raw = dict(self.device_only) | {"name": self.name}, self.step("overheads")
        if raw is not None:
            found = fitted(found, raw, self.folder / "traces", self.name)
        return found | {"software": dict(found["software"]) | {"policy_us": dict(self.decisions["policy_us"])}}

    @cached_property
    def decisions(self) -> dict[str, Any]:
        """The policies' own time per pass, as measured beside the device; else on this machine, and said so."""
        found: dict[str, Any] | None = self.step("decisions")
        if found is not None:
            return found
        try:
            here = own_time(self.runs["cells"], "50%", self.inputs)
        except UNREAD as error:  # of a cell that is told of as one that cannot be judged
            say(f"the policies' own time is left out: {_unread(error)}")
            here = {}
        return {"where": "on this machine, not on the one that was measured", "policy_us": here}

    @cached_property
    def documents(self) -> dict[str, dict[str, Any]]:
        """A validation's document for each grid that has runs."""
        return {grid: self._document(runs) for grid, runs in self.runs.items() if runs}

    def _document(self, runs: Runs) -> dict[str, Any]:
        rows, failed, last = [], [], None
        for (policy, budget), (config, found) in runs.items():
            try:
                cell = make_cell(config, self.inputs)
                if any(ran.trace != cell.trace.sha256 for ran in found):
                    raise UserError(f"trace={config.trace} is another one now than what was run")
                hardware = self.hardware or dict(config.hardware)
                priced = make_cell(replace(config, hardware=hardware), self.inputs)
                row, _ = judge(cell, found, priced)
            except (UserError, *UNREAD) as error:
                said = in_short(error) if isinstance(error, UserError) else _unread(error)
                failed.append({"policy": policy, "budget": budget, "error": said})
                continue
            rows.append(row | {"expected": expected(priced), "runs": len(found)})
            last = priced, found[0]
            say(f"{policy} at {budget}: replay {'agrees' if row['replay']['agrees'] else 'DIFFERS'}")
        if last is None:
            raise UserError(f"{self.folder}: no cell can be judged: {failed[0]['error']}")
        weights = "random" if self.about["size"] == "full" else "auto"
        repeat = max(row["runs"] for row in rows)
        date = str((self.step("copies") or {}).get("date", "unknown"))
        return document_of(rows, failed, provenance(last[0], self.about, weights, "", repeat, date, last[1].code))

    @property
    def holds(self) -> bool:
        """Whether every replay agrees, and no criterion fails that is judged. Without a cell, or where one cannot be
        judged, nothing does."""
        rows = [row for document in self.documents.values() for row in document["cells"]]
        if not rows or any(document["failed"] for document in self.documents.values()):
            return False
        judged = [it for document in self.documents.values() for it in document["criteria"] if it["judged"]]
        exact = self.step("exact")
        held = all(it["holds"] is not False for it in judged) and (exact is None or bool(exact["equal"]))
        return held and all(map(agrees, rows))

    def summary(self) -> dict[str, Any]:
        """What a program may want of it."""
        return {
            "name": self.name,
            "about": dict(self.about),
            "steps": self.record["steps"],
            "holds": self.holds,
            "grids": {
                grid: {"summary": it["summary"], "criteria": it["criteria"], "failed": it["failed"]}
                for grid, it in self.documents.items()
            },
            "peers": self.step("peers"),
            "beside": self.step("beside"),
            "exact": self.step("exact"),
            "decisions": self.decisions,
            "runtime": (self.hardware or {}).get("runtime"),
        }


def _unread(error: Exception) -> str:
    return f"the log cannot be replayed ({in_short(error, kind=True)}): it is damaged, or another version's"


def fitted(hardware: Mapping[str, Any], found: Mapping[str, Any], traces: Path, name: str) -> dict[str, Any]:
    """The profile with the overheads that the runs of that step show. UserError if these are damaged.

    They are priced by ``hardware`` without overheads: what is measured of the device may have been less when they were
    made. Their traces lie in ``traces``.
    """
    priced, runs = {"hardware": overheads.put_in(hardware, 0, 0, 0)}, []
    try:
        for row in found["samples"]:
            config = dict(row["config"])
            given = {key: value for key, value in row.items() if key != "config"}
            config |= priced | {"trace": str(traces / config["trace"])}
            runs.append(overheads.Sample(config=RunConfig.from_dict(config), **given))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"overheads.json: not of python -m real measure ({error}); remove it, and measure it again"
        ) from None
    return overheads.with_overheads(hardware, overheads.fit(runs), name, found["model"], found["seed"], found["date"])


def expected(cell: Cell) -> float | None:
    """How far TPOT may be off, as a share, by what was measured before the cell was run; None where nothing was.

    The prediction moves by so much between the quartiles of all that was timed; and of what is not waiting, the
    overheads explain their own runs of decoding to the worst of their residuals. None where requests arrive, too: how
    long they wait for one another moves by more.
    """
    hardware = cell.config.hardware
    if not hardware.get("measured") or cell.traffic is not None:
        return None
    tpot, waiting = _tpot(cell, hardware)
    if tpot is None:
        return None
    moved = [_tpot(cell, shifted(hardware, quartile))[0] for quartile in ("q1_ns", "q3_ns")]
    apart = max(abs(it - tpot) / tpot for it in moved if it is not None)
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
        name: dict(model)
        | {"expert": _at(model["expert"], quartile)}
        | {"cpu_expert": dict(model["cpu_expert"]) | {"ns": model["cpu_expert"][quartile]}}
        for name, model in (measured["models"] or {}).items()
    }
    measured["models"] = models or None
    return dict(hardware) | {"measured": measured, "link": link}


def _at(table: Mapping[str, Any], quartile: str) -> dict[str, Any]:
    return dict(table) | {"ns": pooled(table[quartile])}
