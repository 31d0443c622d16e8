"""The Pareto front of latency and memory; lossy rows with what they cost in quality, on axes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sim.results.columns import LATENCY_NAMES
from sim.results.pictures.colours import Looks, looks
from sim.results.pictures.findings import alike, differs, lowest, number
from sim.results.pictures.lines import Figures, target_line
from sim.results.pictures.style import Picture, Sheet, named, need
from traces.kit.drawing import GREY, INK, EmptyPictureError, dress, short
from traces.kit.panels import Panel
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

    from sim.results.compare.target import Target

RING: dict[str, Any] = {"s": 170, "facecolors": "none", "edgecolors": INK, "linewidths": 1.1}


@Picture
def front(
    cells: pd.DataFrame, metric: str = "tpot", look: Looks | None = None, target: Target | None = None, about: str = ""
) -> Sheet:
    """From ``sim.results.compare``'s cells: the metric in ms with its interval against the budget, rings on the front.

    Lossy rows: the metric against the kept gate mass (%), a larger marker for a larger budget. A lossy row that does
    not say what mass it keeps cannot be placed; the panel's title says how many. ``about``: the subtitle.
    EmptyPictureError where there is nothing to place, and where there is one row alone.
    """
    need(cells, "policy_label", "lossless", "budget_bytes", "value", "low", "high", "front", "quality_kept_gate_mass")
    lossless = cells["lossless"].astype(bool)
    cells = named(cells.assign(lossless=lossless))
    exact, lossy, style = cells[lossless], cells[~lossless], look or looks(cells["policy_label"])
    known = lossy[lossy["quality_kept_gate_mass"].notna()]
    if exact.empty and known.empty:
        raise EmptyPictureError("no lossless row, and no lossy one says what gate mass it keeps")
    wanted = target.of_mean(metric) if target else None
    panels = []
    label = f"{LATENCY_NAMES[metric]} (ms), mean"
    if len(exact) > 1:
        title = lowest(exact, "value", f"mean {LATENCY_NAMES[metric]}")
        figures = Figures(exact, "value", label, style, target=wanted)
        panels.append(Panel(title, partial(_memory, figures), high=figures.high))
    if len(known) and alike(known["value"]) is None:
        mass = known["quality_kept_gate_mass"]
        title = f"Lossy: {number(100 * mass.min())} to {number(100 * mass.max())} % of the gate mass is kept"
        if len(known) < len(lossy):
            title += f" ({len(lossy) - len(known)} rows do not say what they keep)"
        panels.append(Panel(title, partial(_quality, known, label, style, wanted)))
    if not panels:
        rows = [*exact.to_dict("records"), *known.to_dict("records")]
        said = f"{rows[0]['name']} {number(rows[0]['value'])} ms{', and so all' * (len(rows) > 1)}"
        raise EmptyPictureError(f"one figure is no picture: {said}")
    return Sheet(panels, "Latency and memory, and what lossy policies give up", about)


def _memory(figures: Figures, axes: Axes) -> Sequence[Any]:
    drawn = figures.draw(axes)
    best = figures.frame[figures.frame["front"]]
    if not differs(figures.frame["budget_bytes"]):
        return drawn
    return [*drawn, axes.scatter(best["budget_bytes"], best["value"], label="on the front", zorder=3, **RING)]


def _quality(own: pd.DataFrame, label: str, style: Looks, target: float | None, axes: Axes) -> Sequence[Any]:
    budgets = sorted({int(budget) for budget in own["budget_bytes"]})
    # Labels beside the points would lie on one another.
    sizes = {budget: 5 + 7 * place / max(1, len(budgets) - 1) for place, budget in enumerate(budgets)}
    drawn: list[Any] = []
    for policy, rows in own.groupby("policy_label", sort=True):
        look, mass = style[str(policy)], 100 * rows["quality_kept_gate_mass"]
        hollow: dict[str, Any] = {
            "marker": look.marker,
            "markeredgecolor": look.colour,
            "markerfacecolor": "none",
            "linestyle": "none",
        }
        axes.plot(mass, rows["value"], color=look.colour, linestyle=":", zorder=1)
        drawn.append(Line2D([], [], **hollow, markersize=8, label=f"{short(policy)} (lossy)"))
        for x, y, budget in zip(mass, rows["value"], rows["budget_bytes"], strict=True):
            axes.plot(x, y, **hollow, markersize=sizes[int(budget)])
    for budget in dict.fromkeys((budgets[0], budgets[len(budgets) // 2], budgets[-1])):
        dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": GREY, "markersize": sizes[budget]}
        drawn.append(Line2D([], [], **dot, label=f"budget {format_bytes(budget)}"))
    best = own[own["front"]]
    drawn.append(
        axes.scatter(100 * best["quality_kept_gate_mass"], best["value"], label="on the front", zorder=3, **RING)
    )
    # What a lossy policy keeps is told by how far it is from all of it.
    low = max(0.0, 100 * float(own["quality_kept_gate_mass"].min()) - 8)
    high = 1.12 * max(float(own["value"].max()), target or 0)
    axes.set(
        xlabel="kept gate mass (%), first-order",
        ylabel=label,
        xlim=(low, 102 + 0.02 * (100 - low)),
        ylim=(0, high or 1),
    )
    dress(axes, "both")
    if target is not None:
        target_line(axes, target)
    return drawn
