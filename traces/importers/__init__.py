"""Turn other people's recordings into traces: one module per format, each with an ``Importer``."""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from traces.format.layout import MAX_EXPERTS
from traces.kit.errors import UserError
from traces.kit.words import Between, printable

N_EXPERTS: Any = Annotated[
    int,
    Between(1, MAX_EXPERTS),
    "experts per layer; without it what the file says, else the largest id + 1, rounded up to a multiple of 4",
]
"""The key of an importer whose file may not say it."""


def share(word: str) -> Fraction:
    with suppress(ValueError, ZeroDivisionError):
        if len(word) < 20 and 0 < (value := Fraction(word)) < 1:
            return value
    raise ValueError("a share between 0 and 1, such as 0.7")


def parse_layers(word: str) -> frozenset[int]:
    """Parse "0,2,4-6"; ValueError with what is allowed."""
    found: set[int] = set()
    for part in word.split(",") if len(word) <= 4096 else [word]:
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < MAX_EXPERTS:
            raise ValueError(f"numbers of layers below {MAX_EXPERTS}, and spans of them, such as 0,2,4-6")
        found.update(range(first, last + 1))
    return frozenset(found)


def spans(layers: Iterable[int]) -> str:
    # Layers that follow each other differ from their places by the same.
    runs = groupby(enumerate(sorted(layers)), key=lambda placed: placed[1] - placed[0])
    parts = ([layer for _, layer in run] for _, run in runs)
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def named(layers: Iterable[int]) -> str:
    """Write "layer 3", or "layers 0,2-4"."""
    text = spans(layers)
    return f"layer {text}" if text.isdigit() else f"layers {text}"


@dataclass(frozen=True)
class Options:
    """What every importer is told. None: not given, the importer's own rule holds.

    ``own``: the options that only this importer has. ``note``: takes one line for each thing that was inferred and
    not read, in plain words, with the option that states it;
    one that begins with "warning: " is a warning. traces.importers.build keeps to all of them.
    """

    split: Annotated[
        Fraction | None,
        share,
        'share of the requests marked "train", rounded down, the rest "test"; at least one of each; without it no'
        " split, and a run measures every request",
    ] = None
    seed: Annotated[int, Between(0, 2**32 - 1), "which ones: the seed of the permutation"] = 0
    limit: Annotated[int | None, Between(1, 2**31), "only the first so many requests"] = None
    without_layers: Annotated[
        frozenset[int],
        parse_layers,
        "leave out these layers of the file, counted from 0, such as 0,2,4-6: such as have no experts. Layers in which"
        " no token has an expert are left out in any case, and named",
    ] = frozenset()
    phases: Annotated[Literal["all", "decode"], "decode: only the decode passes; the prompts become context"] = "all"
    model: Annotated[
        str | None,
        printable,
        "its name; without it from the file. One of conf/model with as many layers, experts and top-k also prices the"
        " trace, so that sim needs no model=",
    ] = None
    source: Annotated[str | None, printable, "where the prompts come from"] = None
    licence: Annotated[str | None, printable, "of the prompts"] = None
    arrivals: Annotated[
        Path | None,
        "a log of arrivals, Azure's CSV or Mooncake's JSON Lines; its first times, in order, become those of the"
        " requests, in seconds since the first",
    ] = None
    n_experts: int | None = None
    meta: Path | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    note: Callable[[str], None] = field(default=lambda _: None, compare=False, repr=False)


@dataclass(frozen=True)
class Importer:
    """A format that ``python -m traces import NAME SRC DST`` reads.

    ``run(source, target, options)`` writes the trace into the new folder ``target`` and returns it, in memory for the
    longest request; it raises TraceError with file, place and value. ``help`` is shown as it is; ``keys`` are its own
    options, ``Annotated[TYPE, "text"]`` (see traces.kit.words): "n_experts" and "meta" arrive as fields of Options, any
    other that is given in ``options.own``. Another package adds one by an entry point in ``moe_offload.importers``.
    """

    name: str
    run: Callable[[Path, Path, Options], Path]
    help: str
    keys: Mapping[str, Any] = field(default_factory=dict)


def assign_splits(requests: int, split: Fraction | None, seed: int) -> list[str | None]:
    """Assign "train" to floor(split * requests) requests drawn at random, "test" to the others; at least one of each.

    None leaves all requests without one. Raises UserError for a split of a single request.
    """
    if split is None:
        return [None] * requests
    if requests == 1:
        raise UserError("split: one request cannot be split into train and test; allowed: two requests or more")
    train = max(int(split * requests), 1)
    chosen = set(np.random.default_rng(seed).permutation(requests)[:train].tolist())
    return ["train" if request in chosen else "test" for request in range(requests)]
