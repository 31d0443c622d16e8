"""Axes that stand alone as a picture, or beside each other in one: a page wants the first, a notebook the second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traces.drawing import TITLE, finish, glued


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
    wide = [panel.wide for panel in rows[0]]
    figure = Figure(figsize=(sum(wide), sum(high)), layout="constrained")
    ratios: Any = {"height_ratios": high, "width_ratios": wide}
    grid = figure.subplots(len(rows), columns, squeeze=False, **(ratios | shared)).ravel()
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
