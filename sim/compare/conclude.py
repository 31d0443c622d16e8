"""What a comparison allows to be said, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.compare import stats
from sim.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

    from sim.compare import Comparison

NAMES = {"ttft": "TTFT", "tpot": "TPOT", "request": "request time"}
MOST_NAMED = 6


def conclude(found: Comparison) -> list[str]:
    """Sentences on what was seen."""
    return [*_differences(found), *_front(found), *_target(found)]


def limits(found: Comparison) -> list[str]:
    """Sentences on what may not be concluded."""
    return [_scope(found.runs), *_power(found), *_lossy(found), *found.missing]


def share(value: float, digits: int = 1) -> str:
    """``-4.0 %``, with its sign."""
    return f"{100 * value:+.{digits}f} %"


def _differences(found: Comparison) -> list[str]:
    pairs, name = found.pairs, NAMES[found.metric]
    if pairs.empty:
        return []
    sure, unsure = pairs[pairs["significant"]], pairs[~pairs["significant"]]
    said = []
    for words, of in (("lower", sure[sure["relative"] < 0]), ("higher", sure[sure["relative"] >= 0])):
        if len(of):
            said.append(
                f"Significantly {words} {name} than {found.baseline} at the same budget:"
                f" {_named([_pair(row, interval=True) for row in of.itertuples()])}."
            )
    if len(unsure):
        names = _named([_pair(row, interval=False) for row in unsure.itertuples()])
        said.append(f"Not significant, so neither a difference nor its absence is shown: {names}.")
    return said


def _pair(row: object, *, interval: bool) -> str:
    at = f"{row.policy_label} at {format_bytes(row.budget_bytes)}"  # type: ignore[attr-defined]
    if not interval:
        return at
    return f"{at} by {100 * abs(row.relative):.1f} % ({share(row.low)} to {share(row.high)})"  # type: ignore[attr-defined]


def _named(parts: list[str]) -> str:
    more = len(parts) - MOST_NAMED
    return "; ".join(parts if more <= 0 else [*parts[:MOST_NAMED], f"and {more} more, in the table"])


def _front(found: Comparison) -> list[str]:
    said = []
    for lossless, axes in ((True, "latency and memory"), (False, "latency, memory and kept gate mass")):
        own = found.cells[(found.cells["lossless"] == lossless) & found.cells["front"]]
        if len(own):
            budgets = own.sort_values("budget_bytes").groupby("policy_label", sort=True)["budget_bytes"]
            names = "; ".join(f"{name} at {', '.join(map(_bytes, at))}" for name, at in budgets)
            said.append(f"On the front of {axes}, {'lossless' if lossless else 'lossy'} rows by their means: {names}.")
    return said


def _target(found: Comparison) -> list[str]:
    if found.targets is None or found.target is None:
        return []
    goal, said = found.target, []
    interval = "" if goal.part == "mean" else " (a percentile, without an interval)"
    for lossless, kind in ((True, ""), (False, "lossy, ")):
        own = found.targets[found.targets["lossless"] == lossless]
        meets, not_ = own[own["budget_bytes"].notna()], own[own["budget_bytes"].isna()]
        if len(meets):
            rows = meets.sort_values(["budget_bytes", "value_ms"]).to_dict("records")
            names = "; ".join(_met(row, goal.part == "mean") for row in rows)
            said.append(f"The smallest budgets here that meet {goal.text}{interval}, {kind}least first: {names}.")
        if len(not_):
            rows = not_.sort_values("best_ms").to_dict("records")
            names = "; ".join(
                f"{r['policy_label']} ({r['best_ms']:.2f} ms at {_bytes(r['best_budget_bytes'])})" for r in rows
            )
            said.append(f"No budget here meets {goal.text}, {kind}the best of each: {names}.")
    return said


def _met(row: Mapping[Any, Any], has_interval: bool) -> str:
    text = f"{row['policy_label']} {_bytes(row['budget_bytes'])} ({row['value_ms']:.2f} ms"
    sure = (
        None if row["sure_budget_bytes"] != row["sure_budget_bytes"] or not has_interval else row["sure_budget_bytes"]
    )
    if has_interval and sure != row["budget_bytes"]:
        text += ", but its interval reaches above it" + ("" if sure is None else f" up to {_bytes(sure)}")
    return f"{text}{', and a larger budget misses it' if row['gap_above'] else ''})"


def _bytes(nbytes: Any) -> str:
    return format_bytes(int(nbytes))


def machine(runs: pd.DataFrame) -> str:
    """Where the runs were, in words."""
    first = runs.iloc[0]
    if first["source"] == "device":
        return f"{first['device']} (measured; the policies' prices: {first['hardware']})"
    return f"{first['hardware']} (simulated, {first['figures']} figures)"


def _scope(runs: pd.DataFrame) -> str:
    first, seeds = runs.iloc[0], runs["seed"].nunique()
    orders = "one order" if seeds == 1 else f"{seeds} orders"
    decoding = str(first["decoding"]).replace("_", " ")
    said = (
        f"This holds for {int(runs['requests'].max())} requests ({first['measured_requests']}; {first['recording']},"
        f" {decoding}) of one trace, {orders} of them, {first['model']} in {first['dtype']} on {machine(runs)}, batch"
        f" {first['batch']}: not for another workload, model or machine"
    )
    if first["source"] == "simulated":
        return f"{said}, and on hardware only as far as the simulator is validated there."
    least = runs.groupby(["policy_label", "budget_bytes", "seed"]).size().min()
    again = "one run of each does not show" if least == 1 else f"at least {least} runs of each are averaged for"
    return f"{said}. A device's figures also drift from run to run, which {again}."


def _power(found: Comparison) -> list[str]:
    n, said = int(found.cells["requests"].min()), []
    if n < stats.LEAST:
        said.append(f"{n} requests are too few for any interval or test; at least {stats.LEAST}.")
    elif n < 2 * stats.BLOCKS:
        said.append(
            f"{n} requests are few: neighbours count as independent, and intervals are too narrow if they are not"
            f" (from {2 * stats.BLOCKS} requests on, {stats.BLOCKS} blocks of neighbours are the units)."
        )
    tested = int(found.pairs["p"].notna().sum())
    if tested and tested * stats.least_p(int(found.pairs["requests"].min())) > 1 - found.level:
        said.append(f"With so few requests none of {tested} comparisons could be significant, however large.")
    if tested > 1:
        said.append(f"p values are corrected for {tested} comparisons (Holm); intervals are each at {found.level:.0%}.")
    return said


def _lossy(found: Comparison) -> list[str]:
    lossy = sorted(set(found.cells["policy_label"][~found.cells["lossless"]]))
    if not lossy:
        return []
    return [f"Lossy, so not ranked with the others by latency; their quality is first-order: {', '.join(lossy)}."]
