"""What a comparison found of each policy, a clause for each: by how much it differs from the baseline, and where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.results.columns import LATENCY_NAMES
from sim.results.compare import stats
from sim.results.compare.words import budgets, interval, listed, signed, sizes

if TYPE_CHECKING:
    import pandas as pd

    from sim.results.compare import Comparison


def can_be_found(frame: pd.DataFrame, level: float) -> bool:
    """Whether any of these differences could be significant, however large it is."""
    tested = frame[frame["p"].notna()]
    return len(tested) > 0 and len(tested) * stats.least_p(int(tested["requests"].max())) <= 1 - level + 1e-12


def differences(found: Comparison) -> list[str]:
    """A clause per policy that differs from the baseline, the largest gain first; and one that names the others."""
    if not any(can_be_found(frame, found.level) for frame in (found.pairs, found.overall)):
        return []
    overall = {str(row["policy_label"]): row for row in found.overall.to_dict("records")}
    said, unsure, equal = [], [], []
    for label, own in found.pairs.groupby("policy_label", sort=True):
        name, all_ = str(label), overall.get(str(label))
        if (own[["relative", "low", "high"]] == 0).all(axis=None):
            equal.append(name)
            continue
        effect = float(own["relative"].mean() if all_ is None else all_["relative"])
        clause = _clause(found, name, own, all_)
        if clause:
            said.append((effect, f"{name}: {clause}"))
        else:
            known = all_ is not None and not math.isnan(all_["relative"])
            unsure.append((effect, f"{name} (on average {_interval(all_)})" if known and all_ else name))
    lines = [clause for _, clause in sorted(said)]
    if equal:
        lines.append(f"Equal to {found.baseline} wherever both were run: {listed(equal)}.")
    if unsure:
        names = listed([name for _, name in sorted(unsure)])
        lines.append(f"Neither a difference from {found.baseline} nor its absence is shown: {names}.")
    return lines


def _clause(found: Comparison, label: str, own: pd.DataFrame, all_: Mapping[Any, Any] | None) -> str:
    """What was found of one policy; "" where nothing was."""
    # A lossy policy may be faster because it computes less.
    lossless = found.cells.set_index("policy_label")["lossless"]
    but = "" if lossless.loc[[found.baseline]].all() else ", whatever either keeps of the quality"
    than, parts = f" {LATENCY_NAMES[found.metric]} than {found.baseline}", list[str]()
    for word, sign in (("lower", -1), ("higher", 1)):
        sure = own[own["significant"] & (sign * own["difference_ms"] > 0)]
        sure = sure[sure["relative"].notna()]  # there is no share of a baseline that takes no time
        if len(sure):
            where = budgets(sure["budget_bytes"], own["budget_bytes"])
            ends = sure[["low", "high"]].iloc[0]
            alone = f" ({interval(ends['low'], ends['high'])})" if len(sure) == 1 else ""
            parts.append(f"{sizes(sure['relative'])} {word}{than if not parts else ''} at {where}{alone}")
    if all_ is None or math.isnan(all_["relative"]):
        return f"{'; '.join(parts)}{but}." if parts else ""
    if all_["significant"]:
        word = "lower" if all_["difference_ms"] < 0 else "higher"
        parts.append(
            f"{sizes([all_['relative']])} {word}{than if not parts else ''} on average over {_all(own)}"
            f" ({interval(all_['low'], all_['high'])}){'' if parts else ', at no budget by itself'}"
        )
    elif parts:
        parts.append(f"on average over {_all(own)} not shown to differ ({_interval(all_)})")
    return f"{'; '.join(parts)}{but}." if parts else ""


def _all(own: pd.DataFrame) -> str:
    return budgets(own["budget_bytes"], own["budget_bytes"])


def _interval(row: Mapping[Any, Any]) -> str:
    return f"{signed(row['relative'])} %, {signed(row['low'])} to {signed(row['high'])}"
