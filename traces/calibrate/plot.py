"""A picture of a profile's curves."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from traces.kit.units import counted
from traces.kit.whole import write_whole


def draw(profile: Mapping[str, Any], path: Path) -> None:
    """Copy bandwidth by size, and the times of each model by tokens. ImportError where matplotlib is absent."""
    from traces.kit.drawing import png
    from traces.kit.panels import Panel, together

    measured = profile["measured"]
    copies = {name.removeprefix("copy_"): table for name, table in measured.items() if name.startswith("copy_")}
    best = max(_rates(copies["h2d_pinned"], "median_ns"))
    panels = [Panel(f"Copies from pinned host memory reach {best:.3g} GB/s", partial(_copies, copies), 7.6, 4.2)]
    for name, model in (measured["models"] or {}).items():
        one = model["expert"]["median_ns"][0] / 1000
        title = f"{name}, {model['dtype']}: an expert takes {one:.3g} µs for {model['expert']['tokens'][0]} token"
        panels.append(Panel(title, partial(_model, model), 7.6, 4.2))
        if pair := model.get("pair"):
            both = zip(*(_speeds(pair, key)[0] for key in ("copy_with_cpu", "cpu_with_copy")), strict=True)
            title = f"{name}: copies and the CPU's experts together reach {max(map(sum, both)):.3g} GB/s"
            panels.append(Panel(title, partial(_pair, pair), 7.6, 4.2))
    about = f"{measured['machine']['device']}, measured {measured['date']}; {measured['copies']}; medians, quartiles"
    figure = together(panels, str(profile["name"]) if len(panels) > 1 else "", about, columns=1)
    write_whole(path, png(figure, 110))


def _rates(table: Mapping[str, Any], key: str) -> list[float]:
    return [n / ns for n, ns in zip(table["bytes"], table[key], strict=True)]


def _copies(copies: Mapping[str, Mapping[str, Any]], axes: Any) -> Sequence[Any]:
    from traces.kit.drawing import series

    lines = []
    for (name, table), look in zip(copies.items(), series(len(copies)), strict=True):
        at = [n / 2**20 for n in table["bytes"]]
        lines += axes.plot(at, _rates(table, "median_ns"), label=name.replace("_", " "), **look)
        slow, fast = _rates(table, "q3_ns"), _rates(table, "q1_ns")
        axes.fill_between(at, slow, fast, color=look["color"], alpha=0.12, linewidth=0)
    axes.set(xlabel="size of a copy (MiB), log scale", ylabel="rate (GB/s)", ylim=(0, None))
    _powers(axes, [n / 2**20 for n in copies["h2d_pinned"]["bytes"]])
    return _dressed(axes, lines)


def _model(model: Mapping[str, Any], axes: Any) -> Sequence[Any]:
    from traces.kit.drawing import log_scale, series

    dense, cpu = model["dense"], model["cpu_expert"]
    whole = (("expert", "one expert"), ("grouped", "top-K, grouped"))
    tables = [(model[name], list(range(len(model[name]["ns"]))), label) for name, label in whole]
    tables += [(dense, rows, f"dense, context {context}") for context, rows in _ends(dense["context"])]
    tables += [(cpu, rows, f"on the CPU, {counted(threads, 'thread')}") for threads, rows in _ends(cpu["threads"])]
    lines = []
    for (table, rows, label), look in zip(tables, series(len(tables)), strict=True):
        tokens = [table["tokens"][i] for i in rows]
        middle, low, high = ([table[key][i] / 1000 for i in rows] for key in ("median_ns", "q1_ns", "q3_ns"))
        lines += axes.plot(tokens, middle, label=label, **look)
        axes.fill_between(tokens, low, high, color=look["color"], alpha=0.12, linewidth=0)
    _powers(axes, model["expert"]["tokens"])
    axes.set_yscale("log")
    log_scale(axes, "y")
    axes.set(xlabel="tokens, log scale", ylabel="time (µs), log scale")
    return _dressed(axes, lines)


def _pair(pair: Mapping[str, Any], axes: Any) -> Sequence[Any]:
    from traces.kit.drawing import series

    names = {
        "copy": "copies alone",
        "copy_with_cpu": "copies beside the CPU's experts",
        "cpu": "the CPU's experts alone",
        "cpu_with_copy": "these beside copies",
    }
    lines = []
    for (key, label), look in zip(names.items(), series(len(names)), strict=True):
        middle, slow, fast = _speeds(pair, key)
        lines += axes.plot(pair[key]["threads"], middle, label=label, **look)
        axes.fill_between(pair[key]["threads"], slow, fast, color=look["color"], alpha=0.12, linewidth=0)
    _powers(axes, pair["copy"]["threads"])
    axes.set(xlabel="threads that compute, log scale", ylabel="expert bytes (GB/s)", ylim=(0, None))
    return _dressed(axes, lines)


def _speeds(pair: Mapping[str, Any], key: str) -> list[list[float]]:
    """GB/s by number of threads: of the medians, and of the slower and the faster quartile."""
    return [[pair["expert_bytes"] / ns for ns in pair[key][column]] for column in ("median_ns", "q3_ns", "q1_ns")]


def _ends(axis: Sequence[int]) -> list[tuple[int, list[int]]]:
    """The least and the largest value of an axis, each with its rows."""
    return [(end, [i for i, at in enumerate(axis) if at == end]) for end in sorted({min(axis), max(axis)})]


def _dressed(axes: Any, lines: Sequence[Any]) -> Sequence[Any]:
    from traces.kit.drawing import dress, name_ends

    dress(axes)
    return [] if name_ends(axes, lines) else lines


def _powers(axes: Any, ticks: list[float]) -> None:
    """A logarithmic axis, marked in plain numbers: a fraction where it is one."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{x:g}" if x >= 1 else f"1/{1 / x:g}" for x in ticks])
    axes.minorticks_off()
