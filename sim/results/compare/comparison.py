"""Policies over budgets on the same requests of one trace: figures with intervals, paired differences, fronts, targets.

Requests are the units, in the order in which they were recorded; seeds are averaged per request before anything else.
``docs/results.md`` tells the method, :mod:`sim.results.compare.stats` has it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from policies.api import OUTPUTS
from sim.results.classes import LOSSLESS, LOSSY, by_class, outputs
from sim.results.columns import LATENCIES, REFERENCE_ROWS, SHARES
from sim.results.compare import stats
from sim.results.compare.selection import among, check_alike, select
from sim.results.compare.settings import settings_of
from sim.results.compare.target import Target
from sim.results.load import load, load_requests
from traces.kit.errors import UserError, allowing, one_of
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "lru"
AVERAGED = (
    "hit_complete",
    "throughput_tokens_per_s",
    "bytes_per_token",
    "bound_time_gap",
    "bound_bytes_gap",
    "goodput_per_s",
)
"""Figures of a cell beside the metric: means over seeds."""


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` finds. Latencies in ms, budgets in bytes, shares as fractions; every frame in a fixed order."""

    metric: str
    level: float
    baseline: str
    runs: pd.DataFrame
    """The rows of :func:`sim.load` that were compared."""
    cells: pd.DataFrame
    """A row per policy_label and budget_bytes: value with low and high, requests, seeds, AVERAGED, quality_*,
    gap_closed: of the baseline's time per generated token beyond its bound, the share that the policy saves; front: no
    other row of its class, which is its `output`, is as good in latency and memory (and kept gate mass, if lossy)
    and better in one."""
    pairs: pd.DataFrame
    """A row per policy of the baseline's class and budget: relative difference of the metric to the baseline's with
    low and high, difference_ms, p, p_adjusted (Holm, over all rows), significant."""
    overall: pd.DataFrame
    """A row per policy of the baseline's class that has two budgets or more in common with it (`budgets`, from
    `least_bytes` to `most_bytes`): the mean of its relative differences, with the columns of ``pairs``; p_adjusted is
    over these rows alone."""
    references: pd.DataFrame
    """A row per budget: the metric of the reference rows, means over seeds; NaN without bounds."""
    targets: pd.DataFrame | None
    """A row per policy: see :meth:`sim.results.compare.target.Target.met`."""
    target: Target | None
    missing: tuple[str, ...]
    """What could not be compared, and why."""
    settings: Mapping[str, int] = field(default_factory=dict)
    """Of each policy compared, by name, the settings in which the folder has it on these requests."""


def compare(
    path: str | Path,
    *,
    metric: str = "tpot",
    baseline: str | None = None,
    target: str | None = None,
    level: float = stats.LEVEL,
    selection: Sequence[str] = (),
    only: Collection[str] | None = None,
) -> Comparison:
    """Compare the runs below a folder; ``selection`` are words like ``trace=d419`` or ``policy=lru,fmoe``.

    ``only``: the runs in these folders alone.

    UserError where runs of different traces, models or machines are mixed (:class:`MixedRunsError`, which has the
    words that choose), and for a word that cannot be meant.
    """
    if metric not in LATENCIES:
        raise UserError(f"metric={metric}: {allowing(metric, LATENCIES)}")
    if not 0.5 <= level < 1:
        raise UserError(f"level={level}: a confidence level from 0.5 to below 1, such as 0.95")
    goal = None if target is None else Target.parse(target)
    damaged = list[str]()
    every = load(path, damaged)
    runs = select(every if only is None else among(every, only), selection)
    runs, unranked = ranked(runs)
    check_alike(runs)
    requests = load_requests(path, runs, damaged)
    runs = runs[runs["folder"].isin(requests["folder"])].reset_index(drop=True)
    found = compare_runs(runs, requests, metric=metric, baseline=baseline, target=goal, level=level)
    missing = (*found.missing, *unranked, *(f"Left out, as it is damaged: {line}." for line in damaged))
    return replace(found, missing=missing, settings=settings_of(every, runs))


def ranked(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs that may be ranked, and a line for each policy that may not. UserError if none is left.

    A policy that remembers requests knows one that arrives again, which is no answer to how it does on new ones.
    """
    out = runs["memorised"].fillna(value=False).to_numpy(dtype=bool)
    lines = [
        f"Left out, as it remembers requests, and some arrived again: {label}. With no more arrivals than requests"
        " (workload.count=null) it is compared."
        for label in sorted(set(runs["policy_label"][out]))
    ]
    if out.all():
        raise UserError(f"{lines[0].rstrip('.')}; and no other run is left" if lines else "no runs")
    return runs[~out].reset_index(drop=True), lines


def compare_runs(
    runs: pd.DataFrame,
    requests: pd.DataFrame,
    *,
    metric: str = "tpot",
    baseline: str | None = None,
    target: Target | None = None,
    level: float = stats.LEVEL,
) -> Comparison:
    """As :func:`compare`, of frames that were loaded: rows of ``sim.load`` and their ``sim.load_requests``."""
    base = _baseline(runs, baseline)
    values = {m: measured(requests, m) for m in {metric, target.metric if target else metric}}
    cells = _cells(runs, values[metric], metric, level)
    cells = cells.assign(gap_closed=_closed(cells, base))
    single, overall, missing = stats.pairs(values[metric], cells, base, level)
    at = None if target is None else _cells(runs, values[target.metric], target.metric, level)
    return Comparison(
        metric=metric,
        level=level,
        baseline=base,
        runs=runs,
        cells=cells,
        pairs=single,
        overall=overall,
        references=_references(runs, metric),
        targets=None if target is None or at is None else target.met(at, runs),
        target=target,
        missing=(*missing, *_two_engines(runs, metric)),
    )


def measured(requests: pd.DataFrame, metric: str) -> stats.Values:
    """The metric in ms, nulls left out; repeated runs of a cell are averaged."""
    if metric == "request":
        ns = (requests["end_ns"] - requests["admitted_ns"]).astype("float64")
    else:
        ns = requests[f"{metric}_ns"].astype("Float64").astype("float64")
    keys = [requests[key] for key in ("policy_label", "budget_bytes", "seed", "request")]
    found = (ns / 1e6).groupby(keys, sort=True).mean().dropna()
    if found.empty:
        raise UserError(f"metric={metric}: no request of these runs has it; what the trace did not record is null")
    cells = found.groupby(level=[0, 1], sort=True)
    return {(str(key[0]), int(key[1])): own.droplevel([0, 1]) for key, own in cells}  # type: ignore[index]


def _baseline(runs: pd.DataFrame, wanted: str | None) -> str:
    """The label that is wanted; else ``lru``, or where it was not run the first: lossless, at its defaults, by name."""
    labels = sorted(set(runs["policy_label"]))
    if wanted is None:
        rows = runs[["policy_label", "policy"]].assign(output=outputs(runs)).drop_duplicates().itertuples(index=False)
        order = OUTPUTS.index
        ranked = min((label != BASELINE, order(output), label != policy, label) for label, policy, output in rows)
        return str(ranked[-1])
    found = [wanted] if wanted in labels else sorted(set(runs["policy_label"][runs["policy"] == wanted]))
    if len(found) != 1:
        what = f"one of several, {one_of(found)}" if found else "not among the runs"
        raise UserError(f"baseline={wanted}: {what}; {allowing(wanted, labels)}")
    return found[0]


def _cells(runs: pd.DataFrame, values: stats.Values, metric: str, level: float) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for key, of in runs.groupby(["policy_label", "budget_bytes"], sort=True):
        label, budget = str(key[0]), int(key[1])  # type: ignore[call-overload]
        if (label, budget) not in values:
            raise UserError(f"metric={metric}: no request of {label} at budget={budget} has it; leave it out")
        by_request = values[label, budget].groupby(level="request", sort=True).mean()
        by_seed = values[label, budget].groupby(level="seed").mean()
        found = stats.mean(by_request, level)
        rows.append(
            {
                "policy_label": label,
                "policy": of["policy"].iloc[0],
                "lossless": bool(of["lossless"].iloc[0]),
                "output": outputs(of).iloc[0],
                "budget_bytes": budget,
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "seed_low": by_seed.min(),
                "seed_high": by_seed.max(),
                "requests": len(by_request),
                "seeds": len(by_seed),
                **{name: of[name].mean() for name in AVERAGED},
                **{f"quality_{share}": of[f"quality_{share}"].mean() for share in SHARES},
            }
        )
    cells = pd.DataFrame(rows).astype({"low": "float64", "high": "float64"})
    cells["front"] = False
    for output, group in by_class(cells):
        axes = group[["budget_bytes", "value"]]
        if output == LOSSY:
            axes = axes.assign(loss=1 - group["quality_kept_gate_mass"])
        cells.loc[group.index, "front"] = stats.pareto(axes.to_numpy(dtype=float))
    return cells


def _closed(cells: pd.DataFrame, baseline: str) -> pd.Series[float]:
    """(baseline - row) / (baseline - bound) of the time per generated token; NaN without a bound or a gap, and for rows
    of another class."""
    base = cells[cells["policy_label"] == baseline].set_index("budget_bytes")
    its_ms = cells["budget_bytes"].map(1000 / base["throughput_tokens_per_s"])
    gap = its_ms - its_ms / cells["budget_bytes"].map(base["bound_time_gap"])
    share = (its_ms - 1000 / cells["throughput_tokens_per_s"]) / gap.where(gap > 0)
    return share.where(cells["output"] == LOSSLESS).astype("float64")


def _references(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Every run of a budget and seed that has them has the same; policies with more seeds do not count more."""
    columns = {f"{name}_{metric}_ms_mean": name for name in REFERENCE_ROWS}
    groups = runs[outputs(runs) != LOSSY].groupby(["budget_bytes", "seed"])
    # Who leaves experts to the host has a bound of its own, below the others': the lowest holds for all of them.
    by_seed = groups[[*columns]].mean().assign(bound_ms_per_token=groups["bound_ms_per_token"].min())
    found = by_seed.groupby(level="budget_bytes", sort=True).mean().reset_index()
    return found.rename(columns=columns).astype({"budget_bytes": "int64"})


def _two_engines(runs: pd.DataFrame, metric: str) -> list[str]:
    """Reference rows do not depend on the policy: where they differ, the code changed between the policies' runs."""
    columns = [f"{name}_{metric}_ms_mean" for name in REFERENCE_ROWS]
    known = runs.loc[outputs(runs) != LOSSY, ["budget_bytes", "seed", *columns]].dropna(how="all", subset=columns)
    known = known.drop_duplicates()
    return [
        f"At {format_bytes(int(budget))} the reference rows of policies differ, which do not depend on the policy: runs"
        " of two states of the code are mixed here; run the grid again into another folder."
        for budget in sorted(set(known["budget_bytes"][known.duplicated(["budget_bytes", "seed"])]))
    ]
