"""What a comparison allows to be said, and what it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.compare import stats
from sim.frame import LATENCY_NAMES
from sim.units import counted, format_bytes

if TYPE_CHECKING:
    import pandas as pd

    from sim.compare import Comparison
    from sim.compare.target import Target

MOST_NAMED = 6


def conclude(found: Comparison) -> list[str]:
    """Sentences on what was seen."""
    return [*_differences(found), *_front(found), *_target(found)]


def limits(found: Comparison) -> list[str]:
    """Sentences on what may not be concluded."""
    return [_scope(found), *_power(found), *_lossy(found), *found.missing]


def percent(level: float) -> str:
    """``95 %``, ``99.9 %``."""
    return f"{100 * level:.6g} %"


def milliseconds(value: float, least: float = math.inf) -> str:
    """Two decimals, or as many as give the smallest of the figures beside it, ``least``, three digits."""
    if math.isnan(value):
        return "-"
    small = min(abs(value), least)
    decimals = 2 if small >= 1 or small == 0 else min(6, 2 - math.floor(math.log10(small)))
    return f"{value:.{decimals}f}"


def share(value: float, digits: int = 1) -> str:
    """``-4.0 %``, with its sign."""
    return f"{100 * value:+.{digits}f} %"


def _differences(found: Comparison) -> list[str]:
    pairs, name = found.pairs, LATENCY_NAMES[found.metric]
    if pairs.empty:
        return []
    sure, unsure = pairs[pairs["significant"]], pairs[~pairs["significant"]]
    said = []
    # A lossy policy may be faster because it computes less.
    lossless = found.cells.set_index("policy_label")["lossless"]
    but = "" if lossless.loc[[found.baseline]].all() else ", whatever either keeps of the quality"
    for words, of in (("lower", sure[sure["difference_ms"] < 0]), ("higher", sure[sure["difference_ms"] > 0])):
        if len(of):
            said.append(
                f"Significantly {words} {name} than {found.baseline} at the same budget{but}:"
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
    on = "by the mean" if goal.part == "mean" else "a percentile, without an interval"
    for lossless, kind in ((True, ""), (False, "lossy, ")):
        own = found.targets[found.targets["lossless"] == lossless]
        meets, not_ = own[own["budget_bytes"].notna()], own[own["budget_bytes"].isna()]
        if len(meets):
            rows = meets.sort_values(["budget_bytes", "value_ms"]).to_dict("records")
            names = "; ".join(_met(row, goal) for row in rows)
            said.append(f"Meet {goal.text} ({on}), {kind}the smallest budget here of each, least first: {names}.")
        if len(not_):
            rows = not_.sort_values("best_ms").to_dict("records")
            names = "; ".join(
                f"{r['policy_label']} ({milliseconds(r['best_ms'])} ms at {_bytes(r['best_budget_bytes'])})"
                for r in rows
            )
            said.append(f"Miss {goal.text} ({on}) at every budget here, {kind}the best of each: {names}.")
    return said


def _met(row: Mapping[Any, Any], goal: Target) -> str:
    import pandas as pd

    said = [f"{milliseconds(row['value_ms'])} ms"]
    if goal.part == "mean" and math.isnan(row["high_ms"]):
        said.append("without an interval")
    elif goal.part == "mean" and row["high_ms"] > goal.ms:
        sure = row["sure_budget_bytes"]
        wholly = "" if pd.isna(sure) else f" and meets it wholly only at {_bytes(sure)}"
        said.append(f"but its interval reaches up to {milliseconds(row['high_ms'])} ms{wholly}")
    if row["gap_above"]:
        said.append("and a larger budget misses it")
    return f"{row['policy_label']} {_bytes(row['budget_bytes'])} ({', '.join(said)})"


def _bytes(nbytes: Any) -> str:
    return format_bytes(int(nbytes))


def machine(runs: pd.DataFrame) -> str:
    """Where the runs were, in words."""
    first = runs.iloc[0]
    if first["source"] == "device":
        return f"{first['device']} (measured; the policies' prices: {first['hardware']})"
    return f"{first['hardware']} (simulated, {first['figures']} figures)"


def _scope(found: Comparison) -> str:
    runs, n = found.runs, int(found.cells["requests"].max())
    first, seeds, all_ = runs.iloc[0], runs["seed"].nunique(), int(runs["requests"].max())
    orders = "one order" if seeds == 1 else f"{seeds} orders"
    decoding = str(first["decoding"]).replace("_", " ")
    of = "" if n >= all_ else f" that have a {LATENCY_NAMES[found.metric]}, of {all_}"
    said = (
        f"This holds for {counted(n, 'request')}{of} ({first['measured_requests']}; {first['recording']},"
        f" {decoding}) of one trace, {orders} of them, {first['model']} in {first['dtype']} on {machine(runs)}, batch"
        f" {first['batch']}: not for another workload, model or machine"
    )
    if first["source"] == "simulated":
        return f"{said}, and on hardware only as far as the simulator is validated there."
    least = runs.groupby(["policy_label", "budget_bytes", "seed"]).size().min()
    again = "one run of each does not show" if least == 1 else f"at least {least} runs of each are averaged for"
    return f"{said}. A device's figures also drift from run to run, which {again}."


def _power(found: Comparison) -> list[str]:
    n, level = int(found.cells["requests"].min()), percent(found.level)
    said = [few] if (few := stats.few(n)) else []
    if n < stats.LEAST:
        said.append(f"Too few for any interval or test: {counted(n, 'request')}; at least {stats.LEAST} are wanted.")
    elif n < 2 * stats.BLOCKS:
        said.append(
            f"{n} requests are few: neighbours count as independent; if they are not, intervals are too narrow and p"
            f" values too small (from {2 * stats.BLOCKS} requests on, {stats.BLOCKS} blocks of neighbours are the"
            " units)."
        )
    elif n < 4 * stats.BLOCKS:
        said.append(
            f"{n} requests are not many: {stats.BLOCKS} blocks of them are short; if topics come in longer runs,"
            " intervals are too narrow and p values too small."
        )
    if n >= stats.LEAST and found.cells["low"].isna().any():
        said.append(f"No interval at {level}: {stats.n_blocks(n)} blocks of requests do not reach that level.")
    return [*said, *_corrected(found)]


def _corrected(found: Comparison) -> list[str]:
    tested = found.pairs[found.pairs["p"].notna()]
    if tested.empty:
        return []
    m, level, said = len(tested), percent(found.level), []
    q = stats.n_blocks(int(tested["requests"].max()))
    if m * stats.least_p(q) > 1 - found.level:
        more = "measure more requests, or " if q < stats.BLOCKS else ""
        said.append(
            f"No p value of {q} blocks of requests is below {stats.least_p(q):.2g}, so none of {m} comparisons could be"
            f" significant, however large the difference: {more}choose fewer (policy=, budget=)."
        )
    if m > 1:
        alone = tested[~tested["significant"] & ((tested["low"] > 0) | (tested["high"] < 0))]
        besides = f"; {len(alone)} of them leave out 0 where the corrected p is not significant" if len(alone) else ""
        said.append(f"p values are corrected for {m} comparisons (Holm); intervals are each at {level}{besides}.")
    return said


def _lossy(found: Comparison) -> list[str]:
    lossy = sorted(set(found.cells["policy_label"][~found.cells["lossless"]]))
    if not lossy:
        return []
    return [f"Lossy, so not ranked with the others by latency; their quality is first-order: {', '.join(lossy)}."]
