"""A picture of a profile's curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw(profile: Mapping[str, Any], path: Path) -> None:
    """Copy bandwidth by size, and the times of each model by tokens. ImportError where matplotlib is absent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = profile["measured"]
    models = measured["models"] or {}
    figure = Figure(figsize=(7.5, 4.2 * (1 + len(models))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + len(models), squeeze=False)[:, 0]
    figure.suptitle(f"{profile['name']}: {measured['machine']['device']}, {measured['date']}\n{measured['copies']}")
    _copies(axes[0], measured)
    for axis, (name, model) in zip(axes[1:], models.items(), strict=True):
        _model(axis, name, model)
    figure.savefig(path, dpi=110, format="png")


def _copies(axis: Any, measured: Mapping[str, Any]) -> None:
    for name, table in measured.items():
        if not name.startswith("copy_"):
            continue
        at = [n / 2**20 for n in table["bytes"]]
        rate, slow, fast = (
            [n / ns for n, ns in zip(table["bytes"], table[key], strict=True)]
            for key in ("median_ns", "q3_ns", "q1_ns")
        )
        style = "--" if "_with_" in name else ":" if name.endswith("_call") else "-"
        (line,) = axis.plot(at, rate, style, marker=".", label=name.removeprefix("copy_").replace("_", " "))
        axis.fill_between(at, slow, fast, color=line.get_color(), alpha=0.15, linewidth=0)
    sizes = [n / 2**20 for n in measured["copy_h2d_pinned"]["bytes"]]
    axis.set(xlabel="MiB per copy", ylabel="GB/s (median, quartiles)", ylim=(0, None))
    _powers(axis, sizes)
    axis.legend(fontsize=8, ncols=2)
    axis.grid(alpha=0.3)


def _model(axis: Any, name: str, model: Mapping[str, Any]) -> None:
    for key in ("expert", "grouped"):
        _times(axis, model[key], range(len(model[key]["ns"])), "one expert" if key == "expert" else "top-K, grouped")
    dense, cpu = model["dense"], model["cpu_expert"]
    for context in (min(dense["context"]), max(dense["context"])):
        rows = [i for i, c in enumerate(dense["context"]) if c == context]
        _times(axis, dense, rows, f"dense part, context {context}", style="--")
    for threads in (min(cpu["threads"]), max(cpu["threads"])):
        rows = [i for i, t in enumerate(cpu["threads"]) if t == threads]
        _times(axis, cpu, rows, f"one expert on the CPU, {threads} thread{'s' * (threads > 1)}", style=":")
    axis.set(title=f"{name}, {model['dtype']}", xlabel="tokens", ylabel="µs (median, quartiles)", yscale="log")
    _powers(axis, model["expert"]["tokens"])
    axis.legend(fontsize=8, loc="upper left")
    axis.grid(alpha=0.3)


def _powers(axis: Any, ticks: list[float]) -> None:
    """A logarithmic axis, marked in plain numbers: a fraction where it is one."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{x:g}" if x >= 1 else f"1/{1 / x:g}" for x in ticks])
    axis.minorticks_off()


def _times(axis: Any, table: Mapping[str, Any], rows: Any, label: str, style: str = "-") -> None:
    tokens = [table["tokens"][i] for i in rows]
    middle, low, high = ([table[key][i] / 1000 for i in rows] for key in ("median_ns", "q1_ns", "q3_ns"))
    (line,) = axis.plot(tokens, middle, style, marker=".", label=label)
    axis.fill_between(tokens, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
