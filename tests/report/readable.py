"""Whether a figure can be read: labelled axes with something in them, and no text upon text."""

from __future__ import annotations

import itertools

from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

COUNTED = ("MoE layer", "policy", "expert", "measured, ms", "predicted, ms")
"""Labels that are a number or a name, or say their unit without brackets."""


def faults(figure: Figure) -> list[str]:
    """What is wrong; empty for a figure that can be read."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    found = []
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        bar = axes.get_label() == "<colorbar>"
        if not (axes.lines or axes.patches or axes.images or axes.collections):
            found.append(f"empty axes {axes.get_title()}")
        for side, label in (("x", axes.get_xlabel()), ("y", axes.get_ylabel())):
            outer = bar or (side == "x" and not axes.xaxis.get_tick_params()["labelbottom"])
            outer = outer or (side == "y" and not axes.yaxis.get_tick_params()["labelleft"])
            if not outer and not ("(" in label or "share" in label or label in COUNTED or label == "policy and budget"):
                found.append(f"{side} of {axes.get_title()!r} without a unit: {label!r}")
    ticks = {id(label) for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    # Ticks outside the view exist and are not drawn; only this method of matplotlib's tells which are.
    axis_of = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    drawn = {id(tick.label1) for axis in axis_of for tick in axis._update_ticks()}
    hidden = {id(text) for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    texts = [text for text in figure.findobj(Text) if id(text) not in hidden and _shown(text, ticks, drawn)]
    width, height = canvas.get_width_height()
    boxes = [(text, text.get_window_extent(renderer)) for text in texts]
    for text, box in boxes:
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            found.append(f"{text.get_text()!r} leaves the picture")
    for (one, a), (two, b) in itertools.combinations(boxes, 2):
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1:
            found.append(f"{one.get_text()!r} upon {two.get_text()!r}")
    return found


def _shown(text: Text, ticks: set[int], drawn: set[int]) -> bool:
    """Drawn, upright or at a right angle (the box of any other is larger than the text)."""
    if not text.get_text().strip() or not text.get_visible() or text.get_rotation() % 90:
        return False
    return id(text) not in ticks or id(text) in drawn
