"""Whether a figure can be read: labelled axes of some size with something in them, no text or legend upon another."""

import itertools
import math
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text

Corners = np.ndarray
COUNTED = ("MoE layer", "policy", "expert", "measured, ms", "predicted, ms", "GPU memory for experts", "prefetches")
"""Labels that are a number or a name, or say their unit without brackets."""


def faults(figure: Figure) -> list[str]:
    """What is wrong; empty for a figure that can be read."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        canvas.draw()
    found = [str(it.message) for it in said]
    renderer = canvas.get_renderer()
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        bar = axes.get_label() == "<colorbar>"
        if not (axes.lines or axes.patches or axes.images or axes.collections):
            found.append(f"empty axes {axes.get_title()}")
        panel = axes.get_window_extent(renderer)
        wide, high = panel.width / figure.dpi, panel.height / figure.dpi
        if not bar and (wide < 1.5 or high < 0.25):
            found.append(f"axes {axes.get_title()!r} of {wide:.2f} by {high:.2f} inches")
        boxes_of_legends = [_corners(each.get_window_extent(renderer).extents) for each in _legends(figure)]
        if any(_both(box, _corners(panel.extents)) for box in boxes_of_legends):
            found.append(f"a legend upon axes {axes.get_title()!r}")
        found += [f"a marker of {each.get_label()!r} on the frame" for each in axes.lines if _on_frame(each, panel.y1)]
        for side, label in (("x", axes.get_xlabel()), ("y", axes.get_ylabel())):
            outer = bar or (side == "x" and not axes.xaxis.get_tick_params()["labelbottom"])
            outer = outer or (side == "y" and not axes.yaxis.get_tick_params()["labelleft"])
            if not outer and not ("(" in label or "share" in label or label in COUNTED or (side, label) == ("y", "")):
                found.append(f"{side} of {axes.get_title()!r} without a unit: {label!r}")
    ticks = {id(label) for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    # Ticks outside the view exist and are not drawn; only this method of matplotlib's tells which are.
    axis_of = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    drawn = {id(tick.label1) for axis in axis_of for tick in axis._update_ticks()}
    hidden = {id(text) for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    texts = [text for text in figure.findobj(Text) if id(text) not in hidden and _shown(text, ticks, drawn)]
    width, height = canvas.get_width_height()
    # That of an annotation itself has its arrow within.
    boxes = [(text, Text.get_window_extent(text, renderer)) for text in texts]
    legends = [("a legend", legend.get_window_extent(renderer)) for legend in _legends(figure)]
    for what, box in [*((repr(text.get_text()), box) for text, box in boxes), *legends]:
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            found.append(f"{what} leaves the picture")
    places = [(text, *map(float, box.extents)) for text, box in boxes]
    near = [
        (one[0], two[0])
        for one, two in itertools.combinations(places, 2)
        if min(one[3], two[3]) - max(one[1], two[1]) > 1 and min(one[4], two[4]) - max(one[2], two[2]) > 1
    ]
    for one, two in near:
        if _both(_turned(one, renderer), _turned(two, renderer)):
            found.append(f"{one.get_text()!r} upon {two.get_text()!r}")
    return found


def _on_frame(line: Line2D, top: float) -> bool:
    """Whether a marker lies on the upper frame of its axes."""
    if line.get_marker() in ("None", None, "", " ") or not len(line.get_xydata()):
        return False
    figure = line.get_figure(root=True)
    half = line.get_markersize() / 2 * figure.dpi / 72
    high = line.get_transform().transform(line.get_xydata())[:, 1]
    return bool(np.any((high < top + half) & (high > top - 0.5 * half)))


def _legends(figure: Figure) -> Sequence[Legend]:
    own = (axes.get_legend() for axes in figure.axes)
    return [*figure.legends, *(legend for legend in own if legend is not None)]


def _corners(extents: Sequence[float]) -> Corners:
    x0, y0, x1, y1 = extents
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _turned(text: Text, renderer: RendererAgg) -> Corners:
    """The corners of a text as it is turned: its upright box is larger than the text."""
    middle = _corners(text.get_window_extent(renderer).extents).mean(axis=0)
    angle = text.get_rotation()
    text.set_rotation(0)
    upright = _corners(text.get_window_extent(renderer).extents)
    text.set_rotation(angle)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return (upright - upright.mean(axis=0)) @ np.array([(cos, sin), (-sin, cos)]) + middle


def _both(one: Corners, two: Corners) -> bool:
    """Whether two rectangles have more than a pixel in common: no side of either divides them."""
    for corners in (one, two):
        for start, end in ((0, 1), (1, 2)):
            side = corners[end] - corners[start]
            if not side.any():
                return False
            across = np.array((-side[1], side[0])) / np.hypot(*side)
            a, b = one @ across, two @ across
            if min(a.max(), b.max()) - max(a.min(), b.min()) <= 1:
                return False
    return True


def _shown(text: Text, ticks: set[int], drawn: set[int]) -> bool:
    said = bool(text.get_text().strip()) and text.get_visible()
    return said and (id(text) not in ticks or id(text) in drawn)
