"""The table of a comparison, the rows of a budget together, and what its columns mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import compress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.results.classes import CAPTIONS, LOSSLESS, LOSSY, MODIFIED, by_class, outputs
from sim.results.columns import LATENCY_NAMES, REFERENCE_ROWS, SHARES
from sim.results.compare.conclude import conclude, limits
from sim.results.compare.words import budgets, milliseconds, percent, signed, unit
from sim.results.fitting import Row, fitted
from sim.results.serving.lines import setting_of
from sim.results.table import priced_in
from sim.results.titles import rests_on, titles
from traces.kit.units import counted, format_bytes

if TYPE_CHECKING:
    from sim.results.compare import Comparison

PAIRED = ("diff %", "interval", "p", "hits %", "time", "bytes", "closed %")
QUALITY = ("hits %", "kept gate mass %", "substituted %", "skipped %", "low precision %", "stale %")
FRONT = "front"
BASE = "base"
NOTHING = ("", "-", BASE)
"""What a column may hold and yet say nothing."""
GOING = {LOSSLESS: (9, 5, 2, 8, 7, 6), LOSSY: (7, 6, 2, 5, 8), MODIFIED: (9, 5, 2, 8, 7, 6)}
"""Columns that a narrow console does without, the first one first, by class: closed, p, interval, bytes, time, hits of
the lossless and of a modified model; the last shares and the interval of the lossy."""


def show(found: Comparison, console: Console) -> None:
    """Print what was found, a table per class, and what may not be concluded."""
    first, name = found.runs.iloc[0], LATENCY_NAMES[found.metric]
    said, cells = titles(first), found.cells
    n = counted(int(cells["requests"].max()), unit(found.runs))
    labels, places = cells["policy_label"].nunique(), cells["budget_bytes"].nunique()
    of = f"{counted(labels, 'policy', 'policies')} at {counted(places, 'budget')}"
    console.print(Text(f"{name} in ms, mean over {n}: {of}", style="bold"))
    console.print(f"{said.work}{priced_in(first['dtype'])},")
    console.print(f"{said.where}, {setting_of(first)}; trace {first['trace'][:12]}")
    if modelled := rests_on(found.runs.to_dict("records")):
        console.print(modelled, style="yellow")
    _points(console, "What was found", conclude(found))
    for output, _ in by_class(cells):
        console.print()
        if output == MODIFIED:  # its columns do not tell it
            console.print(CAPTIONS[output], style="magenta")
        console.print(*_table(found, output, console), sep="\n")
    console.print()
    _grid(console, meanings(found), "dim")
    _points(console, "What may not be concluded", limits(found))


def _points(console: Console, title: str, lines: list[str]) -> None:
    if lines:
        console.print(Text(f"\n{title}", style="bold"))
        _grid(console, [("-", line) for line in lines])


def _grid(console: Console, rows: Iterable[tuple[str, str]], style: str = "") -> None:
    """Two columns, the second of which goes on below itself."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    for left, right in rows:
        grid.add_row(Text(left), Text(right), style=style)
    console.print(grid)


def meanings(found: Comparison) -> list[tuple[str, str]]:
    """The heads that want a word, and what they mean."""
    cells, pairs, name = found.cells, found.pairs, LATENCY_NAMES[found.metric]
    said = []
    if cells["low"].notna().any():
        said.append(("interval", f"{percent(found.level)}, over blocks of neighbouring {unit(found.runs)}s"))
    if len(pairs) and _class_of_baseline(found) != LOSSY:
        tested = bool(pairs["p"].notna().any())
        more = ", with its interval; * significant" if tested else ""
        said.append(("diff %", f"to {found.baseline} (base) on the same {unit(found.runs)}s{more}"))
        if tested:
            several = f", corrected for {len(pairs)} comparisons (Holm)" if len(pairs) > 1 else ""
            said.append(("p", f"of no difference{several}"))
        if len(found.overall):
            tests = f"; {counted(len(found.overall), 'test')}, corrected apart" if tested else ""
            said.append(("together", f"the mean of the differences at these budgets{tests}"))
    if (outputs(cells) != LOSSY).any():
        if _good(found):
            said.append(("goodput", f"{unit(found.runs)}s per second within {found.runs['slo'].iloc[0]}"))
        said.append(("hits %", "lookups whose expert was complete when the gate had run"))
        if cells["bound_time_gap"].notna().any():
            said.append(("time, bytes", "multiples of the two bounds, the least that a lossless policy needs"))
        if cells["gap_closed"].notna().any():
            said.append(("closed %", f"of what {found.baseline} takes beyond the bound of time, how much is saved"))
    return [*said, ("+", f"on the Pareto front: no row has less of both memory and {name}")]


def heads_of(found: Comparison, output: str) -> list[str]:
    """The heads of the table of one class; without any bound those of the bounds are missing."""
    paired = PAIRED if _bounded(found) else (*PAIRED[:-3], *(["goodput"] if _good(found) else []))
    return ["", f"{LATENCY_NAMES[found.metric]} ms", "interval", *(QUALITY if output == LOSSY else paired), FRONT]


def lines_of(found: Comparison, output: str) -> Iterator[tuple[str, list[str]]]:
    """The rows below these heads: "group" (a budget), "reference" or "" (a policy), and the words in them."""
    blank = [""] * len(heads_of(found, output))
    own = found.cells[outputs(found.cells) == output]
    figures = [*own["value"], *own["low"], *own["high"]]
    least = min((value for value in figures if value > 0), default=1.0)
    if output != LOSSY and output == _class_of_baseline(found) and len(found.overall):
        yield from _together(found, blank)
    for budget, cells in own.groupby("budget_bytes", sort=True):
        yield "group", [f"budget {format_bytes(int(str(budget)))}", *blank[1:]]
        for row in found.references.query("budget_bytes == @budget").to_dict("records") if output == LOSSLESS else ():
            known = [name for name in REFERENCE_ROWS if not math.isnan(row[name])]
            yield from (("reference", [name, milliseconds(row[name], least), *blank[2:]]) for name in known)
        for cell in cells.sort_values(["value", "policy_label"]).to_dict("records"):
            ends = [milliseconds(cell[end], least) for end in ("low", "high")]
            words = [str(cell["policy_label"]), milliseconds(cell["value"], least), _span(*ends)]
            words += _lossy(cell) if output == LOSSY else _paired(found, cell)
            yield "", [*words, "+" if cell["front"] else ""]


def _together(found: Comparison, blank: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The differences over all budgets; a policy that has not all of them says how many."""
    every = sorted({*found.overall["least_bytes"], *found.overall["most_bytes"], *found.pairs["budget_bytes"]})
    yield "group", [f"{budgets(every, every)} together", *blank[1:]]
    for row in found.overall.sort_values(["relative", "policy_label"]).to_dict("records"):
        part = "" if row["budgets"] == len(every) else f", {row['budgets']} of {len(every)}"
        words = [f"{row['policy_label']}{part}", "", "", *_difference(row)]
        yield "", [*words, *blank[len(words) :]]


def _table(found: Comparison, output: str, console: Console) -> list[Any]:
    """The table of a class as far as the console is wide; a row on the front has its mark before its name."""
    styles = {"group": "bold", "reference": "dim", "": "" if output == LOSSLESS else "magenta"}
    rows: list[Row] = []
    for kind, words in lines_of(found, output):
        before = "" if kind == "group" else f"{words[-1] or ' '} "
        rows.append((styles[kind], before, words[:-1]))
    heads = heads_of(found, output)[:-1]
    # Too few requests for intervals and tests: that is said once, and not by a column of nothing.
    said = [not heads[i] or any(words[i].strip() not in NOTHING for *_, words in rows) for i in range(len(heads))]
    rows = [(style, before, list(compress(words, said))) for style, before, words in rows]
    going = [sum(said[:place]) for place in GOING[output] if place < len(heads) and said[place]]
    return fitted(list(compress(heads, said)), rows, console, going)


def _class_of_baseline(found: Comparison) -> str:
    return str(outputs(found.cells)[found.cells["policy_label"] == found.baseline].iloc[0])


def _good(found: Comparison) -> bool:
    """Whether requests arrived, and were to keep within the same objectives everywhere."""
    alike = len(set(found.runs["slo"].fillna(""))) == 1
    return alike and bool(found.cells["goodput_per_s"].notna().all()) and not _bounded(found)


def _bounded(found: Comparison) -> bool:
    return bool(found.cells["bound_time_gap"].notna().any())


def _paired(found: Comparison, cell: Mapping[Any, Any]) -> list[str]:
    """The cells below PAIRED."""
    pairs = found.pairs
    own = pairs[(pairs["policy_label"] == cell["policy_label"]) & (pairs["budget_bytes"] == cell["budget_bytes"])]
    alone = [f"{BASE} " if cell["policy_label"] == found.baseline else "-", "", ""]
    words = next(map(_difference, own.to_dict("records")), alone)
    gaps = [_known(cell[key], "{:.2f}x".format) for key in ("bound_time_gap", "bound_bytes_gap")]
    hits = _known(100 * cell["hit_complete"], "{:.1f}".format)
    good = [_known(cell["goodput_per_s"], "{:.3g}".format)] if _good(found) else []
    closed = "" if cell["policy_label"] == found.baseline else _known(100 * cell["gap_closed"], "{:.0f}".format)
    return [*words, hits, *([*gaps, closed] if _bounded(found) else good)]


def _difference(row: Mapping[Any, Any]) -> list[str]:
    """Relative difference in %, its interval, and p."""
    value = signed(row["relative"]) + ("*" if row["significant"] else " ")
    p = _known(row["p_adjusted"], "{:.4f}".format)
    return [value, _span(signed(row["low"]), signed(row["high"])), p]


def _lossy(cell: Mapping[Any, Any]) -> list[str]:
    """The cells below QUALITY."""
    keys = ("hit_complete", *(f"quality_{share}" for share in SHARES))
    return [_known(100 * cell[key], "{:.1f}".format) for key in keys]


def _span(low: str, high: str) -> str:
    return "-" if low == "-" else f"{low}..{high}"


def _known(value: float, form: Callable[[float], str]) -> str:
    return "-" if math.isnan(value) else form(value)
