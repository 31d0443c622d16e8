"""Turn other people's recordings into traces: one module per format, each with an ``Importer``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from traces.kit.errors import UserError
from traces.kit.words import Parser


@dataclass(frozen=True)
class Options:
    """What every importer is told. None: not given, the importer's own rule holds.

    ``arrivals``: a log, see traces.importers.arrivals. ``without_layers``: layers of the file that are left out.
    ``phases``: "all", or "decode" for the decode passes alone, after prompts that are context.
    ``own``: the options that only this importer has. ``note``: takes one line for each thing that was inferred and
    not read, in plain words, with the option that states it;
    one that begins with "warning: " is a warning. traces.importers.build keeps to all of them.
    """

    split: Fraction | None = None
    seed: int = 0
    limit: int | None = None
    model: str | None = None
    source: str | None = None
    licence: str | None = None
    arrivals: Path | None = None
    n_experts: int | None = None
    meta: Path | None = None
    without_layers: frozenset[int] = frozenset()
    phases: str = "all"
    own: Mapping[str, Any] = field(default_factory=dict)
    note: Callable[[str], None] = field(default=lambda _: None, compare=False, repr=False)


@dataclass(frozen=True)
class Importer:
    """A format that ``python -m traces import NAME SRC DST`` reads.

    ``run(source, target, options)`` writes the trace into the new folder ``target`` and returns it, in memory for the
    longest request; it raises TraceError with file, place and value. ``help`` is shown as it is;
    ``keys`` are its own options with their parsers: "n_experts" and "meta" arrive as fields of Options, any
    other in ``options.own``. Another package adds one by an entry point in the group ``moe_offload.importers``.
    """

    name: str
    run: Callable[[Path, Path, Options], Path]
    help: str
    keys: Mapping[str, Parser] = field(default_factory=dict)


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
