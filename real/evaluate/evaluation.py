"""All that is found in a folder of measurements."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from real.evaluate.prices import expected, fitted
from real.measure.record import FILE, read, read_step
from real.validation.compare import judge
from real.validation.ran import Runs, load_all, own_time
from real.validation.verdict import agrees
from real.validation.writing import document_of, provenance
from real.words import read_profile
from sim.core.state import CoreError
from sim.experiment.cell import make_cell
from sim.experiment.inputs import Inputs
from sim.prices import HardwareProfile
from traces.kit.errors import UserError, one_of
from traces.kit.telling import in_short, say

GRIDS = {"cells": "recorded routing", "link": "drawn routing on few, large experts, for the link alone"}
ABOUT = ("device", "host", "python", "torch", "transformers", "size", "code")
KEYS = {
    "copies": ("date", "curves"),
    "overheads": ("samples", "model", "seed", "date"),
    "decisions": ("where", "policy_us"),
    "peers": ("rows", "left_out"),
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
            except UserError as error:
                failed.append({"policy": policy, "budget": budget, "error": in_short(error)})
                continue
            except UNREAD as error:
                failed.append({"policy": policy, "budget": budget, "error": _unread(error)})
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
            "exact": self.step("exact"),
            "decisions": self.decisions,
            "runtime": (self.hardware or {}).get("runtime"),
        }


def _unread(error: Exception) -> str:
    return f"the log cannot be replayed ({in_short(error, kind=True)}): it is damaged, or another version's"
