"""``python -m sim compare DIR``: the words, and the document."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sim.results.compare import Comparison, compare
from sim.results.compare.conclude import conclude, limits
from sim.results.compare.selection import MixedRunsError
from sim.results.compare.table import show
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.telling import stdout_console
from traces.kit.vocabulary import Format
from traces.kit.words import Between, Others, Position, words_of

if TYPE_CHECKING:
    import pandas as pd

COMPARE_SCHEMA = 1
"""Version of the document that ``format=json`` prints."""

SAME = [
    *("source", "trace", "recording", "decoding", "routing_from", "model", "dtype", "hardware", "figures", "device"),
    *("placement", "host_memory_bytes", "host_policy", "host_tier"),
    *("workload", "batch", "chunks", "warmup", "limit", "measured_requests"),
]
"""Columns of ``sim.load`` in which all runs of a comparison are alike."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which runs, and how they are compared."""

    folder: Annotated[str, Position("DIR"), "of results, at any depth"]
    metric: Annotated[
        Literal["tpot", "ttft", "request"],
        "time per output token after the first, to the first, or of a whole request: means over requests",
    ] = "tpot"
    baseline: Annotated[str, "the policy that the others are compared with; empty: lru, or the first by name"] = ""
    target: Annotated[str, "which budget meets it? 'tpot<=30ms', 'ttft_p99<=2s' (in quotes: < is the shell's)"] = ""
    level: Annotated[float, Between(0, 1), "of the confidence intervals; tests are at 1 - level"] = 0.95
    selection: Annotated[tuple[str, ...], Others(), ""] = ()


@dataclass(frozen=True, kw_only=True)
class Options(Chosen):
    """Compares the policies whose results lie in DIR or below it, on the same requests
    of one trace: at each budget, and over all budgets together.

    {keys}

    Any other KEY=VALUE chooses runs: trace=d4199675 (the beginning of its hash),
    model=, hardware=, source=simulated or device, policy=lru,fmoe, budget=4GB,8GB,
    seed=0,1, batch=, chunks=, warmup=, limit=, or another column of sim.load.

      python -m sim run -m policy=lru,gate_ahead,fmoe budget=2GB,4GB,8GB seed=0,1
      python -m sim compare outputs target='tpot<=30ms'
      python -m sim compare outputs metric=ttft policy=lru,fmoe budget=8GB
    """

    format: Format = "table"


def main(options: Options) -> None:
    """Run the command."""
    found = compared("compare", options)
    if options.format == "json":
        sys.stdout.write(dump_json(document(found)))
    else:
        show(found, stdout_console())


def compared(command: str, options: Chosen) -> Comparison:
    """Compare with the options of a command. UserError; of runs that are not alike, with the command that works."""
    try:
        return compare(
            options.folder,
            metric=options.metric,
            baseline=options.baseline or None,
            target=options.target or None,
            level=options.level,
            selection=options.selection,
        )
    except MixedRunsError as error:
        complete = shlex.join(["python", "-m", "sim", command, *words_of(options), *error.words])
        raise UserError(error.with_choice(complete)) from None


def document(found: Comparison) -> dict[Hashable, Any]:
    """The comparison as plain JSON: a list of rows for each of its frames, NaN as null."""
    return {
        "schema": COMPARE_SCHEMA,
        "metric": found.metric,
        "unit": "ms",
        "level": found.level,
        "baseline": found.baseline,
        **_records(found.runs[SAME].iloc[:1])[0],
        "runs": len(found.runs),
        "cells": _records(found.cells),
        "pairs": _records(found.pairs),
        "overall": _records(found.overall),
        "references": _records(found.references),
        "settings": dict(found.settings),
        "target": None if found.target is None else found.target.text,
        "targets": None if found.targets is None else _records(found.targets),
        "conclusions": conclude(found),
        "limits": limits(found),
    }


def _records(frame: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Rows of Python's own numbers, NaN as None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
