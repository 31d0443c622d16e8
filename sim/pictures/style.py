"""What pictures of runs share: frames by budget, and panels that stand alone or together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traces.drawing import TITLE, EmptyPictureError, Picture, finish, glued
from traces.errors import UserError, one_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Panel:
    """One set of axes. ``draw`` returns what a legend below is to name."""

    title: str
    draw: Callable[[Axes], Sequence[Any]]
    wide: float = 5.6
    high: float = 3.4
    """Inches, without title and legend."""
    rows: int = 1
    """Of bars."""


def together(panels: Sequence[Panel], title: str = "", subtitle: str = "", columns: int = 2, **shared: bool) -> Figure:
    """One figure of ``panels``; a single one's title is the figure's. ``shared``: ``sharex`` and ``sharey``."""
    alone, columns = len(panels) == 1, min(columns, len(panels))
    rows = [list(panels[start : start + columns]) for start in range(0, len(panels), columns)]
    high = [max(panel.high for panel in row) + (0 if alone else 0.35) for row in rows]
    figure = Picture(figsize=(columns * panels[0].wide, sum(high)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=high, **shared).ravel()  # type: ignore[arg-type]
    for axes in grid[len(panels) :]:
        axes.remove()
    named: list[Any] = []
    for axes, panel in zip(grid, panels, strict=False):
        named += panel.draw(axes)
        if not alone:
            said = [
                fill(glued(panel.title), int(12 * (min(panel.wide, panel.high + 2) - 1))),
                axes.get_title(loc="left"),
            ]
            axes.set_title("\n".join(filter(None, said)), loc="left", fontsize=TITLE - 2)
        if shared:
            axes.label_outer()
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
