"""An answer as a picture: latency against memory for experts, the target, and where the room ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.plan.sentences import NAMES, basis, first, machine
from sim.results.pictures.colours import looks
from sim.results.pictures.lines import target_line
from traces.kit.drawing import GREY, INK, LABEL, dress, log_scale, name_ends, write_picture
from traces.kit.panels import Panel, together
from traces.kit.units import format_bytes

GB = 1e-9


def draw_file(answers: Sequence[Mapping[str, Any]], path: Path) -> str:
    """Write the picture, where there is anything to draw, and say so in a line. UserError where there is no place."""
    figure = draw(answers)
    if figure is None:
        return f"picture={path}: nothing runs, so there is nothing to draw"
    write_picture(figure, path)
    return f"wrote {path}"


def draw(answers: Sequence[Mapping[str, Any]]) -> Figure | None:
    """A panel per machine on which something runs; None where nothing does."""
    shown = [
        found for it in answers for found in (it, it["instead"]) if found is not None and found["best"] is not None
    ]
    if not shown:
        return None

    def panel(it: Mapping[str, Any]) -> Panel:
        return Panel(
            first(it) if len(shown) == 1 else f"{it['model_title']} on {machine(it)}", lambda at: _draw(at, it)
        )

    return together([panel(it) for it in shown], "Latency against memory for experts", basis(shown[0]))


def _draw(axes: Axes, it: Mapping[str, Any]) -> Sequence[Any]:
    rows = [row for row in it["policies"] if row["cells"]]
    look, lines, seen = looks(row["policy"] for row in rows), list[Any](), list[float]()
    for row in rows:
        x = [cell["budget_bytes"] * GB for cell in row["cells"]]
        y = [cell["ms"] for cell in row["cells"]]
        lines += axes.plot(x, y, label=row["policy"], **look[row["policy"]].line)
        seen += y
    for key in ("best", "least"):
        won = it[key]
        if won is not None:
            colour = look[won["policy"]].colour
            axes.vlines(won["budget_bytes"] * GB, won["low_ms"], won["high_ms"], color=colour, linewidth=3, alpha=0.5)
            seen += [won["low_ms"], won["high_ms"]]
    room, most = it["capacity_bytes"], it["most_bytes"]
    ends = min(room, most)
    words = f"room: {format_bytes(room)}" if room < most else f"all experts: {format_bytes(ends)}"
    axes.axvline(ends * GB, color=GREY, linewidth=1.2, zorder=1.2, label="_room")
    style: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "right"}
    axes.annotate(words, (ends * GB, 0.97), (-4, 0), fontsize=LABEL, color=INK, va="top", **style)
    if it["target_ms"] is not None:
        seen.append(it["target_ms"])
    axes.set(xlim=(0, 1.03 * ends * GB), ylim=(min(seen) / 1.15, max(seen) * 1.15))
    axes.set(xlabel="GPU memory for experts (GB)", ylabel=f"ms {NAMES[it['metric']]}")
    log_scale(axes)
    dress(axes)
    if it["target_ms"] is not None:
        target_line(axes, it["target_ms"])
    return [] if name_ends(axes, lines) else lines
