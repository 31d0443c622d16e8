"""README's first picture, and the numbers that it shows: ``python docs/first_picture.py``.

Draws ``first_picture.svg`` and writes ``first_picture.csv`` beside it. Cells that ``outputs/first_picture`` has are
read, the others are run: two minutes on one core. The title is made from the numbers.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim import load, load_requests
from sim.experiment.bounds import floors
from sim.experiment.cell import make_cell, passes_of
from sim.experiment.compose import read_config
from sim.experiment.run import run
from sim.results.compare.comparison import compare_runs
from sim.results.pictures import bound, looks
from sim.results.titles import policy as title_of
from sim.results.titles import titles
from traces.kit.drawing import GREY, dress, finish, log_scale, readable, svg
from traces.kit.units import format_bytes
from traces.kit.whole import write_whole
from traces.version import __version__

HERE = Path(__file__).resolve().parent
PICTURE, NUMBERS = HERE / "first_picture.svg", HERE / "first_picture.csv"
GB = 10**9
BUDGETS = tuple(n * GB for n in (2, 4, 6, 8, 10, 12))
AT = 8 * GB
"""The budget of the panel on the right."""
POLICIES: Mapping[str, tuple[str, ...]] = {
    "lru": ("policy=lru",),
    "lru (scope=layer)": ("policy=lru", "policy.scope=layer"),
    "mixtral_offloading": ("policy=mixtral_offloading",),
    "gate_ahead": ("policy=gate_ahead",),
    "moe_infinity": ("policy=moe_infinity",),
    "fmoe": ("policy=fmoe",),
    "promoe": ("policy=promoe",),
}
"""By label, as one types them."""
NAMED = BASE, LAYER, BEST = "lru", "lru (scope=layer)", "promoe"
"""In colour: the title speaks of them."""
BOUND = "time_lower_bound"
FINE = range(3 * GB // 2, 13 * GB, GB // 4)
"""Budgets of the bound, which bends between those of the policies."""
CONTEXT = "#A6A6A6"
"""Of the others."""
HEAD, LABEL = 10.5, 9.5
"""Sizes of type above a panel and in it, in points."""
COLUMNS = ("policy", "budget_bytes", "ms_per_token", "against_lru", "low", "high", "cell", "decision_digest", "version")


def measure(out: Path) -> tuple[str, pd.DataFrame]:
    """Run or read all cells: what they are of, and COLUMNS, a row per policy and budget and one per budget of FINE."""
    cells = []
    for words in POLICIES.values():
        for budget in BUDGETS:
            done = run(*words, f"budget={budget}B", "bounds=false", out=out).document
            cells.append(done["provenance"]["cell"])
    runs = load(out)
    runs = runs[runs["cell"].isin(cells)].reset_index(drop=True)  # not those of earlier code
    # Requests follow one another, so ms per token differs by the share by which the mean time of a request does.
    pairs = compare_runs(runs, load_requests(out, runs), metric="request", baseline=BASE).pairs
    keys = ["policy_label", "budget_bytes"]
    rows = runs.join(pairs.set_index(keys)[["relative", "low", "high"]], on=keys)
    rows = rows.assign(ms_per_token=1000 / rows["throughput_tokens_per_s"])
    rows = rows.drop(columns="policy").rename(columns={"policy_label": "policy", "relative": "against_lru"})
    numbers = pd.concat([rows, least()], ignore_index=True).assign(version=__version__)
    return about(runs.to_dict("records")[0]), numbers[list(COLUMNS)]


def least(budgets: Iterable[int] = FINE) -> pd.DataFrame:
    """The bound at each of ``budgets``."""
    cell = make_cell(read_config([*POLICIES[BASE], f"budget={AT}B"]))
    tokens = sum(len(one.requests) for one in passes_of(cell, cell.selection.measured))
    rows = [(BOUND, floor.budget_bytes, floor.ns / 1e6 / tokens) for floor in floors(cell, budgets)]
    return pd.DataFrame(rows, columns=list(COLUMNS[:3]))


def about(row: Mapping[str, Any]) -> str:
    """The subtitle, of a row of ``sim.load``."""
    return f"{row['requests']} requests; {titles(row)}; no GPU has checked it yet"


def write(said: str, numbers: pd.DataFrame, path: Path = NUMBERS) -> None:
    """What the numbers are of in a first line, then a table."""
    write_whole(path, f"# {said}\n{numbers.to_csv(index=False, float_format='%.6g')}")


def read(path: Path = NUMBERS) -> tuple[str, pd.DataFrame]:
    """What :func:`write` wrote."""
    said = path.read_text(encoding="utf-8").partition("\n")[0]
    return said.removeprefix("# "), pd.read_csv(path, comment="#")


def finding(numbers: pd.DataFrame) -> str:
    """The title. ValueError where the numbers say something else."""
    ms, best = _by_budget(numbers)
    more = 100 * (1 - best / ms[LAYER]).max()
    if more > 1:
        raise ValueError(f"{more:.1f} % are gained over a cache per layer: find another title")
    gaps = best / ms[BOUND]
    return (
        f"Nothing published gains more than {more:.1f} % over one LRU cache per layer;"
        f" the best stays {gaps.min():.1f} to {gaps.max():.1f} times the bound"
    )


def verdict(numbers: pd.DataFrame) -> str:
    """README's first sentence."""
    ms, best = _by_budget(numbers)
    own, more = 100 * (1 - ms[LAYER] / ms[BASE]), 100 * (1 - best / ms[LAYER])
    gaps = best / ms[BOUND]
    return (
        "In simulation, on one recording of a 14 M parameter model priced as OLMoE-1B-7B on an RTX 4090: one LRU cache"
        f" per layer takes {own.min():.0f} to {own.max():.0f} % less time than one LRU cache for all layers, which"
        f" every prompt flushes; of what is published nothing gains more than {more.max():.1f} % over it, and the best"
        " takes"
        f" {gaps.min():.1f} to {gaps.max():.1f} times the bound that no lossless policy can beat. Other routings may"
        " rank policies otherwise: ask with a trace of yours."
    )


def _by_budget(numbers: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Milliseconds per token, a column per policy and one of the bound; of the policies, the least."""
    ms = numbers.pivot_table("ms_per_token", "budget_bytes", "policy").loc[list(BUDGETS)]
    return ms, ms[list(POLICIES)].min(axis=1)


def draw(said: str, numbers: pd.DataFrame) -> Figure:
    """Both panels."""
    figure = Figure(figsize=(11, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    _times(left, numbers)
    _differences(right, numbers[numbers["budget_bytes"] == AT].set_index("policy"))
    return finish(figure, finding(numbers), said)


def _times(axes: Axes, numbers: pd.DataFrame) -> None:
    own = {str(label): rows.set_index("budget_bytes")["ms_per_token"] for label, rows in numbers.groupby("policy")}
    style = looks(POLICIES)
    for label in sorted(POLICIES, key=NAMED.__contains__):
        line = style[label].line | {"markersize": 6} if label in NAMED else {"color": CONTEXT, "linewidth": 1}
        axes.plot(own[label].index, own[label], **line)
    axes.set_xticks(BUDGETS, [format_bytes(budget) for budget in BUDGETS])
    axes.set_xlabel("GPU memory for experts", fontsize=LABEL)
    axes.set_xlim(FINE[0], BUDGETS[-1] + GB // 2)
    _dress(axes, "y")
    axes.set_title("ms per generated token, prompts included (log scale)", loc="left", fontsize=HEAD)
    axes.set_ylim(1.8, 85)
    log_scale(axes)
    floor = own[BOUND]
    bound(axes, floor, "no lossless policy can be here", exact=True)
    axes.texts[-1].set_fontsize(LABEL)
    best, least = own[BEST][AT], floor[AT]
    ends = {"arrowstyle": "<->", "color": GREY, "shrinkA": 0, "shrinkB": 3}
    axes.annotate("", (AT, best), (AT, least), arrowprops=ends)
    axes.text(AT + GB / 8, 0.85 * (best * least) ** 0.5, f"{best / least:.2f} times", fontsize=LABEL, va="center")
    words = "LRU, one cache for all layers\n(grey: fMoE, MoE-Infinity, gate-ahead)"
    _label(axes, style[BASE].colour, words, (AT, own[BASE][AT]), (7.6, 50))
    words = "one cache per layer: ProMoE,\nLRU (dashed), Mixtral-Offloading (grey)"
    _label(axes, style[BEST].colour, words, (4 * GB, own[BEST][4 * GB]), (1.7, 9))


def _label(axes: Axes, colour: str, words: str, at: tuple[float, float], place: tuple[float, float]) -> None:
    """``words`` at a place (GB, ms), with a line to what they are of."""
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkB": 4, "relpos": (0.3, 0.5)}
    to = (place[0] * GB, place[1])
    axes.annotate(words, at, to, color=readable(colour), fontsize=LABEL, va="center", arrowprops=line)


def _differences(axes: Axes, rows: pd.DataFrame) -> None:
    rows = rows.drop(index=[BASE, BOUND]).sort_values("against_lru", ascending=False)
    style = looks(POLICIES)
    for place, (label, row) in enumerate(rows.iterrows()):
        colour = style[str(label)].colour if label in NAMED else CONTEXT
        value, low, high = (100 * row[key] for key in ("against_lru", "low", "high"))
        axes.hlines(place, low, high, color=colour, linewidth=2)
        axes.plot(value, place, marker=style[str(label)].marker, markersize=7, color=colour)
        words = f"{value:+.0f} %".replace("-", "\N{MINUS SIGN}")
        axes.text(low - 1, place, words, color=readable(colour), fontsize=LABEL, va="center", ha="right")
    axes.axvline(0, color=style[BASE].colour)
    axes.text(0.6, len(rows) - 0.6, "LRU", color=readable(style[BASE].colour), fontsize=LABEL)
    axes.set_yticks(range(len(rows)), [title_of(str(label)) for label in rows.index])
    axes.set(ylim=(-0.6, len(rows) - 0.3), xlim=(100 * rows["low"].min() - 7, 100 * rows["high"].max() + 4))
    axes.set_xticks(range(-30, 11, 10))
    axes.set_xlabel("%, with 95 % intervals", fontsize=LABEL)
    axes.set_title(f"the same at {AT // GB} GB, against LRU", loc="left", fontsize=HEAD)
    _dress(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _dress(axes: Axes, grid: str) -> None:
    dress(axes, grid)
    axes.tick_params(labelsize=LABEL)


def main() -> int:
    """Run the command; returns the exit status."""
    said, numbers = measure(HERE.parent / "outputs" / "first_picture")
    write(said, numbers)
    write_whole(PICTURE, svg(draw(*read())))
    print(finding(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
