"""``python -m sim regret``: what the runs of a folder leave to be gained, and by which of their evictions."""

import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from policies.api import Policy
from sim.experiment.bounds import future_of
from sim.experiment.cell import Cell, Inputs, make_cell, make_core, make_machine, make_policy, passes_of
from sim.experiment.config import load_config
from sim.experiment.evictions import Watch
from sim.experiment.learned import Lessons
from sim.experiment.provenance import identify
from sim.experiment.run import bounds_of
from sim.results.compare.selection import MixedRunsError, check_alike, select
from sim.results.document import SCHEMA
from sim.results.finished import Found, finished, runs
from sim.results.gap import gap_of, gap_of_bounds
from sim.results.label import label
from sim.results.load import load
from sim.results.store import Store
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.telling import say, stdout_console
from traces.kit.vocabulary import Format, new_picture
from traces.kit.words import Others, Position


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where the time goes that the runs in DIR take beyond the bound: victim
    ranking, prefetch of one layer and further ahead, admission, the rest, along
    the path of belady_forced, perfect_next_layer and oracle_ahead; and each
    eviction beside that of Belady's rule, by phase, layer and age. Runs are
    replayed for it, rows that are missing are run, and what was found is kept in
    DIR, and read the next time.

    {keys}

    Any other KEY=VALUE chooses runs, as in python -m sim compare.

      python -m sim run -m policy=lru,lfu,fmoe budget=2GB,4GB
      python -m sim regret outputs
      python -m sim regret outputs policy=lru budget=4GB picture=gap.svg
    """

    folder: Annotated[str, Position("DIR"), "of results"]
    picture: Annotated[Path | None, new_picture, "draw the parts of the gaps into FILE.svg or .png"] = None
    format: Annotated[Format, "json: evictions by layer, too"] = "table"
    selection: Annotated[tuple[str, ...], Others(), ""] = ()


def main(options: Options) -> None:
    """Print what there is to be gained."""
    left_out, root = list[str](), Path(options.folder)
    chosen = select(load(root, left_out), options.selection)
    rows = list(regrets(root, set(chosen["folder"]), left_out))
    if not rows:
        raise UserError(f"{options.folder}: {left_out[0]}")
    told = chosen[chosen["folder"].isin({row["folder"] for row in rows})]
    try:
        check_alike(told)  # of what has a row alone: a table names neither machine nor requests
    except MixedRunsError as error:
        words = ["python", "-m", "sim", "regret", options.folder, *options.selection, *error.words]
        raise UserError(error.with_choice(shlex.join(words))) from None
    if options.format == "json":
        sys.stdout.write(dump_json({"schema": SCHEMA, "rows": rows, "left_out": left_out}))
    else:
        from sim.experiment.regret_table import show

        show(rows, left_out, stdout_console())
    if options.picture is not None:
        from sim.experiment.regret_table import draw_file
        from sim.results.pictures.findings import about

        draw_file(rows, about(told), options.picture)
        say(f"wrote {options.picture}")


def regrets(root: Path, chosen: Collection[str], left_out: list[str]) -> Iterator[dict[str, Any]]:
    """A row per chosen run below a folder; ``left_out`` is given a line for each that has none. UserError."""
    inputs = Inputs(keep=True)
    for run in runs(finished(root, [])):
        if run.folder not in chosen:
            continue
        try:
            yield _row(root, run, inputs)
        except _NothingToSayError as why:
            left_out.append(f"{run.folder}: left out, as {why}")


class _NothingToSayError(Exception):
    """Why a run has no row."""


def _row(root: Path, run: Found, inputs: Inputs) -> dict[str, Any]:
    result = run.result
    if "device" in result["provenance"]:
        raise _NothingToSayError("it was measured, and is not replayed")
    if not result["provenance"]["lossless"]:
        raise _NothingToSayError("it is not lossless, and has no bound")
    config = load_config(root / run.folder / "config.yaml")
    cell = make_cell(config, inputs)
    if cell.traffic is not None or cell.setup.gpus > 1 or cell.tier is not None:
        raise _NothingToSayError("it is not of a closed loop on one GPU whose host holds all experts")
    store = Store((root / run.folder).parent)
    policy = make_policy(cell, recall=Lessons(cell, store))
    own = identify(cell, policy.predictors())
    if own.key != result["provenance"]["cell"]:
        raise _NothingToSayError("another state of the code made it; run it again")
    folder = store.folder(f"regret-{own.resolved['budget_bytes']}-{own.key}")

    def make() -> dict[str, Any]:
        made = {"schema": SCHEMA, "cell": own.key, "evictions": _watched(cell, policy, result)}
        store.write_json(folder, "regret.json", made)
        return made

    found, _ = store.once(folder, "regret.json", make)
    parts = gap_of(result)
    if parts is None:
        with_bounds = replace(cell, config=replace(config, bounds=True))
        bounds = bounds_of(with_bounds, identify(with_bounds, policy.predictors()), store)
        parts = gap_of_bounds(result["totals"]["wall_ns"], bounds)
    tokens = result["totals"]["generated_tokens"]
    return {
        "policy": label(result["config"]["policy"]),
        "budget_bytes": own.resolved["budget_bytes"],
        "seed": config.seed,
        "folder": run.folder,
        "generated_tokens": tokens,
        "wall_ns": result["totals"]["wall_ns"],
        "bound_ns": result["totals"]["wall_ns"] - sum(parts.values()),
        "gap_ns": parts,
        "evictions": found["evictions"],
    }


def _watched(cell: Cell, policy: Policy, result: Mapping[str, Any]) -> dict[str, Any]:
    """Replay a run, and look at its evictions. RuntimeError where it decides otherwise than it did."""
    core = make_core(cell, policy)
    watch = Watch(core, future_of(cell, warmup=True))
    make_machine(cell, core).run(passes_of(cell, cell.selection.warmup), passes_of(cell, cell.selection.measured))
    if core.digest() != result["provenance"]["decision_digest"]:
        raise RuntimeError(f"policy {policy.name} decides otherwise than in the run that is explained")
    return watch.found.document()
