"""The answer to ``target=``: the smallest budget that meets it, and with which policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.results.compare.words import first, milliseconds
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    from sim.results.compare import Comparison
    from sim.results.compare.target import Target


def answer(found: Comparison) -> list[str]:
    """Sentences, the smallest budget first; lossy policies have their own. Nothing without a target."""
    if found.targets is None or found.target is None:
        return []
    goal, said = found.target, []
    on = "by the mean over requests" if goal.part == "mean" else "a percentile, without an interval"
    for lossless, kind in ((True, ""), (False, "lossy policies: ")):
        own = found.targets[found.targets["lossless"] == lossless]
        meets, not_ = own[own["budget_bytes"].notna()], own[own["budget_bytes"].isna()]
        if len(meets):
            by_budget = []
            for budget, rows in meets.groupby("budget_bytes", sort=True):
                names = first([_met(row, goal) for row in rows.sort_values("value_ms").to_dict("records")])
                by_budget.append(f"{_bytes(budget)} with {names}")
            said.append(f"{kind}the smallest budget here that meets {goal.text} ({on}): {'; '.join(by_budget)}.")
        if len(not_):
            best = [
                f"{row['policy_label']} ({milliseconds(row['best_ms'])} ms at {_bytes(row['best_budget_bytes'])})"
                for row in not_.sort_values("best_ms").to_dict("records")
            ]
            names = first(best)
            said.append(f"{kind}missing {goal.text} ({on}) at every budget here, the best of each: {names}.")
    return [line[0].upper() + line[1:] for line in said]


def _met(row: Mapping[Any, Any], goal: Target) -> str:
    import pandas as pd

    said = [f"{milliseconds(row['value_ms'])} ms"]
    if goal.part == "mean" and row["high_ms"] > goal.ms:
        sure = row["sure_budget_bytes"]
        wholly = "" if pd.isna(sure) else f", and stays below only from {_bytes(sure)} on"
        said.append(f"its interval reaches {milliseconds(row['high_ms'])} ms{wholly}")
    if row["gap_above"]:
        said.append("a larger budget misses it")
    return f"{row['policy_label']} ({'; '.join(said)})"


def _bytes(nbytes: Any) -> str:
    return format_bytes(int(nbytes))
