"""What every picture shares, of traces and of runs: titles, labels at line ends, legends below, ticks, PNG and SVG."""

import io
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox
from PIL import Image

from traces.kit.errors import UserError
from traces.kit.whole import writable, write_whole

INK, GREY, PALE = "#1A1A1A", "#666666", "#D9D9D9"
"""Of text; of context; of areas and grids."""
TITLE, SUBTITLE, LABEL = 12.0, 8.5, 8.5
"""Sizes of type in points."""
LEADER = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3, "relpos": (0.0, 0.5)}
COLOURS = 128
"""Of a picture that is kept: more cannot be told apart in a chart, and take three times the bytes."""
WIDTH, LONGEST = 42, 160
"""Characters of a name in a line, and of a name that is shown whole."""


class EmptyPictureError(UserError):
    """There is nothing for a picture; says why."""


def dress(axes: Axes, grid: str = "y") -> None:
    """No frame, and a pale grid behind along ``grid`` (x, y, both)."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=PALE, linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=LABEL)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(LABEL + 0.5)


def finish(figure: Figure, title: str, subtitle: str = "", legend: Sequence[Any] = ()) -> Figure:
    """Put the title above, and a legend of the artists in ``legend`` below. The figure grows by both: no panel pays."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    wide, high = figure.get_size_inches()
    above: list[tuple[str, FontProperties, str]] = []
    for text, size, weight, colour in ((title, TITLE, "bold", INK), (subtitle, SUBTITLE, "normal", GREY)):
        font = FontProperties(size=size, weight=weight)
        above += [(line, font, colour) for line in _wrapped(text, font, wide - 0.2, renderer, figure.dpi)]
    top = 0.08 + sum(1.35 * font.get_size_in_points() / 72 for _, font, _ in above) + 0.06 * bool(above)
    found: dict[str, Any] = {}
    for handle in legend:
        found.setdefault(str(handle.get_label()), handle)
    bottom = 0.0
    if found:
        longest = max(len(line) for name in found for line in name.splitlines())
        columns = max(1, min(len(found), int(13 * wide / (longest + 8))))
        style: dict[str, Any] = {"frameon": False, "fontsize": LABEL, "handlelength": 3.2, "borderaxespad": 0.3}
        made = figure.legend(list(found.values()), list(found), loc="lower center", ncols=columns, **style)
        made.set_in_layout(False)
        bottom = made.get_window_extent(renderer).height / figure.dpi + 0.08
    whole = high + top + bottom
    figure.set_figheight(whole)
    figure.set_layout_engine("constrained", rect=(0, bottom / whole, 1, high / whole))
    down = 0.08
    for line, font, colour in above:
        written = figure.text(0.1 / wide, 1 - down / whole, line, font=font, color=colour, va="top")
        written.set_in_layout(False)
        down += 1.35 * font.get_size_in_points() / 72
    return figure


def _wrapped(text: str, font: FontProperties, inches: float, renderer: Any, dpi: float) -> list[str]:
    """Lines of at most ``inches``."""
    lines: list[str] = []
    for word in sentence(text).split(" ") if text else ():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and renderer.get_text_width_height_descent(longer, font, False)[0] <= inches * dpi:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def sentence(text: str) -> str:
    """As it is drawn: a dollar sign would start mathematics; a number and its unit are not to be divided."""
    return re.sub(r"(?<=\d) (?=(%|ms|[KMGT]?i?B)(\W|$))", "\N{NO-BREAK SPACE}", printable(text)).replace("$", r"\$")


def printable(text: str) -> str:
    """Without what no font has."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def name_ends(axes: Axes, lines: Sequence[Any]) -> bool:
    """Write the label of each line at its right end, in its colour, and apart. False where they do not fit.

    The limits of the axes are to be those of the finished picture. They will be somewhat lower than they are now.
    """
    inches = 0.85 * axes.bbox.height / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    names = [str(line.get_label()) for line in lines]
    step = 1.5 * LABEL / 72 / inches  # of the height of the axes
    rows = [1 + name.count("\n") for name in names]
    if not lines or sum(rows) * step > 1 or max(len(name) for name in names) > 30:
        return False
    ends = [max(zip(*line.get_data(), strict=True), key=lambda at: float(at[0])) for line in lines]
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [tuple(to_axes.transform((float(x), float(y)))) for x, y in ends]
    right = max(x for x, _ in places)
    order = sorted(range(len(lines)), key=lambda i: places[i][1])
    at = {order[0]: places[order[0]][1]}
    for before, i in pairwise(order):
        at[i] = max(places[i][1], at[before] + step * (rows[i] + rows[before]) / 2)
    # Down again from the top, so that the topmost does not leave the axes.
    limit = 1.02
    for i in reversed(order):
        at[i] = min(at[i], limit)
        limit = at[i] - step * rows[i]
    for i, line in enumerate(lines):
        colour, (x, y) = line.get_color(), places[i]
        style: dict[str, Any] = {"color": readable(colour), "arrowprops": {"color": colour, **LEADER}, "va": "center"}
        style |= {"fontsize": LABEL, "annotation_clip": False, "xycoords": axes.transAxes, "textcoords": axes.transAxes}
        axes.annotate(names[i], (x, y), (right + 0.09, at[i]), **style)
    return True


def series(count: int) -> list[dict[str, Any]]:
    """Keywords of ``Axes.plot`` for lines that are no policies: dark to light, told apart by marker and dash too."""
    marks, dashes = ("o", "s", "^", "D", "v", "P"), ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
    shades = [to_hex(mpl.colormaps["cividis"](0.1 + 0.65 * i / max(1, count - 1))) for i in range(count)]
    return [
        {"color": shade, "marker": marks[i % 6], "linestyle": dashes[i % 4], "markersize": 4, "linewidth": 1.3}
        for i, shade in enumerate(shades)
    ]


def readable(colour: Any) -> str:
    """The colour, darkened until text of it can be read on white (4.5 : 1, WCAG 2.1)."""
    rgb = np.array(to_rgb(colour))
    while True:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        if 1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05) >= 4.5:
            return to_hex(rgb.tolist())
        rgb = 0.95 * rgb


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers within a logarithmic axis, from 3 to ``most``: at 1, 2, 3, 5, 7, or 1, 2, 5, or powers of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        marks = [m * 10.0**p for p in powers for m in steps if low <= m * 10.0**p <= high]
        if len(marks) <= most:
            break
    marks = marks[:: max(1, math.ceil(len(marks) / most))]
    if len(marks) >= 3:
        return [float(f"{mark:.12g}") for mark in marks]
    # Within a step of those: even steps.
    exact = MaxNLocator(nbins=most - 1, steps=[1, 2, 5, 10], min_n_ticks=3).tick_values(low, high)
    return [float(f"{mark:.12g}") for mark in exact if low <= mark <= high]


def log_scale(axes: Axes, which: str = "y") -> None:
    """Make an axis logarithmic, between the limits that it has, with plain numbers."""
    axis, limits = getattr(axes, f"{which}axis"), getattr(axes, f"get_{which}lim")()
    axes.set(**{f"{which}scale": "log", f"{which}lim": limits})
    marks = log_ticks(*limits)
    axis.set_ticks(marks, [f"{mark:,.12g}" for mark in marks])
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def short(name: object) -> str:
    """A name as it is drawn: whole, in lines that fit beside a figure. A dollar sign would start mathematics."""
    text = printable(" ".join(str(name).split()))
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"
    # One that begins with _ would be left out of legends.
    return ("\u200b" if text.startswith("_") else "") + fill(text, WIDTH).replace("$", r"\$")


class Picture(Figure):
    """A figure that a notebook shows whole, and by itself: a plain one it shows only where pyplot has drawn before."""

    def _repr_png_(self) -> bytes:
        return png(self, 100)

    def get_tightbbox(self, *_: Any, **__: Any) -> Bbox:
        """All of it, in inches: what Jupyter would cut off are the title and the legend."""
        return Bbox.from_bounds(0, 0, *self.get_size_inches())


def png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as a PNG, the same bytes for the same figure."""
    return _saved(figure, "png", dpi=dpi, metadata={"Software": None})


def write_picture(figure: Figure, path: Path) -> None:
    """Write the figure into the file of ``picture=``, an SVG or PNG by its name. UserError where there is no place."""
    with writable(f"picture={path}"):
        write_whole(path, svg(figure) if path.suffix == ".svg" else png(figure))


def few_colours(drawn: bytes) -> bytes:
    """The PNG with at most COLOURS colours; one that has a palette stays as it is."""
    with Image.open(io.BytesIO(drawn)) as image:
        if image.mode == "P":
            return drawn
        few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    few.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as an SVG, the same bytes for the same figure.

    Letters are text in a font of the reader's (DejaVu Sans, Verdana, which is as wide, or a narrower one): as paths,
    they would be nine tenths of the file.
    """
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": "moe-offload", "svg.fonttype": "none"}):
        made = _saved(figure, "svg", metadata=nothing)
    made = re.sub(rb"<!--.*?-->|\n\s*(?=<)", b"", made[made.index(b"<svg ") :], flags=re.DOTALL)
    # Layout is exact to some 13 digits, and names of parts are hashes of them all: hundredths of a point, and numbers.
    names = {name: b"i%d" % number for number, name in enumerate(dict.fromkeys(re.findall(rb' id="([^"]+)"', made)))}

    def plain(tag: re.Match[bytes]) -> bytes:
        if b"base64" in tag[0]:
            return tag[0]
        short = re.sub(rb"(\.\d\d)\d+", rb"\1", tag[0])
        return re.sub(rb'(?<=[ "(#])[a-z][\w.]*(?=[")])', lambda name: names.get(name[0], name[0]), short)

    return re.sub(rb"<[^>]*>", plain, made)


def _saved(figure: Figure, kind: str, **options: Any) -> bytes:
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, **options)
    return stream.getvalue()
