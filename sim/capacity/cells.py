"""The runs behind an answer: ordinary cells of ``python -m sim run workload=online``, kept where it keeps them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim.capacity.search import rate
from sim.experiment.cell import Inputs
from sim.experiment.config import RunConfig
from sim.experiment.run import run_config
from sim.results.classes import output_of
from traces.kit.errors import UserError

RULES: Mapping[str, Callable[[Sequence[float]], float]] = {"all": min, "median": statistics.median}
"""What the attainment of a rate is, of those of its seeds."""
_inputs = Inputs(keep=True)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run."""

    seed: int
    attainment: float
    """The share of requests that keep within every objective."""
    goodput_per_s: float
    requests_per_s: float
    ttft_ms_p90: float
    tpot_ms_p90: float | None
    hits: float | None
    budget_bytes: int
    kv_bytes: int | None
    output: str
    memorised: bool
    preemptions: int
    folder: str


@dataclass(frozen=True, slots=True)
class Point:
    """One rate: its attainment by the rule, and means over seeds of the rest."""

    rate: int | float
    attainment: float
    meets: bool
    goodput_per_s: float
    ttft_ms_p90: float
    tpot_ms_p90: float | None
    hits: float | None
    seeds: tuple[Figures, ...]

    @classmethod
    def of(cls, rate: int | float, runs: Sequence[Figures], rule: str, share: float) -> Point:
        """Of the runs of all seeds."""
        attainment = RULES[rule]([run.attainment for run in runs])
        return cls(
            rate,
            attainment,
            attainment >= share,
            statistics.fmean(run.goodput_per_s for run in runs),
            statistics.fmean(run.ttft_ms_p90 for run in runs),
            _mean([run.tpot_ms_p90 for run in runs]),
            _mean([run.hits for run in runs]),
            tuple(runs),
        )


def measure(config: RunConfig, out: Path) -> Figures | str:
    """One run, or its result where it is kept; why not, where it cannot be."""
    try:
        found = run_config(config, out, inputs=_inputs)
    except UserError as error:
        return str(error)
    document: Mapping[str, Any] = found.document
    serving, latency = document["serving"], document["serving"]["latency_ms"]
    return Figures(
        config.seed,
        serving["good_share"],
        serving["goodput_per_s"] or 0.0,
        serving["requests_per_s"] or 0.0,
        latency["ttft"]["p90"],
        latency["tpot"] and latency["tpot"]["p90"],
        document["hit_rate"]["complete"],
        document["memory"]["budget_bytes"],
        document["config"]["kv_bytes"],
        output_of(document),
        "memorised" in document["provenance"],
        serving["preemptions"],
        found.folder.name,
    )


def at(config: RunConfig, step: int, per_octave: int, seed: int) -> RunConfig:
    """The configuration of a run at a step of the grid of rates."""
    return replace(config, seed=seed, workload={**config.workload, "rate": rate(step, per_octave)})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
