"""``python -m sim run -m``: a grid, through Hydra's multirun and whatever launcher is chosen."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from sim.cli import report, split_output
from sim.compose import prepare, read_config, register_policies, sweep_values, to_dict, value_word
from sim.config import RunConfig
from sim.run import run_config
from traces.errors import UserError


def multirun(words: Sequence[str]) -> int:
    """Run every combination; one failed cell does not stop the others. Returns the exit status.

    ``format=json`` prints one document per line.
    """
    overrides, output = split_output(words)
    register_policies()
    prepared = [prepare(word, sweep=True) for word in overrides]
    _check_values(prepared)
    failed: list[str] = []

    def job(composed: DictConfig) -> None:
        try:
            result = run_config(RunConfig.from_dict(to_dict(composed)), output["out"])
        except UserError as error:
            failed.append(str(error))
            sys.stderr.write(f"error: {error}\n")
            return
        if output["format"] == "json":
            sys.stdout.write(json.dumps(result.document, allow_nan=False) + "\n")
        else:
            report(result.document, "table")
            sys.stdout.write("\n")
        sys.stderr.write(f"{'read from' if result.cached else 'written to'} {result.folder}\n")

    saved = sys.argv
    folder = value_word("hydra.sweep.dir", str(Path(output["out"]) / ".multirun"))
    sys.argv = ["sim", "--multirun", *prepared, folder]
    try:
        hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")(job)()
    finally:
        sys.argv = saved
    if failed:
        sys.stderr.write(f"{len(failed)} of the runs failed; the others are in {output['out']}\n")
    return 2 if failed else 0


def _check_values(words: Sequence[str]) -> None:
    """Compose once with each value of each swept word, so that a mistyped one stops the grid before it begins."""
    choices = sweep_values(words)
    first = [values[0] for values in choices]
    read_config(first)
    for i, values in enumerate(choices):
        for value in values[1:]:
            read_config([*first[:i], value, *first[i + 1 :]])
