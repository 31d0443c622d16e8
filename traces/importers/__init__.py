"""Turn other people's recordings into traces: one module per format, each with ``import_trace``."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Options:
    """What every importer is told. None: not given, the importer's own rule holds."""

    split: Fraction | None = None
    seed: int = 0
    limit: int | None = None
    model: str | None = None
    source: str | None = None
    licence: str | None = None
    n_experts: int | None = None
    meta: Path | None = None


def assign_splits(requests: int, split: Fraction | None, seed: int) -> list[str | None]:
    """Assign "train" to floor(split * requests) requests drawn at random, "test" to the others.

    ``split`` is between 0 and 1, both excluded. There is at least one of each from two requests on; a single
    request belongs to neither (None), and no request does where ``split`` is None.
    """
    if requests == 1 or split is None:
        return [None] * requests
    train = max(int(split * requests), 1)
    chosen = set(np.random.default_rng(seed).permutation(requests)[:train].tolist())
    return ["train" if request in chosen else "test" for request in range(requests)]
