"""In how many settings a policy was tried on the requests that it is judged by: p values do not know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sim.results.compare.words import listed
from traces.kit.units import counted

if TYPE_CHECKING:
    import pandas as pd


def settings_of(every: pd.DataFrame, runs: pd.DataFrame) -> dict[str, int]:
    """Of each policy in ``runs``, in how many settings of its parameters ``every`` has it on the same requests.

    Whatever the budget, the machine or the model that it is priced as: who chose among settings saw these requests. A
    limit takes the first requests, so runs of two limits have some in common.
    """
    first = runs.iloc[0]
    same = every[(every["trace"] == first["trace"]) & (every["measure"] == first["measure"])]
    counts = same.groupby("policy", sort=True)["policy_params"].nunique()
    return {str(name): int(counts[name]) for name in sorted(set(runs["policy"]))}


def tried(settings: Mapping[str, int], measure: str, requests: int) -> list[str]:
    """What the counts say; nothing where each was run in one setting, or on requests that are there to choose by."""
    several = sorted(((n, name) for name, n in settings.items() if n > 1), key=lambda it: (-it[0], it[1]))
    if not several or measure == "validation":
        return []
    most, name = several[0]
    told = [f"{name} was run in {most} settings", *(f"{other} in {n}" for n, other in several[1:])]
    return [
        f"{listed(told)} on these {counted(requests, 'request')} (all runs of the folder). A p value holds for a"
        " setting that was fixed before; of one that was chosen by these requests it says too much."
        " measure=validation chooses by others."
    ]
