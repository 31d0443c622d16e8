"""An answer as a table: a row per policy and budget, the highest rate first, and what the figures are."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

from rich.console import Console
from rich.text import Text

from sim.capacity.answer import command
from sim.results.classes import LOSSLESS, MARKS
from sim.results.fitting import Row, fitted
from traces.kit.units import figure, format_bytes

HEADS = ("policy", "memory", "requests/s", "within %", "above %", "TTFT p90 s", "TPOT p90 ms", "goodput/s", "hits %")
GOING = (4, 8, 7)
"""Columns that a narrow console does without, the first one first."""


def show(it: Mapping[str, Any], console: Console) -> None:
    """Print the answer, what it rests on, the table, and the command that runs the best."""
    best = winner(it)
    console.print(Text(first(it), style="bold"))
    for line in it["of"]:
        console.print(Text(line))
    console.print(Text(fill(asked(it), console.width)))
    if it["modelled"]:
        console.print(Text(it["modelled"], style="yellow"))
    console.print()
    lines = [_line(row, best is row) for row in ordered(it)]
    console.print(*fitted(HEADS, lines, console, GOING), sep="\n")
    for line in meaning(it):
        console.print(Text(fill(line, console.width, subsequent_indent="  "), style="dim"))
    for line in notes(it):
        console.print(Text(fill(line, console.width, subsequent_indent="  "), style="yellow"))
    if best is not None:
        console.print(Text("run it:", style="dim"))
        console.print(Text(f"  {command(best)}"), soft_wrap=True)


def ranked(row: Mapping[str, Any]) -> bool:
    """Whether a row is compared with the others: lossless, and nothing that arrived again was known to it."""
    return row["output"] == LOSSLESS and not row["memorised"]


def winner(it: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row with the highest rate of those that are ranked; of equal ones the first; None where none does."""
    known = [row for row in it["rows"] if row["requests_per_s"] is not None and ranked(row)]
    return max(known, key=lambda row: float(row["requests_per_s"]), default=None)


def ordered(it: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows: ranked ones before others, then the highest rate first."""
    return sorted(it["rows"], key=lambda row: (not ranked(row), -(row["requests_per_s"] or -1)))


def first(it: Mapping[str, Any]) -> str:
    """The answer in a sentence."""
    best = winner(it)
    if best is None:
        return f"No rate found: nothing that is ranked keeps within {it['slo']} at 1 request/s, nor at the lowest rate."
    least = "At least " if best["at_least"] else ""
    return f"{least}{best['requests_per_s']:g} requests/s, with {best['policy']} at {best['memory']}."


def asked(it: Mapping[str, Any]) -> str:
    """What was looked for."""
    n, workload = len(it["seeds"]), it["workload"]
    which = "" if n == 1 else " in each of" if it["rule"] == "all" else " in the median of"
    seeds = f", seed {it['seeds'][0]}" if n == 1 else f"{which} {n} seeds"
    given = f" With {' '.join(it['given'])}." if it.get("given") else ""
    return (
        f"The highest rate at which {100 * it['share']:g} % of {it['count']} {workload['arrivals']} arrivals keep"
        f" within {it['slo']}{seeds}; rates in steps of {figure(100 * it['within'])} %.{given}"
    )


def memory(row: Mapping[str, Any]) -> str:
    """A row's split of memory, and what it is in bytes."""
    if row["memory"].startswith("KV "):
        return f"{row['memory']}: {format_bytes(row['kv_bytes'])}, experts {format_bytes(row['budget_bytes'])}"
    budget = "" if row["budget_bytes"] is None else format_bytes(row["budget_bytes"])
    said = budget if row["memory"].replace(" ", "") == budget.replace(" ", "") else f"{row['memory']} ({budget})"
    return said if row["kv_bytes"] is None else f"{said}, KV {format_bytes(row['kv_bytes'])}"


def _line(row: Mapping[str, Any], best: bool) -> Row:
    style = "bold" if best else "" if ranked(row) else "magenta"
    mark = MARKS.get(row["output"] or LOSSLESS, "")
    name = ", ".join(filter(None, [row["policy"], mark, "not ranked" if row["memorised"] else ""]))
    at = row["at"]
    if at is None:
        return ("dim", "", [name, memory(row) if row["budget_bytes"] else row["memory"], "none"])
    above = row["above"]
    words = [
        name,
        memory(row),
        f"{'>= ' if row['at_least'] else ''}{at['rate']:g}",
        f"{100 * at['attainment']:.1f}",
        "-" if above is None else f"{100 * above['attainment']:.1f}",
        figure(at["ttft_ms_p90"] / 1000),
        figure(at["tpot_ms_p90"]),
        figure(at["goodput_per_s"]),
        "-" if at["hits"] is None else f"{100 * at['hits']:.1f}",
    ]
    return (style, "", words)


def meaning(it: Mapping[str, Any]) -> list[str]:
    """What the heads mean."""
    of, one = {"all": "the least of all seeds", "median": "the median of the seeds"}[it["rule"]], len(it["seeds"]) == 1
    which, rest = ("", "") if one else (f", {of}", "; the rest: means over seeds")
    return [f"within: requests that keep within the objectives at that rate{which}; above: one step above{rest}"]


def notes(it: Mapping[str, Any]) -> list[str]:
    """What is to be said of single rows: why there is no rate, and where attainment does not fall as the rate rises."""
    said = []
    for row in it["rows"]:
        name = f"{row['policy']} at {row['memory']}"
        if row["why"]:
            said.append(f"{name} cannot run: {row['why']}")
        elif row["at"] is None:
            said.append(f"{name}: {alone(row)}")
        if row["missed_below"]:
            some = ", ".join(f"{rate:g}" for rate in row["missed_below"])
            said.append(f"{name} misses it at lower rates, too: {some}/s; attainment does not fall steadily there")
        if row["at_least"]:
            said.append(f"{name}: {it['count']} arrivals are too few to overload it; ask with a larger count=")
    if any(row["memorised"] for row in it["rows"]):
        said.append(
            "not ranked: the policy remembers requests, and some arrived again; with no more arrivals than requests"
            " (count=) it is"
        )
    if any(row["output"] not in (None, LOSSLESS) for row in it["rows"]):
        said.append("lossy rows, and those of a modified model, are not ranked with the others")
    return said


def alone(row: Mapping[str, Any]) -> str:
    """What keeps a row from any rate: its figures at the lowest, where hardly two requests meet."""
    lowest = row["points"][0]
    return (
        f"not even at {lowest['rate']:g} requests/s, where hardly two meet: {100 * lowest['attainment']:.1f} % keep"
        f" within, TTFT p90 {figure(lowest['ttft_ms_p90'] / 1000)} s, TPOT p90 {figure(lowest['tpot_ms_p90'])} ms"
    )
