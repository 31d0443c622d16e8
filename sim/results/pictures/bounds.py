"""A bound, as it is drawn wherever one is: the area that is out of reach."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from traces.kit.drawing import GREY, INK, LABEL, PALE

if TYPE_CHECKING:
    import pandas as pd

WORDS = "no lossless policy can be here"


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
