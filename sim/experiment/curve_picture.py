"""Hit rates over budgets as a picture: a line per policy."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sim.experiment.cell import Cell
from sim.experiment.curves import PolicyCurve
from sim.prices import title_of
from sim.results.pictures.colours import looks
from sim.results.pictures.lines import Figures
from traces.kit.drawing import write_picture
from traces.kit.errors import UserError
from traces.kit.panels import together
from traces.kit.units import format_bytes


def draw_file(cell: Cell, curves: Sequence[PolicyCurve], path: Path) -> None:
    """Write the picture. UserError where there is one figure alone, or no place."""
    frame = pd.DataFrame(
        {"policy_label": it.label, "name": it.label, "budget_bytes": point.budget, "rate": it.rate(point)}
        for it in curves
        for point in it.points
    )
    if len(frame) < 2:
        raise UserError(f"picture={path}: of one figure; allowed: several budgets or policies")
    figures = Figures(frame, "rate", "lookups whose expert is there (%)", looks(frame["policy_label"]), share=True)
    routing = title_of("model", cell.trace.manifest.model.name)
    said = "routing of " + routing + (" (modelled)" if "expert_ids" in cell.trace.manifest.modelled else "")
    figure = together([figures.panel(finding(frame))], "", f"{said}, experts of {title_of('model', cell.model.name)}")
    write_picture(figure, path)


def finding(frame: pd.DataFrame) -> str:
    """Who hits the most, at how many budgets."""
    most = frame.groupby("budget_bytes")["rate"].max()
    names = list(dict.fromkeys(frame["name"]))
    low, high = (f"{most.iloc[i]:.0f} % at {format_bytes(int(most.index[i]))}" for i in (0, -1))
    if len(names) == 1:
        return f"{names[0]}: {low} to {high} of the lookups hit" if len(most) > 1 else f"{names[0]}: {low} hit"
    inner = frame[frame["rate"] < frame["rate"].max()] if len(most) > 1 else frame
    won = inner[inner["rate"] == inner["budget_bytes"].map(most)].groupby("name")["budget_bytes"].nunique()
    if won.empty:
        return f"All alike: {low} of the lookups hit"
    first = sorted(won[won == won.max()].index)
    if len(first) > 1:
        return f"{first[0]} and {first[1] if len(first) == 2 else 'others'} take turns: the most is {low} to {high}"
    best = str(first[0])
    if len(most) == 1:
        return f"{best} hits the most: {low}"
    return f"{best} hits the most at {int(won[best])} of {len(most)} budgets"
