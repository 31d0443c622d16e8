"""Which layers of a file become layers of the trace: those with routing, without those that the user leaves out."""

import re
from collections.abc import Iterable
from itertools import groupby

import numpy as np

from traces.format.layout import MAX_EXPERTS, Array
from traces.kit.errors import TraceError, shown

_PART = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def parse_layers(word: str) -> frozenset[int]:
    """Parse "0,2,4-6"; ValueError with what is allowed."""
    found: set[int] = set()
    for part in word.split(",") if len(word) <= 4096 else [word]:
        match = _PART.fullmatch(part) if part.isascii() else None
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < MAX_EXPERTS:
            allowed = f"numbers of layers below {MAX_EXPERTS}, and spans of them, such as 0,2,4-6"
            raise ValueError(allowed)
        found.update(range(first, last + 1))
    return frozenset(found)


def spans(layers: Iterable[int]) -> str:
    """Write layers as parse_layers reads them."""
    # Layers that follow each other differ from their places by the same.
    runs = groupby(enumerate(sorted(layers)), key=lambda placed: placed[1] - placed[0])
    parts = ([layer for _, layer in run] for _, run in runs)
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def named(layers: Iterable[int]) -> str:
    """Write "layer 3", or "layers 0,2-4"."""
    text = spans(layers)
    return f"layer {text}" if text.isdigit() else f"layers {text}"


def kept_layers(file: str, n_layers: int, without: frozenset[int]) -> Array:
    """Return for each of ``n_layers`` whether it stays. TraceError for one that the file lacks."""
    if without and max(without) >= n_layers:
        found, allowed = spans(layer for layer in without if layer >= n_layers), f"0 to {n_layers - 1}, its layers"
        raise TraceError(f"{file}: without_layers names {shown(found)}; allowed: {allowed}")
    return ~np.isin(np.arange(n_layers), list(without))
