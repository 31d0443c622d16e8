"""What a comparison allows to be said, and what it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.results.columns import LATENCY_NAMES
from sim.results.compare import stats
from sim.results.compare.answer import answer
from sim.results.compare.differences import can_be_found, differences
from sim.results.compare.words import budgets, percent
from sim.results.titles import titles
from traces.kit.units import counted

if TYPE_CHECKING:
    import pandas as pd

    from sim.results.compare import Comparison


def conclude(found: Comparison) -> list[str]:
    """Sentences on what was seen: the target's answer first, then a clause per policy, then the front."""
    return [*answer(found), *differences(found), *_front(found)]


def limits(found: Comparison) -> list[str]:
    """Sentences on what may not be concluded."""
    return [*_power(found), _scope(found), *_lossy(found), *found.missing]


def machine(runs: pd.DataFrame) -> str:
    """Where the runs were, in words."""
    return titles(runs.iloc[0]).where


def _front(found: Comparison) -> list[str]:
    said, name = [], LATENCY_NAMES[found.metric]
    for lossless, axes in ((True, f"memory and {name}"), (False, f"memory, {name} and kept gate mass, lossy")):
        of_class = found.cells[found.cells["lossless"] == lossless]
        front = of_class[of_class["front"]]
        if len(front):
            at = {str(label): list(own["budget_bytes"]) for label, own in front.groupby("policy_label")}
            order = sorted(at, key=lambda label: (min(at[label]), label))
            names = "; ".join(f"{label} at {budgets(at[label], of_class['budget_bytes'])}" for label in order)
            said.append(f"Pareto front of {axes}, by the means: {names}.")
    return said


def _scope(found: Comparison) -> str:
    runs, n = found.runs, int(found.cells["requests"].max())
    first, seeds, all_ = runs.iloc[0], runs["seed"].nunique(), int(runs["requests"].max())
    orders = "one order" if seeds == 1 else f"{seeds} orders"
    decoding = str(first["decoding"]).replace("_", " ")
    of = "" if n >= all_ else f" that have a {LATENCY_NAMES[found.metric]}, of {all_}"
    said = (
        f"This holds for {counted(n, 'request')}{of} ({first['measured_requests']}; {first['recording']},"
        f" {decoding}) in {orders}, batch {first['batch']}; another workload, model or machine may rank them otherwise."
    )
    if first["source"] == "simulated":
        return f"{said} It is simulated: true of hardware as far as the simulator is validated there."
    least = runs.groupby(["policy_label", "budget_bytes", "seed"]).size().min()
    again = "one run of each does not show" if least == 1 else f"at least {least} runs of each are averaged for"
    return f"{said} A device's figures also drift from run to run, which {again}."


def _power(found: Comparison) -> list[str]:
    n, level, said = int(found.cells["requests"].min()), percent(found.level), list[str]()
    very_few = stats.few(n)
    if n < stats.LEAST:
        return [f"{very_few} For intervals and tests at least {stats.LEAST} requests are wanted."]
    if n < 2 * stats.BLOCKS:
        said.append(
            f"{very_few or f'{n} requests are few.'} Neighbours count as independent here; if they are not, intervals"
            f" are too narrow and p values too small (from {2 * stats.BLOCKS} requests on, {stats.BLOCKS} blocks of"
            " neighbours are the units)."
        )
    elif n < 4 * stats.BLOCKS:
        said.append(
            f"{n} requests are not many: {stats.BLOCKS} blocks of them are short, and if topics come in longer runs,"
            " intervals are too narrow and p values too small."
        )
    if found.cells["low"].isna().any():
        said.append(f"No interval at {level}: {stats.n_blocks(n)} blocks of requests do not reach that level.")
    return [*said, *_corrected(found)]


def _corrected(found: Comparison) -> list[str]:
    pairs, overall = (frame[frame["p"].notna()] for frame in (found.pairs, found.overall))
    if pairs.empty:
        return []
    q, m, level, said = stats.n_blocks(int(pairs["requests"].max())), len(pairs), percent(found.level), []
    if not can_be_found(pairs, found.level):
        more = "measure more requests, or " if q < stats.BLOCKS else ""
        way_out = f"{more}choose fewer (policy=, budget=)"
        if can_be_found(overall, found.level):
            way_out += "; over all budgets together there are fewer tests"
        said.append(
            f"No p value of {q} blocks of requests is below {stats.least_p(q):.2g}, so none of {m} comparisons at"
            f" single budgets could be significant, however large the difference: {way_out}."
        )
    if m > 1:
        apart = f", and apart from them for the {len(overall)} over all budgets" if len(overall) > 1 else ""
        alone = pairs[~pairs["significant"] & ((pairs["low"] > 0) | (pairs["high"] < 0))]
        besides = f": {len(alone)} of them exclude 0 without a significant p" if len(alone) else ""
        said.append(
            f"p values are corrected for {m} comparisons (Holm){apart}. Intervals ({level} each) are not"
            f" corrected{besides}."
        )
    return said


def _lossy(found: Comparison) -> list[str]:
    lossy = sorted(set(found.cells["policy_label"][~found.cells["lossless"]]))
    if not lossy:
        return []
    return [f"Lossy, so not ranked with the others by latency; their quality is first-order: {', '.join(lossy)}."]
