"""What all pictures share: colours of Okabe and Ito, told apart in grey by marker, dash or hatch; axes; PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from sim.units import format_bytes
from traces.errors import UserError, one_of

if TYPE_CHECKING:
    import pandas as pd

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
DASHES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
FILLS = (
    ("#F0E442", ""),
    ("#0072B2", ""),
    ("#56B4E9", "///"),
    ("#D55E00", "\\\\\\"),
    ("#CC79A7", "..."),
    ("#FFFFFF", "xxx"),
)
"""Of stacked parts, in their order: colour and hatch; neighbours differ in lightness as well."""
GREY = "#666666"
REFERENCES: dict[str, dict[str, Any]] = {
    "infinite": {"linestyle": (0, (1, 1)), "marker": "1"},
    "belady_forced": {"linestyle": (0, (4, 2)), "marker": "2"},
    "perfect_next_layer": {"linestyle": (0, (7, 2, 1, 2)), "marker": "4"},
}
"""Rows that cheat: grey, with markers that no policy has, since at one budget there is no line to tell them by."""
WIDTH, LONGEST = 42, 160
"""Characters of a name in a line, and of a name that is shown whole."""


class EmptyPictureError(UserError):
    """These runs have nothing for a picture; says why."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a policy is drawn, the same in every panel of a figure; ``size`` of its marker in points."""

    colour: str
    marker: str
    dash: Any
    size: float = 6.0

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of ``Axes.plot``. A marker at 0 or at 100 % is drawn whole."""
        edge = {"markersize": self.size, "markeredgecolor": "white", "markeredgewidth": 0.6}
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash, "clip_on": False, **edge}


Looks = Mapping[str, Look]


def looks(labels: Iterable[object]) -> dict[str, Look]:
    """A look per policy label. The three cycles have no common factor: 308 policies until one comes again.

    Markers shrink from the first to the last, which is drawn on top: of policies that are equal, all are seen.
    """
    names = sorted({str(label) for label in labels})
    step = 4 / max(1, len(names) - 1)
    return {
        name: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)], 10 - step * i)
        for i, name in enumerate(names)
    }


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


def curves(axes: Axes, frame: pd.DataFrame, column: str, look: Looks, scale: float = 1.0) -> None:
    """A line per policy of :func:`by_budget` over its budgets; rows without the figure are left out."""
    for (label, name), own in frame.dropna(subset=[column]).groupby(["policy_label", "name"], sort=True):
        axes.plot(own["budget_bytes"], own[column] * scale, label=short(name), **look[str(label)].line)


def reference(axes: Axes, frame: pd.DataFrame, name: str, column: str, scale: float = 1.0) -> None:
    """A row that cheats, in grey: all runs of a budget have the same."""
    row = frame.dropna(subset=[column]).groupby("budget_bytes")[column].mean() * scale
    if len(row):
        axes.plot(row.index, row, color=GREY, label=f"{name} (reference)", markersize=9, **REFERENCES[name])


def over_budgets(axes: Axes, budgets: Iterable[object], title: str, ylabel: str) -> None:
    """Dress axes with budgets from left to right: logarithmic, ticks at budgets that there are."""
    seen = sorted({int(str(budget)) for budget in budgets})
    axes.set(xscale="log", title=title, xlabel="budget for experts (bytes)", ylabel=ylabel)
    room = max(1.15, (seen[-1] / seen[0]) ** 0.12)
    axes.set_xlim(seen[0] / room, seen[-1] * room)
    shown = _apart(seen, (room**2 * seen[-1] / seen[0]) ** (1 / 8))
    axes.set_xticks(shown, [format_bytes(budget) for budget in shown], rotation=30 if len(shown) > 4 else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def from_zero(axes: Axes) -> None:
    """Let y begin at 0, with room for a marker above the highest point: the margin of a narrow spread has none."""
    top = axes.dataLim.y1
    axes.set_ylim(0, 1.06 * top if np.isfinite(top) and top > 0 else 1)


def _apart(budgets: Sequence[int], room: float) -> list[int]:
    """Those at least ``room`` times the one below, from the largest down: an eighth of the axis for each label."""
    shown = [budgets[-1]]
    for budget in reversed(budgets[:-1]):
        if shown[-1] >= budget * room:
            shown.append(budget)
    return shown[::-1]


def bound(axes: Axes, values: pd.Series[float], name: str) -> None:
    """A bound at each budget. It falls as budgets rise, so below one the next larger one's holds: that is shaded."""
    axes.fill_between(values.index, 0, values, color=GREY, alpha=0.2, linewidth=0, step="pre")
    axes.plot(values.index, values, "k_", markersize=22, markeredgewidth=2.5, label=name)


def legend(figure: Figure, *axes: Axes) -> Figure:
    """One legend below the panels, where it hides nothing, each name once. The figure grows by what it takes."""
    found: dict[str, Any] = {}
    for each in axes:
        for handle, name in zip(*each.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    widest = max((len(line) for name in found for line in name.splitlines()), default=1)
    columns = max(1, min(len(found), int(12 * figure.get_figwidth() / (widest + 8))))
    made = figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns, handlelength=3.4)
    # A line of it is in the figure's own height; more would be taken from the panels, down to nothing.
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    taken = made.get_window_extent(renderer).height / figure.dpi
    figure.set_figheight(figure.get_figheight() + max(0.0, taken - 0.4))
    return figure


def short(name: object) -> str:
    """A name as it is drawn: whole, in lines that fit beside a figure. A dollar sign would start mathematics."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(name).split()))
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"
    # One that begins with _ would be left out of legends.
    return ("\u200b" if text.startswith("_") else "") + fill(text, WIDTH).replace("$", r"\$")


def png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as a PNG, the same bytes for the same figure."""
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()
