"""``python -m sim run -m``: a grid, through Hydra's multirun and whatever launcher is chosen."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from sim.cli import report, split_output
from sim.config import RunConfig, prepare, register_policies, to_dict
from sim.run import run_config
from traces.errors import UserError


def multirun(words: Sequence[str]) -> int:
    """Run every combination; one failed cell does not stop the others. Returns the exit status."""
    overrides, output = split_output(words)
    register_policies()
    failed: list[str] = []

    def job(composed: DictConfig) -> None:
        try:
            result = run_config(RunConfig.from_dict(to_dict(composed)), output["out"])
        except UserError as error:
            failed.append(str(error))
            sys.stderr.write(f"error: {error}\n")
            return
        report(result.document, output["format"])

    saved = sys.argv
    sys.argv = ["sim", "--multirun", *(prepare(word, sweep=True) for word in overrides)]
    try:
        hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")(job)()
    finally:
        sys.argv = saved
    if failed:
        sys.stderr.write(f"{len(failed)} of the runs failed; the others are in {output['out']}\n")
    return 2 if failed else 0
