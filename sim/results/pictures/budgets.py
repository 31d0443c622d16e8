"""Pictures against the budget: latency and its front, hit rates, and what crosses the link."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from policies.api import OUTPUTS
from sim.core.accounts import PHASES
from sim.results.columns import LATENCIES, LATENCY_NAMES, RATES, REFERENCE_ROWS
from sim.results.pictures.colours import Looks, looks
from sim.results.pictures.findings import about, alike, differs, lowest, number, span, times
from sim.results.pictures.lines import Figures, target_line
from sim.results.pictures.style import Picture, Sheet, by_budget, named, need
from traces.kit.drawing import GREY, INK, EmptyPictureError, dress, short
from traces.kit.errors import UserError, one_of
from traces.kit.panels import Panel
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

    from sim.results.compare.target import Target

MASS = "quality_kept_gate_mass"
RING: dict[str, Any] = {"s": 170, "facecolors": "none", "edgecolors": INK, "linewidths": 1.1, "zorder": 3}
RING["label"] = "on the front"
RATE_WORDS = {
    "recall": "predicted before the gate",
    "resident": "has a slot",
    "complete": "all of it is there",
    "bytes": "share of it that is there",
}
MB = 1e-6


@Picture
def latency(
    runs: pd.DataFrame,
    metric: str = "tpot",
    look: Looks | None = None,
    cells: pd.DataFrame | None = None,
    target: Target | None = None,
) -> Sheet:
    """From ``sim.load``: the mean of a latency (ttft, tpot, request; ms), and the time per generated token (ms).

    ``cells``: of ``sim.results.compare``, whose intervals are drawn; ``target``: drawn where it is one of this mean.
    The time lower bound is one of the whole window, so it stands in a panel of its own. Lossy policies have panels
    of their own, with the gate mass that they keep, and so have those of a modified model (rule 8).
    EmptyPictureError where no run has the latency, and where there is one figure alone.
    """
    if metric not in LATENCIES:
        raise UserError(f"metric={metric}: allowed: {one_of(LATENCIES)}")
    column = f"{metric}_ms_mean"
    cheats = [f"{name}_{part}" for name in REFERENCE_ROWS for part in (column, "throughput_tokens_per_s")]
    wanted = (column, "throughput_tokens_per_s", "bound_ms_per_token", MASS, *cheats)
    frame = by_budget(runs, *wanted)
    frame = frame[frame[column].notna()]
    if frame.empty:
        raise EmptyPictureError(f"no run has {metric}: what the trace did not record is null")
    if len(frame) == 1:
        (only,) = frame.to_dict("records")
        raise EmptyPictureError(f"one figure is no picture: {only['name']} has a mean of {number(only[column])} ms")
    frame = frame.assign(window=1000 / frame["throughput_tokens_per_s"])
    if cells is not None:
        ends = cells.set_index(["policy_label", "budget_bytes"])[["low", "high"]]
        frame = frame.join(ends, on=["policy_label", "budget_bytes"])
    style, name = look or looks(runs["policy_label"]), LATENCY_NAMES[metric]
    goal, panels = target.of_mean(metric) if target else None, list[Panel]()
    exact, lossy, modified = (frame[frame["output"] == output] for output in OUTPUTS)

    def means(own: pd.DataFrame, kind: str = "", **cheats: str) -> Panel:
        found = Figures(own, column, f"{name} (ms), mean", style, references=cheats, target=goal)
        return found.panel(kind + lowest(own, column, f"mean {name}"))

    if len(exact):
        panels += [means(exact, **{row: f"{row}_{column}" for row in REFERENCE_ROWS}), _window(exact, style)]
    same = alike(lossy[column]) if len(lossy) else None
    if len(lossy) and same is None:
        panels.append(means(lossy, "Lossy, not ranked with the others. "))
    if lossy[MASS].notna().any():
        everywhere = " everywhere" if len(lossy) > 1 else ""
        first = f"Lossy, mean {name} {same} ms{everywhere}" if same else "Lossy"
        found = Figures(lossy, MASS, "kept gate mass (%), first-order", style, scale=100, share=True)
        panels.append(found.panel(f"{first}: {span(lossy, MASS)} of the gate mass is kept"))
    if len(modified):
        panels.append(means(modified, "Of a modified model, not ranked with the others. "))
    if not panels:
        each = number(float(frame[column].max()))
        raise EmptyPictureError(f"all lossy, none says what gate mass it keeps, and the mean is {each} ms for all")
    return Sheet(panels, "Latency against GPU memory", about(runs))


def _window(own: pd.DataFrame, style: Looks) -> Panel:
    cheats = {name: f"{name}_window" for name in REFERENCE_ROWS}
    own = own.assign(**{column: 1000 / own[f"{name}_throughput_tokens_per_s"] for name, column in cheats.items()})
    own = own.drop(columns=["low", "high"], errors="ignore")
    label, floor = "time per generated token (ms)", "bound_ms_per_token"
    found = Figures(own, "window", label, style, references=cheats, floor=floor)
    said = times(own, "window", floor)
    said = f"The best takes {said} as long as the bound" if said else lowest(own, "window", "time per generated token")
    return found.panel(said)


@Picture
def front(
    cells: pd.DataFrame, metric: str = "tpot", look: Looks | None = None, target: Target | None = None, about: str = ""
) -> Sheet:
    """From ``sim.results.compare``'s cells: the metric in ms with its interval against the budget, rings on the front.

    Rows of a modified model have a panel of their own. Lossy rows: the metric against the kept gate mass (%), a larger
    marker for a larger budget; one that does not say what mass it keeps cannot be placed, and the panel's title says
    how many. ``about``: the subtitle. EmptyPictureError where there is nothing to place, and where there is one row
    alone.
    """
    need(cells, "policy_label", "lossless", "budget_bytes", "value", "low", "high", "front", MASS)
    cells, style = named(cells), look or looks(cells["policy_label"])
    exact, lossy, modified = (cells[cells["output"] == output] for output in OUTPUTS)
    known = lossy[lossy[MASS].notna()]
    if exact.empty and modified.empty and known.empty:
        raise EmptyPictureError("no lossless row, and no lossy one says what gate mass it keeps")
    wanted = target.of_mean(metric) if target else None
    panels = []
    label = f"{LATENCY_NAMES[metric]} (ms), mean"
    for rows, kind in ((exact, ""), (modified, "Of a modified model. ")):
        if len(rows) > 1:
            title = kind + lowest(rows, "value", f"mean {LATENCY_NAMES[metric]}")
            figures = Figures(rows, "value", label, style, target=wanted)
            panels.append(Panel(title, partial(_memory, figures), high=figures.high))
    if len(known) and alike(known["value"]) is None:
        mass = known[MASS]
        title = f"Lossy: {number(100 * mass.min())} to {number(100 * mass.max())} % of the gate mass is kept"
        if len(known) < len(lossy):
            title += f" ({len(lossy) - len(known)} rows do not say what they keep)"
        panels.append(Panel(title, partial(_quality, known, label, style, wanted)))
    if not panels:
        each = [row for rows in (exact, modified, known) for row in rows.to_dict("records")]
        said = f"{each[0]['name']} {number(each[0]['value'])} ms{', and so all' * (len(each) > 1)}"
        raise EmptyPictureError(f"one figure is no picture: {said}")
    return Sheet(panels, "Latency and memory, and what lossy policies give up", about)


def _memory(figures: Figures, axes: Axes) -> Sequence[Any]:
    drawn, best = figures.draw(axes), figures.frame[figures.frame["front"]]
    if not differs(figures.frame["budget_bytes"]):
        return drawn
    return [*drawn, axes.scatter(best["budget_bytes"], best["value"], **RING)]


def _quality(own: pd.DataFrame, label: str, style: Looks, target: float | None, axes: Axes) -> Sequence[Any]:
    budgets = sorted({int(budget) for budget in own["budget_bytes"]})
    # Labels beside the points would lie on one another.
    sizes = {budget: 5 + 7 * place / max(1, len(budgets) - 1) for place, budget in enumerate(budgets)}
    drawn: list[Any] = []
    for policy, rows in own.groupby("policy_label", sort=True):
        look, mass = style[str(policy)], 100 * rows[MASS]
        hollow: dict[str, Any] = {"marker": look.marker, "markeredgecolor": look.colour, "linestyle": "none"}
        hollow["markerfacecolor"] = "none"
        axes.plot(mass, rows["value"], color=look.colour, linestyle=":", zorder=1)
        drawn.append(Line2D([], [], **hollow, markersize=8, label=f"{short(policy)} (lossy)"))
        for x, y, budget in zip(mass, rows["value"], rows["budget_bytes"], strict=True):
            axes.plot(x, y, **hollow, markersize=sizes[int(budget)])
    for budget in dict.fromkeys((budgets[0], budgets[len(budgets) // 2], budgets[-1])):
        dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": GREY, "markersize": sizes[budget]}
        drawn.append(Line2D([], [], **dot, label=f"budget {format_bytes(budget)}"))
    best = own[own["front"]]
    drawn.append(axes.scatter(100 * best[MASS], best["value"], **RING))
    # What a lossy policy keeps is told by how far it is from all of it.
    low = max(0.0, 100 * float(own[MASS].min()) - 8)
    high = 1.12 * max(float(own["value"].max()), target or 0)
    axes.set(xlabel="kept gate mass (%), first-order", ylabel=label)
    axes.set(xlim=(low, 102 + 0.02 * (100 - low)), ylim=(0, high or 1))
    dress(axes, "both")
    if target is not None:
        target_line(axes, target)
    return drawn


@Picture
def hits(runs: pd.DataFrame, look: Looks | None = None) -> Sheet:
    """From ``sim.load``: a panel per phase and rate; shares of the lookups in %.

    A rate or phase that no run has is left out (recall where nothing predicts), and so is one that is the same
    everywhere: nobody needs a picture of 0. Lossy policies stand with the others: hits are not a ranking, but their
    lookups are those of other experts, so their names say so.
    EmptyPictureError where nothing is left, and where there is one run alone.
    """
    columns = {f"hit_{phase}_{rate}": (phase, rate) for phase in PHASES for rate in RATES}
    frame = by_budget(runs, *columns)
    if frame[list(columns)].isna().all(axis=None):
        raise EmptyPictureError("no run has a lookup")
    style, panels, alike = look or looks(runs["policy_label"]), [], []
    for column, (phase, rate) in columns.items():
        own = frame.dropna(subset=[column])
        if differs(own[column]):
            found = Figures(own, column, f"{phase} lookups (%)", style, scale=100, share=True)
            panels.append(found.panel(f"{rate} ({RATE_WORDS[rate]}), {phase}: {span(own, column)}"))
        elif len(own):
            alike.append(f"{rate} in {phase}: {number(100 * own[column].iloc[0])} %")
    if not panels:
        raise EmptyPictureError(f"the same for all runs: {'; '.join(alike)}")
    return Sheet(panels, "Hit rates, over the lookups of each phase", about(runs))


@Picture
def link(runs: pd.DataFrame, look: Looks | None = None) -> Sheet:
    """From ``sim.load``: how busy the link was (%), and MB copied per generated token beside ``belady_bypass``,
    which is said to be of the GPU alone where a row has the host compute.

    EmptyPictureError where no time passed, nothing was copied, or there is one run alone.
    """
    forced = "belady_forced_bytes_per_token"
    wanted = ("link_utilisation", "bytes_per_token", "bound_bytes", "generated_tokens", "host_lookups", forced)
    frame = by_budget(runs, *wanted)
    frame = frame.assign(floor=frame["bound_bytes"] / frame["generated_tokens"])
    if not frame[["link_utilisation", "bytes_per_token"]].notna().any(axis=None):
        raise EmptyPictureError("no time passed")
    style, panels = look or looks(runs["policy_label"]), []
    if differs(frame["link_utilisation"]):
        busy = Figures(frame, "link_utilisation", "time that the link is busy (%)", style, scale=100, share=True)
        panels.append(busy.panel(f"The link is busy {span(frame, 'link_utilisation')} of the time"))
    if differs(frame["bytes_per_token"]):
        alone = " on the GPU alone" * bool(frame["host_lookups"].any())  # what the host computes need not be copied
        words = f"no lossless policy{alone} copies so little"
        cheats = {"belady_forced": forced}
        copied = Figures(
            frame, "bytes_per_token", "copied per generated token (MB)", style, MB, False, cheats, "floor", words
        )
        said = times(frame[frame["lossless"]], "bytes_per_token", "floor")
        title = f"The best{alone} copies {said} the bytes of the bound" if said else "Bytes over the link"
        panels.append(copied.panel(title))
    if not panels:
        busy_, bytes_ = frame["link_utilisation"].iloc[0], frame["bytes_per_token"].iloc[0]
        raise EmptyPictureError(
            f"the same for all runs: the link is busy {number(100 * busy_)} % of the time, {number(MB * bytes_)} MB are"
            " copied per generated token"
        )
    return Sheet(panels, "What crosses the link", about(runs))
