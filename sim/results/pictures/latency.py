"""Latency against budget, with intervals and what is wanted; and the time of a token beside its bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.results.columns import LATENCIES, LATENCY_NAMES, REFERENCE_ROWS
from sim.results.pictures.colours import Looks, looks
from sim.results.pictures.findings import about, alike, lowest, number, span, times
from sim.results.pictures.lines import Figures
from sim.results.pictures.style import Picture, Sheet, by_budget
from traces.kit.drawing import EmptyPictureError
from traces.kit.errors import UserError, one_of
from traces.kit.panels import Panel

if TYPE_CHECKING:
    import pandas as pd

    from sim.results.compare.target import Target

MASS = "quality_kept_gate_mass"


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
    of their own, with the gate mass that they keep (rule 8). EmptyPictureError where no run has the latency, and where
    there is one figure alone.
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
    exact, lossy = frame[frame["lossless"]], frame[~frame["lossless"]]

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
