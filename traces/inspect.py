"""Show a trace: tables for a person, JSON for a program, a heat map of expert popularity."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from traces.errors import TraceError
from traces.format import SIGNALS, Array
from traces.reader import Trace
from traces.stats import Stats


def as_json(trace: Trace, stats: Stats) -> str:
    """Return everything that is known as one JSON document; NaN becomes null."""
    model = trace.manifest.model
    document = {
        "sha256": trace.sha256,
        "model": model.name,
        "shape": {"layers": trace.L, "experts": trace.E, "top_k": trace.K},
        "expert_bytes": model.expert_bytes,
        "recording": trace.manifest.recording,
        "decoding": dict(trace.manifest.decoding),
        "requests": len(trace.requests),
        "steps": stats.steps,
        "tokens": stats.tokens,
        "sources": stats.sources,
        "splits": stats.splits,
        "signals": [name for name in SIGNALS if trace.has(name)],
        "overlap": {"uniform": stats.uniform_overlap, "layers": _listed(stats.overlap)},
        "entropy_bits": {"uniform": math.log2(trace.E), "layers": _listed(stats.entropy_bits)},
        "load_max_over_mean": _listed(stats.load_max_over_mean),
        "gate_recall_by_distance": stats.gate_recall,
        "popularity": stats.popularity.tolist(),
    }
    return json.dumps(document, indent=1, allow_nan=False)


def as_tables(trace: Trace, stats: Stats) -> Group:
    """Return a rich renderable: the trace as a whole, then one line per layer."""
    whole = Table(title=Text(str(trace.path)), title_justify="left", show_header=False)
    whole.add_column()
    whole.add_column(overflow="fold")
    for name, text in _facts(trace, stats).items():
        whole.add_row(name, text)
    layers = Table(title=Text("per layer"), title_justify="left")
    for heading in ("layer", "overlap", "entropy, bits", "load max / mean", "experts never chosen"):
        layers.add_column(heading, justify="right")
    for layer in range(trace.L):
        layers.add_row(
            str(layer),
            f"{stats.overlap[layer]:.3f}",
            f"{stats.entropy_bits[layer]:.2f}",
            f"{stats.load_max_over_mean[layer]:.2f}",
            str(int((stats.popularity[layer] == 0).sum())),
        )
    return Group(whole, layers)


def _facts(trace: Trace, stats: Stats) -> dict[str, str]:
    manifest = trace.manifest
    sizes = sorted(set(manifest.model.expert_bytes or ()))
    facts = {
        "model": manifest.model.name,
        "routing": f"{trace.L} layers x {trace.E} experts, top-{trace.K}",
        "bytes per expert": " to ".join(f"{size:,}" for size in sizes[:: max(1, len(sizes) - 1)]) or "unknown",
        "recorded": f"{manifest.recording}, by {manifest.recorder.name}, decoding {manifest.decoding['mode']}",
        "requests": f"{len(trace.requests):,} ({_counted(stats.splits)})",
        "steps": _counted(stats.steps),
        "tokens": _counted(stats.tokens),
        "sources": _counted(stats.sources),
        "signals": ", ".join(name for name in SIGNALS if trace.has(name)),
        "overlap of adjacent tokens": f"{_mean(stats.overlap)} (uniform {stats.uniform_overlap:.3f})",
        "entropy of popularity": f"{_mean(stats.entropy_bits)} bits (uniform {math.log2(trace.E):.3f})",
    }
    for distance, recall in enumerate(stats.gate_recall or (), start=1):
        facts[f"gate recall, {distance} ahead"] = "no such layer" if recall is None else f"{recall:.3f}"
    return {**facts, "sha256": trace.sha256}


def plot_popularity(trace: Trace, stats: Stats, target: Path) -> None:
    """Write a PNG: how much more often than uniformly each expert of each layer was chosen.

    Raises TraceError where ``target`` cannot be written.
    """
    # Imported here: plotting is rare, and its import takes a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = stats.popularity / stats.popularity.sum(axis=1, keepdims=True).clip(min=1) * trace.E
    figure = Figure(figsize=(min(16, 4 + trace.E / 10), min(12, 2 + trace.L / 6)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # One very popular expert must not make all the others look alike.
    top = max(2.0, float(sorted(chosen.ravel())[int(0.99 * (chosen.size - 1))]))
    image = axes.imshow(chosen, aspect="auto", origin="lower", interpolation="nearest", cmap="magma", vmin=0, vmax=top)
    axes.set(xlabel="expert", ylabel="layer", title=f"{trace.manifest.model.name}: popularity of experts")
    figure.colorbar(image, ax=axes, label="times chosen / uniform", extend="max")
    try:
        figure.savefig(target, dpi=120, format="png")
    except OSError as error:
        raise TraceError(f"{target}: {error.strerror}; allowed: a file that can be written") from None


def print_tables(trace: Trace, stats: Stats) -> None:
    """Print the tables on stdout; what a trace calls itself is text, never markup."""
    Console(markup=False, emoji=False, highlight=False).print(as_tables(trace, stats))


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _mean(values: Array) -> str:
    known = values[values == values]
    return f"{known.mean():.3f}" if len(known) else "unknown"


def _listed(values: Array) -> list[Any]:
    return [float(value) if value == value else None for value in values]
