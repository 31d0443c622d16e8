"""An answer as a picture: attainment against the rate, a panel per split of memory and a line per policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log2
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sim.capacity.show import asked, first, memory, ranked, winner
from sim.results.pictures.budgets import RING
from sim.results.pictures.colours import Looks, looks
from traces.kit.drawing import INK, LABEL, dress, log_scale, name_ends, write_picture
from traces.kit.panels import Panel, together

WIDE = 4
"""From so many times the lowest rate to the highest on, doublings are drawn as equal steps."""
MARKS = 8
"""Of these steps at most so many."""


def draw_file(it: Mapping[str, Any], path: Path) -> str:
    """Write the picture, where there is anything to draw, and say so in a line. UserError where there is no place."""
    figure = draw(it)
    if figure is None:
        return f"picture={path}: nothing was run, so there is nothing to draw"
    write_picture(figure, path)
    return f"wrote {path}"


def draw(it: Mapping[str, Any]) -> Figure | None:
    """A panel per split of memory; None where nothing was run."""
    rows = [row for row in it["rows"] if row["points"]]
    if not rows:
        return None
    look = looks(row["policy"] for row in rows)
    if it["kv_share"]:
        return together([Panel(_best_share(it), lambda axes: _shares(axes, rows, look))], "", asked(it))
    panels = []
    for split in dict.fromkeys(row["memory"] for row in rows):
        own = sorted((row for row in rows if row["memory"] == split), key=lambda row: str(row["policy"]))
        panels.append(_panel(own, it, look))
    return together(panels, first(it), asked(it))


def _best_share(it: Mapping[str, Any]) -> str:
    best = winner(it)
    if best is None:
        return first(it)
    keys = ("policy", "requests_per_s")
    good = [row["memory"][3:] for row in it["rows"] if ranked(row) and all(row[key] == best[key] for key in keys)]
    which = f"{', '.join(good)} for the KV cache {'is best' if len(good) == 1 else 'are equally good'}"
    most = f"{'at least ' if best['at_least'] else ''}{best['requests_per_s']:g} requests/s, with {best['policy']}"
    return f"Of all memory beside the other weights, {which}: {most}"


def _shares(axes: Axes, rows: Sequence[Mapping[str, Any]], look: Looks) -> Sequence[Any]:
    """The highest rate against the KV cache's share; where there is none, at the bottom. The best of each policy have a
    ring. Rates that are apart by doublings, as they were tried, are drawn so."""
    found = [float(row["requests_per_s"]) for row in rows if row["requests_per_s"]]
    wide = bool(found) and max(found) >= WIDE * min(found)
    none, lines = 2.0 ** (floor(log2(min(found))) - 1) if wide else 0.0, list[Any]()
    for policy in sorted({str(row["policy"]) for row in rows}):
        own = [row for row in rows if row["policy"] == policy]
        own.sort(key=lambda row: float(row["memory"][3:-1]))
        x, y = [float(row["memory"][3:-1]) for row in own], [float(row["requests_per_s"] or none) for row in own]
        lines += axes.plot(x, y, label=policy if ranked(own[0]) else f"{policy}, not ranked", **look[policy].line)
        if (high := max(y)) > none:
            at = [share for share, found in zip(x, y, strict=True) if found == high]
            axes.scatter(at, [high] * len(at), **{**RING, "label": "_best", "clip_on": False})
    axes.set(xlabel="share of the KV cache (%); the rest is for experts", ylabel="requests/s, highest rate")
    if wide:
        _doublings(axes, none if len(found) < len(rows) else 0.0, found)
    else:
        axes.set_ylim(0, None)
    dress(axes)
    return [] if name_ends(axes, lines) else lines


def _doublings(axes: Axes, none: float, found: Sequence[float]) -> None:
    """Make the axis of rates one of powers of two; ``none``: where those are that have no rate; 0: all have one."""
    low, high = floor(log2(none or min(found))), ceil(log2(max(found)))
    marks = [2.0**power for power in range(low, high + 1, -(-(high - low) // MARKS))]
    axes.set_yscale("log", base=2)
    axes.set_ylim(marks[0] / 1.3, max(found) * 1.3)
    axes.set_yticks(marks, ["none" if mark == none else f"{mark:,.3g}" for mark in marks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("requests/s, highest rate, log scale")


def _panel(rows: Sequence[Mapping[str, Any]], it: Mapping[str, Any], look: Looks) -> Panel:
    said, won = memory(rows[0]), winner({**it, "rows": rows})
    if len(it["rows"]) > len(rows):
        least = "at least " if won is not None and won["at_least"] else ""
        said += ": none" if won is None else f": {least}{won['requests_per_s']:g}/s with {won['policy']}"
    return Panel(said, lambda axes: _draw(axes, rows, it, look))


def _limits(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Of rates. The lowest of all is tried where nothing else does: it would be most of the axis."""
    seen = [point["rate"] for row in rows for point in row["points"]]
    reach = [row["requests_per_s"] for row in rows if row["requests_per_s"]]
    low = min(rate for rate in seen if not reach or rate >= min(reach) / 4)
    return low / 1.1, max(seen) * 1.1


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], it: Mapping[str, Any], look: Looks) -> Sequence[Any]:
    lines, limits = list[Any](), _limits(rows)
    for row in rows:
        style, points = look[row["policy"]], [point for point in row["points"] if point["rate"] >= limits[0]]
        name = f"{row['policy']}{'' if ranked(row) else ', not ranked'}"
        x, y = [point["rate"] for point in points], [100 * point["attainment"] for point in points]
        lines += axes.plot(x, y, label=name, **style.line)
        if row["requests_per_s"] is not None:
            high = 100 * row["at"]["attainment"]
            axes.vlines(row["requests_per_s"], 0, high, color=style.colour, linewidth=0.8)
    axes.set(xlim=limits, ylim=(0, 104), xlabel="requests per second (log scale)")
    axes.set_ylabel(f"requests within {it['slo']} (%)")
    log_scale(axes, "x")
    dress(axes)
    axes.axhline(100 * it["share"], color=INK, linewidth=1, linestyle=(0, (6, 3)), zorder=1.4, label="_share")
    at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "bottom"}
    at["ha"] = "right"
    axes.annotate(f"{100 * it['share']:g} %", (0.99, 100 * it["share"]), (0, -12), fontsize=LABEL, color=INK, **at)
    return lines
