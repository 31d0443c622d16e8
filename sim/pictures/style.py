"""What pictures of runs share: frames by budget, lines over budgets, bounds, and panels that stand alone or together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from sim.pictures.colours import Look, Looks, looks
from sim.units import format_bytes
from traces.drawing import GREY, LABEL, PALE, EmptyPictureError, dress, finish, name_ends, png, short, svg
from traces.errors import UserError, one_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "EmptyPictureError",
    "Look",
    "Looks",
    "Panel",
    "bound",
    "by_budget",
    "curves",
    "from_zero",
    "looks",
    "need",
    "over_budgets",
    "png",
    "reference",
    "short",
    "svg",
    "together",
]

REFERENCES: dict[str, dict[str, Any]] = {
    "infinite": {"linestyle": (0, (1, 1)), "marker": "1"},
    "belady_forced": {"linestyle": (0, (4, 2)), "marker": "2"},
    "perfect_next_layer": {"linestyle": (0, (7, 2, 1, 2)), "marker": "4"},
}
"""Rows that cheat: grey, with markers that no policy has, since at one budget there is no line to tell them by."""
BOUND = "no lossless policy can be here"
FAR = 10
"""From so many times the smallest budget to the largest on, budgets are on a logarithmic axis."""


@dataclass(frozen=True)
class Panel:
    """One set of axes. ``draw`` returns whether the legend below is to name what it drew."""

    title: str
    draw: Callable[[Axes], bool]
    name: str = ""
    wide: float = 5.6
    high: float = 3.3
    """Inches, without titles and legend."""


def together(
    panels: Sequence[Panel], title: str = "", subtitle: str = "", columns: int = 2, **shared: bool
) -> Figure:
    """One figure of ``panels``: a single one's title is the figure's. ``shared``: ``sharex`` and ``sharey``."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    size = (columns * panels[0].wide, rows * (panels[0].high + 0.3 * (len(panels) > 1)))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **shared).ravel()  # type: ignore[arg-type]
    for axes in grid[len(panels) :]:
        axes.remove()
    named = []
    for axes, panel in zip(grid, panels, strict=False):
        if panel.draw(axes):
            named.append(axes)
        if len(panels) > 1:
            axes.set_title(panel.title, loc="left", fontsize="medium", wrap=True)
    return finish(figure, title or panels[0].title, subtitle, named)


def need(frame: pd.DataFrame, *columns: str) -> None:
    """UserError where a frame has no rows or lacks a column: it is of something else."""
    for name in columns:
        if name not in frame.columns:
            raise UserError(f"a frame without the column {name}; it has: {one_of(map(str, frame.columns[:8]))}, ...")
    if frame.empty:
        raise EmptyPictureError("no runs")


def by_budget(runs: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Means over seeds: a row per policy_label and budget_bytes, ``columns``, and lossless as a bool; sorted.

    ``name``: the label as it is drawn; that of a lossy policy says so.
    """
    need(runs, "policy_label", "budget_bytes", "lossless", *columns)
    frame = runs.assign(lossless=runs["lossless"].astype(bool))
    keys = ["policy_label", "lossless", "budget_bytes"]
    found = frame.groupby(keys, sort=True)[list(columns)].mean().astype("float64").reset_index()
    return found.assign(name=found["policy_label"].where(found["lossless"], found["policy_label"] + " (lossy)"))


def curves(axes: Axes, frame: pd.DataFrame, column: str, look: Looks, scale: float = 1.0) -> list[Any]:
    """A line per policy of :func:`by_budget` over its budgets; rows without the figure are left out."""
    drawn = []
    for (label, name), own in frame.dropna(subset=[column]).groupby(["policy_label", "name"], sort=True):
        drawn += axes.plot(own["budget_bytes"], own[column] * scale, label=short(name), **look[str(label)].line)
    return drawn


def reference(axes: Axes, frame: pd.DataFrame, name: str, column: str, scale: float = 1.0) -> list[Any]:
    """A row that cheats, in grey: all runs of a budget have the same."""
    row = frame.dropna(subset=[column]).groupby("budget_bytes")[column].mean() * scale
    if not len(row):
        return []
    style = {"color": GREY, "markersize": 8, "linewidth": 1, "zorder": 1.5, **REFERENCES[name]}
    return list(axes.plot(row.index, row, label=f"{name} (reference)", **style))


def over_budgets(axes: Axes, budgets: Iterable[object], ylabel: str) -> None:
    """Dress axes with budgets from left to right, ticks at budgets that there are; logarithmic where they are far apart."""
    seen = sorted({int(str(budget)) for budget in budgets})
    far = seen[-1] >= FAR * seen[0]
    axes.set(xlabel="GPU memory for experts" + (" (log scale)" if far else ""), ylabel=ylabel)
    if far:
        room = (seen[-1] / seen[0]) ** 0.05
        axes.set(xscale="log", xlim=(seen[0] / room, seen[-1] * room))
    else:
        room = 0.05 * (seen[-1] - seen[0]) or 0.15 * seen[0]
        axes.set_xlim(seen[0] - room, seen[-1] + room)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(shown := _apart(axes, seen), [format_bytes(budget) for budget in shown])
    dress(axes)


def _apart(axes: Axes, budgets: Sequence[int]) -> list[int]:
    """Those at least an eighth of the axis apart, from the largest down: room for each label."""
    place = {budget: axes.transData.transform((budget, 0))[0] for budget in budgets}
    room = axes.bbox.width / 8
    shown = [budgets[-1]]
    for budget in reversed(budgets[:-1]):
        if place[shown[-1]] - place[budget] >= room:
            shown.append(budget)
    return shown[::-1]


def from_zero(axes: Axes) -> None:
    """Let y begin at 0, with room for a marker above the highest point: the margin of a narrow spread has none."""
    top = axes.dataLim.y1
    axes.set_ylim(0, 1.06 * top if np.isfinite(top) and top > 0 else 1)


def bound(axes: Axes, values: pd.Series[float], words: str = BOUND, *, exact: bool = False) -> bool:
    """Grey the area below a bound that falls as budgets rise, and write ``words`` in it. Call it last: it fills down
    to the lower limit, and leaves the limits as they are. False where the words do not fit: a legend is to have them.

    ``values``: by budget in bytes. ``exact``: they are so dense that a line is the bound. Else it is known at these
    budgets alone, and below one the next larger one's holds: steps, never a line between two of them.
    """
    known = values.dropna().sort_index()
    if known.empty:
        return True
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = known.index.to_numpy(dtype=float), known.to_numpy(dtype=float)
    if x[0] > left:
        x, y = np.concatenate(([left], x)), np.concatenate((y[:1], y))
    step: dict[str, Any] = {} if exact else {"step": "pre"}
    area = axes.fill_between(x, bottom, y, color=PALE, linewidth=0, zorder=0.5, **step)
    axes.plot(x, y, drawstyle="default" if exact else "steps-pre", color=GREY, linewidth=1, zorder=1.2, label="_bound")
    axes.set(xlim=(left, right), ylim=(bottom, top))
    to_axes = axes.transData + axes.transAxes.inverted()
    places = to_axes.transform(np.column_stack((x, y)))
    inches = axes.bbox.size / axes.get_figure(root=True).dpi
    for lines in range(1, 5):
        text = fill(words, -(-len(words) // lines) + 2)
        tall = 0.05 + (1 + text.count("\n")) * 1.3 * LABEL / 72 / inches[1]
        wide = 0.04 + max(len(line) for line in text.splitlines()) * 0.6 * LABEL / 72 / inches[0]
        if wide < places[-1, 0] and places[np.searchsorted(places[:, 0], wide), 1] > tall:
            # The row with infinite memory may pass below.
            box = {"facecolor": PALE, "edgecolor": "none", "pad": 1}
            axes.text(0.03, 0.04, text, transform=axes.transAxes, fontsize=LABEL, zorder=4, bbox=box)
            return True
    area.set_label(words)
    return False
