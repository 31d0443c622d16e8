"""What a result depends on, and the address that it has on disk because of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from policies import registry
from sim.experiment.cell import Cell
from sim.experiment.digest import code_digest
from sim.prices import figures
from sim.prices.changed import charging

RUN_KEYS = ("chunks", "warmup", "limit", "measure", "seed", "bounds", "log", "timeline")
OF_THE_POLICY = ("policy", "predictors", "log", "timeline")
"""What bounds and reference rows, which all policies share, do not depend on."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Of a result."""

    resolved: Mapping[str, Any]
    """The trace by hash, everything else of the configuration by value."""
    code: str
    """Hash of the code."""

    @property
    def key(self) -> str:
        """The address: a hash of both."""
        content = {"resolved": self.resolved, "code": self.code}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def identify(cell: Cell, predictors: Collection[str]) -> Identity:
    """Of a cell's result; ``predictors``: those that its policy declares."""
    policy = registry.normal(cell.config.policy)
    declared = sorted(cell.predicted.keys() & predictors)
    resolved = {
        "trace": cell.trace.sha256,
        "policy": policy,
        "model": figures(asdict(cell.model)),
        "dtype": cell.costs.dtype,
        "hardware": charging(_plain(figures(asdict(cell.hardware)))),
        "workload": dict(cell.config.workload),
        "predictors": {name: cell.predicted[name].sha256 for name in declared},
        "budget_bytes": cell.setup.budget,
        **{key: getattr(cell.config, key) for key in RUN_KEYS},
        "limit": cell.limit,
    }
    return Identity(resolved, code_digest(policy["name"]))


def of_bounds(own: Identity) -> Identity:
    """Of the bounds and reference rows that a cell's result shares with those of all other policies."""
    shared = {key: value for key, value in own.resolved.items() if key not in OF_THE_POLICY}
    return Identity(shared, code_digest())


def _plain(value: Any) -> Any:
    """Fractions of a profile as exact text, for JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
