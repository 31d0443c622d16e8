"""``python -m sim compare DIR``: the words, and the document."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sim.cli import stdout_console, wants_help
from sim.results.compare import Comparison, compare
from sim.results.compare.conclude import conclude, limits
from sim.results.compare.selection import MixedRunsError
from sim.results.compare.table import show
from traces.kit.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COMPARE_SCHEMA = 1
"""Version of the document that ``format=json`` prints."""

HELP = """\
python -m sim compare DIR [KEY=VALUE ...]

Compares the policies whose results lie in DIR or below it, on the same requests
of one trace: at each budget, and over all budgets together.

  metric=NAME        tpot (time per output token after the first), ttft (time to
                     the first) or request (a whole one): means over requests
                     (tpot)
  baseline=POLICY    what the others are compared with (lru; where it was not
                     run the first, by name)
  target=LATENCY     which budget meets it? 'tpot<=30ms', 'ttft_p99<=2s'
                     (in quotes: < is the shell's)
  level=SHARE        of the confidence intervals; tests are at 1 - level (0.95)
  format=FORM        table, or json

Any other KEY=VALUE chooses runs: trace=d4199675 (the beginning of its hash),
model=, hardware=, source=simulated or device, policy=lru,fmoe, budget=4GB,8GB,
seed=0,1, batch=, chunks=, warmup=, limit=, or another column of sim.load.

  python -m sim run -m policy=lru,gate_ahead,fmoe budget=2GB,4GB,8GB seed=0,1
  python -m sim compare outputs target='tpot<=30ms'
  python -m sim compare outputs metric=ttft policy=lru,fmoe budget=8GB
"""

OPTIONS = {"metric": "tpot", "target": "", "baseline": "", "level": "0.95", "format": "table"}
SAME = (
    *("source", "trace", "recording", "decoding", "routing_from", "model", "dtype", "hardware", "figures", "device"),
    *("workload", "batch", "chunks", "warmup", "limit", "measured_requests"),
)
"""Columns of ``sim.load`` in which all runs of a comparison are alike."""


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    if not words or wants_help(words):
        sys.stdout.write(HELP)
        return 0
    folder, options, selection = divide("compare", words, OPTIONS)
    if options["format"] not in ("table", "json"):
        raise UserError(f"format={options['format']}: allowed: table, json")
    found = compared("compare", words, folder, options, selection)
    if options["format"] == "json":
        sys.stdout.write(json.dumps(document(found), indent=1, allow_nan=False) + "\n")
    else:
        show(found, stdout_console())
    return 0


def divide(command: str, words: Sequence[str], known: Mapping[str, str]) -> tuple[str, dict[str, str], list[str]]:
    """The folder among a command's words, its options as given, and the words that choose runs. UserError."""
    folders, selection, options = list[str](), list[str](), dict(known)
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or "/" in key:  # no key has one: a folder like outputs/budget=4GB
            folders.append(word)
        elif key in options:
            options[key] = value
        else:
            selection.append(word)
    if len(folders) != 1:
        raise UserError(
            f"{command}: one folder of results is wanted, not {len(folders)} (python -m sim {command} --help)"
        )
    return folders[0], options, selection


def compared(
    command: str, words: Sequence[str], folder: str, options: Mapping[str, str], selection: Sequence[str]
) -> Comparison:
    """Compare with the options of a command. UserError; of runs that are not alike, with the command that works."""
    try:
        return compare(
            folder,
            metric=options["metric"],
            baseline=options["baseline"] or None,
            target=options["target"] or None,
            level=level_of(options["level"]),
            selection=selection,
        )
    except MixedRunsError as error:
        complete = shlex.join(["python", "-m", "sim", command, *words, *error.words])
        raise UserError(error.with_choice(complete)) from None


def level_of(text: str) -> float:
    """A confidence level. UserError for what is no number."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"level={text}: a confidence level, such as 0.95") from None


def document(found: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON: a list of rows for each of its frames, NaN as null."""
    first = found.runs.iloc[0]
    return {
        "schema": COMPARE_SCHEMA,
        "metric": found.metric,
        "unit": "ms",
        "level": found.level,
        "baseline": found.baseline,
        **{key: _json(first[key]) for key in SAME},
        "runs": len(found.runs),
        "cells": _records(found.cells),
        "pairs": _records(found.pairs),
        "overall": _records(found.overall),
        "references": _records(found.references),
        "target": None if found.target is None else found.target.text,
        "targets": None if found.targets is None else _records(found.targets),
        "conclusions": conclude(found),
        "limits": limits(found),
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(key): _plain(value) for key, value in record.items()} for record in records]


def _json(value: Any) -> Any:
    import pandas as pd

    return None if pd.isna(value) else _plain(value)


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own."""
    return value.item() if hasattr(value, "item") else value
