"""What runs leave to be gained, and by which of their evictions: each is replayed, and its evictions judged."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies import registry
from policies.api import Policy
from sim.experiment.bounds import future_of
from sim.experiment.cell import Cell, Inputs, make_cell, make_core, make_machine, make_policy, passes_of
from sim.experiment.code import digest_of
from sim.experiment.config import load_config
from sim.experiment.evictions import Watch
from sim.experiment.learned import Lessons
from sim.experiment.provenance import Identity, identify
from sim.experiment.run import bounds_of
from sim.results.compare.selection import among, check_alike, select
from sim.results.document import SCHEMA
from sim.results.finished import Found, finished, runs
from sim.results.gap import gap_of, gap_of_bounds, hosted
from sim.results.label import label
from sim.results.load import load
from sim.results.store import Store
from traces.kit.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Regrets:
    """Of the runs of a folder that are alike."""

    rows: Sequence[Mapping[str, Any]]
    """One per run, as ``format=json`` prints them."""
    left_out: Sequence[str]
    """A line for each run that has none."""
    runs: pd.DataFrame
    """Their rows of ``sim.load``."""

    def document(self) -> dict[str, Any]:
        """What ``format=json`` prints."""
        return {"schema": SCHEMA, "rows": list(self.rows), "left_out": list(self.left_out)}


def regrets(path: str | Path, words: Sequence[str] = (), only: Collection[str] | None = None) -> Regrets:
    """Of the runs below a folder that ``words`` choose; ``only``: the names of their folders.

    UserError for a mistake, and where no run has anything to say; MixedRunsError, before anything is replayed, for runs
    that are not alike: a table names neither machine nor requests.
    """
    left_out, root, inputs = list[str](), Path(path), Inputs(keep=True)
    every = load(root, left_out)
    chosen = select(every if only is None else among(every, only), words)
    folders, replays = set(chosen["folder"]), list[_Replay]()
    for run in runs(finished(root, [])):
        if run.folder in folders:
            try:
                replays.append(_Replay.of(root, run, inputs))
            except _NothingToSayError as why:
                left_out.append(f"{run.folder}: left out, as {why}")
    if not replays:
        raise UserError(f"{path}: {left_out[0]}")
    told = chosen[chosen["folder"].isin({it.run.folder for it in replays})]
    check_alike(told)
    return Regrets([it.row() for it in replays], left_out, told.reset_index(drop=True))


class _NothingToSayError(Exception):
    """Why a run has no row."""


@dataclass(frozen=True, slots=True)
class _Replay:
    """A run that can be explained."""

    run: Found
    cell: Cell
    own: Identity
    store: Store

    @classmethod
    def of(cls, root: Path, run: Found, inputs: Inputs) -> _Replay:
        """Nothing is replayed or learned for it. _NothingToSayError for a run that cannot be."""
        source = run.result["provenance"]
        if "device" in source:
            raise _NothingToSayError("it was measured, and is not replayed")
        if not source["lossless"]:
            raise _NothingToSayError("it is not lossless, and has no bound")
        cell = make_cell(load_config(root / run.folder / "config.yaml"), inputs)
        if cell.traffic is not None or cell.setup.gpus > 1 or cell.tier is not None:
            raise _NothingToSayError("it is not of a closed loop on one GPU whose host holds all experts")
        given = dict(cell.config.policy)
        own = identify(cell, registry.build(str(given.pop("name")), cell.setup, given).predictors())
        if own.key != source["cell"]:
            raise _NothingToSayError("another state of the code made it; run it again")
        return cls(run, cell, own, Store((root / run.folder).parent))

    def row(self) -> dict[str, Any]:
        """What it leaves to be gained."""
        result, budget = self.run.result, self.own.resolved["budget_bytes"]
        key = hashlib.sha256(f"{self.own.key} {digest_of('sim.experiment.evictions')}".encode()).hexdigest()[:16]
        folder = self.store.folder(f"regret-{budget}-{key}")
        found, _ = self.store.once(folder, "regret.json", lambda: self._make(folder))
        parts, totals = self._gap(), result["totals"]
        return {
            "policy": label(result["config"]["policy"]),
            "budget_bytes": budget,
            "seed": self.cell.config.seed,
            "folder": self.run.folder,
            "hosted": hosted(result),
            "generated_tokens": totals["generated_tokens"],
            "wall_ns": totals["wall_ns"],
            "bound_ns": totals["wall_ns"] - sum(parts.values()),
            "gap_ns": parts,
            "evictions": found["evictions"],
        }

    def _gap(self) -> dict[str, int]:
        """With bounds of the store's where the folder has none."""
        result = self.run.result
        if (parts := gap_of(result)) is not None:
            return parts
        cell = replace(self.cell, config=replace(self.cell.config, bounds=True))
        bounds = bounds_of(cell, identify(cell, self.own.resolved["predictors"]), self.store)
        return gap_of_bounds(result["totals"]["wall_ns"], bounds, with_host=hosted(result))

    def _make(self, folder: Path) -> dict[str, Any]:
        policy = make_policy(self.cell, recall=Lessons(self.cell, self.store))
        made = {"schema": SCHEMA, "cell": self.own.key, "evictions": _watched(self.cell, policy, self.run.result)}
        self.store.write_json(folder, "regret.json", made)
        return made


def _watched(cell: Cell, policy: Policy, result: Mapping[str, Any]) -> dict[str, Any]:
    """Replay a run, and look at its evictions. RuntimeError where it decides otherwise than it did."""
    core = make_core(cell, policy)
    watch = Watch(core, future_of(cell, warmup=True))
    make_machine(cell, core).run(passes_of(cell, cell.selection.warmup), passes_of(cell, cell.selection.measured))
    if core.digest() != result["provenance"]["decision_digest"]:
        raise RuntimeError(f"policy {policy.name} decides otherwise than in the run that is explained")
    return watch.found.document()
