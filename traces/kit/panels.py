"""Axes that stand alone as a picture, or beside each other in one: a page wants the first, a notebook the second."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traces.kit.drawing import TITLE, Picture, finish, sentence


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
    columns = min(columns, len(panels))
    rows = [list(panels[start : start + columns]) for start in range(0, len(panels), columns)]
    high = [max(panel.high for panel in row) for row in rows]
    wide = [panel.wide for panel in rows[0]]
    figure = Picture(figsize=(sum(wide), sum(high)), layout="constrained")
    grid: Any = figure.add_gridspec(len(rows), columns, height_ratios=high, width_ratios=wide)
    grid_axes = grid.subplots(squeeze=False, **shared).ravel()
    for axes in grid_axes[len(panels) :]:
        axes.remove()
    named: list[Any] = []
    for place, (axes, panel) in enumerate(zip(grid_axes, panels, strict=False)):
        named += panel.draw(axes)
        said = axes.get_title(loc="left")
        if len(panels) > 1:
            said = "\n".join(filter(None, (_title(axes, panel), said)))
            axes.set_title(said, loc="left", fontsize=TITLE - 2)
        if shared:
            axes.label_outer()
        row = place // columns
        high[row] = max(high[row], panel.high + 0.19 * (1 + said.count("\n")))
    grid.set_height_ratios(high)
    figure.set_figheight(sum(high))
    return finish(figure, title or panels[0].title, subtitle, named)


def _title(axes: Axes, panel: Panel) -> str:
    """In lines that end where the panel does: names of rows stand at its left."""
    names = [line for label in axes.get_yticklabels() for line in label.get_text().splitlines()]
    wide = panel.wide if panel.rows > 1 else min(panel.wide, panel.high + 2)  # bars fill theirs, squares do not
    inches = wide - 0.6 - 0.08 * max(map(len, names), default=0)
    return fill(sentence(panel.title), max(20, int(12 * inches)))
