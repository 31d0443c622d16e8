"""``python -m sim compare DIR``: the words, the table, the document."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sim.cli import stdout_console, wants_help
from sim.compare import Comparison, compare
from sim.compare.conclude import conclude, limits, machine, milliseconds, percent, share
from sim.frame import LATENCY_NAMES, REFERENCE_ROWS, SHARES
from sim.units import format_bytes
from traces.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COMPARE_SCHEMA = 1
"""Version of the document that ``format=json`` prints."""

HELP = """\
python -m sim compare DIR [KEY=VALUE ...]

Compares the policies whose results lie in DIR or below it, at each budget, on the same requests of one trace.

  metric=NAME        tpot, ttft or request: the mean over requests (tpot)
  baseline=POLICY    what the others are set against (lru, or where it was not run the first, by name)
  target=LATENCY     the smallest budget that meets it: 'tpot<=30ms', 'ttft_p99<=2s' (in quotes: < is the shell's)
  level=SHARE        of the confidence intervals; 1 - level is that of the tests (0.95)
  format=FORM        table, or json

Any other KEY=VALUE chooses runs: trace=d4199675 (the beginning of its hash), model=, hardware=,
source=simulated|device, policy=lru,fmoe, budget=4GB,8GB, seed=0,1, batch=, chunks=, warmup=, limit=, or another column
of sim.load.

  python -m sim run -m policy=lru,gate_ahead,fmoe budget=2GB,4GB,8GB seed=0,1
  python -m sim compare outputs target='tpot<=30ms'
  python -m sim compare outputs metric=ttft policy=lru,fmoe budget=8GB format=json
"""

OPTIONS = {"metric": "tpot", "target": "", "baseline": "", "level": "0.95", "format": "table"}
PAIRED = ("difference", "interval", "p", "hits %", "time", "bytes")
LOSSY = ("hits %", "kept gate mass %", "substituted %", "skipped %", "low precision %")
DISPENSABLE = (*PAIRED[3:], *LOSSY[2:])
"""Heads of columns that a narrow console does without, the last one first."""

SAME = (
    *("source", "trace", "recording", "decoding", "routing_from", "model", "dtype", "hardware", "figures", "device"),
    *("workload", "batch", "chunks", "warmup", "limit", "measured_requests"),
)
"""Columns of ``sim.load`` in which all runs of a comparison are alike."""


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    if not words or wants_help(words):
        sys.stdout.write(HELP)
        return 0
    folder, options, selection = divide("compare", words, OPTIONS)
    if options["format"] not in ("table", "json"):
        raise UserError(f"format={options['format']}: allowed: table, json")
    found = compare(
        folder,
        metric=options["metric"],
        baseline=options["baseline"] or None,
        target=options["target"] or None,
        level=level_of(options["level"]),
        selection=selection,
    )
    if options["format"] == "json":
        sys.stdout.write(json.dumps(document(found), indent=1, allow_nan=False) + "\n")
    else:
        show(found, stdout_console())
    return 0


def divide(command: str, words: Sequence[str], known: Mapping[str, str]) -> tuple[str, dict[str, str], list[str]]:
    """The folder among a command's words, its options as given, and the words that choose runs. UserError."""
    folders, selection, options = list[str](), list[str](), dict(known)
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or "/" in key:  # no key has one: a folder like outputs/budget=4GB
            folders.append(word)
        elif key in options:
            options[key] = value
        else:
            selection.append(word)
    if len(folders) != 1:
        raise UserError(
            f"{command}: one folder of results is wanted, not {len(folders)} (python -m sim {command} --help)"
        )
    return folders[0], options, selection


def level_of(text: str) -> float:
    """A confidence level. UserError for what is no number."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"level={text}: a confidence level, such as 0.95") from None


def document(found: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON: a list of rows for each of its frames, NaN as null."""
    first = found.runs.iloc[0]
    return {
        "schema": COMPARE_SCHEMA,
        "metric": found.metric,
        "unit": "ms",
        "level": found.level,
        "baseline": found.baseline,
        **{key: _json(first[key]) for key in SAME},
        "runs": len(found.runs),
        "cells": _records(found.cells),
        "pairs": _records(found.pairs),
        "references": _records(found.references),
        "target": None if found.target is None else found.target.text,
        "targets": None if found.targets is None else _records(found.targets),
        "conclusions": conclude(found),
        "limits": limits(found),
    }


def show(found: Comparison, console: Console) -> None:
    """Print a table per class, the rows of a budget together, and below it what may be said."""
    runs, name = found.runs, LATENCY_NAMES[found.metric]
    first = runs.iloc[0]
    console.print(f"{name} in ms, mean over requests: {first['model']} in {first['dtype']} on {machine(runs)}")
    console.print(f"routing from {first['routing_from']}, trace {first['trace'][:12]}")
    for lossless in (True, False):
        if (found.cells["lossless"] == lossless).any():
            table, left_out = _table(found, lossless, console)
            console.print()
            console.print(table)
            if left_out:
                why = f"{console.width} columns leave no room for: {', '.join(left_out)} (format=json has them)"
                console.print(Text(why, style="dim"))
    console.print()
    console.print(Text(legend(found), style="dim"))
    for title, lines in (("What may be concluded", conclude(found)), ("What may not", limits(found))):
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                console.print(Padding(Text(f"- {line}"), (0, 0, 0, 1)))


def legend(found: Comparison) -> str:
    """What the columns mean."""
    said = [f"interval: {percent(found.level)}, over blocks of neighbouring requests"]
    if found.cells["lossless"].any():
        said.append("hits: complete when the gate had run; time and bytes: multiples of the bounds")
    if len(found.pairs) and found.cells.loc[found.cells["policy_label"] == found.baseline, "lossless"].all():
        said.append(f"difference: to {found.baseline} on the same requests, with its interval")
        several = f"corrected for {len(found.pairs)} comparisons (Holm), " if len(found.pairs) > 1 else ""
        said.append(f"p: {several}* significant")
    return "; ".join([*said, "+: on the Pareto front"])


def _table(found: Comparison, lossless: bool, console: Console) -> tuple[Table, list[str]]:
    """The table of a class, and the heads of the columns, the last ones, for which the console is too narrow."""
    heads, lines = [*heads_of(found, lossless)[:-1], ""], list(lines_of(found, lossless))
    shown, left_out = list(range(len(heads))), list[str]()
    while True:
        table = _grid(heads, lines, shown, wrap=False)
        wide = Measurement.get(console, console.options.update(width=10_000), table).maximum
        if wide <= console.width:
            return table, left_out[::-1]
        if heads[shown[-2]] not in DISPENSABLE:
            return _grid(heads, lines, shown, wrap=True), left_out[::-1]
        left_out.append(heads[shown.pop(-2)])


def _grid(heads: list[str], lines: list[tuple[str, list[str]]], shown: list[int], *, wrap: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    styles = {"group": "bold", "reference": "dim", "": "magenta" if LOSSY[1] in heads else None}
    for i in shown:
        table.add_column(heads[i], justify="right" if i else "left", no_wrap=not wrap)
    for kind, words in lines:
        first = words[0] if kind == "group" else f"  {words[0]}"
        table.add_row(Text(first), *(words[i] for i in shown[1:]), style=styles[kind])
    return table


def heads_of(found: Comparison, lossless: bool) -> list[str]:
    """The heads of the table of one class."""
    return ["", f"{LATENCY_NAMES[found.metric]} ms", "interval", *(PAIRED if lossless else LOSSY), "front"]


def lines_of(found: Comparison, lossless: bool) -> Iterator[tuple[str, list[str]]]:
    """The rows below these heads: "group" (a budget), "reference" or "" (a cell), and the words in them."""
    blank = [""] * len(heads_of(found, lossless))
    own = found.cells[found.cells["lossless"] == lossless]
    figures = [*own["value"], *own["low"], *own["high"]]
    least = min((value for value in figures if value > 0), default=1.0)
    for budget, cells in own.groupby("budget_bytes", sort=True):
        yield "group", [f"budget {format_bytes(int(str(budget)))}", *blank[1:]]
        for name, value in _reference(found.references, int(str(budget))) if lossless else ():
            yield "reference", [name, milliseconds(value, least), *blank[2:]]
        for cell in cells.sort_values(["value", "policy_label"]).to_dict("records"):
            ends = [milliseconds(cell[end], least) for end in ("low", "high")]
            words = [str(cell["policy_label"]), milliseconds(cell["value"], least), _span(*ends)]
            words += _paired(found, cell) if lossless else _lossy(cell)
            yield "", [*words, "+" if cell["front"] else ""]


def _reference(references: pd.DataFrame, budget: int) -> list[tuple[str, float]]:
    row = references[references["budget_bytes"] == budget]
    known = [(name, float(row[name].iloc[0])) for name in REFERENCE_ROWS if len(row)]
    return [(name, value) for name, value in known if not math.isnan(value)]


def _paired(found: Comparison, cell: Mapping[Any, Any]) -> list[str]:
    """The cells below PAIRED."""
    pairs = found.pairs
    own = pairs[(pairs["policy_label"] == cell["policy_label"]) & (pairs["budget_bytes"] == cell["budget_bytes"])]
    words = ["baseline" if cell["policy_label"] == found.baseline else "-", "", ""]
    for it in own.to_dict("records"):
        p = "-" if math.isnan(it["p_adjusted"]) else f"{it['p_adjusted']:.4f}{'*' if it['significant'] else ' '}"
        ends = [_known(100 * it[end], "{:+.1f}".format) for end in ("low", "high")]
        words = [_known(it["relative"], share), _span(*ends), p]
    gaps = [_known(cell[key], "{:.2f}x".format) for key in ("bound_time_gap", "bound_bytes_gap")]
    return [*words, _known(100 * cell["hit_complete"], "{:.1f}".format), *gaps]


def _lossy(cell: Mapping[Any, Any]) -> list[str]:
    """The cells below LOSSY."""
    return [
        _known(100 * cell[key], "{:.1f}".format) for key in ("hit_complete", *(f"quality_{share}" for share in SHARES))
    ]


def _span(low: str, high: str) -> str:
    return "-" if low == "-" else f"{low} .. {high}"


def _known(value: float, form: Callable[[float], str]) -> str:
    return "-" if math.isnan(value) else form(value)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(key): _plain(value) for key, value in record.items()} for record in records]


def _json(value: Any) -> Any:
    import pandas as pd

    return None if pd.isna(value) else _plain(value)


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own."""
    return value.item() if hasattr(value, "item") else value
