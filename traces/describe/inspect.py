"""Show a trace: tables for a person, JSON for a program; the pictures are in traces.describe.plots."""

import json
import math
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from traces.describe.stats import Reuse, Stats
from traces.format.layout import SIGNALS, Array
from traces.format.reader import Trace


def as_json(trace: Trace, stats: Stats) -> str:
    """Return everything that is known as one JSON document; NaN becomes null."""
    model = trace.manifest.model
    document = {
        "sha256": trace.sha256,
        "model": model.name,
        "shape": {"layers": trace.L, "experts": trace.E, "top_k": trace.K},
        "expert_bytes": model.expert_bytes,
        "dense_bytes": model.dense_bytes,
        "recording": trace.manifest.recording,
        "decoding": dict(trace.manifest.decoding),
        "requests": len(trace.requests),
        "steps": stats.steps,
        "tokens": stats.tokens,
        "sources": stats.sources,
        "splits": stats.splits,
        "signals": [name for name in SIGNALS if trace.has(name)],
        "modelled": dict(trace.manifest.modelled),
        "overlap": {"uniform": stats.uniform_overlap, "layers": _listed(stats.overlap)},
        "entropy_bits": {"uniform": math.log2(trace.E), "layers": _listed(stats.entropy_bits)},
        "load_max_over_mean": _listed(stats.load_max_over_mean),
        "reuse_distance": {
            "median": _listed(stats.reuse.quantile(0.5)),
            "p90": _listed(stats.reuse.quantile(0.9)),
            "first_demands": stats.reuse.first.tolist(),
            "lookups_at_distance": stats.reuse.counts.tolist(),
            "share_within": _listed(stats.reuse.within()),
        },
        "repeated_rows": {
            "pairs": stats.repeats.pairs,
            "equal": stats.repeats.equal,
            "share": stats.repeats.share,
            "expected_share": stats.repeats.expected,
            "longest_run": stats.repeats.longest,
            "suspicious": stats.repeats.suspicious,
        },
        "gate_recall_by_distance": stats.gate_recall_by_distance,
        "gate_recall_by_distance_and_layer": _listed(stats.gate_recall),
        "by_source": {
            "tokens": stats.domains,
            "overlap": _listed(stats.source_overlap),
            "popularity_cosine": _listed(stats.source_cosine),
        },
        "popularity": stats.popularity.tolist(),
    }
    return json.dumps(document, indent=1, allow_nan=False)


def tables(trace: Trace, stats: Stats) -> list[Table]:
    """The trace as a whole, one line per layer, and one per source where there are more."""
    whole = Table(title=Text(str(trace.path)), title_justify="left", show_header=False)
    whole.add_column()
    whole.add_column(overflow="fold")
    for name, text in _facts(trace, stats).items():
        whole.add_row(name, text)
    return [whole, _layers(trace, stats), *([_sources(stats)] if len(stats.domains) > 1 else [])]


def _table(title: str, *headings: str) -> Table:
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _layers(trace: Trace, stats: Stats) -> Table:
    title = "per layer; reuse: distance, median and p90; load: most popular expert / mean; gate: recall 1, 2, ... ahead"
    recall = [] if stats.gate_recall is None else list(stats.gate_recall)
    ahead = [f"gate +{a}" for a in range(1, len(recall) + 1)]
    table = _table(title, "layer", "overlap", "reuse p50", "reuse p90", "bits", "load", "unused", *ahead)
    median, p90 = stats.reuse.quantile(0.5), stats.reuse.quantile(0.9)
    for layer in range(trace.L):
        table.add_row(
            str(layer),
            _number(stats.overlap[layer]),
            _number(median[layer], 0),
            _number(p90[layer], 0),
            _number(stats.entropy_bits[layer], 2),
            _number(stats.load_max_over_mean[layer], 2),
            str(int((stats.popularity[layer] == 0).sum())),
            *(_number(by_layer[layer]) for by_layer in recall),
        )
    return table


def _sources(stats: Stats) -> Table:
    title = "by source; alike: cosine of its popularity of experts with the first source's"
    table = _table(title, "source", "prefill tokens", "decode tokens", "overlap", "alike")
    table.columns[0].justify = "left"
    for index, (name, tokens) in enumerate(stats.domains.items()):
        figures = _number(stats.source_overlap[index]), _number(stats.source_cosine[0, index], 2)
        table.add_row(Text(name), f"{tokens['prefill']:,}", f"{tokens['decode']:,}", *figures)
    return table


def _facts(trace: Trace, stats: Stats) -> dict[str, str]:
    manifest = trace.manifest
    sizes = sorted(set(manifest.model.expert_bytes or ()))
    dense = manifest.model.dense_bytes
    facts = {
        "model": manifest.model.name,
        "routing": f"{trace.L} layers x {trace.E} experts, top-{trace.K}",
        "bytes per expert": " to ".join(f"{size:,}" for size in sizes[:: max(1, len(sizes) - 1)]) or "unknown",
        **({} if dense is None else {"dense bytes per pass": f"{sum(dense):,}"}),
        "recorded": f"{manifest.recording}, by {manifest.recorder.name}, decoding {manifest.decoding['mode']}",
        "requests": f"{len(trace.requests):,} ({_counted(stats.splits)})",
        "steps": _counted(stats.steps),
        "tokens": _counted(stats.tokens),
        "sources": _counted(dict(list(stats.sources.items())[:20])) + (", ..." if len(stats.sources) > 20 else ""),
        "signals": ", ".join(
            f"{name} (modelled)" if name in manifest.modelled else name for name in SIGNALS if trace.has(name)
        ),
        "repeated rows": f"{stats.repeats}{', suspicious' if stats.repeats.suspicious else ''}",
        "overlap of adjacent tokens": f"{_mean(stats.overlap)} (uniform {stats.uniform_overlap:.3f})",
        "reuse distance, median / p90": f"{_pooled(stats, 0.5)} / {_pooled(stats, 0.9)} of {trace.E - 1} other experts",
        "entropy of popularity": f"{_mean(stats.entropy_bits)} bits (uniform {math.log2(trace.E):.3f})",
    }
    for distance, recall in enumerate(stats.gate_recall_by_distance or (), start=1):
        facts[f"gate recall, {distance} ahead"] = "no such layer" if recall is None else f"{recall:.3f}"
    return {**facts, "sha256": trace.sha256}


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _pooled(stats: Stats, share: float) -> str:
    """Return the quantile over the lookups of all layers."""
    pooled = Reuse(stats.reuse.counts.sum(axis=0, keepdims=True), stats.reuse.first.sum(keepdims=True))
    return _number(pooled.quantile(share)[0], 0)


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if value == value else "-"


def _mean(values: Array) -> str:
    known = values[values == values]
    return f"{known.mean():.3f}" if len(known) else "unknown"


def _listed(values: Array | None) -> Any:
    return None if values is None else np.where(np.isnan(values), np.array(None), values).tolist()
