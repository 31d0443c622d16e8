"""Stacked bars, one per policy, a panel per budget: where a token's time goes, and what became of the prefetches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from policies.api import OUTPUTS
from sim.core.accounts import FATES, STALLS
from sim.results.classes import MARKS, best_class, by_class
from sim.results.pictures.colours import BETWEEN, CAUSES, COMPUTE, ENDS
from sim.results.pictures.findings import about, number, span
from sim.results.pictures.style import ROWS, Picture, Sheet, by_budget, pages_of
from traces.kit.drawing import INK, LABEL, EmptyPictureError, dress, short
from traces.kit.panels import Panel
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Stack:
    """What is drawn."""

    frame: pd.DataFrame
    """Of :func:`sim.results.pictures.style.by_budget`, with a column ``note`` of texts that stand behind the bars."""
    parts: Mapping[str, tuple[str, tuple[str, str]]]
    """From left to right: column to label, and colour and hatch. One that is 0 everywhere is not in the legend."""
    label: str
    title: Callable[[pd.DataFrame], str]
    """What the bars of a budget show."""
    floor: str = ""
    """The column of a bound."""
    largest: bool = False
    """The largest first; else the smallest."""


@Picture
def stalls(runs: pd.DataFrame, page: int | None = 1) -> Sheet:
    """From ``sim.load``: ms per generated token, stacked; the parts add up to the whole window (rule 5).

    A panel per budget, or more where there are many policies; the fastest first, beside the time lower bound; other
    classes than the lossless one apart, below.
    EmptyPictureError where no tokens were generated, where nothing stalls, and after the last page.
    """
    parts = {"compute_ms_per_token": ("compute", COMPUTE), "peer_ms_per_token": ("between GPUs", BETWEEN)}
    parts |= {f"stall_{name}_ms_per_token": (f"waits: {name.replace('_', ' ')}", CAUSES[name]) for name in STALLS}
    frame = by_budget(runs, *parts, "bound_ms_per_token").dropna(subset=["compute_ms_per_token"])
    if frame.empty:
        raise EmptyPictureError("no tokens were generated")
    total = frame[list(parts)].sum(axis=1)
    waits = 1 - frame[["compute_ms_per_token", "peer_ms_per_token"]].fillna(0).sum(axis=1) / total
    if (waits.fillna(0) == 0).all():
        those = "compute and ways between GPUs are" if frame["peer_ms_per_token"].any() else "compute is"
        each = number(total.max())
        raise EmptyPictureError(f"nothing stalls: {those} all of the time, at most {each} ms per generated token")
    frame = frame.assign(waiting=waits, note=[f"{number(ms)} ms" for ms in total])

    def title(own: pd.DataFrame) -> str:
        others = [MARKS[output] for output, _ in by_class(own)][1:]
        of = f", {' and '.join(others)} policies apart" if others else ""
        return f"{span(best_class(own)[1], 'waiting')} of the time is waiting{of}"

    bars = Stack(frame, parts, "time per generated token (ms)", title, floor="bound_ms_per_token")
    return _stacked(bars, "Where the time of a generated token goes", about(runs), page)


@Picture
def fates(runs: pd.DataFrame, page: int | None = 1) -> Sheet:
    """From ``sim.load``: prefetches, by what became of them; most first.

    A panel per budget, or more where there are many policies. Those that issued none at a budget have no bar there.
    EmptyPictureError where no policy issued any, and after the last page.
    """
    parts = {f"prefetch_{fate}": (fate.replace("_", " "), ENDS[fate]) for fate in FATES}
    frame = by_budget(runs, "prefetch_issued", *parts)
    frame = frame[frame["prefetch_issued"] > 0]
    if frame.empty:
        raise EmptyPictureError("no policy here prefetches")

    def title(own: pd.DataFrame) -> str:
        in_time = (own["prefetch_useful"] / own["prefetch_issued"]).max()
        most = f"at best {number(100 * in_time)} %" if len(own) > 1 else f"{number(100 * in_time)} %"
        return f"{most} of the prefetches were useful" if in_time else "no prefetch was useful"

    shares = frame["prefetch_useful"] / frame["prefetch_issued"]
    frame = frame.assign(note=[f"{share:.0%} useful".replace("%", " %") for share in shares])
    bars = Stack(frame, parts, "prefetches", title, largest=True)
    return _stacked(bars, "What became of the prefetches", about(runs), page)


def _stacked(it: Stack, title: str, about: str, page: int | None) -> Sheet:
    """A panel of at most ROWS bars: of one budget, sorted by length, the lossless ones first, then each other class.

    A budget has one scale, however many panels it takes. The panels are those of a page of at most ROWS bars, or of
    all; EmptyPictureError where there is no such page.
    """
    length, place = it.frame[list(it.parts)].fillna(0).sum(axis=1), it.frame["output"].map(OUTPUTS.index)
    frame = it.frame.assign(length=length, place=place)
    frame = frame.sort_values(
        ["budget_bytes", "place", "length", "policy_label"], ascending=[True, True, not it.largest, True]
    )
    panels = []
    for budget, own in frame.groupby("budget_bytes", sort=True):
        floor = own[it.floor].min() if it.floor else float("nan")
        for start in range(0, len(own), ROWS):
            rows = own.iloc[start : start + ROWS]
            more = "" if len(own) <= ROWS else f" ({start + 1} to {start + len(rows)} of {len(own)})"
            draw = partial(_draw, it=it, rows=rows, widest=float(own["length"].max()), floor=float(floor))
            lines = max(1 + short(name).count("\n") for name in rows["name"])
            high = 0.7 + (0.09 + 0.17 * lines) * (len(rows) + _gaps(rows)[-1])
            panels.append(Panel(f"{format_bytes(int(str(budget)))}: {it.title(own)}{more}", draw, 5.8, high, len(rows)))
    pages, of = pages_of([i for i, panel in enumerate(panels) for _ in range(panel.rows)], page)
    ends = np.cumsum([panel.rows for panel in panels])
    shown = [panel for panel, end in zip(panels, ends, strict=True) if pages[0].start < end <= pages[-1].stop]
    return Sheet(shown, f"{title}{of}", about, columns=1, titled=True)


def _gaps(rows: pd.DataFrame) -> NDArray[np.float64]:
    """In bars' heights, how much farther down each bar is for the gaps between classes above it."""
    new = rows["output"] != rows["output"].shift()
    return np.asarray(0.7 * (new.cumsum() - 1), np.float64)


def _draw(axes: Axes, *, it: Stack, rows: pd.DataFrame, widest: float, floor: float) -> Sequence[Any]:
    places = np.arange(len(rows)) + _gaps(rows)
    start = np.zeros(len(rows))
    named: list[Any] = []
    for column, (label, (colour, hatch)) in it.parts.items():
        if not it.frame[column].fillna(0).any():
            continue
        values = rows[column].fillna(0).to_numpy(dtype=float)
        style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "#444444", "linewidth": 0.5}
        named.append(axes.barh(places, values, 0.72, start, label=label, **style))
        start += values
    for place, end, note in zip(places, start, rows["note"], strict=True):
        at: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": LABEL}
        axes.annotate(str(note), (end, place), (4, 0), **at)
    axes.set_yticks(places, [short(name) for name in rows["name"]])
    axes.set(ylim=(places[-1] + 0.55, -0.55), xlim=(0, widest * 1.2 or 1), xlabel=it.label)
    dress(axes, "x")
    # Room for the notes is not part of the scale.
    ticks = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(0, widest)
    axes.set_xticks(ticks := [tick for tick in ticks if 0 <= tick <= widest * 1.05], [f"{t:,g}" for t in ticks])
    lossless = places[rows["lossless"].to_numpy(dtype=bool)]
    if np.isfinite(floor) and len(lossless):
        ends, words = (-0.5, lossless[-1] + 0.5), "bound: no lossless policy takes less"
        named += axes.plot([floor, floor], ends, color=INK, linewidth=2, label=words, zorder=5)
    return named
