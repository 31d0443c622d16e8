"""Pictures of requests that arrive: latency and goodput against the rate and the KV cache's share, queue, latencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sim.results.pictures.colours import Looks, looks
from sim.results.pictures.findings import about, alike, number
from sim.results.pictures.lines import WIDE
from sim.results.pictures.style import Picture, Sheet, named, need
from traces.kit.drawing import INK, EmptyPictureError, dress, log_scale, name_ends, short
from traces.kit.panels import Panel
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

FIGURES = {
    "ttft_ms_p90": ("TTFT, p90 (ms)", "ms", min),
    "tpot_ms_p90": ("TPOT, p90 (ms)", "ms", min),
    "goodput_per_s": ("goodput (requests/s)", "requests/s", max),
}
"""Columns of ``sim.load``: what stands at the axis, the unit, and which is better."""
MANY = 16
"""From so many times the lowest rate or share to the highest on, these are on a logarithmic axis."""
RING: dict[str, Any] = {"s": 150, "facecolors": "none", "edgecolors": INK, "linewidths": 1.1, "zorder": 3}


@Picture
def rates(runs: pd.DataFrame, look: Looks | None = None) -> Sheet:
    """From ``sim.load``: TTFT, TPOT (p90, ms) and goodput against the rate of arrivals, a panel per figure and budget;
    means over seeds. EmptyPictureError where fewer than two rates were run."""
    frame = _means(runs, "rate_per_s", ["budget_bytes"])
    if frame["rate_per_s"].nunique() < 2:
        raise EmptyPictureError("one rate: this picture is of several (workload.rate=1,2,4)")
    panels = []
    for budget, own in frame.groupby("budget_bytes", sort=True):
        place = f" at {format_bytes(int(str(budget)))}"
        panels += _panels(own, "rate_per_s", "arrivals (requests/s)", look or looks(runs["policy_label"]), place)
    return Sheet(panels, "Latency and goodput against the rate of arrivals", _about(runs), columns=3)


@Picture
def shares(runs: pd.DataFrame, look: Looks | None = None) -> Sheet:
    """From ``sim.load``: the same against the share of the KV cache of one room, whose rest is for experts. Rings
    mark the best of each policy, all that are equal. EmptyPictureError where fewer than two shares were run."""
    frame = _means(runs.assign(kv_percent=100 * runs["kv_share"].astype("float64")), "kv_percent", [])
    if frame["kv_percent"].nunique() < 2:
        raise EmptyPictureError("one share: this picture is of several (budget=auto kv_share=10%,20%,40%)")
    style, label = look or looks(runs["policy_label"]), "share of the KV cache (%)"
    return Sheet(
        _panels(frame, "kv_percent", label, style, "", ring=True),
        "Memory for KV cache or experts",
        _about(runs),
        columns=3,
    )


@Picture
def queue(served: pd.DataFrame, look: Looks | None = None, about: str = "") -> Sheet:
    """From ``sim.results.load.load_served``, of one run per policy: requests that wait for their first pass, and that
    run (between first pass and end, preempted ones too), over time (s). EmptyPictureError without requests."""
    need(served, "policy_label", "admitted_ns", "first_pass_ns", "end_ns")
    style = look or looks(served["policy_label"])
    wait = _over_time(served, "admitted_ns", "first_pass_ns")
    run = _over_time(served, "first_pass_ns", "end_ns")
    panels = [
        Panel(f"{what}: {_most(found)}", _steps(found, label, style, float(served["end_ns"].max()) / 1e9))
        for what, label, found in (
            ("Waiting for a first pass", "waiting (requests)", wait),
            ("Between first pass and last token", "running (requests)", run),
        )
    ]
    return Sheet(panels, "The queue over time", about)


@Picture
def waits(served: pd.DataFrame, look: Looks | None = None, about: str = "") -> Sheet:
    """From ``sim.results.load.load_served``: which share of the requests took at most so long, from arrival to last
    token and to first token (s). EmptyPictureError without requests."""
    need(served, "policy_label", "admitted_ns", "end_ns", "ttft_ns")
    style, panels = look or looks(served["policy_label"]), []
    for what, column in (("arrival to last token", None), ("arrival to first token", "ttft_ns")):
        ns = served["end_ns"] - served["admitted_ns"] if column is None else served[column].astype("float64")
        own = served.assign(s=ns.astype("float64") / 1e9).dropna(subset=["s"])
        if len(own):
            middle = own.groupby("policy_label")["s"].median()
            title = f"From {what}: half take up to {number(middle.min())}"
            title += "" if len(middle) == 1 else f" ({middle.idxmin()}) to {number(middle.max())}"
            panels.append(Panel(f"{title} s", _distribution(own, style, what)))
    return Sheet(panels, "Latencies of requests", about)


def _means(runs: pd.DataFrame, column: str, more: list[str]) -> pd.DataFrame:
    """Means over seeds by policy, ``more`` and ``column``, of rows that have it."""
    need(runs, "policy_label", "lossless", column, *more, *FIGURES)
    known = named(runs[runs[column].notna()])
    keys = ["policy_label", "name", *more, column]
    return known.groupby(keys, sort=True)[list(FIGURES)].mean().astype("float64").reset_index()


def _panels(own: pd.DataFrame, column: str, label: str, look: Looks, place: str, *, ring: bool = False) -> list[Panel]:
    found = []
    for figure, (axis, unit, _) in FIGURES.items():
        known = own.dropna(subset=[figure])
        if len(known):
            low, high = number(known[figure].min()), number(known[figure].max())
            title = f"{axis.partition(' (')[0]}{place}: {low if low == high else f'{low} to {high}'} {unit}"
            if ring and low != high:
                title += f", best at {_best(known, figure, column)}"
            found.append(Panel(title, _curve(known, column, figure, label, look, ring=ring), wide=4.6))
    return found


def _best(known: pd.DataFrame, figure: str, column: str) -> str:
    """Which shares are as good as any, and with which policy; three of them."""
    better = FIGURES[figure][2]
    at = known[known[figure] == better(known[figure])]
    some = [f"{number(share)} % ({short(name)})" for share, name in zip(at[column], at["name"], strict=True)]
    return ", ".join(some[:3]) + (f" and {len(some) - 3} more" if len(some) > 3 else "")


def _curve(
    own: pd.DataFrame, column: str, figure: str, label: str, look: Looks, *, ring: bool
) -> Callable[[Axes], Sequence[Any]]:
    axis, _, better = FIGURES[figure]

    def draw(axes: Axes) -> Sequence[Any]:
        lines: list[Any] = []
        for (policy, name), rows in own.groupby(["policy_label", "name"], sort=True):
            lines += axes.plot(rows[column], rows[figure], label=short(name), **look[str(policy)].line)
            if ring and alike(rows[figure]) is None:
                best = rows[rows[figure] == better(rows[figure])]
                axes.scatter(best[column], best[figure], **RING)
        low, high = float(own[figure].min()), float(own[figure].max())
        axes.set(xlabel=label, ylabel=axis)
        least, most = float(own[column].min()), float(own[column].max())
        if 0 < least <= most / MANY:
            log_scale(axes, "x")
            axes.set_xlabel(f"{label}, log scale")
        if better is min and 0 < low <= high / WIDE:
            axes.set_ylim(low / 1.15, high * 1.15)
            log_scale(axes)
            axes.set_ylabel(f"{axis}, log scale")
        else:
            axes.set_ylim(0, 1.06 * high or 1)
        dress(axes)
        return [] if name_ends(axes, lines) else lines

    return draw


def _over_time(served: pd.DataFrame, begin: str, end: str) -> dict[str, tuple[Any, Any]]:
    """By policy: times (s) at which the number of open intervals changes, and the number from then on."""
    found = {}
    for label, own in served.groupby("policy_label", sort=True):
        times = np.concatenate([own[begin].to_numpy(dtype=float), own[end].to_numpy(dtype=float)]) / 1e9
        steps = np.concatenate([np.ones(len(own)), -np.ones(len(own))])
        order = np.lexsort((steps, times))  # half open: of one moment, who leaves comes first
        found[str(label)] = times[order], np.cumsum(steps[order])
    return found


def _most(found: dict[str, tuple[Any, Any]]) -> str:
    peaks = {label: int(count.max()) for label, (_, count) in found.items()}
    low, high = min(peaks.values()), max(peaks.values())
    return f"at most {low if low == high else f'{low} to {high}'} at a time"


def _steps(found: dict[str, tuple[Any, Any]], label: str, look: Looks, until: float) -> Callable[[Axes], Sequence[Any]]:
    def draw(axes: Axes) -> Sequence[Any]:
        lines: list[Any] = []
        for policy, (times, count) in found.items():
            style = look[policy]
            lines += axes.plot(
                times,
                count,
                drawstyle="steps-post",
                color=style.colour,
                linestyle=style.dash,
                linewidth=1.1,
                label=short(policy),
            )
        axes.set(xlabel="time since the first moment (s)", ylabel=label)
        axes.set_ylim(0, 1.06 * max(1.0, *(float(count.max()) for _, count in found.values())))
        axes.set_xlim(0, 1.02 * until or 1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        dress(axes)
        return lines

    return draw


def _distribution(own: pd.DataFrame, look: Looks, what: str) -> Callable[[Axes], Sequence[Any]]:
    def draw(axes: Axes) -> Sequence[Any]:
        lines: list[Any] = []
        for policy, rows in own.groupby("policy_label", sort=True):
            style, x = look[str(policy)], np.sort(rows["s"].to_numpy())
            y = 100 * np.arange(len(x) + 1) / len(x)
            lines += axes.plot(
                np.concatenate([x[:1], x]),
                y,
                drawstyle="steps-post",
                color=style.colour,
                linestyle=style.dash,
                linewidth=1.3,
                label=short(policy),
            )
        axes.set(xlabel=f"from {what} (s)", ylabel="requests that took at most so long (%)", ylim=(0, 104))
        axes.set_xlim(0, None)
        dress(axes)
        return lines

    return draw


def _about(runs: pd.DataFrame) -> str:
    """Of what, and by which objectives goodput counts."""
    slo = sorted(set(runs["slo"].dropna())) if "slo" in runs else []
    return "; ".join(filter(None, [about(runs), f"goodput: within {' or '.join(slo)}" if slo else ""]))
