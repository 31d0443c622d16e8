"""Policies against the baseline on the same requests: at each budget, and over all budgets that both have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sim.results.compare import stats
from traces.kit.units import counted, format_bytes

if TYPE_CHECKING:
    import pandas as pd

Values = dict[tuple[str, int], "pd.Series[float]"]
"""By policy_label and budget_bytes: a figure by seed and request."""

FOUND = ("relative", "low", "high", "difference_ms", "p")


def pairs(
    values: Values, cells: pd.DataFrame, baseline: str, level: float
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """``Comparison.pairs`` and ``Comparison.overall``, and what could not be compared, in words."""
    import pandas as pd

    of_class = cells["lossless"] == bool(cells["lossless"][cells["policy_label"] == baseline].iloc[0])
    budgets = set(cells["budget_bytes"][cells["policy_label"] == baseline])
    rows, overall, missing = [], [], []
    for label, own in cells[of_class & (cells["policy_label"] != baseline)].groupby("policy_label", sort=True):
        shared = {}
        for budget in sorted(own["budget_bytes"]):
            at = f"{label} at {format_bytes(budget)}"
            if budget not in budgets:
                missing.append(f"{at}: {baseline} was not run there.")
                continue
            both = pd.concat({"own": values[str(label), budget], "base": values[baseline, budget]}, axis=1).dropna()
            if both.empty:
                missing.append(f"{at}: no seed and request in common with {baseline}.")
                continue
            if {len(values[str(label), budget]), len(values[baseline, budget])} != {len(both)}:
                alike = f"{counted(_n(both, 'seed'), 'seed')} and {counted(_n(both, 'request'), 'request')}"
                missing.append(f"{at}: only {alike} are in common with {baseline}; the difference is of these alone.")
            shared[budget] = both
            about = {"policy_label": label, "budget_bytes": budget, "seeds": _n(both, "seed")}
            rows.append(about | difference(both, level))
            if np.isnan(rows[-1]["relative"]):
                missing.append(f"{at}: {baseline} takes no time there, of which there is no share.")
        if len(shared) > 1:
            ends = {"least_bytes": min(shared), "most_bytes": max(shared)}
            about = {"policy_label": label, "budgets": len(shared), **ends}
            overall.append(about | together(list(shared.values()), level))
    return (
        _tested(rows, ("policy_label", "budget_bytes", "seeds", "requests", *FOUND), level),
        _tested(overall, ("policy_label", "budgets", "least_bytes", "most_bytes", "requests", *FOUND), level),
        missing,
    )


def difference(both: pd.DataFrame, level: float = stats.LEVEL) -> dict[str, Any]:
    """Of one policy to another on the same requests. ``both``: columns own and base in ms, by seed and request.

    There is no relative difference to a base that is 0 in a block: a machine that computes and copies in no time.
    """
    means = both.groupby(level="request", sort=True).mean()
    gaps = means["own"] - means["base"]
    return _found(means["own"].to_numpy(), means["base"].to_numpy(), level) | {
        "difference_ms": gaps.mean(),
        "p": stats.sign_flip(gaps),
    }


def together(budgets: list[pd.DataFrame], level: float = stats.LEVEL) -> dict[str, Any]:
    """Of one policy to another over several budgets: the mean of the relative differences at each.

    ``budgets``: for each what :func:`difference` takes; of the requests that all of them have. A request is one
    observation, at however many budgets it was served: see :func:`average`.
    """
    import pandas as pd

    means = [both.groupby(level="request", sort=True).mean() for both in budgets]
    joined = pd.concat(dict(enumerate(means)), axis=1, join="inner").sort_index()
    own, base = (joined.xs(name, axis=1, level=1).to_numpy(dtype=float).T for name in ("own", "base"))
    if not len(joined) or not (base.mean(axis=1) > 0).all():
        return {"requests": len(joined), **dict.fromkeys(FOUND, float("nan"))}
    averaged = average(own, base)
    gaps = (own - base).mean(axis=0)
    return _found(*averaged, level) | {
        "difference_ms": gaps.mean(),
        "p": stats.sign_flip(averaged[0] - averaged[1]),
    }


def average(own: stats.Floats, base: stats.Floats) -> tuple[stats.Floats, stats.Floats]:
    """Figures [budgets, requests] of two policies, each [requests]: budget by budget in units of the base's mean there,
    then averaged over the budgets. The ratio of their sums is the mean over budgets of the ratios of the means.

    So each budget counts alike, whether a token takes 50 ms there or 3, and a request counts once.
    """
    unit = base.mean(axis=1, keepdims=True)
    return (own / unit).mean(axis=0), (base / unit).mean(axis=0)


def _found(own: stats.Floats, base: stats.Floats, level: float) -> dict[str, Any]:
    found = stats.Interval(float("nan"), None, None)
    if (stats.blocks(base) > 0).all():
        found = stats.relative_difference(own, base, level)
    return {"requests": len(own), "relative": found.value, "low": found.low, "high": found.high}


def _tested(rows: list[dict[str, Any]], columns: tuple[str, ...], level: float) -> pd.DataFrame:
    """A frame of differences with p values adjusted for each other (Holm): a family of its own."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(columns)).astype(dict.fromkeys(FOUND, "float64"))
    known = frame["p"].notna()
    frame["p_adjusted"] = np.nan
    frame.loc[known, "p_adjusted"] = stats.holm(list(frame.loc[known, "p"]))
    frame["significant"] = frame["p_adjusted"] <= 1 - level + 1e-12
    return frame


def _n(values: pd.DataFrame, what: str) -> int:
    return len(values.index.unique(what))
