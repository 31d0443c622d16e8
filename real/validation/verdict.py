"""The rows of a validation in order, their errors summed up, and both as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from sim.results.label import label

FIGURES = (
    "tpot_ms",
    "ttft_ms",
    "stall_ms_per_token",
    "hit_recall",
    "hit_resident",
    "hit_complete",
    "hit_bytes",
)
TIMES = FIGURES[:3]
WIDE = 100
"""Columns of a terminal that has room for TTFT as well."""
WORDS = {
    "tpot_ms": "TPOT",
    "ttft_ms": "TTFT",
    "stall_ms_per_token": "stall per token",
    "hit_recall": "recall",
    "hit_resident": "resident",
    "hit_complete": "complete",
    "hit_bytes": "bytes",
}


def worst_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """By the error of TPOT, or of TTFT where nothing is decoded; rows without either come last."""

    def off(row: Mapping[str, Any]) -> float:
        known = (row["errors"][name]["error"] for name in ("tpot_ms", "ttft_ms"))
        return next((abs(error) for error in known if error is not None), -1.0)

    return sorted(rows, key=off, reverse=True)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By figure: the median and the largest of the errors' sizes over the rows that have one; null without any."""
    found: dict[str, Any] = {}
    for name in FIGURES:
        sizes = [abs(row["errors"][name]["error"]) for row in rows if row["errors"][name]["error"] is not None]
        found[name] = {"median": median(sizes), "worst": max(sizes), "rows": len(sizes)} if sizes else None
    return found


def about(source: Mapping[str, Any]) -> list[str]:
    """What was run on what, a line each."""
    trace, hardware, device = source["trace"], source["hardware"], source["device"]
    return [
        f"Device: {device['device']} ({device['host']}), {source['date']}, torch {device['torch']}, transformers"
        f" {device['transformers']}",
        f"Routing: {trace['routing_from']}, {trace['recording']}, {trace['sha256'][:16]};"
        f" {source['measured_requests']}; batch {source['workload']['batch']}",
        f"Model: {source['model']['name']} in {source['model']['dtype']}, weights={source['model']['weights']}",
        f"Profile: {hardware['name']}, {hardware['provenance']}; overheads: {hardware['overheads']}"
        + ("" if hardware["of_this_device"] else "; not measured on this device"),
        f"Experts: {_way(source['exact'])}; code: {source['code']}; each cell run {source['repeat']}"
        f" time{'s' * (source['repeat'] > 1)}" + (", the run of median time is shown" if source["repeat"] > 1 else ""),
    ]


def markdown(document: Mapping[str, Any], columns: int | None = None) -> str:
    """The document for a person: what was run, the errors summed up, a row per cell with the worst first.

    ``columns``: of a terminal, which has no room for all that a file says of a cell.
    """
    source, rows = document["provenance"], document["cells"]
    times, hits = (TIMES, FIGURES[3:]) if columns is None else (TIMES[: 2 if columns >= WIDE else 1], ("hit_complete",))
    lines = [
        f"# Predicted against measured: {source['model']['name']} on {source['hardware']['name']}",
        "",
        *(f"- {line}" for line in about(source)),
        "",
        "Error of a time: (measured - predicted) / measured. Of a hit rate: measured - predicted.",
        "",
        *head("", "median error", "worst error", "cells"),
        *(line(WORDS[name], *_sizes(it, name)) for name, it in document["summary"].items()),
        "",
        *_criteria(document["criteria"]),
        "",
        "*Decides*: what most of the predicted time goes to, known before the run. *Expected*: how far TPOT may be off"
        " by the scatter of what was measured beforehand. *Link*: GB/s while it copies, and its share of the table's."
        " *Replay*: whether the device's log gives its decisions again without a clock."
        + " The files have all times and hit rates."
        * (columns is not None),
        "",
        *_cells(rows, times, hits, whole=columns is None),
    ]
    if document["failed"]:
        lines += ["", "Not run:", ""]
        lines += [f"- {it['policy']} at {it['budget']}: {it['error']}" for it in document["failed"]]
    return "\n".join(lines) + "\n"


def _sizes(errors: Mapping[str, Any] | None, name: str) -> tuple[object, ...]:
    """The median and the largest error of a figure, and over how many cells."""
    return (*(share(errors[key], name) for key in ("median", "worst")), errors["rows"]) if errors else ("-", "-", 0)


def show(text: Callable[[int], str]) -> None:
    """Print what ``text`` gives for a terminal of so many columns as its Markdown means it; as it is without rich."""
    try:
        from rich.markdown import Markdown

        from sim.cli import stdout_console
    except ImportError:
        sys.stdout.write(text(WIDE))
        return
    console = stdout_console()
    console.print(Markdown(text(console.width)))


def judgement(it: Mapping[str, Any]) -> tuple[str, str, str]:
    """Of a criterion with a figure: the figure, what was wanted, and whether it holds."""
    wanted = [f"{how} {it[key]:g}" for key, how in (("least", "at least"), ("most", "at most")) if it[key] is not None]
    said = "holds" if it["holds"] else "**fails**" if it["judged"] else "off"
    return f"{it['value']:.4g}", ", ".join(wanted), said + "; not judged" * (not it["judged"])


def agrees(cell: Mapping[str, Any]) -> bool:
    """Whether the replay of a cell's log gives the device's decisions, and counts alike."""
    return bool(cell["replay"]["agrees"] and cell["replay"]["accounts_agree"])


def _way(exact: bool) -> str:
    return "one by one, whatever is in memory" if exact else "in one grouped kernel where all are there"


def _criteria(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The criteria as a table; nothing where no cell falls under any."""
    known = [it for it in found if it["value"] is not None]
    if known:
        yield from head("criterion", "cells", "found", "wanted", "", right=3)
    for it in known:
        where = "" if it["over"] == "all" else f"; cells where the {it['over']} decides"
        yield line(f"{it['what']}{where}", it["cells"], *judgement(it))


def _cells(rows: Sequence[Mapping[str, Any]], times: Sequence[str], hits: Sequence[str], whole: bool) -> Iterator[str]:
    heads = [f"{WORDS[name]} {what}" for name in times for what in ("measured, ms", "predicted", "error")]
    heads += [f"{WORDS[name]} (error)" for name in hits]
    if whole:
        heads.insert(3, "expected")
    link = ["link, GB/s (of table)"] * whole
    yield from head("policy", "budget", *heads, "decides", *link, "replay", right=1 + len(heads))
    for it in rows:
        figures = [figure for name in times for figure in _time(it, name, whole)]
        if whole:
            figures.insert(3, share(it.get("expected"), times[0]))
        for name in hits:
            rate = it["errors"][name]
            figures.append(f"{_or_dash(rate['device'], '.3f')} ({share(rate['error'], name, sign=True)})")
        gb_per_s, of_table = it["link"]["gb_per_s"], it["link"]["of_table"]
        link = [_or_dash(gb_per_s, ".3g") + ("" if of_table is None else f" ({of_table:.3f})")] * whole
        said = "agrees" if agrees(it) else "**differs**"
        yield line(label(it["policy"]), it["budget"], *figures, it["decides"], *link, said)


def _time(it: Mapping[str, Any], name: str, whole: bool) -> tuple[str, str, str]:
    """Of a cell's time: measured, between which two where several runs were, predicted, and the error."""
    errors, (low, high) = it["errors"][name], it["spread"].get(name) or (None, None)
    spread = f" ({number(low)} to {number(high)})" if whole and low != high else ""
    return (
        number(errors["device"]) + spread,
        number(errors["simulated"]),
        share(errors["error"], name, sign=True),
    )


def head(*names: str, right: int | None = None) -> tuple[str, str]:
    """The first lines of a table in Markdown; after the first column, ``right`` of them (None: all) are figures."""
    figures = len(names) - 1 if right is None else right
    return line(*names), line("---", *["--:"] * figures, *["---"] * (len(names) - 1 - figures))


def line(*cells: object) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def number(value: float | None) -> str:
    """Three digits."""
    return _or_dash(value, ".3g" if value is None or value < 100 else ".0f")


def share(value: float | None, name: str = TIMES[0], sign: bool = False) -> str:
    """An error: of a time as a percentage, of a rate as it is."""
    return _or_dash(value, ("+" if sign else "") + (".1%" if name in TIMES else ".4f"))


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
