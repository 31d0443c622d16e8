"""``python -m sim curve``: LRU's hits at every budget at once, from one pass over the demand.

LRU keeps the most recent experts, so an expert hits exactly when fewer others than there are slots were demanded since
its last demand (R. Mattson et al., Evaluation techniques for storage hierarchies, IBM Systems Journal 9(2), 1970).
Layer events being atomic, all members of an event are looked up before any of them counts as recent, and enter in
token order. That is what the simulator does, hit for hit, where

* the policy is ``lru`` with ``scope=global``: one list, on-demand copies only;
* all experts are of one size, so that a budget is a number of slots;
* no event demands more experts than there are slots: beyond, demand streams through in waves, and what is left depends
  on the order of computing. The curve begins at the largest event; below, ask the simulator.

Batches, warm-up and chunks change nothing of this. Latency is not on the curve: it wants the simulator.
"""

import sys
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from sim.core.accounts import PHASES
from sim.experiment.cell import Cell, make_cell, make_policy, passes_of
from sim.experiment.compose import key_of, read_config
from sim.experiment.served import closed
from sim.experiment.words import ROOTS
from sim.results.titles import modelled
from sim.results.wording import room_line
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.telling import stdout_console
from traces.kit.units import format_bytes
from traces.kit.vocabulary import Format
from traces.kit.words import Others

SHOWN = 20
"""Rows of the table; JSON has every number of slots."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Hits by number of slots."""

    lookups: tuple[int, int]  # in prefill and in decode
    hits: NDArray[np.int64]
    """[2, n + 1]: complete hits in prefill and decode with 0..n slots, n being all experts."""
    least: int  # members of the largest event: fewer slots are not on the curve


def curve_of(cell: Cell) -> Curve:
    """The curve of a cell whose policy is LRU; its budget is of no account. UserError where it would not be exact.

    Stack distances of the demand, in O(n log n) per layer event of the n experts of all layers.
    """
    policy, n_experts = make_policy(cell), cell.setup.n_layers * cell.setup.n_experts
    if policy.name != "lru" or getattr(policy, "by_layer", True):
        raise UserError(f"policy={cell.config.policy['name']}: the curve is LRU's; allowed: lru with scope=global")
    if cell.setup.gpus > 1:
        raise UserError(f"hardware.gpus={cell.setup.gpus}: the curve is of one memory; allowed: 1")
    if len(set(cell.setup.expert_bytes)) > 1:
        raise UserError(f"model={cell.model.name}: experts of several sizes; the curve is exact for one size only")
    last = np.full(n_experts, -1, np.int64)  # when an expert was last demanded
    counts = np.zeros((2, n_experts + 1), np.int64)
    lookups, least, clock = [0, 0], 1, 0
    for counted, requests in enumerate((cell.selection.warmup, cell.selection.measured)):
        for step in passes_of(cell, requests):
            phase = 0 if step.prefill else 1
            for demand in step.demand:
                if not demand:
                    continue
                members = np.asarray(demand)
                least = max(least, len(demand))
                if counted:
                    lookups[phase] += len(demand)
                    seen = last[members]
                    # Slots that it takes to hit: itself, and all that were demanded since.
                    needed = n_experts - np.searchsorted(np.sort(last), seen[seen >= 0])
                    counts[phase] += np.bincount(needed, minlength=n_experts + 1)
                last[members] = np.arange(clock, clock + len(demand))
                clock += len(demand)
    return Curve((lookups[0], lookups[1]), counts.cumsum(axis=1), least)


@dataclass(frozen=True, kw_only=True)
class Options:
    """LRU's hit rates at every budget, from one pass over the demand. They are exact,
    equal to python -m sim run policy=lru hit for hit, from the budget on that holds
    the largest layer event. Takes the keys of python -m sim run, but for budget and
    out. For latency, run the simulator.

    {keys}

      python -m sim curve
      python -m sim curve trace=my_trace workload.batch=4 format=json
    """

    format: Annotated[Format, "json: every number of slots"] = "table"
    rest: Annotated[tuple[str, ...], Others(ROOTS), ""] = ()


def main(options: Options) -> None:
    """Print the curve with the configuration of ``sim run``."""
    given = set(map(key_of, options.rest))
    if "budget" in given:
        raise UserError("budget: the curve has every budget; leave it out")
    words = ["budget=1B", *options.rest]  # any machine has so much, and no policy enough
    config = read_config(words if "policy" in given else ["policy=lru", *words])
    closed(config, "the curve")
    cell = make_cell(config)
    cell = replace(cell, setup=replace(cell.setup, budget=cell.total_expert_bytes))
    curve = curve_of(cell)
    if options.format == "json":
        sys.stdout.write(dump_json(document(cell, curve)))
    else:
        _print(cell, curve)


def document(cell: Cell, curve: Curve) -> dict[str, Any]:
    """The curve as JSON: hits by number of slots, from the least on which it is exact."""
    size, total = cell.setup.expert_bytes[0], len(curve.hits[0]) - 1
    slots = range(curve.least, total + 1)
    return {
        "policy": "lru",
        "trace": cell.trace.sha256,
        "recording": cell.trace.manifest.recording,
        "expert_bytes": size,
        "room_bytes": cell.room.bytes,
        "lookups": dict(zip(PHASES, curve.lookups, strict=True)),
        "budget_bytes": [n * size for n in slots],
        "complete_hits": {phase: curve.hits[i, curve.least :].tolist() for i, phase in enumerate(PHASES)},
    }


def _print(cell: Cell, curve: Curve) -> None:
    from rich.table import Table

    size, total = cell.setup.expert_bytes[0], len(curve.hits[0]) - 1
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("budget", "slots", "prefill %", "decode %", "both %"):
        table.add_column(name, justify="right")
    for n in sorted({round(n) for n in np.linspace(curve.least, total, SHOWN)}):
        hits = curve.hits[:, n].tolist()
        rates = [*zip(hits, curve.lookups, strict=True), (sum(hits), sum(curve.lookups))]
        table.add_row(format_bytes(n * size), str(n), *(f"{100 * h / of:.1f}" if of else "-" for h, of in rates))
    console = stdout_console()
    console.print(table)
    console.print("slots: experts that the budget holds; %: lookups whose expert is there, under lru", style="dim")
    begins = f"exact from {curve.least} slots on, as many as the largest layer event demands; below, run the simulator"
    console.print(begins, style="dim")
    if about := cell.trace.manifest.modelled.get("expert_ids"):
        console.print(f"modelled, not recorded: {modelled({'expert_ids': about})}", style="yellow")
    if cell.room.bytes < cell.total_expert_bytes:
        console.print(f"{room_line(asdict(cell.room))}: no larger budget fits on {cell.hardware.name}", style="dim")
