"""Predicted against measured: each figure of a validation (``python -m real validate``), a point per cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from sim.frame import label
from sim.pictures.style import GREY, Looks, legend, looks, short

WORDS = {"tpot_ms": "TPOT", "ttft_ms": "TTFT", "stall_ms_per_token": "stall per token"}
BANDS = (0.05, 0.15)
POINT: dict[str, Any] = {"linestyle": "none", "clip_on": True}


def measured(document: Mapping[str, Any], look: Looks | None = None) -> Figure:
    """From the content of a validation's JSON: times in ms on logarithmic axes, complete hits as shares."""
    # Small markers, of small budgets, last: they lie on the large ones.
    rows = sorted(document["cells"], key=lambda row: _size(document["cells"], row["budget"]), reverse=True)
    source, style = document["provenance"], look or looks(label(row["policy"]) for row in rows)
    figure = Figure(figsize=(11, 9.2), layout="constrained")
    figure.suptitle(
        f"{source['model']['name']} on {source['hardware']['name']}: predicted against measured, {source['date']}"
    )
    axes = figure.subplots(2, 2).ravel()
    for axis, name in zip(axes[:3], WORDS, strict=True):
        _times(axis, rows, name, style)
    _hits(axes[3], rows, style)
    for name in sorted({label(row["policy"]) for row in rows}):
        axes[3].plot([], [], **style[name].line | POINT | {"markersize": 9}, label=short(name))
    for budget in _budgets(rows):
        axes[3].plot([], [], "o", color=GREY, markersize=_size(rows, budget), label=f"budget {budget}")
    # The bands last, below with the rest: inside, they would lie on points far above the line.
    return legend(figure, axes[3], *axes[:3])


def _times(axis: Any, rows: Sequence[Mapping[str, Any]], name: str, style: Looks) -> None:
    points = [(row, row["errors"][name]) for row in rows]
    seen = [(row, it["device"], it["simulated"]) for row, it in points if it["device"] and it["simulated"]]
    axis.set(title=WORDS[name], xlabel="measured, ms", ylabel="predicted, ms")
    if left := len(points) - len(seen):
        axis.set_title(f"{WORDS[name]} ({left} of {len(points)} cells not drawn: 0 or null on one side)")
    if not seen:
        axis.text(0.5, 0.5, "no cell has both above 0", ha="center", transform=axis.transAxes)
        return
    values = [value for _, *pair in seen for value in pair]
    low, high = min(values) / 1.3, max(values) * 1.3
    _diagonal(axis, low, high)
    axis.fill_between([], [], color="#888888", alpha=0.25, label="within 5 %")
    axis.fill_between([], [], color="#888888", alpha=0.12, label="within 15 %")
    for band, alpha in zip(reversed(BANDS), (0.12, 0.25), strict=True):
        edge = [low, high]
        axis.fill_between(
            edge, [x * (1 - band) for x in edge], [x * (1 + band) for x in edge], color="#888888", alpha=alpha, lw=0
        )
    for row, x, y in seen:
        _point(axis, rows, row, style, x, y)
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    _ticks(axis, low, high)


def _hits(axis: Any, rows: Sequence[Mapping[str, Any]], style: Looks) -> None:
    axis.set(
        title="hit rate (complete)",
        xlabel="measured, share",
        ylabel="predicted, share",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
    )
    _diagonal(axis, 0, 1)
    for row in rows:
        it = row["errors"]["hit_complete"]
        if it["device"] is not None and it["simulated"] is not None:
            _point(axis, rows, row, style, it["device"], it["simulated"])
    axis.grid(alpha=0.3)


def _point(axis: Any, rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any], style: Looks, *at: float) -> None:
    x, y = at
    axis.plot([x], [y], **style[label(row["policy"])].line | POINT | {"markersize": _size(rows, row["budget"])})


def _budgets(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The budgets of a validation as they were given, by bytes where a row has them, else in their order."""
    return list(dict.fromkeys(row["budget"] for row in sorted(rows, key=lambda row: row.get("budget_bytes") or 0)))


def _size(rows: Sequence[Mapping[str, Any]], budget: Any) -> float:
    """A larger marker for a larger budget: labels beside the points would lie on one another."""
    budgets = _budgets(rows)
    return 6 + 6 * budgets.index(budget) / max(1, len(budgets) - 1)


def _diagonal(axis: Any, low: float, high: float) -> None:
    axis.plot([low, high], [low, high], color="black", linewidth=0.8)


def _ticks(axis: Any, low: float, high: float) -> None:
    """Plain numbers, at 1, 2 and 5 times each power of ten, or at these alone where there are many."""
    steps = (1, 2, 5) if high < 300 * low else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [m * 10.0**p for p in powers for m in steps if low <= m * 10.0**p <= high]
    if len(marks) < 2:
        marks = [float(f"{x:.3g}") for x in (low * 1.05, (low * high) ** 0.5, high / 1.05)]
    for which in (axis.set_xticks, axis.set_yticks):
        which(marks, [f"{x:g}" for x in marks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
