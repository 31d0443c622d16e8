"""Layer by layer: where the hits are, and where compute waits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from policies.api import OUTPUTS
from sim.core.accounts import PHASES, STALLS
from sim.results.classes import marked, outputs
from sim.results.pictures.findings import number
from sim.results.pictures.style import Picture, Sheet, need, pages_of
from traces.describe import plots
from traces.describe.stats import Stats, describe
from traces.format.reader import Trace
from traces.kit.drawing import LABEL, EmptyPictureError, short
from traces.kit.errors import UserError, one_of
from traces.kit.panels import Panel
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd


@Picture
def layers(frame: pd.DataFrame, phase: str = "decode", page: int | None = 1, about: str = "") -> Sheet:
    """From ``sim.load_layers``: complete hits (% of lookups) and stall (ms per generated token), seeds together.

    A row per budget and policy, a column per MoE layer; one without lookups is white, and what is 0 everywhere is left
    out; ``about``: the subtitle. EmptyPictureError without any, and after the last page; all pages have the same
    colours.
    """
    if phase not in PHASES:
        raise UserError(f"phase={phase}: allowed: {one_of(PHASES)}")
    stalls = [f"stall_{name}_ns" for name in STALLS]
    need(frame, "policy_label", "budget_bytes", "lossless", "generated_tokens", "phase", "layer", "lookups", *stalls)
    own = frame[frame["phase"] == phase]
    if not own["lookups"].any():
        raise EmptyPictureError(f"no {phase} lookups")
    own = own.assign(stall=own[stalls].sum(axis=1), output=outputs(own))
    keys = ["output", "budget_bytes", "policy_label"]
    sums = own.groupby([*keys, "layer"])[["complete", "lookups", "stall", "generated_tokens"]].sum()
    seen = sums["lookups"].astype(float)
    rates = 100 * sums["complete"].astype(float) / seen.where(seen > 0)
    waits = sums["stall"].astype(float) / 1e6 / sums["generated_tokens"].astype(float)
    ordered = sorted({key[:3] for key in sums.index}, key=lambda key: (OUTPUTS.index(key[0]), key[1], key[2]))
    pages, of = pages_of([key[:2] for key in ordered], page)
    drawn = (
        (rates, f"complete hits, {phase} (% of lookups)", 100.0, "cividis", " %"),
        (waits, f"stall, {phase} (ms per generated token)", float(waits.max()), "YlOrBr", " ms"),
    )
    panels = []
    for rows, (values, label, most, colours, unit) in product((ordered[shown] for shown in pages), drawn):
        if values.any():
            draw = partial(_heat, values=values, rows=rows, label=label, most=most, colours=colours)
            tall = sum(0.1 + 0.15 * _name(key).count("\n") + 0.13 for key in rows)
            panels.append(Panel(_finding(values, label, unit), draw, 6.4, 1.35 + tall))
    if not panels:
        raise EmptyPictureError(f"no {phase} lookup hits, and none waits")
    return Sheet(panels, f"Layer by layer, {phase}{of}", about, sharey=True, titled=True)


def _finding(values: pd.Series[float], label: str, unit: str) -> str:
    """The layers in which the mean of all rows is lowest and highest."""
    means = values.groupby(level="layer").mean().dropna()
    rows = len(values.unstack("layer"))  # noqa: PD010 - a series
    of = f", on average over {rows} rows" if rows > 1 else ""
    what = label.partition(" (")[0].capitalize()
    low, high = number(means.min()), number(means.max())
    if low == high:
        return f"{what}: {high}{unit} in every layer{of}"
    ends = f"least in layer {means.idxmin()} ({low}{unit}), most in layer {means.idxmax()} ({high}{unit})"
    return f"{what}: {ends}{of}"


def _name(key: tuple[str, int, str]) -> str:
    return f"{marked(short(key[2]), key[0])}, {format_bytes(int(key[1]))}"


def _heat(
    axes: Axes, *, values: pd.Series[float], rows: list[tuple[str, int, str]], label: str, most: float, colours: str
) -> Sequence[Any]:
    """Rows downwards; the lightness of the colours alone tells the values."""
    grid = values.unstack("layer").loc[rows].to_numpy(dtype=float)  # noqa: PD010 - a series
    first = int(values.index.get_level_values("layer").min())
    extent = (first - 0.5, first + grid.shape[1] - 0.5, len(grid) - 0.5, -0.5)
    style: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "cmap": colours, "vmin": 0}
    image = axes.imshow(grid, vmax=most, extent=extent, **style)
    axes.set_xlabel("MoE layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    bar = axes.get_figure(root=True).colorbar(image, ax=axes, location="bottom", aspect=40, pad=0.02)  # type: ignore[union-attr]
    bar.set_label(label, fontsize=LABEL)
    bar.ax.tick_params(labelsize=LABEL)
    axes.tick_params(labelsize=LABEL)
    axes.set_yticks(range(len(rows)), [_name(key) for key in rows])
    for below, (upper, lower) in enumerate(pairwise(rows)):
        if upper[:2] != lower[:2]:
            axes.axhline(below + 0.5, color="white", linewidth=2)
    return ()


@Picture
def popularity(trace: Trace, stats: Stats | None = None) -> Sheet:
    """How often each expert of each layer of a trace was chosen, as a multiple of uniform choice."""
    stats = stats or describe(trace)
    return Sheet([plots.popularity_panel(trace, stats)], "", plots.subtitle(trace, stats))


@Picture
def reuse(trace: Trace, stats: Stats | None = None) -> Sheet:
    """Reuse distances in experts of the layer: the share of lookups within each, and quantiles by layer."""
    stats = stats or describe(trace)
    title = "Reuse distance: other experts of the layer demanded between"
    return Sheet(plots.reuse_panels(trace, stats), title, plots.subtitle(trace, stats))
