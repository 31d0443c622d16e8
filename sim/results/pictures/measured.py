"""Predicted against measured: each figure of a validation (``python -m real validate``), a point per cell."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sim.prices import title_of
from sim.results.label import label
from sim.results.pictures.colours import Looks, looks
from sim.results.pictures.findings import number
from sim.results.pictures.style import Picture, Sheet
from sim.results.titles import cells_rest_on
from traces.kit.drawing import GREY, INK, PALE, EmptyPictureError, dress, log_scale, short
from traces.kit.panels import Panel

WORDS = {"tpot_ms": "TPOT", "ttft_ms": "TTFT", "stall_ms_per_token": "stall per token"}
HITS = "hit_complete"
BANDS = {0.15: "#EDEDED", 0.05: "#CFCFCF"}
"""Shares of the measured figure, and the greys of the areas within."""
NARROW = 1.6
"""A range of times below so many times its lowest is widened: a few percent are not to look like much."""
Rows = Sequence[Mapping[str, Any]]


@Picture
def measured(document: Mapping[str, Any], look: Looks | None = None) -> Sheet:
    """From the content of a validation's JSON: times in ms on logarithmic axes, complete hits as shares.

    Square panels, each with the same axis on both sides. EmptyPictureError where no figure is known on both sides.
    """
    source = document["provenance"]
    model, machine = title_of("model", source["model"]["name"]), title_of("hardware", source["hardware"]["name"])
    about = f"{model} on {machine}, measured {source['date']}; a point per cell"
    if rests := cells_rest_on(document["cells"]):
        about += f"; {rests}"
    # Small markers, of small budgets, last: they lie on the large ones.
    rows = sorted(document["cells"], key=lambda row: _size(document["cells"], row["budget"]), reverse=True)
    style = look or looks(label(row["policy"]) for row in rows)
    panels = []
    for name, words in (*WORDS.items(), (HITS, "hit rate (complete)")):
        pairs = [(row, row["errors"][name]["device"], row["errors"][name]["simulated"]) for row in rows]
        seen = [it for it in pairs if None not in it[1:] and (name == HITS or min(it[1:]) > 0)]
        if seen:
            title, gone = _finding(words, seen, name), len(rows) - len(seen)
            if gone:
                title += f" ({gone} of {len(rows)} not drawn: {'0 or ' * (name != HITS)}null on one side)"
            panels.append(Panel(title, partial(_draw, rows=rows, seen=seen, style=style, share=name == HITS), 5.0, 5.0))
    if not panels:
        raise EmptyPictureError("no cell has a figure both predicted and measured")
    return Sheet(panels, "Predicted by the simulator against measured on the device", about)


def _finding(words: str, seen: Sequence[tuple[Any, float, float]], name: str) -> str:
    if name == HITS:
        worst = max(abs(simulated - device) for _, device, simulated in seen)
        apart = f"at most {number(100 * worst)} percentage points apart" if worst else "equal"
        return f"{words}: {apart} in {len(seen)} cells"
    errors = [abs(simulated / device - 1) for _, device, simulated in seen]
    within = sum(error <= max(BANDS) for error in errors)
    said = f"{words}: within {max(BANDS):.0%} in {within} of {len(seen)} cells, at worst {max(errors):.0%} off"
    return said.replace("%", " %")


def _draw(
    axes: Axes, *, rows: Rows, seen: Sequence[tuple[Any, float, float]], style: Looks, share: bool
) -> Sequence[Any]:
    values = [value for _, *pair in seen for value in pair]
    low, high = min(values), max(values)
    if share:
        low, high = -0.03, 1.03
    else:
        spread = max((high / low) ** 0.05, (NARROW * low / high) ** 0.5)
        low, high = low / spread, high * spread
    named: list[Any] = []
    edge = np.array([low, high])
    for band, grey in {} if share else BANDS.items():
        area = axes.fill_between(edge, edge * (1 - band), edge * (1 + band), color=grey, linewidth=0)
        area.set_label(f"within {100 * band:g} %")
        named.append(area)
    axes.plot(edge, edge, color=INK, linewidth=0.8, label="_equal")
    for row, device, simulated in seen:
        own = {"linestyle": "none", "clip_on": True, "markersize": _size(rows, row["budget"]), "label": "_point"}
        axes.plot([device], [simulated], **style[label(row["policy"])].line | own)
    unit = "share" if share else "ms"
    axes.set(xlabel=f"measured, {unit}", ylabel=f"predicted, {unit}", xlim=(low, high), ylim=(low, high))
    axes.set_box_aspect(1)
    dress(axes, "both")
    axes.grid(color=PALE, linewidth=0.6)
    if share:
        axes.set(xticks=(ticks := (0, 0.2, 0.4, 0.6, 0.8, 1)), yticks=ticks)
    else:
        log_scale(axes, "x")
        log_scale(axes, "y")
    alone: dict[str, Any] = {"linestyle": "none", "markersize": 8}
    names = sorted({label(row["policy"]) for row in rows})
    named += [Line2D([], [], **style[name].line | alone, label=short(name)) for name in names]
    for budget in _budgets(rows):
        dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": GREY, "markersize": _size(rows, budget)}
        named.append(Line2D([], [], **dot, label=f"budget {budget}"))
    return named


def _budgets(rows: Rows) -> list[Any]:
    """The budgets of a validation as they were given, by bytes where a row has them, else in their order."""
    return list(dict.fromkeys(row["budget"] for row in sorted(rows, key=lambda row: row.get("budget_bytes") or 0)))


def _size(rows: Rows, budget: Any) -> float:
    """A larger marker for a larger budget: labels beside the points would lie on one another."""
    budgets = _budgets(rows)
    return 5 + 6 * budgets.index(budget) / max(1, len(budgets) - 1)
