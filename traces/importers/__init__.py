"""Turn other people's recordings into traces: one module per format, each with ``import_trace``."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from traces.errors import UserError


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

    ``split`` is between 0 and 1, both excluded; None leaves all requests without one. There is at least one of
    each. Raises UserError for a split of a single request.
    """
    if split is None:
        return [None] * requests
    if requests == 1:
        raise UserError("split: one request cannot be split into train and test; allowed: two requests or more")
    train = max(int(split * requests), 1)
    chosen = set(np.random.default_rng(seed).permutation(requests)[:train].tolist())
    return ["train" if request in chosen else "test" for request in range(requests)]
