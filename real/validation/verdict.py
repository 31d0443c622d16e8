"""The rows of a validation in order, their errors summed up, and both as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from policies import registry

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


def label(policy: Mapping[str, Any]) -> str:
    """The policy's name, and the parameters in which it is not as its name says."""
    name = str(policy["name"])
    usual = registry.defaults(name)
    other = [f"{key}={value}" for key, value in policy.items() if key != "name" and usual.get(key) != value]
    return f"{name} ({', '.join(other)})" if other else name


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


def markdown(document: Mapping[str, Any]) -> str:
    """The document for a person: what was run, the errors summed up, a row per cell with the worst first."""
    source, rows = document["provenance"], document["cells"]
    lines = [
        f"# Predicted against measured: {source['model']['name']} on {source['hardware']['name']}",
        "",
        *(f"- {line}" for line in about(source)),
        "",
        "Error of a time: (measured - predicted) / measured. Of a hit rate: measured - predicted.",
        "",
        "| | median error | worst error | cells |",
        "|---|--:|--:|--:|",
    ]
    for name, errors in document["summary"].items():
        shown = [share(errors[key], name) for key in ("median", "worst")] if errors else ["-", "-"]
        lines.append(f"| {WORDS[name]} | {shown[0]} | {shown[1]} | {errors['rows'] if errors else 0} |")
    lines += ["", *_criteria(document["criteria"])]
    lines += [
        "",
        "*Decides*: what most of the predicted time goes to, known before the run. *Expected*: how far TPOT may be off"
        " by the scatter of what was measured beforehand. *Link*: GB/s while it copies, and its share of the table's.",
        "",
        _row(["policy", "budget", *_heads(), "decides", "link, GB/s (of table)", "replay"]),
        _row(["---", "--:", *["--:"] * (len(_heads())), "---", "--:", "---"]),
    ]
    lines += [_row(_cells(row)) for row in rows]
    if document["failed"]:
        lines += ["", "Not run:", ""]
        lines += [f"- {it['policy']} at {it['budget']}: {it['error']}" for it in document["failed"]]
    return "\n".join(lines) + "\n"


def _heads() -> list[str]:
    times = [f"{WORDS[name]} {what}" for name in TIMES for what in ("measured, ms", "predicted", "error")]
    times.insert(3, "expected")
    return times + [f"{WORDS[name]} (error)" for name in FIGURES[3:]]


def _way(exact: bool) -> str:
    return "one by one, whatever is in memory" if exact else "in one grouped kernel where all are there"


def _criteria(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The criteria as a table; [] where no cell falls under any."""
    rows = [it for it in found if it["value"] is not None]
    if not rows:
        return []
    lines = [_row(["criterion", "cells", "found", "wanted", ""]), _row(["---", "--:", "--:", "--:", "---"])]
    for it in rows:
        what, figure, wanted, said = judgement(it)
        lines.append(_row([what, str(it["cells"]), figure, wanted, said.replace("fails", "**fails**")]))
    return lines


def judgement(it: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Of a criterion with a figure: what it is over, the figure, what was wanted, and whether it holds."""
    wanted = [f"{how} {it[key]:g}" for key, how in (("least", "at least"), ("most", "at most")) if it[key] is not None]
    said = "holds" if it["holds"] else "fails" if it["judged"] else "off"
    where = "" if it["over"] == "all" else f"; cells where the {it['over']} decides"
    return f"{it['what']}{where}", f"{it['value']:.4g}", ", ".join(wanted), said + "; not judged" * (not it["judged"])


def _cells(row: Mapping[str, Any]) -> list[str]:
    found = [label(row["policy"]), str(row["budget"])]
    for name in TIMES:
        it = row["errors"][name]
        low, high = row["spread"].get(name) or (None, None)
        spread = f" ({milliseconds(low)} to {milliseconds(high)})" if low != high else ""
        found += [
            milliseconds(it["device"]) + spread,
            milliseconds(it["simulated"]),
            share(it["error"], name, sign=True),
        ]
        if name == TIMES[0]:
            found.append(share(row.get("expected"), name))
    for name in FIGURES[3:]:
        it = row["errors"][name]
        rate = "-" if it["device"] is None else f"{it['device']:.3f}"
        found.append(f"{rate} ({share(it['error'], name, sign=True)})")
    replay, link = row["replay"], row["link"]
    rate = "-" if link["gb_per_s"] is None else f"{link['gb_per_s']:.3g}"
    rate += "" if link["of_table"] is None else f" ({link['of_table']:.3f})"
    return [*found, row["decides"], rate, "agrees" if replay["agrees"] and replay["accounts_agree"] else "**differs**"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def milliseconds(value: float | None) -> str:
    """Three digits."""
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def share(value: float | None, name: str, sign: bool = False) -> str:
    """An error: of a time as a percentage, of a rate as it is."""
    if value is None:
        return "-"
    if name in TIMES:
        return f"{value:+.1%}" if sign else f"{value:.1%}"
    return f"{value:+.4f}" if sign else f"{value:.4f}"
