"""A figure of each policy over budgets, as lines, or as a row each at one budget; with what bounds it, and cheats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from sim.results.pictures.colours import Looks
from sim.results.pictures.findings import differs
from traces.kit.drawing import GREY, INK, LABEL, PALE, dress, log_scale, name_ends, short
from traces.kit.panels import Panel
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

REFERENCES: dict[str, dict[str, Any]] = {
    "infinite": {"linestyle": (0, (1, 1)), "marker": "1"},
    "belady_forced": {"linestyle": (0, (4, 2)), "marker": "2"},
    "perfect_next_layer": {"linestyle": (0, (7, 2, 1, 2)), "marker": "4"},
    "oracle_ahead": {"linestyle": (0, (9, 2, 1, 2, 1, 2)), "marker": "3"},
}
"""Rows that cheat: grey, with markers that no policy has, since at one budget there is no line to tell them by."""
WORDS = "no lossless policy can be here"
FAR = 10
"""From so many times the smallest budget to the largest on, budgets are on a logarithmic axis."""
WIDE = 5
"""From so many times the lowest time to the highest on, times are on a logarithmic axis: ratios count."""


@dataclass(frozen=True)
class Figures:
    """What is drawn: a column of :func:`.style.by_budget`, times ``scale``, and what stands beside it."""

    frame: pd.DataFrame
    """Its columns low and high, if it has them, are intervals."""
    column: str
    label: str
    look: Looks
    scale: float = 1.0
    share: bool = False
    """In %, from 0 to 100."""
    references: dict[str, str] = field(default_factory=dict)
    """Columns of rows that cheat, by their names."""
    floor: str = ""
    """The column of a bound."""
    words: str = WORDS
    """On that bound."""
    target: float | None = None
    """A value to be met."""

    def panel(self, title: str) -> Panel:
        """The axes; high enough for its rows, where there is one budget."""
        return Panel(title, self.draw, high=self.high)

    @property
    def high(self) -> float:
        """Inches."""
        known = self.frame.dropna(subset=[self.column])
        if differs(known["budget_bytes"]):
            return Panel.high
        return max(1.6, 0.8 + sum(0.12 + 0.17 * (1 + short(name).count("\n")) for name in known["name"]))

    def draw(self, axes: Axes) -> Sequence[Any]:
        """Draw them; returns what a legend is to name."""
        frame = self.frame.dropna(subset=[self.column])
        drawn = _lines if differs(frame["budget_bytes"]) else _rows
        return drawn(axes, frame, self)


def _lines(axes: Axes, frame: pd.DataFrame, it: Figures) -> Sequence[Any]:
    lines: list[Any] = []
    for (label, name), own in frame.groupby(["policy_label", "name"], sort=True):
        look = it.look[str(label)]
        lines += axes.plot(own["budget_bytes"], own[it.column] * it.scale, label=short(name), **look.line)
        if "low" in own:
            ends = own.dropna(subset=["low", "high"])
            low, high = ends["low"] * it.scale, ends["high"] * it.scale
            axes.vlines(ends["budget_bytes"], low, high, color=look.colour, alpha=0.45, zorder=1)
    for name, column in it.references.items():
        row = frame.groupby("budget_bytes")[column].mean().dropna() * it.scale
        if len(row):  # all runs of a budget have the same
            style = {"color": GREY, "markersize": 8, "linewidth": 1, "zorder": 1.5, **REFERENCES[name]}
            lines += axes.plot(row.index, row, label=f"{name} (reference)", **style)
    _budgets(axes, frame["budget_bytes"])
    axes.set_ylabel(it.label)
    _limits(axes, frame, it)
    dress(axes)
    if it.target is not None:
        target_line(axes, it.target)
    unnamed = [] if name_ends(axes, lines) else lines
    if not it.floor:
        return unnamed
    return [*unnamed, *bound(axes, frame.groupby("budget_bytes")[it.floor].min() * it.scale, it.words)]


def target_line(axes: Axes, ms: float) -> None:
    """Draw a latency that is to be met, across the axes."""
    axes.axhline(ms, color=INK, linewidth=1, linestyle=(0, (6, 3)), zorder=1.4, label="_target")
    at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
    axes.annotate(f"target: {ms:g} ms", (0.99, ms), (0, 3), fontsize=LABEL, **at)


def _rows(axes: Axes, frame: pd.DataFrame, it: Figures) -> Sequence[Any]:
    """One budget: a row per policy, the lowest first; the figures run from left to right."""
    frame = frame.sort_values([it.column, "policy_label"]).reset_index(drop=True)
    for place, row in enumerate(frame.to_dict("records")):
        look = it.look[str(row["policy_label"])]
        if "low" in row and np.isfinite([row["low"], row["high"]]).all():
            axes.hlines(place, row["low"] * it.scale, row["high"] * it.scale, color=look.colour, linewidth=2)
        axes.plot([row[it.column] * it.scale], [place], **look.line | {"markersize": 8, "label": short(row["name"])})
    found = []
    for name, column in it.references.items():
        if frame[column].notna().any():
            style = {"color": GREY, "linewidth": 1, "linestyle": REFERENCES[name]["linestyle"], "zorder": 1.5}
            found.append(axes.axvline(frame[column].mean() * it.scale, label=f"{name} (reference)", **style))
    axes.set_yticks(range(len(frame)), [short(name) for name in frame["name"]])
    axes.set(ylim=(len(frame) - 0.5, -0.5), xlabel=it.label)
    axes.set_xlim(0, 104 if it.share else 1.06 * max(float(_seen(frame, it).max()), it.target or 0) or 1)
    dress(axes, "x")
    if it.target is not None:
        style = {"color": INK, "linewidth": 1, "linestyle": (0, (6, 3))}
        found.append(axes.axvline(it.target, label=f"target: {it.target:g} ms", **style))
    if it.floor and frame[it.floor].notna().any():
        found += bound_beside(axes, frame[it.floor].min() * it.scale, it.words)
    axes.set_title(f"budget {format_bytes(int(frame['budget_bytes'].iloc[0]))}", loc="left", fontsize="medium")
    return found


def _seen(frame: pd.DataFrame, it: Figures) -> np.ndarray:
    """All figures that are to be within the axes."""
    beside = [name for name in ("low", "high", it.floor) if name in frame]
    seen: np.ndarray = frame[[it.column, *it.references.values(), *beside]].to_numpy(dtype=float) * it.scale
    known: np.ndarray = seen[np.isfinite(seen)]
    return known


def _limits(axes: Axes, frame: pd.DataFrame, it: Figures) -> None:
    """Shares from 0 to 100; times from 0, or on a logarithmic axis; with room for a marker above the highest."""
    if it.share:
        axes.set_ylim(0, 104)
        return
    seen = _seen(frame, it)
    low, high = float(seen.min()), float(seen.max())
    log = 0 < low <= high / WIDE
    if it.target is not None:
        low, high = min(low, it.target), max(high, it.target)
    if log:
        room = (high / low) ** 0.06
        axes.set_ylim(low / room**2, high * room)
        log_scale(axes, "y")
        axes.set_ylabel(f"{it.label}, log scale")
    else:
        axes.set_ylim(0, 1.06 * high if high > 0 else 1)


def _budgets(axes: Axes, budgets: pd.Series[int]) -> None:
    """Budgets from left to right, ticks at those that there are; logarithmic where they are far apart."""
    seen = sorted({int(budget) for budget in budgets})
    far = seen[-1] >= FAR * seen[0]
    axes.set_xlabel("GPU memory for experts (log scale)" if far else "GPU memory for experts")
    if far:
        room = (seen[-1] / seen[0]) ** 0.05
        axes.set(xscale="log", xlim=(seen[0] / room, seen[-1] * room))
    else:
        room = 0.05 * (seen[-1] - seen[0])
        axes.set_xlim(seen[0] - room, seen[-1] + room)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    # A seventh of the axis for each label, from the largest down.
    place = {budget: axes.transData.transform((budget, 0))[0] for budget in seen}
    shown = [seen[-1]]
    for budget in reversed(seen[:-1]):
        if place[shown[-1]] - place[budget] >= axes.bbox.width / 7:
            shown.append(budget)
    axes.set_xticks(shown, [format_bytes(budget) for budget in shown])


def bound(axes: Axes, values: pd.Series[float], words: str = WORDS, *, exact: bool = False) -> list[Any]:
    """Grey the area below a bound that falls as budgets rise, and write ``words`` in it. Call it last: it fills down
    to the lower limit, and leaves the limits as they are. Returns what a legend is to name: the area, if the words do
    not fit into it.

    ``values``: by budget in bytes. ``exact``: they are so dense that a line is the bound. Else it is known at these
    budgets alone, and below one the next larger one's holds: steps, never a line between two of them.
    """
    known = values.dropna().sort_index()
    if known.empty:
        return []
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = known.index.to_numpy(dtype=float), known.to_numpy(dtype=float)
    if x[0] > left:
        x, y = np.concatenate(([left], x)), np.concatenate((y[:1], y))
    step: dict[str, Any] = {} if exact else {"step": "pre"}
    area = axes.fill_between(x, bottom, y, color=PALE, linewidth=0, zorder=0.5, label=words, **step)
    axes.plot(x, y, drawstyle="default" if exact else "steps-pre", color=GREY, linewidth=1, zorder=1.2, label="_bound")
    axes.set(xlim=(left, right), ylim=(bottom, top))
    return [] if _write(axes, words, x, y) else [area]


def bound_beside(axes: Axes, value: float, words: str = WORDS) -> list[Any]:
    """The same of one budget, where the figure runs from left to right. Returns what a legend is to name."""
    limits = axes.get_xlim()
    area = axes.axvspan(limits[0], value, color=PALE, linewidth=0, zorder=0.5, label=words)
    axes.axvline(value, color=GREY, linewidth=1, zorder=1.2, label="_bound")
    axes.set_xlim(limits)
    return [area]


def _write(axes: Axes, words: str, x: np.ndarray, y: np.ndarray) -> bool:
    """At the lower left, where the area is highest, in so many lines that they are within it. False if none fits."""
    to_axes = axes.transData + axes.transAxes.inverted()
    places = to_axes.transform(np.column_stack((x, y)))
    figure: Any = axes.get_figure(root=True)
    wide_in, high_in = axes.bbox.width / figure.dpi, axes.bbox.height / figure.dpi
    for lines in range(1, 5):
        text = fill(words, -(-len(words) // lines) + 2)
        tall = 0.06 + (1 + text.count("\n")) * 1.3 * LABEL / 72 / high_in
        wide = 0.05 + max(len(line) for line in text.splitlines()) * 0.6 * LABEL / 72 / wide_in
        if wide < places[-1, 0] and places[np.searchsorted(places[:, 0], wide), 1] > tall:
            # The row with infinite memory may pass below.
            box = {"facecolor": PALE, "edgecolor": "none", "pad": 1}
            axes.text(0.03, 0.04, text, transform=axes.transAxes, fontsize=LABEL, color=INK, zorder=4, bbox=box)
            return True
    return False
