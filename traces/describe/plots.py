"""Pictures of a trace's figures, one PNG each; their titles say what was recorded."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from traces.describe.stats import Stats
from traces.format.layout import Array
from traces.format.reader import Trace
from traces.kit.conf import model_title
from traces.kit.drawing import GREY, INK, LABEL, PALE, dress, name_ends, png, series, short
from traces.kit.errors import TraceError
from traces.kit.panels import Panel, together
from traces.kit.whole import write_whole

Lines = Sequence[tuple[Array, str]]
PHASES = (("prefill", "#A9B8C9", ""), ("decode", "#4E6A88", "///"))


def write_plots(trace: Trace, stats: Stats, target: Path) -> list[Path]:
    """Write the PNGs into folder ``target``, which is made if need be; returns their paths.

    A figure that the trace has nothing for (sources, gates ahead; layers, where there is one) is left out.
    Raises TraceError.
    """
    drawn: dict[str, Callable[[Trace, Stats], Panel | Figure]] = {"tokens": _tokens, "popularity": popularity_panel}
    drawn["reuse_distance"] = reuse_distance
    if trace.L > 1:
        drawn |= {"overlap": _overlap, "load_balance": _balance, "entropy": _entropy}
    if stats.gate_recall is not None and trace.L > 2:
        drawn["gate_recall"] = _gate_recall
    if len(stats.domains) > 1:
        drawn["sources"] = _sources
    paths = []
    try:
        target.mkdir(exist_ok=True)
        for name, draw in drawn.items():
            paths.append(target / f"{name}.png")
            made = draw(trace, stats)
            made = together([made], "", subtitle(trace, stats)) if isinstance(made, Panel) else made
            write_whole(paths[-1], png(made))
    except OSError as error:
        raise TraceError(f"{target}: {error.strerror}; allowed: a folder that can be written") from None
    return paths


def subtitle(trace: Trace, stats: Stats) -> str:
    """Whose routing it is, and how much of it."""
    tokens = f"{sum(stats.tokens.values()):,} tokens, {trace.L} MoE layers of {trace.E} experts, top-{trace.K}"
    return f"routing of {model_title(trace.manifest.model.name)}, {trace.manifest.recording}: {tokens}"


def _span(values: Array, digits: int = 3) -> str:
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return "unknown"
    low, high = (f"{value:.{digits}g}" for value in (known.min(), known.max()))
    return low if low == high else f"{low} to {high}"


def _by_layer(trace: Trace, title: str, ylabel: str, top: float, lines: Lines, level: tuple[float, str]) -> Panel:
    """Lines over the layers, each with its label, to ``top``; ``level``: what chance or perfection would give."""

    def draw(axes: Axes) -> Sequence[Any]:
        drawn = []
        for (values, label), look in zip(lines, series(len(lines)), strict=True):
            drawn += axes.plot(np.arange(trace.L), values, label=label, **look)
        axes.set(xlabel="MoE layer", ylabel=ylabel, xlim=(-0.5, trace.L - 0.5), ylim=(0, top))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        dress(axes)
        style: dict[str, Any] = {"color": GREY, "linestyle": (0, (1, 2)), "linewidth": 1.2, "scalex": False}
        drawn += axes.plot(axes.get_xlim(), (level[0], level[0]), label=level[1], **style)
        return [] if name_ends(axes, drawn) else drawn

    return Panel(title, draw)


def _overlap(trace: Trace, stats: Stats) -> Panel:
    by_chance = stats.uniform_overlap
    title = f"A token shares {_span(stats.overlap, 2)} of its experts with the one before; by chance it would be"
    lines, level = [(stats.overlap, "recorded")], (by_chance, "uniform choice, K/E")
    return _by_layer(trace, f"{title} {by_chance:.2g}", "share of a token's experts", 1, lines, level)


def _balance(trace: Trace, stats: Stats) -> Panel:
    load = stats.load_max_over_mean
    top = 1.08 * max(1.0, float(np.nanmax(load))) if np.isfinite(load).any() else 2
    title = f"The most popular expert of a layer is chosen {_span(load)} times as often as the mean"
    lines, level = [(load, "most popular")], (1, "perfect balance")
    return _by_layer(trace, title, "times chosen / mean of the layer", top, lines, level)


def _entropy(trace: Trace, stats: Stats) -> Panel:
    most = math.log2(trace.E)
    title = f"The popularity of experts has {_span(stats.entropy_bits)} bits of entropy; uniform choice has {most:.3g}"
    lines, level = [(stats.entropy_bits, "recorded")], (most, "uniform choice, log2 E")
    return _by_layer(trace, title, "entropy (bits)", max(1, 1.1 * most), lines, level)


def _gate_recall(trace: Trace, stats: Stats) -> Panel:
    assert stats.gate_recall is not None
    share = _span(stats.gate_recall[0], 2)
    title = f"A gate that is applied one layer early names {share} of the experts that are chosen"
    lines = [(own, f"{i} layer{'s' * (i > 1)} ahead") for i, own in enumerate(stats.gate_recall, start=1)]
    level = (stats.uniform_overlap, "uniform choice, K/E")
    return _by_layer(trace, title, "recall (share of the layer's experts)", 1.02, lines, level)


def popularity(trace: Trace, stats: Stats) -> Figure:
    """How often each expert of each layer was chosen, as a multiple of uniform choice: white is 1."""
    return together([popularity_panel(trace, stats)], "", subtitle(trace, stats))


def popularity_panel(trace: Trace, stats: Stats) -> Panel:
    chosen = stats.popularity / stats.popularity.sum(axis=1, keepdims=True).clip(min=1) * trace.E
    layer, expert = np.unravel_index(int(chosen.argmax()), chosen.shape)

    def draw(axes: Axes) -> Sequence[Any]:
        # One very popular expert must not make all the others look alike.
        top = max(2.0, float(np.quantile(chosen, 0.99)))
        style: dict[str, Any] = {"aspect": "auto", "origin": "lower", "interpolation": "nearest", "cmap": "PuOr_r"}
        image = axes.imshow(chosen, norm=TwoSlopeNorm(1, 0, top), **style)
        axes.set(xlabel="expert", ylabel="MoE layer")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.tick_params(labelsize=LABEL)
        figure: Any = axes.get_figure(root=True)
        bar = figure.colorbar(image, ax=axes, extend="max", ticks=[0, 0.5, 1, *np.linspace(1, top, 3)[1:].round(1)])
        bar.set_label("times chosen / uniform choice", fontsize=LABEL)
        bar.ax.tick_params(labelsize=LABEL)
        return ()

    title = f"Expert {expert} of layer {layer} is chosen {chosen.max():.3g} times as often as by uniform choice"
    return Panel(title, draw, min(14, 4.4 + trace.E / 32), min(12, 1.6 + trace.L / 8))


def reuse_distance(trace: Trace, stats: Stats) -> Figure:
    """Distances in experts of the layer: the share of lookups within each, and quantiles by layer."""
    panels = reuse_panels(trace, stats)
    title = "Reuse distance: other experts of the layer demanded between" if len(panels) > 1 else ""
    return together(panels, title, subtitle(trace, stats))


def reuse_panels(trace: Trace, stats: Stats) -> list[Panel]:
    """The axes of :func:`reuse_distance`; by layer where there are several."""
    lookups = stats.reuse.counts.sum(axis=1) + stats.reuse.first
    layers = np.cumsum(stats.reuse.counts, axis=1) / lookups.clip(min=1)[:, None]
    within, distances, look = stats.reuse.within(), np.arange(trace.E), series(1)[0]

    def shares(axes: Axes) -> Sequence[Any]:
        colour = look["color"]
        named: list[Any] = []
        if trace.L > 1:
            band: dict[str, Any] = {"color": PALE, "step": "post", "linewidth": 0, "label": "lowest to highest layer"}
            named.append(axes.fill_between(distances, layers.min(axis=0), layers.max(axis=0), **band))
        named += axes.step(distances, within, where="post", color=colour, label="all lookups")
        axes.set(xlabel="reuse distance (experts)", ylabel="share of lookups within it")
        axes.set(xlim=(0, trace.E), ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        dress(axes, "both")
        return named if trace.L > 1 else []

    half = max(1, trace.E // 2)
    share = f"{within[half - 1]:.0%}".replace("%", " %")
    panels = [Panel(f"{share} of the lookups have a distance below {half}, of {trace.E} experts of a layer", shares)]
    if trace.L > 1:
        quantiles = [(stats.reuse.quantile(share), name) for share, name in ((0.5, "median"), (0.9, "90th percentile"))]
        title = f"By layer: half of the distances are at most {_span(quantiles[0][0])}"
        level = (trace.E - 1, "farthest, E - 1")
        panels.append(_by_layer(trace, title, "reuse distance (experts)", trace.E * 1.05, quantiles, level))
    return panels


def _tokens(trace: Trace, stats: Stats) -> Panel:
    names, total = list(stats.domains), sum(stats.tokens.values())

    def draw(axes: Axes) -> Sequence[Any]:
        start, named = np.zeros(len(names)), []
        for phase, colour, hatch in PHASES:
            counts = np.array([stats.domains[name][phase] for name in names])
            label = f"{phase} ({stats.tokens[phase]:,} tokens, {stats.steps[phase]:,} steps)"
            style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.5, "height": 0.7}
            named.append(axes.barh(np.arange(len(names)), counts, left=start, label=label, **style))
            start += counts
        axes.set_yticks(np.arange(len(names)), [short(name) for name in names])
        axes.invert_yaxis()
        axes.set(xlabel="tokens", ylabel="source")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        dress(axes, "x")
        return named

    decoded = f"{stats.tokens['decode'] / total:.0%}".replace("%", " %") if total else "none"
    title = f"{total:,} tokens of {len(names)} source{'s' * (len(names) > 1)}, {decoded} of them decoded"
    return Panel(title, draw, 6.4, 0.8 + 0.32 * len(names))


def _sources(trace: Trace, stats: Stats) -> Figure:
    names = [short(name) for name in stats.domains]
    count = len(names)
    apart = stats.source_cosine[~np.eye(count, dtype=bool)]

    def alike(axes: Axes) -> Sequence[Any]:
        image = axes.imshow(stats.source_cosine, aspect="auto", cmap="cividis", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(stats.source_cosine):
            colour = "black" if value > 0.5 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=LABEL, color=colour)
        axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), names)
        axes.tick_params(labelsize=LABEL)
        bar = axes.get_figure(root=True).colorbar(image, ax=axes)  # type: ignore[union-attr]
        bar.set_label("cosine of the popularities (1: alike)", fontsize=LABEL)
        return ()

    def shared(axes: Axes) -> Sequence[Any]:
        axes.barh(range(count), stats.source_overlap, color=PHASES[0][1], edgecolor=INK, linewidth=0.5)
        axes.set_yticks(range(count), names)
        axes.invert_yaxis()
        axes.set(xlabel="share of a token's experts", ylabel="source", xlim=(0, 1))
        dress(axes, "x")
        label = f"uniform choice, K/E = {stats.uniform_overlap:.3g}"
        return [axes.axvline(stats.uniform_overlap, color=INK, linestyle=(0, (1, 2)), label=label)]

    high = 1.8 + 0.4 * count
    panels = [
        Panel(f"Popularity of experts, pairs of sources: cosine {_span(apart, 2)}", alike, 3.2 + 0.5 * count, high),
        Panel(f"Shared with the previous token: {_span(stats.source_overlap, 2)}", shared, 5.0, high),
    ]
    return together(panels, "Routing by source", subtitle(trace, stats))
