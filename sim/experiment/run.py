"""Run a cell: the policy's row, the bounds and the reference rows, each found in the store or computed."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from policies.api import Policy
from policies.bounds.future import Clairvoyant
from policies.lru import LRU
from sim.core.acting import stated
from sim.experiment.bounds import floors, future_of, own_bounds
from sim.experiment.cell import Cell, Inputs, make_cell, make_core, make_machine, make_policy, passes_of
from sim.experiment.config import RunConfig
from sim.experiment.learned import Lessons
from sim.experiment.provenance import Identity, identify, of_bounds, result_of
from sim.experiment.scoring import scoring
from sim.experiment.served import serving_of
from sim.prices.chosen import changed
from sim.results.document import SCHEMA, Outcome, reference_row
from sim.results.store import Store
from sim.results.timelines import timeline_of
from sim.workload.online.feed import Serving
from traces.kit.errors import UserError
from traces.kit.fields import MAX_INT

Progress = Callable[[str, int, int], None]
"""``progress(row, tokens done, tokens in all)``"""


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run: its document (docs/design.md, The result) and its folder."""

    document: Mapping[str, Any]
    folder: Path
    cached: bool


def run(*overrides: str, out: str | Path = "outputs", progress: Progress | None = None) -> Result:
    """Run one configuration given as ``key=value`` words, or read it if it was run before. UserError for mistakes."""
    from sim.experiment.compose import read_config

    return run_config(read_config(overrides), out, progress)


def run_config(
    config: RunConfig, out: str | Path = "outputs", progress: Progress | None = None, inputs: Inputs | None = None
) -> Result:
    """Run one composed configuration, or read it if it was run before; ``inputs``: shared with other cells."""
    cell, store = make_cell(config, inputs), Store(Path(out))
    policy = make_policy(cell, recall=Lessons(cell, store))
    own = identify(cell, policy.predictors())
    folder = store.folder(f"{policy.name}-{own.resolved['budget_bytes']}-{own.key}")

    def result() -> dict[str, Any]:
        outcome = simulate(cell, policy, record=config.log, shown=config.timeline, progress=progress)
        wanted = config.bounds and policy.lossless
        if outcome.serving is not None:
            hosted = outcome.core.places is not None
            outcome.own_bounds = own_bounds(cell, outcome.serving, hosted=hosted) if wanted else None
            wanted = False
        bounds = bounds_of(cell, own, store, progress) if wanted else None
        made = result_of(cell, outcome, bounds, own)
        store.write(folder, made, outcome, asdict(config))
        return made

    document, cached = store.once(folder, "result.json", result)
    return Result(document, folder, cached)


def simulate(
    cell: Cell,
    policy: Policy,
    *,
    name: str = "",
    reference: bool = False,
    record: bool = False,
    shown: bool = False,
    progress: Progress | None = None,
    serving: Serving | None = None,
) -> Outcome:
    """Replay the cell's requests under ``policy`` on the simulated machine; ``name`` is what progress calls it.

    ``reference``: as a reference row, which is charged no time of its own; ``record``: keep the log of facts;
    ``shown``: keep a timeline; ``serving``: in the place of the cell's own.
    """
    core = make_core(cell, policy, record=record)
    if cell.traffic is not None and serving is None:
        keep = shown or (cell.config.bounds and policy.lossless)
        serving = serving_of(cell.config, cell.model, cell.trace, cell.traffic, keep=keep)
    total, done = _tokens(cell), 0

    def note(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(name or policy.name, min(done, total), total)  # a preemption adds to what there is to do

    decided = stated(policy)
    asked = scoring(policy, core) if cell.config.scores and not reference else None
    timeline = timeline_of(cell.setup.gpus) if shown else None
    machine = make_machine(cell, core, note, timeline, charged=not reference)
    measured = serving or passes_of(cell, cell.selection.measured)
    accounts = machine.run(passes_of(cell, cell.selection.warmup), measured)
    if accounts.end_ns > MAX_INT:  # no table holds it
        differing = ", ".join(changed("hardware", cell.config.hardware))
        years = accounts.end_ns // (365 * 86400 * 10**9)
        raise UserError(
            f"hardware={cell.hardware.name}: a run takes {years:,} years on it, so that a figure is a slip"
            f" ({differing or 'none differs from the shipped profile'}); allowed: up to 146"
        )
    told = None if asked is None else asked.told()
    return Outcome(policy, core, accounts, machine.timings, decided, timeline, serving, scores=told)


def _tokens(cell: Cell) -> int:
    """How many are computed in all, as far as that is known before."""
    rows, steps_of, arrives = cell.trace.steps["rows"], cell.trace.steps_of, cell.traffic
    requests = cell.selection.warmup if arrives is not None else (*cell.selection.warmup, *cell.selection.measured)
    found = sum(int(rows[steps_of(request)].sum()) for request in requests)
    return found + (0 if arrives is None else sum(arrival.tokens for arrival in arrives.arrivals))


def bounds_of(cell: Cell, own: Identity, store: Store, progress: Progress | None = None) -> Mapping[str, Any]:
    """The bounds and reference rows of rule 7: one shared cell for all policies."""
    folder = store.folder(f"bounds-{own.resolved['budget_bytes']}-{of_bounds(own).key}")
    return store.once(folder, "bounds.json", lambda: _new_bounds(cell, store, folder, progress))[0]


def _new_bounds(cell: Cell, store: Store, folder: Path, progress: Progress | None) -> dict[str, Any]:
    measured = future_of(cell)
    (floor,) = floors(cell, [cell.setup.budget], measured, with_host=True)
    ample = replace(cell, setup=replace(cell.setup, budget=cell.ample_bytes))
    infinite = simulate(ample, LRU(ample.setup), name="infinite", reference=True, progress=progress)
    rows = {"infinite": reference_row(infinite)}
    whole = future_of(cell, warmup=True) if cell.selection.warmup else measured
    for name in ("belady_forced", "perfect_next_layer", "oracle_ahead"):
        policy = make_policy(cell, name)
        if not isinstance(policy, Clairvoyant):
            raise TypeError(f"{name} is not clairvoyant")
        policy.foresee(whole)
        rows[name] = reference_row(simulate(cell, policy, reference=True, progress=progress))
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "belady_bypass": {"bytes": floor.nbytes},
        "time_lower_bound": {
            "ns": floor.ns,
            "compute_ns": floor.compute_ns,
            "link_ns": floor.link_ns,
            "windows_ns": floor.windows_ns,
            **({} if floor.disk is None else {"disk_ns": floor.disk.ns, "disk_bytes": floor.disk.nbytes}),
        },
        "reference": rows,
    }
    if (beside := floor.with_host) is not None:
        content["time_lower_bound_with_host"] = {
            "ns": beside.ns,
            **asdict(beside.whole),
            "windows_ns": beside.windows_ns,
        }
    store.write_json(folder, "bounds.json", content)
    return content
