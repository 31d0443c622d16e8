"""What a validation must show, and whether it did; its rows in order, their errors summed up; all as Markdown.

The criteria were stated before anything was measured on a GPU. Where the link decides, the simulator predicts by what
was measured beforehand (copy times by size), so it is held to it. Where software decides, one overhead per layer stands
for all of Python: what is expected there is stated, and nothing hangs on it.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from real.validation.arrivals import arrivals
from real.validation.tables import number, or_dash, share, table
from sim.results.label import label
from sim.results.titles import cells_rest_on

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
FIGURES = tuple(WORDS)
SIDES = ("device", "simulated")
TIMES = FIGURES[:3]
HOST_FIGURES = ("lookups", "workers, ms/token", "waited for, ms/token", "demand copies, MB/token")


@dataclass(frozen=True)
class Criterion:
    """A figure over the cells of one kind (see real.validation.compare.decides), and what it is expected to be.

    ``judged``: whether a validation fails by it; else the figure is stated and expected, no more.
    """

    name: str
    over: str
    what: str
    least: float | None = None
    most: float | None = None
    judged: bool = True


CRITERIA = (
    Criterion(
        "link_rate", "link", "median of the link's GB/s while it copies, over the table's at that size", 0.95, 1.05
    ),
    Criterion("tpot_median", "link", "median error of TPOT", most=0.05),
    Criterion("tpot_worst", "link", "worst error of TPOT", most=0.15),
    Criterion("hits_worst", "all", "worst error of the complete hit rate of policies that predict nothing", most=0.0),
    Criterion("host_worst", "all", "most host lookups, of the same policies, that are not as predicted", most=0.0),
    Criterion("tpot_software", "software", "median error of TPOT where software decides", most=0.25, judged=False),
    Criterion("tpot_host", "host", "median error of TPOT where the host decides", most=0.25, judged=False),
)


def criteria(rows: Sequence[Mapping[str, Any]], *, own: bool = True) -> list[dict[str, Any]]:
    """Each criterion with its figure, the cells that it is over, and whether it holds; null where there is no cell.

    ``own``: the prices were measured on this very device; by others no time is judged.
    """
    return [_judged(each, rows, own) for each in CRITERIA]


def _judged(it: Criterion, rows: Sequence[Mapping[str, Any]], own: bool) -> dict[str, Any]:
    values = [x for row in rows if it.over in ("all", row["decides"]) if (x := _figure(it.name, row)) is not None]
    value = None if not values else max(values) if it.name.endswith("_worst") else median(values)
    holds = value is None or ((it.least is None or value >= it.least) and (it.most is None or value <= it.most))
    return {
        "name": it.name,
        "what": it.what,
        "over": it.over,
        "cells": len(values),
        "value": value,
        "least": it.least,
        "most": it.most,
        "judged": it.judged and (own or it.over == "all"),
        "holds": holds if value is not None else None,
    }


def _figure(name: str, row: Mapping[str, Any]) -> float | None:
    if name == "link_rate":
        share: float | None = row["link"]["of_table"]
        return share
    counted = name in ("hits_worst", "host_worst")
    if name.startswith("tpot") and "serving" in row:
        return None  # no criterion was stated for a time of requests that wait for one another
    if counted and (row["errors"]["hit_recall"]["device"] is not None or _copies_ahead(row)):
        return None  # what is copied ahead comes in time or not: that depends on the clock
    if name == "host_worst":
        device, simulated = on_host(row)
        return float(abs(device - simulated)) if device or simulated else None
    error: float | None = row["errors"]["hit_complete" if counted else "tpot_ms"]["error"]
    return None if error is None else abs(error)


def _copies_ahead(row: Mapping[str, Any]) -> bool:
    """Whether anything was copied in the measured window that no gate had asked for."""
    return any(any(row.get(side, {}).get("totals", {}).get("speculative_bytes", {}).values()) for side in SIDES)


def _counted(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The device, and what predicts what it counts: the simulation, where requests arrive of the device's batches."""
    return row.get("device", {}), row.get("of_its_batches", row.get("simulated", {}))


def on_host(row: Mapping[str, Any], figure: str = "host_lookups") -> tuple[int, int]:
    """Of what the host computed: on the device, and as predicted."""
    device, simulated = (int(side.get("totals", {}).get(figure, 0)) for side in _counted(row))
    return device, simulated


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


def about(source: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was run on what, a line each, and on what it rests that nobody recorded."""
    trace, hardware, device = source["trace"], source["hardware"], source["device"]
    modelled = " (modelled)" * ("expert_ids" in trace.get("modelled", {}))
    rests = cells_rest_on(cells)
    return [
        f"Device: {device['device']} ({device['host']}), {source['date']}, torch {device['torch']}, transformers"
        f" {device['transformers']}",
        f"Routing: {trace['routing_from']}{modelled}, {trace['recording']}, {trace['sha256'][:16]};"
        f" {source['measured_requests']}; {_workload(source['workload'], cells)}",
        f"Model: {source['model']['name']} in {source['model']['dtype']}, weights={source['model']['weights']}",
        f"Profile: {hardware['name']}, {hardware['provenance']}; overheads: {hardware['overheads']}"
        + ("" if hardware["of_this_device"] else "; not measured on this device"),
        f"Experts: {_way(source['exact'])}; code: {source['code']}; each cell run {source['repeat']}"
        f" time{'s' * (source['repeat'] > 1)}" + (", the run of median time is shown" if source["repeat"] > 1 else ""),
        *([rests[0].upper() + rests[1:]] if rests else []),
    ]


def markdown(document: Mapping[str, Any], columns: int | None = None) -> str:
    """The document for a person: what was run, the errors summed up, a row per cell with the worst first.

    ``columns``: of a terminal, which has no room for all that a file says of a cell.
    """
    source, rows = document["provenance"], document["cells"]
    times, hits = (TIMES, FIGURES[3:]) if columns is None else (TIMES[: 2 if columns >= WIDE else 1], ("hit_complete",))
    whole = columns is None
    blocks = [
        f"# Predicted against measured: {source['model']['name']} on {source['hardware']['name']}",
        "\n".join(f"- {line}" for line in about(source, rows)),
        "Error of a time: (measured - predicted) / measured. Of a hit rate: measured - predicted.",
        table(
            ("", "median error", "worst error", "cells"),
            [(WORDS[name], *_sizes(it, name)) for name, it in document["summary"].items()],
        ),
        *_criteria(document["criteria"]),
        "*Decides*: what most of the predicted time goes to, known before the run. *Expected*: how far TPOT may be off"
        " by the scatter of what was measured beforehand. *Link*: GB/s while it copies, and its share of the table's."
        " *Replay*: whether the device's log gives its decisions again without a clock."
        + ("" if whole else " The files have all times and hit rates."),
        _cells(rows, times, hits, whole),
        *_hosts(rows),
        *arrivals(rows, whole=whole),
    ]
    if document["failed"]:
        blocks.append("Not run:")
        blocks.append("\n".join(f"- {it['policy']} at {it['budget']}: {it['error']}" for it in document["failed"]))
    return "\n\n".join(blocks) + "\n"


def _workload(it: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str:
    """Of all cells, which may differ by who arrives."""
    served = dict.fromkeys(row["serving"]["arrivals"] for row in cells if "serving" in row)
    return "; ".join(served) if served else f"batch {it['batch']}"


def _sizes(errors: Mapping[str, Any] | None, name: str) -> tuple[object, ...]:
    """The median and the largest error of a figure, and over how many cells."""
    return (*(share(errors[key], name) for key in ("median", "worst")), errors["rows"]) if errors else ("-", "-", 0)


def show(text: Callable[[int], str]) -> None:
    """Print what ``text`` gives for a terminal of so many columns as its Markdown means it; as it is without rich."""
    try:
        from rich.markdown import Markdown

        from traces.kit.telling import stdout_console
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
    rows = []
    for it in found:
        if it["value"] is not None:
            where = "" if it["over"] == "all" else f"; cells where the {it['over']} decides"
            rows.append((f"{it['what']}{where}", it["cells"], *judgement(it)))
    if rows:
        yield table(("criterion", "cells", "found", "wanted", ""), rows, 3)


def _cells(cells: Sequence[Mapping[str, Any]], times: Sequence[str], hits: Sequence[str], whole: bool) -> str:
    heads = [f"{WORDS[name]} {what}" for name in times for what in ("measured, ms", "predicted", "error")]
    heads += [f"{WORDS[name]} (error)" for name in hits]
    rows = []
    for it in cells:
        figures = [figure for name in times for figure in _time(it, name, whole)]
        for name in hits:
            rate = it["errors"][name]
            figures.append(f"{or_dash(rate['device'], '.3f')} ({share(rate['error'], name, sign=True)})")
        last = [it["decides"], "agrees" if agrees(it) else "**differs**"]
        if whole:
            of_table = it["link"]["of_table"]
            figures.insert(3, share(it.get("expected")))
            last.insert(1, number(it["link"]["gb_per_s"]) + ("" if of_table is None else f" ({of_table:.3f})"))
        rows.append((label(it["policy"]), it["budget"], *figures, *last))
    ends = ["decides", "replay"]
    if whole:
        heads.insert(3, "expected")
        ends.insert(1, "link, GB/s (of table)")
    return table(("policy", "budget", *heads, *ends), rows, 1 + len(heads))


def _hosts(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the host computed, as a table; nothing where it computed nothing."""
    heads = ("policy", "budget", *(f"{it} {what}" for it in HOST_FIGURES for what in ("measured", "predicted")))
    rows = []
    for it in cells:
        if any(on_host(it)):
            figures: list[object] = [f"{n:,}" for n in on_host(it)]
            tokens = max(1, it["device"]["totals"]["generated_tokens"])
            figures += [number(ns / 1e6 / tokens) for ns in on_host(it, "host_ns")]
            figures += [number(side["stall_ms_per_token"]["cpu_experts"]) for side in _counted(it)]
            figures += [f"{side['bytes_per_token']['demand'] / 1e6:.4g}" for side in _counted(it)]
            rows.append((label(it["policy"]), it["budget"], *figures))
    if rows:
        yield "Experts on the host. *Workers*: from taking an expert until its rows are back."
        yield table(heads, rows)


def _time(it: Mapping[str, Any], name: str, whole: bool) -> tuple[str, str, str]:
    """Of a cell's time: measured, between which two where several runs were, predicted, and the error."""
    errors, (low, high) = it["errors"][name], it["spread"].get(name) or (None, None)
    spread = f" ({number(low)} to {number(high)})" if whole and low != high else ""
    return (
        number(errors["device"]) + spread,
        number(errors["simulated"]),
        share(errors["error"], name, sign=True),
    )
