"""A latency to be met, and the answer to ``target=``: the smallest budget that meets it, and with which policies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.results.classes import LOSSLESS, LOSSY, MODIFIED, by_class, outputs
from sim.results.column import SPREAD
from sim.results.columns import LATENCIES
from sim.results.compare.words import first, milliseconds
from traces.kit.errors import UserError, one_of
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

MS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, slots=True)
class Target:
    """``tpot<=30ms`` (the mean) or ``ttft_p99<=2s``."""

    metric: str
    part: str
    ms: float
    text: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read one. UserError for anything else."""
        match = re.fullmatch(r"([a-z]+)(?:_([a-z0-9]+))?<=([0-9]+(?:\.[0-9]+)?)([a-z]*)", text, re.ASCII)
        if match is None or match[1] not in LATENCIES or (match[2] or "mean") not in SPREAD or match[4] not in MS:
            raise UserError(
                f"target={text}: not understood; write tpot<=30ms, ttft_p99<=2s: one of {one_of(LATENCIES)}, with one"
                f" of _{one_of(SPREAD).replace(', ', ', _')} or none for the mean, and one of {one_of(MS)}"
            )
        ms = float(match[3]) * MS[match[4]]
        if ms <= 0:
            raise UserError(f"target={text}: a time above 0")
        return cls(match[1], match[2] or "mean", ms, text)

    def of_mean(self, metric: str) -> float | None:
        """In ms, where it is one of the mean of ``metric``."""
        return self.ms if (self.metric, self.part) == (metric, "mean") else None

    def met(self, cells: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per policy: the smallest budget that meets it on the figure (`budget_bytes`, NA if none does), and
        the smallest whose whole interval meets it (`sure_budget_bytes`; NA for percentiles, which have none).
        `value_ms` and `high_ms`, the upper end of its interval, are those at `budget_bytes`.

        ``cells``: of ``Comparison``, of this metric. `best_ms` at `best_budget_bytes` is the lowest figure there is.
        `gap_above`: a larger budget misses what this one meets.
        """
        import pandas as pd

        found = cells[["policy_label", "lossless", "budget_bytes", "value", "high"]].assign(output=outputs(cells))
        if self.part != "mean":
            part = runs.groupby(["policy_label", "budget_bytes"])[f"{self.metric}_ms_{self.part}"].mean()
            found["value"] = part.loc[list(zip(found["policy_label"], found["budget_bytes"], strict=True))].to_numpy()
            found["high"] = float("nan")
        rows, none = [], {"budget_bytes": pd.NA, "value": float("nan"), "high": float("nan")}
        for label, group in found.groupby("policy_label", sort=True):
            own = group.sort_values("budget_bytes")
            meets, sure = own[own["value"] <= self.ms], own[own["high"] <= self.ms]
            best = own.sort_values("value", kind="stable").iloc[0]
            least = meets.iloc[0] if len(meets) else none
            rows.append(
                {
                    "policy_label": label,
                    "lossless": bool(best["lossless"]),
                    "output": best["output"],
                    "budget_bytes": least["budget_bytes"],
                    "value_ms": least["value"],
                    "high_ms": least["high"],
                    "sure_budget_bytes": sure["budget_bytes"].min() if len(sure) else pd.NA,
                    "best_ms": best["value"],
                    "best_budget_bytes": best["budget_bytes"],
                    "gap_above": 0 < len(meets) < sum(own["budget_bytes"] >= meets["budget_bytes"].min()),
                }
            )
        whole = ("budget_bytes", "sure_budget_bytes", "best_budget_bytes")
        return pd.DataFrame(rows).astype(dict.fromkeys(whole, "Int64"))


def answer(goal: Target | None, targets: pd.DataFrame | None) -> list[str]:
    """Sentences of what :meth:`Target.met` found, the smallest budget first; each class has its own."""
    if goal is None or targets is None:
        return []
    said = []
    on = "by the mean over requests" if goal.part == "mean" else "a percentile, without an interval"
    kinds = {LOSSLESS: "", LOSSY: "lossy policies: ", MODIFIED: "policies of a modified model: "}
    for output, own in by_class(targets):
        kind = kinds[output]
        meets, not_ = own[own["budget_bytes"].notna()], own[own["budget_bytes"].isna()]
        if len(meets):
            by_budget = []
            for budget, rows in meets.groupby("budget_bytes", sort=True):
                names = first([_met(row, goal) for row in rows.sort_values("value_ms").to_dict("records")])
                by_budget.append(f"{format_bytes(int(str(budget)))} with {names}")
            said.append(f"{kind}the smallest budget here that meets {goal.text} ({on}): {'; '.join(by_budget)}.")
        if len(not_):
            best = [
                f"{row['policy_label']} ({milliseconds(row['best_ms'])} ms at {format_bytes(row['best_budget_bytes'])})"
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
        wholly = "" if pd.isna(sure) else f", and stays below only from {format_bytes(sure)} on"
        said.append(f"its interval reaches {milliseconds(row['high_ms'])} ms{wholly}")
    if row["gap_above"]:
        said.append("a larger budget misses it")
    return f"{row['policy_label']} ({'; '.join(said)})"
