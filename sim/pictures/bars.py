"""Stacked bars, a bar per policy and a panel per budget: what stalls and fates have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from sim.pictures.pages import page_of
from sim.pictures.style import FILLS, legend, short
from sim.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd


def stacked(
    frame: pd.DataFrame, parts: Mapping[str, str], xlabel: str, title: str, notes: str = "", page: int = 1
) -> Figure:
    """``frame``: of :func:`sim.pictures.style.by_budget`; ``parts``: column to label, from left to right.

    ``notes``: a column of texts that stand behind the bars. A part that is 0 everywhere is left out of the legend.
    All pages have the scale and the legend of all bars.
    """
    # Lossless ones first: lossy ones are another class, and say so.
    frame = frame.sort_values(["budget_bytes", "lossless", "policy_label"], ascending=[True, False, True])
    widest = float(frame[list(parts)].sum(axis=1).max())
    drawn = {column: label for column, label in parts.items() if frame[column].fillna(0).any()}
    fills = dict(zip(parts, FILLS, strict=False))
    rows, of = page_of(list(frame["budget_bytes"]), page)
    frame = frame.iloc[rows]
    budgets = sorted(set(frame["budget_bytes"]))
    lines = 1 + max(short(name).count("\n") for name in frame["name"])
    sizes = [int((frame["budget_bytes"] == budget).sum()) for budget in budgets]
    figure = Figure(figsize=(10, 1.6 + 0.55 * len(budgets) + (0.16 + 0.18 * lines) * sum(sizes)), layout="constrained")
    figure.suptitle(title + of)
    panels = figure.subplots(len(budgets), 1, squeeze=False, sharex=True, height_ratios=[n + 0.6 for n in sizes])[:, 0]
    for axes, budget in zip(panels, budgets, strict=True):
        own = frame[frame["budget_bytes"] == budget]
        places, start = np.arange(len(own)), np.zeros(len(own))
        for column, label in drawn.items():
            colour, hatch = fills[column]
            values = own[column].fillna(0).to_numpy(dtype=float)
            style = {"color": colour, "hatch": hatch, "edgecolor": "black", "linewidth": 0.6}
            axes.barh(places, values, left=start, label=label, **style)
            start += values
        if notes:
            for place, end, note in zip(places, start, own[notes], strict=True):
                axes.annotate(
                    str(note), (end, place), (4, 0), textcoords="offset points", va="center", fontsize="small"
                )
        axes.set_yticks(places, [short(name) for name in own["name"]])
        axes.set_ylim(len(own) - 0.4, -0.6)
        axes.set_xlim(0, widest * (1.2 if notes else 1.03) or 1)
        axes.set_title(f"budget {format_bytes(int(budget))}", loc="left", fontsize="medium")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.set_ylabel("policy")
    figure.align_ylabels(panels)
    # Room for the notes is not part of the scale.
    panels[-1].set_xticks([tick for tick in panels[-1].get_xticks() if 0 <= tick <= widest * 1.05])
    panels[-1].set_xlabel(xlabel)
    return legend(figure, *panels)
