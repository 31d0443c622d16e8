"""A latency to be met, and the smallest budget that meets it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.results.columns import LATENCIES, SPREAD
from traces.kit.errors import UserError, one_of

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

        found = cells[["policy_label", "lossless", "budget_bytes", "value", "high"]].copy()
        if self.part != "mean":
            part = runs.groupby(["policy_label", "budget_bytes"])[f"{self.metric}_ms_{self.part}"].mean()
            found["value"] = part.loc[list(zip(found["policy_label"], found["budget_bytes"], strict=True))].to_numpy()
            found["high"] = float("nan")
        rows = []
        for label, group in found.groupby("policy_label", sort=True):
            own = group.sort_values("budget_bytes")
            meets, best = own["value"] <= self.ms, own.sort_values("value", kind="stable").iloc[0]
            first = own["budget_bytes"][meets].min() if meets.any() else pd.NA
            sure = own["high"] <= self.ms
            rows.append(
                {
                    "policy_label": label,
                    "lossless": bool(best["lossless"]),
                    "budget_bytes": first,
                    "value_ms": own["value"][meets].iloc[0] if meets.any() else float("nan"),
                    "high_ms": own["high"][meets].iloc[0] if meets.any() else float("nan"),
                    "sure_budget_bytes": own["budget_bytes"][sure].min() if sure.any() else pd.NA,
                    "best_ms": best["value"],
                    "best_budget_bytes": best["budget_bytes"],
                    "gap_above": bool(meets.any() and not meets[own["budget_bytes"] >= first].all()),
                }
            )
        whole = ("budget_bytes", "sure_budget_bytes", "best_budget_bytes")
        return pd.DataFrame(rows).astype(dict.fromkeys(whole, "Int64"))
