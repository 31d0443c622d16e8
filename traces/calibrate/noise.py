"""How far the samples of a profile's tables were apart: what was measured on a busy machine says so."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDE = 0.2
"""A point is noisy where its quartiles are further apart than this share of its median."""


def spreads(median: Sequence[int], q1: Sequence[int], q3: Sequence[int]) -> list[float]:
    """Distance of the quartiles over the median, by point."""
    return [(high - low) / middle for low, middle, high in zip(q1, median, q3, strict=True)]


def noise_of(tables: Mapping[str, Mapping[str, Any]], models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``measured.noise`` of a profile: the widest spread of each table, and the tables with noisy points.

    A model's table is named NAME.expert and so on.
    """
    every = dict(tables)
    for model, section in models.items():
        every |= {f"{model}.{key}": it for key, it in section.items() if isinstance(it, Mapping) and "median_ns" in it}
    found = {name: spreads(table["median_ns"], table["q1_ns"], table["q3_ns"]) for name, table in every.items()}
    return {
        "threshold": WIDE,
        "spread": {name: round(max(spread), 3) for name, spread in found.items()},
        "noisy": noisy(found) or None,
    }


def noisy(spread: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Tables with a noisy point, and how many of its points are."""
    wide = {name: sum(x > WIDE for x in found) for name, found in spread.items()}
    return {name: f"{n} of {len(spread[name])} points" for name, n in wide.items() if n}


def in_words(noisy: Mapping[str, str]) -> str:
    """Which tables, and at how many of their points, for a line."""
    tables = "; ".join(f"{name} at {points}" for name, points in noisy.items())
    return f"{tables} (quartiles more than {100 * WIDE:g} % of the median apart)"
