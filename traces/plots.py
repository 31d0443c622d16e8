"""Pictures of a trace's figures, one PNG each; colours of Okabe and Ito, told apart by marker or dash as well."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from traces.errors import TraceError
from traces.reader import Trace
from traces.stats import Stats

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", ":", "-.")


def write_plots(trace: Trace, stats: Stats, target: Path) -> list[Path]:
    """Write the PNGs into folder ``target``, which is made if need be; returns their paths.

    A figure that the trace has nothing for (sources, gates ahead) is left out. Raises TraceError.
    """
    drawn: dict[str, Callable[[Trace, Stats], Figure]] = {
        "tokens": _tokens,
        "popularity": popularity,
        "overlap": _overlap,
        "reuse_distance": reuse_distance,
        "load_balance": _balance,
        "entropy": _entropy,
    }
    if stats.gate_recall is not None:
        drawn["gate_recall"] = _gate_recall
    if len(stats.domains) > 1:
        drawn["sources"] = _sources
    paths = []
    try:
        target.mkdir(exist_ok=True)
        for name, draw in drawn.items():
            paths.append(target / f"{name}.png")
            figure = draw(trace, stats)
            FigureCanvasAgg(figure)
            figure.savefig(paths[-1], dpi=120, format="png")
    except OSError as error:
        raise TraceError(f"{target}: {error.strerror}; allowed: a folder that can be written") from None
    return paths


def _panel(trace: Trace, title: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return a figure of one panel with the layers from left to right."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=f"{_short(trace.manifest.model.name)}: {title}", xlabel="MoE layer", ylabel=ylabel)
    axes.set_xlim(-0.5, trace.L - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    return figure, axes


def _line(axes: Axes, values: np.ndarray, label: str, number: int = 0) -> None:
    style = f"{_MARKERS[number % 6]}{_DASHES[number % 4]}"
    axes.plot(np.arange(len(values)), values, style, label=label, markersize=4, color=_COLOURS[number % 6])


def _level(axes: Axes, value: float, label: str) -> None:
    axes.axhline(value, color="black", linestyle=(0, (1, 2)), linewidth=1.2, label=label)


def _legend(figure: Figure) -> Figure:
    """Put the legend below the panels, where it hides nothing."""
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _overlap(trace: Trace, stats: Stats) -> Figure:
    figure, axes = _panel(trace, "experts shared with the previous token", "share of a token's experts")
    _line(axes, stats.overlap, "recorded")
    _level(axes, stats.uniform_overlap, f"uniform choice, K/E = {stats.uniform_overlap:.3f}")
    axes.set_ylim(0, 1)
    return _legend(figure)


def _balance(trace: Trace, stats: Stats) -> Figure:
    figure, axes = _panel(trace, "load of the most popular expert", "times chosen / mean of the layer")
    _line(axes, stats.load_max_over_mean, "most popular expert")
    _level(axes, 1, "perfect balance")
    axes.set_ylim(bottom=0)
    return _legend(figure)


def _entropy(trace: Trace, stats: Stats) -> Figure:
    figure, axes = _panel(trace, "entropy of the popularity of experts", "entropy (bits)")
    _line(axes, stats.entropy_bits, "recorded")
    _level(axes, math.log2(trace.E), f"uniform choice, log2 E = {math.log2(trace.E):.2f}")
    axes.set_ylim(0, max(1, 1.1 * math.log2(trace.E)))
    return _legend(figure)


def _gate_recall(trace: Trace, stats: Stats) -> Figure:
    assert stats.gate_recall is not None
    figure, axes = _panel(trace, "experts that a gate applied early names", "recall (share of the layer's experts)")
    for distance, values in enumerate(stats.gate_recall, start=1):
        _line(axes, values, f"{distance} layer{'s' * (distance > 1)} ahead", distance - 1)
    _level(axes, stats.uniform_overlap, f"uniform choice, K/E = {stats.uniform_overlap:.3f}")
    axes.set_ylim(0, 1)
    return _legend(figure)


def popularity(trace: Trace, stats: Stats) -> Figure:
    """How often each expert of each layer was chosen, as a multiple of uniform choice."""
    chosen = stats.popularity / stats.popularity.sum(axis=1, keepdims=True).clip(min=1) * trace.E
    figure = Figure(figsize=(min(16, 5 + trace.E / 12), min(12, 2.5 + trace.L / 6)), layout="constrained")
    axes = figure.add_subplot()
    # One very popular expert must not make all the others look alike.
    top = max(2.0, float(np.quantile(chosen, 0.99)))
    image = axes.imshow(
        chosen, aspect="auto", origin="lower", interpolation="nearest", cmap="cividis", vmin=0, vmax=top
    )
    axes.set(xlabel="expert", ylabel="MoE layer", title=f"{_short(trace.manifest.model.name)}: popularity of experts")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.colorbar(image, ax=axes, label="times chosen / uniform", extend="max")
    return figure


def reuse_distance(trace: Trace, stats: Stats) -> Figure:
    """Distances in experts of the layer: the share of lookups within each, and quantiles by layer."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(
        f"{_short(trace.manifest.model.name)}: reuse distance (other experts of the layer demanded between)"
    )
    left, right = figure.subplots(1, 2)
    lookups = stats.reuse.counts.sum(axis=1) + stats.reuse.first
    layers = np.cumsum(stats.reuse.counts, axis=1) / lookups.clip(min=1)[:, None]
    distances = np.arange(trace.E)
    band = {"color": _COLOURS[0], "alpha": 0.2, "step": "post", "linewidth": 0}
    left.fill_between(distances, layers.min(axis=0), layers.max(axis=0), label="lowest to highest layer", **band)
    left.step(distances, stats.reuse.within(), where="post", color=_COLOURS[0], label="all layers")
    left.set(xlabel="reuse distance (experts)", ylabel="share of lookups within it", ylim=(0, 1.02), xlim=(0, trace.E))
    left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for number, (share, label) in enumerate(((0.5, "median"), (0.9, "90th percentile"))):
        _line(right, stats.reuse.quantile(share), label, number)
    _level(right, trace.E - 1, f"farthest possible, E - 1 = {trace.E - 1}")
    right.set(xlabel="MoE layer", ylabel="reuse distance (experts)", xlim=(-0.5, trace.L - 0.5))
    right.set_ylim(0, trace.E * 1.05)
    right.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return _legend(figure)


def _tokens(trace: Trace, stats: Stats) -> Figure:
    names = list(stats.domains)
    figure = Figure(figsize=(8, 1.8 + 0.35 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    start = np.zeros(len(names))
    for phase, colour, hatch in (("prefill", _COLOURS[0], ""), ("decode", _COLOURS[1], "///")):
        counts = np.array([stats.domains[name][phase] for name in names])
        label = f"{phase} ({stats.tokens[phase]:,} tokens, {stats.steps[phase]:,} steps)"
        axes.barh(np.arange(len(names)), counts, left=start, color=colour, hatch=hatch, edgecolor="black", label=label)
        start += counts
    axes.set_yticks(np.arange(len(names)), [_short(name) for name in names])
    axes.invert_yaxis()
    axes.set(title=f"{_short(trace.manifest.model.name)}: tokens by source and phase", xlabel="tokens", ylabel="source")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return _legend(figure)


def _sources(trace: Trace, stats: Stats) -> Figure:
    names = [_short(name) for name in stats.domains]
    count = len(names)
    figure = Figure(figsize=(7 + 0.75 * count, 2.5 + 0.5 * count), layout="constrained")
    figure.suptitle(f"{_short(trace.manifest.model.name)}: routing by source")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
    image = left.imshow(stats.source_cosine, aspect="auto", cmap="cividis", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(stats.source_cosine):
        colour = "black" if value > 0.5 else "white"
        left.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="small", color=colour)
    left.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
    left.set_yticks(range(count), names)
    left.set(title="popularity of experts, compared")
    figure.colorbar(image, ax=left, label="cosine (1: alike)")
    right.barh(range(count), stats.source_overlap, color=_COLOURS[4], edgecolor="black", label="recorded")
    label = f"uniform choice, K/E = {stats.uniform_overlap:.3f}"
    right.axvline(stats.uniform_overlap, color="black", linestyle=(0, (1, 2)), label=label)
    right.set(title="experts shared with the\nprevious token", xlabel="share of a token's experts", xlim=(0, 1))
    right.grid(axis="x", alpha=0.3)
    return _legend(figure)


def _short(name: str) -> str:
    """Return a name that fits beside a figure; a dollar sign would start mathematics."""
    name = name.replace("$", r"\$")
    return name if len(name) <= 32 else f"{name[:29]}..."
