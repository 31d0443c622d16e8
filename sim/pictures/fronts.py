"""The Pareto front of latency and memory; lossy rows with what they cost in quality, on axes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.frame import LATENCY_NAMES
from sim.pictures.style import (
    COLOURS,
    GREY,
    EmptyPictureError,
    Looks,
    from_zero,
    legend,
    looks,
    need,
    over_budgets,
    short,
)
from sim.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

HOLLOW: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 1.5}
"""Policies that are as good lie on top of each other."""


def front(cells: pd.DataFrame, metric: str = "tpot", look: Looks | None = None) -> Figure:
    """From ``sim.compare``'s cells: the metric in ms with its interval, against the budget; the front as a stair.

    Lossy rows: the metric against the kept gate mass (%), a larger marker for a larger budget. A ring marks the front.
    A lossy row that does not say what mass it keeps cannot be placed; the panel's title says how many.
    """
    need(cells, "policy_label", "lossless", "budget_bytes", "value", "low", "high", "front", "quality_kept_gate_mass")
    lossless, lossy = cells[cells["lossless"]], cells[~cells["lossless"]]
    known = lossy[lossy["quality_kept_gate_mass"].notna()]
    drawn = [own for own in (lossless, known) if len(own)]
    if not drawn:
        raise EmptyPictureError("no lossless row, and no lossy one says what gate mass it keeps")
    figure = Figure(figsize=(1.8 + 6.2 * len(drawn), 5.4), layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    style = look or looks(cells["policy_label"])
    for axes, own in zip(panels, drawn, strict=True):
        if own is lossless:
            _memory(axes, own, metric, style)
        else:
            _quality(axes, own, metric, style, len(lossy) - len(known))
        axes.scatter([], [], s=260, facecolors="none", edgecolors="black", linewidths=1.4, label="on the front")
    return legend(figure, *panels)


def _memory(axes: Axes, own: pd.DataFrame, metric: str, style: Looks) -> None:
    for label, rows in own.groupby("policy_label", sort=True):
        look = style[str(label)]
        ends = rows.dropna(subset=["low", "high"])
        axes.vlines(ends["budget_bytes"], ends["low"], ends["high"], color=look.colour, linewidth=1)
        hollow = HOLLOW | {"marker": look.marker, "markeredgecolor": look.colour, "markersize": look.size + 2}
        axes.plot(rows["budget_bytes"], rows["value"], **hollow, label=short(label))
    best = own[own["front"]].sort_values("budget_bytes")
    axes.step(best["budget_bytes"], best["value"], where="post", color=GREY, linestyle="--", zorder=0, label="front")
    _ring(axes, best["budget_bytes"], best["value"])
    over_budgets(axes, own["budget_bytes"], "lossless: latency and memory", f"{LATENCY_NAMES[metric]} (ms), mean")
    from_zero(axes)


def _quality(axes: Axes, own: pd.DataFrame, metric: str, style: Looks, unknown: int) -> None:
    budgets = sorted({int(budget) for budget in own["budget_bytes"]})
    # Labels beside the points would lie on one another.
    sizes = {budget: 5 + 9 * place / max(1, len(budgets) - 1) for place, budget in enumerate(budgets)}
    for label, rows in own.groupby("policy_label", sort=True):
        look = style[str(label)]
        mass = 100 * rows["quality_kept_gate_mass"]
        hollow = HOLLOW | {"marker": look.marker, "markeredgecolor": look.colour}
        axes.plot(mass, rows["value"], color=look.colour, linestyle=":", zorder=1)
        axes.plot([], [], **hollow, markersize=9, label=f"{short(label)} (lossy)")
        for x, y, budget in zip(mass, rows["value"], rows["budget_bytes"], strict=True):
            axes.plot(x, y, **hollow, markersize=sizes[int(budget)])
    for budget in dict.fromkeys((budgets[0], budgets[len(budgets) // 2], budgets[-1])):
        axes.plot([], [], "o", color=GREY, markersize=sizes[budget], label=f"budget {format_bytes(budget)} (lossy)")
    best = own[own["front"]]
    _ring(axes, 100 * best["quality_kept_gate_mass"], best["value"])
    left_out = f"\n({unknown} rows do not say what they keep)" if unknown else ""
    axes.set(title=f"lossy: latency, memory and quality{left_out}", xlabel="kept gate mass (%), first-order")
    axes.set(
        ylabel=f"{LATENCY_NAMES[metric]} (ms), mean", xlim=(-4, 108), ylim=(0, 1.15 * float(own["value"].max()) or 1)
    )
    axes.grid(alpha=0.3)


def _ring(axes: Axes, x: pd.Series[float], y: pd.Series[float]) -> None:
    axes.scatter(x, y, s=260, facecolors="none", edgecolors=COLOURS[-1], linewidths=1.4, zorder=3)
