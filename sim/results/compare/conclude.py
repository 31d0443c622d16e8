"""What a comparison allows to be said, a clause per policy that differs from the baseline, and what it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.results.classes import LOSSLESS, LOSSY, MODIFIED, by_class, outputs
from sim.results.columns import LATENCY_NAMES
from sim.results.compare import stats
from sim.results.compare.settings import tried
from sim.results.compare.target import answer
from sim.results.compare.words import budgets, interval, listed, percent, signed, sizes, unit
from sim.results.serving.lines import setting_of
from traces.kit.units import counted

if TYPE_CHECKING:
    import pandas as pd

    from sim.results.compare import Comparison


def conclude(found: Comparison) -> list[str]:
    """Sentences on what was seen: the target's answer first, then a clause per policy, then the front."""
    return [*answer(found.target, found.targets), *_differences(found), *_front(found)]


def limits(found: Comparison) -> list[str]:
    """Sentences on what may not be concluded."""
    return [*_power(found), *_tried(found), _scope(found), *_arriving(found), *_apart(found), *found.missing]


def _tried(found: Comparison) -> list[str]:
    return tried(found.settings, str(found.runs["measure"].iloc[0]), int(found.cells["requests"].max()))


def _can_be_found(frame: pd.DataFrame, level: float) -> bool:
    """Whether any of these differences could be significant, however large it is."""
    tested = frame[frame["p"].notna()]
    return len(tested) > 0 and len(tested) * stats.least_p(int(tested["requests"].max())) <= 1 - level + 1e-12


def _differences(found: Comparison) -> list[str]:
    """A clause per policy that differs from the baseline, the largest gain first; and one that names the others."""
    if not any(_can_be_found(frame, found.level) for frame in (found.pairs, found.overall)):
        return []
    overall = {str(row["policy_label"]): row for row in found.overall.to_dict("records")}
    said, unsure, equal = [], [], []
    for label, own in found.pairs.groupby("policy_label", sort=True):
        name, all_ = str(label), overall.get(str(label))
        effect = float(own["relative"].mean() if all_ is None else all_["relative"])
        if (own[["relative", "low", "high"]] == 0).all(axis=None):
            equal.append(name)
        elif clause := _clause(found, own, all_):
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


def _clause(found: Comparison, own: pd.DataFrame, all_: Mapping[Any, Any] | None) -> str:
    """What was found of one policy; "" where nothing was."""
    every = budgets(own["budget_bytes"], own["budget_bytes"])
    # A lossy policy may be faster because it computes less.
    output = outputs(found.cells)[found.cells["policy_label"] == found.baseline].iloc[0]
    but = "" if output == LOSSLESS else ", whatever either keeps of the quality"
    than, parts = f" {LATENCY_NAMES[found.metric]} than {found.baseline}", list[str]()
    for word, sign in (("lower", -1), ("higher", 1)):
        sure = own[own["significant"] & (sign * own["difference_ms"] > 0) & own["relative"].notna()]
        if len(sure):
            where = budgets(sure["budget_bytes"], own["budget_bytes"])
            ends = sure[["low", "high"]].iloc[0]
            alone = f" ({interval(ends['low'], ends['high'])})" if len(sure) == 1 else ""
            parts.append(f"{sizes(sure['relative'])} {word}{than if not parts else ''} at {where}{alone}")
    mean = None if all_ is None or math.isnan(all_["relative"]) else all_
    if mean is not None and mean["significant"]:
        word = "lower" if mean["difference_ms"] < 0 else "higher"
        parts.append(
            f"{sizes([mean['relative']])} {word}{than if not parts else ''} on average over {every}"
            f" ({interval(mean['low'], mean['high'])}){'' if parts else ', at no budget by itself'}"
        )
    elif mean is not None and parts:
        parts.append(f"on average over {every} not shown to differ ({_interval(mean)})")
    return f"{'; '.join(parts)}{but}." if parts else ""


def _interval(row: Mapping[Any, Any]) -> str:
    return f"{signed(row['relative'])} %, {signed(row['low'])} to {signed(row['high'])}"


def _front(found: Comparison) -> list[str]:
    said, name = [], LATENCY_NAMES[found.metric]
    axes_of = {
        LOSSLESS: f"memory and {name}",
        LOSSY: f"memory, {name} and kept gate mass, lossy",
        MODIFIED: f"memory and {name}, of modified models",
    }
    for output, of_class in by_class(found.cells):
        axes = axes_of[output]
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
        f"This holds for {counted(n, unit(runs))}{of} ({first['measured_requests']}; {first['recording']},"
        f" {decoding}) in {orders}, {setting_of(first)}; another workload, model or machine may rank them otherwise."
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


def _arriving(found: Comparison) -> list[str]:
    """Of requests that arrive, which wait for each other."""
    if unit(found.runs) == "request":
        return []
    return [
        "Arrivals are paired by seed and place: each policy served the same ones at the same moments. They wait for"
        " each other, so that one long queue is one observation, however many stand in it: near the rate that a policy"
        " can bear, more seeds tell more than more arrivals."
    ]


def _corrected(found: Comparison) -> list[str]:
    pairs, overall = (frame[frame["p"].notna()] for frame in (found.pairs, found.overall))
    if pairs.empty:
        return []
    q, m, level, said = stats.n_blocks(int(pairs["requests"].max())), len(pairs), percent(found.level), []
    if not _can_be_found(pairs, found.level):
        more = "measure more requests, or " if q < stats.BLOCKS else ""
        way_out = f"{more}choose fewer (policy=, budget=)"
        if _can_be_found(overall, found.level):
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


def _apart(found: Comparison) -> list[str]:
    why = {
        LOSSY: "Lossy, so not ranked with the others by latency; their quality is first-order",
        MODIFIED: "Of a modified model, so not ranked with the others: it would have chosen other experts than this"
        " trace's model has, with a quality that nobody measured here",
    }
    labels = {output: sorted(set(own["policy_label"])) for output, own in by_class(found.cells)}
    return [f"{why[output]}: {', '.join(labels[output])}." for output in labels if output in why]
