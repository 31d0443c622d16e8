"""The lab of ``python -m sim check``, under the names that these tests use."""

from __future__ import annotations

from pathlib import Path

from sim.check.lab import Run, Snapshot, Witness, ready, run
from sim.check.synthetic import ABSENT, FREE, PREDICTORS, FakeHistory, FakeSignals, FlatCosts, Routing, draw, setup_of
from sim.check.variants import Variant, shipped, variants

CONF = Path(__file__).parents[2] / "conf" / "policy"

__all__ = [
    "ABSENT",
    "CONF",
    "FREE",
    "PREDICTORS",
    "FakeHistory",
    "FakeSignals",
    "FlatCosts",
    "Routing",
    "Run",
    "Snapshot",
    "Variant",
    "Witness",
    "draw",
    "ready",
    "run",
    "setup_of",
    "shipped",
    "variants",
]
