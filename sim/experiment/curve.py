"""``python -m sim curve``: hits of caching policies at many budgets, and LRU's at every one."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from sim.core.accounts import PHASES
from sim.experiment.cell import Cell
from sim.experiment.compose import key_of
from sim.experiment.curves import PolicyCurve, cells_of, curve, document, grid
from sim.experiment.stack import Curve, curve_of
from sim.experiment.words import ROOTS
from sim.results.titles import modelled
from sim.results.wording import room_line
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.telling import say, stdout_console
from traces.kit.units import format_bytes
from traces.kit.vocabulary import Format, new_picture
from traces.kit.words import Between, Others

SHOWN = 20
"""Budgets of a table, where none are asked for."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Hit rates of policies that prefetch nothing, at many budgets, without a clock:
    equal to those of python -m sim run hit for hit, and sooner. LRU's are worked
    out from one pass over the demand. budget=10%,20%,4GB names budgets,
    budgets=20 has so many, evenly spaced; policy= takes several, comma-separated.
    Takes the keys of python -m sim run, but for out. For latency, run the
    simulator.

    {keys}

      python -m sim curve
      python -m sim curve policy=lru,lru_layer,lfu,lfru,static budgets=20
      python -m sim curve policy=lfru budget=10%,25%,50% trace=my_trace format=json
    """

    budgets: Annotated[
        int | None, Between(1, 1000), "how many, evenly spaced up to all experts; 20, where none are named"
    ] = None
    picture: Annotated[Path | None, new_picture, "draw hit rates over budgets into FILE.svg or .png"] = None
    format: Annotated[Format, "json: every budget; of LRU alone, every number of slots"] = "table"
    rest: Annotated[tuple[str, ...], Others(ROOTS), ""] = ()


def main(options: Options) -> None:
    """Print the curves with the configuration of ``sim run``."""
    budgets, names, rest = _asked(options)
    cells = cells_of(names, rest)
    if names == ["lru"] and not budgets and options.budgets is None and options.picture is None:
        _all_of_lru(cells[0], options.format)
        return
    at, curves, spent = grid(cells[0], budgets, options.budgets or SHOWN), list[PolicyCurve](), list[str]()
    for cell in cells:
        began = time.process_time()
        curves.append(curve(cell, at))
        spent.append(f"{curves[-1].label} {time.process_time() - began:.1f} s")
    if options.format == "json":
        sys.stdout.write(dump_json(document(cells[0], curves)))
    else:
        _print(cells[0], at, curves)
    say(f"CPU time: {', '.join(spent)}")
    if options.picture is not None:
        from sim.experiment.curve_picture import draw_file

        draw_file(cells[0], curves, options.picture)
        say(f"wrote {options.picture}")


def _asked(options: Options) -> tuple[list[str], list[str], list[str]]:
    """Budgets, names of policies, and the words of a run that are left."""
    given: dict[str, list[str]] = {"budget": [], "policy": ["lru"]}
    rest = []
    for word in options.rest:
        key, _, value = word.partition("=")
        if key not in given:
            rest.append(word)
            continue
        given[key] = list(dict.fromkeys(value.split(",")))
        if not all(given[key]):
            raise UserError(f"{key}={value}: a value is missing; allowed: one or several, comma-separated")
    if given["budget"] and options.budgets is not None:
        raise UserError(f"budgets={options.budgets}: allowed without budget=, which names them")
    if odd := [word for word in rest if key_of(word) in given]:
        raise UserError(f"{odd[0]}: allowed: {key_of(odd[0])}=VALUE,VALUE")
    return given["budget"], given["policy"], rest


def _all_of_lru(cell: Cell, form: str) -> None:
    cell = replace(cell, setup=replace(cell.setup, budget=cell.total_expert_bytes))
    found = curve_of(cell)
    if form == "json":
        sys.stdout.write(dump_json(every_slot(cell, found)))
        return
    size, total = cell.setup.expert_bytes[0], len(found.hits[0]) - 1
    rows = [
        [format_bytes(n * size), str(n), *_rates(found.hits[:, n].tolist(), found.lookups)]
        for n in sorted({round(n) for n in np.linspace(found.least, total, SHOWN)})
    ]
    _table(["budget", "slots", *(f"{phase} %" for phase in (*PHASES, "both"))], rows)
    begins = f"exact from {found.least} slots on, as many as the largest layer event demands; below, ask with budget="
    _notes(cell, "slots: experts that the budget holds; %: lookups whose expert is there, under lru", begins)


def every_slot(cell: Cell, found: Curve) -> dict[str, Any]:
    """LRU's curve as JSON: hits by number of slots, from the least on which it is exact."""
    size, total = cell.setup.expert_bytes[0], len(found.hits[0]) - 1
    slots = range(found.least, total + 1)
    return {
        "policy": "lru",
        "trace": cell.trace.sha256,
        "recording": cell.trace.manifest.recording,
        "expert_bytes": size,
        "room_bytes": cell.room.bytes,
        "lookups": dict(zip(PHASES, found.lookups, strict=True)),
        "budget_bytes": [n * size for n in slots],
        "complete_hits": {phase: found.hits[i, found.least :].tolist() for i, phase in enumerate(PHASES)},
    }


def _print(cell: Cell, budgets: Sequence[int], curves: Sequence[PolicyCurve]) -> None:
    total, alone = cell.total_expert_bytes, len(curves) == 1
    names = [f"{phase} %" for phase in (*PHASES, "both")] if alone else [it.label for it in curves]
    by_budget = [{point.budget: point for point in it.points} for it in curves]
    rows = []
    for budget in budgets:
        row = [format_bytes(budget), f"{100 * budget / total:.3g} %"]
        for it, points in zip(curves, by_budget, strict=True):
            point = points.get(budget)
            rates = ["-"] * 3 if point is None else _rates(point.hits, it.lookups)
            mark = "" if point is None or point.fits else "*"
            row += [rate + mark for rate in rates[0 if alone else 2 :]]
        rows.append(row)
    _table(["budget", "of all", *names], rows)
    notes = [
        f"%: lookups whose expert is there, under {curves[0].label}" if alone else "lookups whose expert is there, in %"
    ]
    every = [point for it in curves for point in it.points]
    if any(not point.fits for point in every):
        notes.append("*: a layer event demands more than its pool holds, so hits depend on the machine's times")
    if len(every) < len(budgets) * len(curves):
        notes.append("-: less than the least budget that the policy takes")
    _notes(cell, *notes)


def _rates(hits: Sequence[int], lookups: Sequence[int]) -> list[str]:
    return [
        f"{100 * h / of:.1f}" if of else "-" for h, of in zip((*hits, sum(hits)), (*lookups, sum(lookups)), strict=True)
    ]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    stdout_console().print(table)


def _notes(cell: Cell, *notes: str) -> None:
    console = stdout_console()
    for note in notes:
        console.print(note, style="dim", markup=False)
    if about := cell.trace.manifest.modelled.get("expert_ids"):
        console.print(f"modelled, not recorded: {modelled({'expert_ids': about})}", style="yellow")
    if cell.room.bytes < cell.total_expert_bytes:
        console.print(f"{room_line(asdict(cell.room))}: no larger budget fits on {cell.hardware.name}", style="dim")
