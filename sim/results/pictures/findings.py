"""What a picture shows, in the sentence that stands above it: worked out from the frame, or what the picture is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sim.results.titles import rests_on, titles
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd


def about(runs: pd.DataFrame) -> str:
    """Whose routing, as what it is priced, simulated or measured; "" for a frame that does not say."""
    if "routing_from" not in runs:
        return ""
    parts = (
        "routing_from",
        "model",
        "model_title",
        "hardware",
        "hardware_title",
        "source",
        "device",
        "figures",
        "modelled",
    )
    kinds = runs[[name for name in parts if name in runs]].drop_duplicates()
    said = list(dict.fromkeys(str(titles(row)) for row in kinds.to_dict("records")))
    kind = said[0] if len(said) == 1 else f"{len(said)} kinds of runs: {'; '.join(said[:2])}{', ...' * (len(said) > 2)}"
    modelled = rests_on(runs.to_dict("records")) if "policy_label" in runs else ""
    return f"{kind}; {modelled}" if modelled else kind


def number(value: float) -> str:
    """Three digits: ``53.3``, ``3.77``, ``1,410``."""
    return f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"


def differs(values: pd.Series[float]) -> bool:
    """Whether there are two values: one alone is no picture."""
    known = values.dropna()
    return len(known) > 0 and bool((known != known.iloc[0]).any())


def alike(values: pd.Series[float]) -> str | None:
    """What all values are, in three digits; None where they differ in these."""
    low, high = number(values.min()), number(values.max())
    return low if low == high else None


def at(budget: Any) -> str:
    """``at 8 GB``."""
    return f"at {format_bytes(int(budget))}"


def lowest(frame: pd.DataFrame, column: str, what: str) -> str:
    """Of a row per ``name`` and budget_bytes, in ms: who is lowest, at how many budgets, between which figures."""
    known = frame.dropna(subset=[column]).sort_values("budget_bytes")
    least = known.groupby("budget_bytes")[column].min()
    span = f"{number(least.iloc[0])} ms {at(least.index[0])}"
    if len(least) > 1:
        span += f" to {number(least.iloc[-1])} ms {at(least.index[-1])}"
    names = list(dict.fromkeys(known["name"]))
    if len(names) == 1:
        return f"{names[0]}: {what} of {span}"
    winners = known[known[column] == known["budget_bytes"].map(least)]
    first = winners.groupby("name")["budget_bytes"].nunique()
    most = sorted(first[first == first.max()].index)
    if len(most) == len(names) and first.max() == len(least):
        return f"All alike: {what} of {span}"
    if len(most) > 1 and first.max() < len(least):
        ends = winners.drop_duplicates("budget_bytes").iloc[[0, -1]].to_dict("records")
        low, high = (f"{number(end[column])} ms {at(end['budget_bytes'])} ({end['name']})" for end in ends)
        return f"Policies take turns: the lowest {what} is {low} to {high}"
    who = " and ".join(most[:2]) + (f" and {len(most) - 2} more" if len(most) > 2 else "")
    if first.max() < len(least):
        return f"{who}: the lowest {what} at {first.max()} of {len(least)} budgets"
    return f"{who}: the lowest {what}{' at every budget' if len(least) > 1 else ''}, {span}"


def times(frame: pd.DataFrame, column: str, floor: str) -> str:
    """How many times the bound the best of each budget is: ``1.52 to 2.86 times``; "" where no bound is known."""
    found = (frame[column] / frame[floor]).groupby(frame["budget_bytes"]).min().dropna()
    found = found[found < float("inf")]
    return f"{_from_to(found.min(), found.max())} times" if len(found) else ""


def span(frame: pd.DataFrame, column: str) -> str:
    """From the lowest to the highest share of all rows: ``21.9 to 97.4 %``."""
    return f"{_from_to(100 * frame[column].min(), 100 * frame[column].max())} %"


def _from_to(low: float, high: float) -> str:
    return number(low) if number(low) == number(high) else f"{number(low)} to {number(high)}"
