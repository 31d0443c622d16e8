"""Pictures can be read whatever the runs, show the figures of the frame, and refuse to be empty."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline

import sim
from sim.core.accounts import STALLS
from sim.results import pictures
from sim.results.columns import REFERENCE_ROWS
from sim.results.compare import Comparison, compare_runs
from sim.results.compare.target import Target
from sim.results.pictures.findings import lowest
from sim.results.pictures.style import pages_of
from sim.results.report.draw import _of_latency
from tests.sim.results.report.readable import faults
from traces import find_trace, open_trace
from traces.kit.drawing import log_ticks
from traces.kit.errors import UserError

OF_RUNS = (pictures.latency, pictures.hits, pictures.stalls, pictures.fates, pictures.link)


def many(runs: pd.DataFrame, policies: int, budgets: int, step: float = 1.5) -> pd.DataFrame:
    """Rows of a sweep: long names, budgets from 100 MB up, none of a value that the real ones have not."""
    parts = []
    for i in range(policies):
        own = runs[runs["policy"] == ("lru", "gate_ahead", "swapmoe")[i % 3]].iloc[:1]
        for b in range(budgets):
            name = f"policy_{i} (scope=layer, other={'x' * 3 * i})" if i else "_$lru_$"
            parts.append(own.assign(policy_label=name, budget_bytes=int(1e8 * step**b)))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("draw", OF_RUNS, ids=lambda draw: draw.__name__)
def test_pictures_of_runs_can_be_read(draw: Callable[[pd.DataFrame], Figure], runs: pd.DataFrame) -> None:
    alone = runs[(runs["policy"] == "gate_ahead") & (runs["budget_bytes"] == 2_000_000_000)]
    frames = [runs, alone, many(runs, 6, 6), many(runs, 24, 2), many(runs, 3, 2, step=1.008), many(runs, 2, 13)]
    narrow = many(runs, 3, 2).assign(tpot_ms_mean=np.linspace(50, 50.1, 6))  # a spread whose margin is none from 0
    narrow[[name for name in narrow if name.startswith((*REFERENCE_ROWS, "bound_"))]] = np.nan
    frames += [runs[~runs["lossless"].astype(bool)], narrow]
    # What is drawn by the same functions need not be drawn as often: each other picture has one or two, in turn.
    of_others = {"hits": (3,), "stalls": (1, 5), "fates": (0,), "link": (3,)}
    chosen = [frames[i] for i in of_others.get(draw.__name__, (0, 3, 4, 7))]
    drawn = 0
    for frame in chosen:
        try:
            figure = draw(frame)
        except pictures.EmptyPictureError:
            assert frame is alone or not frame["prefetch_issued"].any()
        else:
            assert faults(figure) == []
            drawn += 1
    assert drawn >= max(1, len(chosen) - 1)


def test_no_panel_pays_for_the_legend(runs: pd.DataFrame, compared: Comparison) -> None:
    lru = runs[runs["policy"] == "lru"]
    for draw, few, more in (
        (pictures.latency, lru, many(lru.assign(policy="gate_ahead"), 2, 2)),
        (pictures.link, lru, many(runs, 24, 2)),
        (pictures.front, compared.cells[compared.cells["policy_label"] == "lru"], _variants(compared.cells, 24)),
    ):
        heights = []
        for frame in (few, more):
            figure = draw(frame)  # type: ignore[operator]
            assert faults(figure) == []
            heights.append(figure.axes[0].get_window_extent().height)
        assert heights[1] > 0.85 * heights[0], draw


def _variants(cells: pd.DataFrame, count: int) -> pd.DataFrame:
    """Variants with long names, all alike: what they differ in is too little to be seen."""
    labels = [f"fmoe (distance={i}, eviction=lru, search=trajectory)" for i in range(count)]
    return pd.concat([cells[:1].assign(policy_label=label) for label in labels], ignore_index=True)


def test_equal_policies_are_all_seen(runs: pd.DataFrame) -> None:
    alike = many(runs[runs["policy"] == "lru"], 1, 2)
    frame = pd.concat([alike.assign(policy_label=f"p{i}") for i in range(9)])
    for own in (frame, frame[frame["budget_bytes"] == frame["budget_bytes"].min()]):
        lines = [line for line in pictures.latency(own).axes[0].lines if str(line.get_label()).startswith("p")][:9]
        sizes = [line.get_markersize() for line in lines]
        assert len(lines) == 9
        assert sizes == sorted(set(sizes), reverse=True) or own is not frame, "the last is on top, so the smallest"


@pytest.mark.ci
def test_long_pictures_have_pages(runs: pd.DataFrame, layers: pd.DataFrame) -> None:
    frame = many(runs, 24, 2)
    of_layers = pd.concat([layers.assign(policy_label=f"p{i}") for i in range(20)])
    for draw, rows in (
        (lambda page: pictures.stalls(frame, page), 48),
        (lambda page: pictures.fates(frame, page), 48 // 3 * int((frame["prefetch_issued"] > 0).mean() * 3)),
        (lambda page: pictures.layers(of_layers, "decode", page), 20 * len(set(of_layers["budget_bytes"])) * 2),
    ):
        seen, scales, page = 0, set(), 1
        while True:
            try:
                figure = draw(page)
            except pictures.EmptyPictureError as error:
                assert "there are" in str(error)  # noqa: PT017 - how many is not known before
                break
            assert faults(figure) == []
            assert figure.get_figheight() < 24
            named = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
            panels = [axes for axes in named if axes.yaxis.get_tick_params()["labelleft"]]
            assert {axes.get_ylabel() for axes in panels} == {""}, "names need no word above them"
            seen += sum(len(axes.get_yticks()) for axes in panels)
            images = [axes.images[0].get_clim() for axes in figure.axes if axes.images]
            scales.add(tuple(images) or panels[0].get_xlim())
            page += 1
        assert (seen, len(scales)) == (rows, 1)
        assert page > 2 or rows <= 32
    assert [pages_of("aabbbcc", 1), pages_of("a" * 70, 3)] == [([slice(0, 7)], ""), ([slice(64, 70)], " (3 of 3)")]
    assert pages_of("a" * 20 + "b" * 20 + "c" * 5, 2) == ([slice(20, 45)], " (2 of 2)")
    assert pages_of("a" * 20 + "b" * 20 + "c" * 5, None) == ([slice(0, 20), slice(20, 45)], "")


@pytest.mark.ci
def test_the_other_pictures_can_be_read(
    runs: pd.DataFrame, layers: pd.DataFrame, compared: Comparison, grid: Path
) -> None:
    trace = open_trace(find_trace("sample"))
    for figure in (
        pictures.layers(layers),
        pictures.layers(layers, "prefill"),
        pictures.layers(layers[layers["policy"] == "lru"]),
        pictures.front(compared.cells),
        pictures.front(compared.cells[compared.cells["lossless"]]),
        pictures.front(compared.cells[~compared.cells["lossless"]].assign(value=[3.0, 4.0])),
        pictures.popularity(trace),
        pictures.reuse(trace),
        pictures.latency(runs, "ttft"),
        pictures.latency(runs[runs["policy"] == "swapmoe"]),
        pictures.latency(runs.assign(tpot_ms_mean=np.arange(1.0, 1.0 + len(runs)))),
        pictures.latency(runs.assign(quality_kept_gate_mass=float("nan"))),
        pictures.front(_variants(compared.cells[~compared.cells["lossless"]], 9).assign(value=range(1, 10))),
        pictures.latency(runs, "tpot", None, compared.cells, Target.parse("tpot<=30ms")),
        pictures.latency(runs[runs["budget_bytes"] == runs["budget_bytes"].min()], target=Target.parse("tpot<=30ms")),
        pictures.hits(runs.assign(hit_prefill_recall=float("nan"))),
    ):
        assert faults(figure) == []
    requests = sim.load_requests(grid).assign(tpot_ns=lambda frame: frame["tpot_ns"] * (1 + frame["request"] / 50))
    assert faults(pictures.front(compare_runs(runs, requests).cells)) == []


@pytest.mark.ci
def test_what_is_unreadable_is_found(runs: pd.DataFrame) -> None:
    spoilt: dict[str, Callable[[Figure, Axes], object]] = {
        "without a unit": lambda _, axes: axes.set_ylabel("latency"),
        "'here' upon|upon 'here'": lambda _, axes: axes.text(0.5, -0.09, "here", transform=axes.transAxes),
        "empty axes": lambda figure, _: figure.add_subplot(label="another"),
        "a legend upon axes": lambda _, axes: axes.legend(),
        "'2.00 GB' upon '2.05 GB'": lambda _, axes: axes.set_xticks([2e9, 2.05e9], ["2.00 GB", "2.05 GB"]),
        "collapsed": lambda figure, _: figure.set_figheight(1),
        " inches": lambda figure, _: figure.set_figwidth(3.5),
    }
    for fault, spoil in spoilt.items():
        figure = pictures.latency(runs)
        spoil(figure, figure.axes[0])
        assert any(re.search(fault, found) for found in faults(figure)), fault


def bars(axes: Axes) -> tuple[list[str], np.ndarray]:
    """Names from above, and the lengths of their parts [parts, names]."""
    names = [label.get_text().replace("\n", " ").removesuffix(" (lossy)") for label in axes.get_yticklabels()]
    return names, np.array([[bar.get_width() for bar in part] for part in axes.containers])


def test_the_parts_of_a_token_add_up_to_the_window(runs: pd.DataFrame) -> None:
    frame = runs.assign(policy_label=runs["policy_label"].replace("lru", "a slower one"))  # not in the order of names
    for axes, (budget, own) in zip(pictures.stalls(frame).axes, frame.groupby("budget_bytes"), strict=True):
        names, widths = bars(axes)
        assert sorted(names) == sorted(own["policy_label"]), budget
        rows = own.set_index("policy_label").loc[names]
        window = (rows["wall_ns"] / 1e6 / rows["generated_tokens"]).to_numpy(dtype=float)
        assert widths.sum(axis=0) == pytest.approx(window)
        exact = rows["lossless"].to_numpy(dtype=bool)
        assert list(exact) == sorted(exact, reverse=True), "lossy ones are below"
        assert list(window[exact]) == sorted(window[exact]), "the fastest is above"
        places = [label.get_position()[1] for label in axes.get_yticklabels()]
        assert places[exact.sum()] - places[exact.sum() - 1] > 1.5, "and apart"
        (floor,) = (line for line in axes.lines if "bound" in str(line.get_label()))
        assert floor.get_xdata() == pytest.approx(rows["bound_ms_per_token"].max())
        assert max(floor.get_ydata()) < places[exact.sum()] - 0.4, "lossy ones are not bound by it"


def test_every_prefetch_has_a_fate(runs: pd.DataFrame) -> None:
    issued = runs[runs["prefetch_issued"] > 0].set_index(["budget_bytes", "policy_label"])["prefetch_issued"]
    for axes, budget in zip(pictures.fates(runs).axes, sorted(set(runs["budget_bytes"])), strict=True):
        names, widths = bars(axes)
        assert list(widths.sum(axis=0)) == [issued[budget, name] for name in names], "as counts"
        assert "lru" not in names


def area(axes: Axes) -> np.ndarray:
    """Corners [n, 2] of the area of a bound."""
    (drawn,) = (it for it in axes.collections if "no lossless policy" in str(it.get_label()))
    return drawn.get_paths()[0].vertices


def test_a_bound_is_a_stair_that_is_exact_where_it_was_run(runs: pd.DataFrame) -> None:
    """It falls: between two budgets the larger one's holds, and a line between them would forbid what can be."""
    frame = many(runs[runs["policy"] == "lru"], 1, 3, step=2).assign(bound_ms_per_token=[30.0, 12.0, 2.0])
    _, window = pictures.latency(frame).axes
    corners = area(window)
    budgets = sorted(set(frame["budget_bytes"]))
    for budget, least in zip(budgets, (30.0, 12.0, 2.0), strict=True):
        assert corners[np.isclose(corners[:, 0], budget)][:, 1].max() == pytest.approx(least)
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        assert x0 == x1 or y0 == y1, "level or upright, never aslant"
    assert Outline(corners).contains_point((budgets[0] * 1.01, 11.9)), "between two budgets the larger one's bound"
    assert not Outline(corners).contains_point((budgets[0] * 1.01, 12.1))
    assert Outline(corners).contains_point((budgets[0] * 0.99, 29.9)), "with less memory it is no lower"
    assert any(text.get_text().replace("\n", " ") == "no lossless policy can be here" for text in window.texts)
    axes = Figure().subplots()
    axes.set(xlim=(1, 4), ylim=(0, 10))
    pictures.bound(axes, pd.Series([9.0, 5.0, 1.0], index=[1, 2, 4]), exact=True)
    dense = Outline(area(axes))
    assert dense.contains_point((3, 2.9)), "a dense one is joined"
    assert not dense.contains_point((3, 3.1))
    assert axes.get_xlim() + axes.get_ylim() == (1, 4, 0, 10)


def test_lossless_lines_lie_above_the_bound_and_lossy_ones_elsewhere(runs: pd.DataFrame) -> None:
    tpot, window, quality = pictures.latency(runs).axes
    least = runs.groupby("budget_bytes")["bound_ms_per_token"].mean()
    lines = {str(line.get_label()): line for line in window.lines if not str(line.get_label()).startswith("_")}
    assert {"lru", "gate_ahead"} < set(lines)
    for name, line in lines.items():
        if not name.startswith("infinite"):
            assert all(y >= least[x] for x, y in zip(*line.get_data(), strict=True)), name
    for axes, names in ((tpot, {"lru", "gate_ahead"}), (quality, {"swapmoe (lossy)"})):
        assert {str(line.get_label()) for line in axes.lines if "reference" not in str(line.get_label())} == names
    assert "mean TPOT" in quality.get_title(loc="left"), "the same for all: said, not drawn"
    _, copied = pictures.link(runs).axes
    lines = {str(line.get_label()): line for line in copied.lines}
    lru = runs[runs["policy"] == "lru"]
    floor = (lru["bound_bytes"] / lru["generated_tokens"] / 1e6).to_numpy(dtype=float)
    corners = area(copied)
    for budget, least_ in zip(lru["budget_bytes"], floor, strict=True):
        assert corners[np.isclose(corners[:, 0], budget)][:, 1].max() == pytest.approx(least_)
    assert (lines["lru"].get_ydata() >= floor).all()
    assert (lines["belady_forced (reference)"].get_ydata() >= floor).all()


def test_intervals_and_targets_are_drawn(runs: pd.DataFrame, compared: Comparison) -> None:
    cells = compared.cells.assign(low=compared.cells["value"] - 1, high=compared.cells["value"] + 2)
    goal = Target.parse("tpot<=30ms")
    exact = cells[cells["lossless"]]
    for figure in (pictures.latency(runs, "tpot", None, cells, goal), pictures.front(cells, "tpot", None, goal)):
        axes = figure.axes[0]
        paths = itertools.chain.from_iterable(it.get_paths() for it in axes.collections)
        ends = {tuple(np.round(np.asarray(path.vertices)[:, 1], 6)) for path in paths}
        assert {tuple(row) for row in exact[["low", "high"]].to_numpy(dtype=float).round(6)} <= ends
        (line,) = (it for it in axes.lines if it.get_label() == "_target")
        assert set(line.get_ydata()) == {30.0}
        assert any("target: 30 ms" in text.get_text() for text in axes.texts)
        assert axes.get_ylim()[0] < 30 < axes.get_ylim()[1]
    for other in ("tpot_p99<=30ms", "ttft<=30ms"):
        axes = pictures.latency(runs, "tpot", None, cells, Target.parse(other)).axes[0]
        assert not [it for it in axes.lines if it.get_label() == "_target"], "of another figure than what is drawn"


def test_titles_say_what_the_frame_says(runs: pd.DataFrame) -> None:
    def of(rows: list[tuple[str, int, float]]) -> str:
        return lowest(pd.DataFrame(rows, columns=["name", "budget_bytes", "ms"]), "ms", "mean")

    a, b = [("a", 10**9, 9.0), ("a", 2 * 10**9, 4.0)], [("b", 10**9, 8.0), ("b", 2 * 10**9, 3.0)]
    assert of(a).startswith("a: mean of 9.00 ms at ")
    assert of([*a, *b]).startswith("b: the lowest mean at every budget, 8.00 ms at ")
    assert of([*a, ("b", 10**9, 8.0), ("b", 2 * 10**9, 5.0)]).startswith("Policies take turns: the lowest mean is 8.00")
    assert of([*a, *b, ("a", 3 * 10**9, 1.0), ("b", 3 * 10**9, 2.0)]) == "b: the lowest mean at 2 of 3 budgets"
    assert of([*a, *((f"{n}2", *rest) for n, *rest in a)]).startswith("All alike: mean of 9.00")
    for figure in (pictures.stalls(runs), pictures.link(runs), pictures.popularity(open_trace(find_trace("sample")))):
        said = " ".join(text.get_text() for text in figure.texts)
        assert "routing of tiny-moe (14 M parameters), " in said
        assert "priced as OLMoE-1B-7B, simulated on RTX 4090" in said or "recorded: 6,922 tokens" in said


def test_logarithmic_axes_have_round_ticks() -> None:
    """From 3 to 7 of them, whatever the range."""
    rng = np.random.default_rng(0)
    for low, factor in zip(10 ** rng.uniform(-4, 4, 300), 10 ** rng.uniform(0.03, 5, 300), strict=True):
        marks = log_ticks(low, low * factor)
        assert 3 <= len(marks) <= 7, (low, factor, marks)
        assert all(low <= mark <= low * factor for mark in marks)
        assert marks == sorted(set(marks))
        steps = {round(mark / 10.0 ** np.floor(np.log10(mark) + 1e-9), 6) for mark in marks}
        even = len({round(b - a, 9) for a, b in itertools.pairwise(marks)}) == 1
        assert even or steps <= {1, 2, 3, 5, 7}, marks
    assert log_ticks(2, 70) == [2, 5, 10, 20, 50]


def test_axes_name_the_latency_as_tables_do(runs: pd.DataFrame, compared: Comparison) -> None:
    for metric, name in (("tpot", "TPOT"), ("request", "request time")):
        for figure in (pictures.latency(runs, metric), pictures.front(compared.cells, metric)):
            assert figure.axes[0].get_ylabel().startswith(f"{name} (ms), mean")


def test_seeds_are_averaged(runs: pd.DataFrame) -> None:
    other = runs.assign(seed=1, tpot_ms_mean=runs["tpot_ms_mean"] + 10)
    line = next(it for it in pictures.latency(pd.concat([runs, other])).axes[0].lines if it.get_label() == "lru")
    assert line.get_ydata() == pytest.approx(runs["tpot_ms_mean"][runs["policy"] == "lru"].to_numpy() + 5)


def test_hits_are_in_percent(runs: pd.DataFrame, layers: pd.DataFrame) -> None:
    lru = runs[runs["policy"] == "lru"]
    axes = next(it for it in pictures.hits(runs).axes if it.get_title(loc="left").startswith("complete"))
    line = next(it for it in axes.lines if it.get_label() == "lru")
    assert line.get_ydata() == pytest.approx(100 * lru["hit_prefill_complete"].to_numpy())
    seen = layers[layers["phase"] == "decode"].set_index("layer")
    own = seen[(seen["policy"] == "lru") & (seen["budget_bytes"] == lru["budget_bytes"].min())]
    image = np.asarray(pictures.layers(layers[layers["policy"] == "lru"]).axes[0].images[0].get_array())
    assert image[0] == pytest.approx((100 * own["complete"] / own["lookups"]).to_numpy(dtype=float))


def test_layers_add_up_to_the_run(runs: pd.DataFrame, layers: pd.DataFrame) -> None:
    sums = layers.groupby("folder").sum(numeric_only=True)
    of_run = runs.set_index("folder").loc[sums.index]
    assert (sums["lookups"] == of_run["lookups"]).all()
    for name in STALLS:
        per_token = sums[f"stall_{name}_ns"] / 1e6 / of_run["generated_tokens"].astype(float)
        assert per_token.to_numpy() == pytest.approx(of_run[f"stall_{name}_ms_per_token"].to_numpy())


def test_what_is_said_of_latency_is_there_to_be_seen(runs: pd.DataFrame) -> None:
    lossy = ~runs["lossless"].astype(bool)
    for frame, apart in ((runs, True), (runs[~lossy], False), (runs[lossy], False)):
        for panel in pictures.stalls.sheet(frame).panels:
            assert panel.title.endswith("% of the time is waiting" + ", lossy policies apart" * apart)
    one = runs[runs["budget_bytes"] == runs["budget_bytes"].min()]
    titles = [panel.title for panel in pictures.latency.sheet(one).panels]
    assert not any("everywhere" in title for title in titles)
    bare = runs.assign(**dict.fromkeys([name for name in runs if name.startswith((*REFERENCE_ROWS, "bound_"))], np.nan))
    words = ("Lines", "grey area", "edge", "cheat")
    found = [[word in _of_latency(frame) for word in words] for frame in (runs, bare, one)]
    assert found == [[True] * 4, [True, False, False, False], [False, True, False, True]]


def test_titles_of_fates_and_layers_say_of_what(runs: pd.DataFrame, layers: pd.DataFrame) -> None:
    for issued, useful, said in (([8, 8], [1, 6], "at best 75.0 %"), ([8, 0], [2, 0], "25.0 %")):
        frame = runs[runs["budget_bytes"] == runs["budget_bytes"].min()].iloc[:2]
        frame = frame.assign(prefetch_issued=issued, prefetch_useful=useful)
        (panel,) = pictures.fates.sheet(frame).panels
        assert panel.title.partition(": ")[2] == f"{said} of the prefetches were useful"
    keys = ["policy_label", "budget_bytes"]
    some = layers[layers["budget_bytes"] == layers["budget_bytes"].min()]
    for frame in (layers, some, some[some["policy_label"] == some["policy_label"].iloc[0]]):
        count = len(frame[keys].drop_duplicates())
        texts = " ".join(axes.get_title(loc="left") for axes in pictures.layers(frame).axes).replace("\n", " ")
        assert texts.count(f", on average over {count} rows") == (2 if count > 1 else 0)
        assert ("on average" in texts) == (count > 1)


def test_there_are_no_empty_pictures(runs: pd.DataFrame, layers: pd.DataFrame, compared: Comparison) -> None:
    lru, lossy = runs[runs["policy"] == "lru"], compared.cells[~compared.cells["lossless"]]
    unstalled = {f"stall_{name}_ms_per_token": 0.0 for name in STALLS}
    for draw, frame, why in (
        (pictures.fates, lru, "no policy here prefetches"),
        (pictures.latency, lru.iloc[:1], "one figure is no picture: lru has a mean of [0-9.]+ ms"),
        (pictures.hits, lru.iloc[:1], "the same for all runs: resident in prefill: [0-9.]+ %"),
        (pictures.link, lru.iloc[:1], "the same for all runs: the link is busy [0-9.]+ % of the time"),
        (pictures.front, compared.cells[:1], "one figure is no picture: "),
        (pictures.stalls, lru.assign(**unstalled), "nothing stalls: compute is all of the time"),
        (pictures.latency, lru.assign(tpot_ms_mean=float("nan")), "no run has tpot"),
        (pictures.hits, lru.iloc[:0], "no runs"),
        (pictures.layers, layers.assign(lookups=0), "no decode lookups"),
        (pictures.front, lossy.assign(quality_kept_gate_mass=float("nan")), "no lossless row"),
    ):
        with pytest.raises(pictures.EmptyPictureError, match=why):
            draw(frame)  # type: ignore[operator]
    with pytest.raises(UserError, match="a frame without the column policy_label"):
        pictures.hits(pd.DataFrame({"a": [1]}))
    with pytest.raises(UserError, match="metric=p: allowed: ttft"):
        pictures.latency(runs, "p")


def test_the_same_frame_gives_the_same_bytes(runs: pd.DataFrame) -> None:
    assert pictures.png(pictures.link(runs)) == pictures.png(pictures.link(runs))
    one = pictures.svg(pictures.stalls(runs))
    assert one == pictures.svg(pictures.stalls(runs))
    assert one.startswith(b"<svg ")
    assert not re.search(rb"<!--|<metadata|[Mm]atplotlib v|20[0-9][0-9]-", one), "no date, no version"
    assert len(one) < 60_000
    assert set(re.findall(rb'\bid="(\D+)', one)) == {b"i"}, "names that are no hashes of a layout's last digits"
    assert not re.search(rb"<[^>]*\.\d{3}[^>]*>", one)
