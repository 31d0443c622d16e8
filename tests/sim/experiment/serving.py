"""Cells whose requests arrive, on the machine of tests.sim.small_trace; other tests may import these."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from sim.experiment.cell import Cell, make_cell, make_policy
from sim.experiment.config import RunConfig
from sim.experiment.run import simulate
from sim.results.document import Outcome
from tests.sim.small_trace import config
from traces import Trace
from traces.kit import conf

KEYS: Mapping[str, Any] = yaml.safe_load((conf.FOLDER / "workload" / "online.yaml").read_text(encoding="utf-8"))


def serving(trace: Trace, budget: int | str, *, workload: Mapping[str, Any], **given: Any) -> RunConfig:
    """``workload``: what is not as conf/workload/online.yaml has it."""
    found = replace(config(trace, budget, **given), workload={**KEYS, "arrivals": "constant", "rate": 1, **workload})
    return RunConfig.from_dict({key: getattr(found, key) for key in RunConfig.__dataclass_fields__})


def served(given: RunConfig, *, record: bool = False) -> tuple[Cell, Outcome]:
    cell = make_cell(given)
    return cell, simulate(cell, make_policy(cell), record=record)
