"""The Pareto front of latency and memory; lossy rows with what they cost in quality, on axes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.pictures.style import COLOURS, GREY, EmptyPictureError, legend, looks, need, over_budgets, short
from sim.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

    from sim.pictures.style import Look


def front(cells: pd.DataFrame, metric: str = "tpot") -> Figure:
    """From ``sim.compare``'s cells: the metric in ms with its interval, against the budget; the front as a stair.

    Lossy rows: the metric against the kept gate mass (%), each with its budget. A ring marks the front. A lossy row
    that does not say what mass it keeps cannot be placed, and is named in the panel's title.
    """
    need(cells, "policy_label", "lossless", "budget_bytes", "value", "low", "high", "front", "quality_kept_gate_mass")
    lossless, lossy = cells[cells["lossless"]], cells[~cells["lossless"]]
    known = lossy[lossy["quality_kept_gate_mass"].notna()]
    drawn = [own for own in (lossless, known) if len(own)]
    if not drawn:
        raise EmptyPictureError("no lossless row, and no lossy one says what gate mass it keeps")
    figure = Figure(figsize=(6.2 * len(drawn), 5.4), layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    style = looks(cells["policy_label"])
    for axes, own in zip(panels, drawn, strict=True):
        if own is lossless:
            _memory(axes, own, metric, style)
        else:
            _quality(axes, own, metric, style, len(lossy) - len(known))
        axes.scatter([], [], s=260, facecolors="none", edgecolors="black", linewidths=1.4, label="on the front")
    return legend(figure, *panels)


def _memory(axes: Axes, own: pd.DataFrame, metric: str, style: dict[str, Look]) -> None:
    # Hollow: policies that are as good lie on top of each other.
    hollow = {"linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 1.5, "markersize": 8}
    for label, rows in own.groupby("policy_label", sort=True):
        look = style[str(label)]
        ends = rows.dropna(subset=["low", "high"])
        axes.vlines(ends["budget_bytes"], ends["low"], ends["high"], color=look.colour, linewidth=1)
        axes.plot(
            rows["budget_bytes"],
            rows["value"],
            **look.line | hollow | {"markeredgecolor": look.colour},
            label=short(label),
        )
    best = own[own["front"]].sort_values("budget_bytes")
    axes.step(best["budget_bytes"], best["value"], where="post", color=GREY, linestyle="--", zorder=0, label="front")
    _ring(axes, best["budget_bytes"], best["value"])
    over_budgets(axes, own["budget_bytes"], "lossless: latency and memory", f"{metric.upper()} (ms), mean")
    axes.set_ylim(bottom=0)


def _quality(axes: Axes, own: pd.DataFrame, metric: str, style: dict[str, Look], unknown: int) -> None:
    for label, rows in own.groupby("policy_label", sort=True):
        mass = 100 * rows["quality_kept_gate_mass"]
        look = style[str(label)].line | {"linestyle": ":"}
        axes.plot(mass, rows["value"], **look, label=f"{short(label)} (lossy)")
        for x, y, budget in zip(mass, rows["value"], rows["budget_bytes"], strict=True):
            axes.annotate(
                format_bytes(int(budget)), (x, y), (0, 13), textcoords="offset points", ha="center", fontsize="small"
            )
    best = own[own["front"]]
    _ring(axes, 100 * best["quality_kept_gate_mass"], best["value"])
    left_out = f"\n({unknown} rows do not say what they keep)" if unknown else ""
    axes.set(title=f"lossy: latency, memory and quality{left_out}", xlabel="kept gate mass (%), first-order")
    axes.set(ylabel=f"{metric.upper()} (ms), mean", xlim=(-4, 108), ylim=(0, 1.25 * float(own["value"].max()) or 1))
    axes.grid(alpha=0.3)


def _ring(axes: Axes, x: pd.Series[float], y: pd.Series[float]) -> None:
    axes.scatter(x, y, s=260, facecolors="none", edgecolors=COLOURS[-1], linewidths=1.4, zorder=3)
