"""``python -m sim compare DIR``: the words, the table, the document."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sim.compare import Comparison, compare
from sim.compare.conclude import NAMES, conclude, limits, machine, share
from sim.frame import REFERENCE_ROWS, SHARES
from sim.units import format_bytes
from traces.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COMPARE_SCHEMA = 1
"""Version of the document that ``format=json`` prints."""

OPTIONS = {"metric": "tpot", "target": "", "baseline": "", "level": "0.95", "format": "table"}
PAIRED = ("difference", "interval", "p", "hits %", "time", "bytes")
LOSSY = ("hits %", "kept gate mass %", "substituted %", "skipped %", "low precision %")


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    from sim.help import COMPARE_HELP

    if not words or any(word in ("-h", "--help") for word in words):
        sys.stdout.write(COMPARE_HELP)
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
        show(found, Console(width=None if sys.stdout.isatty() else 120, highlight=False))
    return 0


def divide(command: str, words: Sequence[str], known: Mapping[str, str]) -> tuple[str, dict[str, str], list[str]]:
    """The folder among a command's words, its options as given, and the words that choose runs. UserError."""
    folders = [word for word in words if "=" not in word]
    if len(folders) != 1:
        raise UserError(
            f"{command}: one folder of results is wanted, not {len(folders)} (python -m sim {command} --help)"
        )
    options, selection = dict(known), []
    for word in words:
        key, separator, value = word.partition("=")
        if separator and key in options:
            options[key] = value
        elif separator:
            selection.append(word)
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
        **{key: str(first[key]) for key in ("source", "trace", "model", "dtype", "hardware", "figures")},
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
    runs, name = found.runs, NAMES[found.metric]
    first = runs.iloc[0]
    console.print(f"{name} in ms, mean over requests: {first['model']} in {first['dtype']} on {machine(runs)}")
    console.print(f"routing from {first['routing_from']}, trace {first['trace'][:12]}")
    for lossless in (True, False):
        if (found.cells["lossless"] == lossless).any():
            console.print()
            console.print(_table(found, lossless))
    console.print()
    level = f"{found.level:.0%}"
    console.print(
        Text(
            f"interval: {level}, over blocks of neighbouring requests; difference: to {found.baseline} on the same"
            " requests; p: Holm, * significant; time and bytes: multiples of the bounds; +: on the Pareto front",
            style="dim",
        )
    )
    for title, lines in (("What may be concluded", conclude(found)), ("What may not", limits(found))):
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                console.print(Padding(Text(f"- {line}"), (0, 0, 0, 1)))


def _table(found: Comparison, lossless: bool) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for i, name in enumerate(("", f"{NAMES[found.metric]} ms", "interval", *(PAIRED if lossless else LOSSY), "")):
        table.add_column(name, justify="left" if not i else "right", no_wrap=not i)
    styles = {"group": "bold", "reference": "dim", "": None if lossless else "magenta"}
    for kind, words in lines_of(found, lossless):
        table.add_row(Text(words[0] if kind == "group" else f"  {words[0]}"), *words[1:], style=styles[kind])
    return table


def lines_of(found: Comparison, lossless: bool) -> Iterator[tuple[str, list[str]]]:
    """The rows of the table of one class: "group" (a budget), "reference" or "" (a cell), and the words in them."""
    own = found.cells[found.cells["lossless"] == lossless]
    for budget, cells in own.groupby("budget_bytes", sort=True):
        yield "group", [f"budget {format_bytes(int(str(budget)))}"]
        for name, value in _reference(found.references, int(str(budget))) if lossless else ():
            yield "reference", [name, f"{value:.2f}"]
        for cell in cells.sort_values(["value", "policy_label"]).to_dict("records"):
            words = [str(cell["policy_label"]), f"{cell['value']:.2f}", _span(cell["low"], cell["high"], "{:.2f}")]
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
        words = [share(it["relative"]), _span(100 * it["low"], 100 * it["high"], "{:+.1f}"), p]
    gaps = [_known(cell[key], "{:.2f}x") for key in ("bound_time_gap", "bound_bytes_gap")]
    return [*words, _known(100 * cell["hit_complete"], "{:.1f}"), *gaps]


def _lossy(cell: Mapping[Any, Any]) -> list[str]:
    """The cells below LOSSY."""
    return [_known(100 * cell[key], "{:.1f}") for key in ("hit_complete", *(f"quality_{share}" for share in SHARES))]


def _span(low: float, high: float, form: str) -> str:
    return "-" if math.isnan(low) or math.isnan(high) else f"{form.format(low)} .. {form.format(high)}"


def _known(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(key): _plain(value) for key, value in record.items()} for record in records]


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own."""
    return value.item() if hasattr(value, "item") else value
