"""Where the time goes that runs take beyond the bound: stacked bars, one per policy, a panel per budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from sim.results.gap import PARTS
from sim.results.pictures.findings import number
from sim.results.pictures.style import Picture, Sheet, by_budget, pages_of
from traces.kit.drawing import INK, LABEL, EmptyPictureError, dress, short
from traces.kit.panels import Panel
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

LOOKS: Mapping[str, tuple[str, str]] = {
    "victims": ("#3D4F66", ""),
    "one_layer": ("#8497B0", "///"),
    "further": ("#C9BBA8", "\\\\\\"),
    "admission": ("#B87333", "..."),
    "rest": ("#D9D9D9", ""),
}
"""Colour and hatch of each part."""
BOUND = ["budget_bytes", "hosted"]
"""Columns of which rows with one bound have one value."""


@Picture
def gap(rows: pd.DataFrame, page: int | None = 1, said: str = "") -> Sheet:
    """From a row per run with policy_label, lossless, budget_bytes and ``gap_*`` of each part (ms per generated token).

    Means over seeds; the smallest gap first. Rows that are ``hosted`` have the host compute experts: their bound is
    another, so that they have panels of their own. A part below 0 stands to the left: there the row does better than
    the reference row. ``said``: the subtitle.
    EmptyPictureError where no row has a gap, and after the last page.
    """
    columns = [f"gap_{name}" for name in PARTS]
    if rows.empty:
        raise EmptyPictureError("no lossless run has a bound and reference rows")
    rows = rows if "hosted" in rows else rows.assign(hosted=False)
    frame = by_budget(rows, *columns, "hosted").dropna(subset=columns)
    frame = frame.assign(whole=frame[columns].sum(axis=1))
    if frame.empty or not frame["whole"].any():
        raise EmptyPictureError("no run takes longer than its bound, or none has one")
    frame = frame.sort_values([*BOUND, "whole", "policy_label"], ignore_index=True)
    pages, of = pages_of(list(frame[BOUND].itertuples(index=False, name=None)), page)
    panels = []
    for rows_of in pages:
        for _, own in frame[rows_of].groupby(BOUND, sort=True):
            budget, with_host = own[BOUND].iloc[0]
            title = f"{format_bytes(int(budget))}{', host compute' if with_host else ''}: {_said(own)}"
            lines = max(1 + short(name).count("\n") for name in own["name"])
            high = 0.7 + (0.09 + 0.17 * lines) * len(own)
            panels.append(Panel(title, partial(_draw, own=own), 5.8, high, len(own)))
    return Sheet(panels, f"What better decisions would be worth{of}", said, columns=1)


def _said(own: pd.DataFrame) -> str:
    """Of the row with the smallest gap, what the most of it is."""
    first = own.iloc[0]
    if not first["whole"] > 0:
        return f"{first['name']} is at the bound"
    best = max(PARTS, key=lambda name: first[f"gap_{name}"])
    share = 100 * first[f"gap_{best}"] / first["whole"]
    return f"of {first['name']}'s {number(first['whole'])} ms beyond the bound {number(share)} % is {PARTS[best]}"


def _draw(axes: Axes, own: pd.DataFrame) -> Sequence[Any]:
    places, named = np.arange(len(own)), list[Any]()
    right, left = np.zeros(len(own)), np.zeros(len(own))
    for name, label in PARTS.items():
        values = own[f"gap_{name}"].to_numpy(dtype=float)
        colour, hatch = LOOKS[name]
        style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "#444444", "linewidth": 0.5}
        named.append(axes.barh(places, values, 0.72, np.where(values < 0, left, right), label=label, **style))
        right += np.maximum(values, 0)
        left += np.minimum(values, 0)
    for place, end, whole in zip(places, right, own["whole"], strict=True):
        at: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": LABEL}
        axes.annotate(f"{number(whole)} ms", (end, place), (4, 0), **at)
    axes.set_yticks(places, [short(name) for name in own["name"]])
    span = float(right.max() - left.min()) or 1.0
    axes.set(ylim=(len(own) - 0.45, -0.55), xlim=(float(left.min()) * 1.05, float(right.max()) + 0.2 * span))
    axes.set_xlabel("time per generated token beyond the bound (ms)")
    axes.axvline(0, color=INK, linewidth=1.2, zorder=5, label="_bound")
    dress(axes, "x")
    return named
