"""Pictures can be read whatever the runs, show the figures of the frame, and refuse to be empty."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from readable import faults

import sim
from sim import pictures
from sim.cell import find_trace
from sim.compare import Comparison, compare_runs
from sim.core.accounts import STALLS
from sim.frame import REFERENCE_ROWS
from sim.pictures import style
from sim.pictures.pages import page_of
from traces import open_trace
from traces.errors import UserError

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
    for frame in frames:
        if draw is not pictures.fates or frame["prefetch_issued"].any():
            assert faults(draw(frame)) == []


def test_no_panel_pays_for_the_legend(runs: pd.DataFrame, compared: Comparison) -> None:
    lru = runs[runs["policy"] == "lru"]
    for draw, few, more in (
        (pictures.latency, lru, many(lru.assign(policy="gate_ahead"), 2, 2)),
        (pictures.link, lru, many(runs, 24, 2)),
        (pictures.front, compared.cells[:1], _variants(compared.cells, 24)),
    ):
        heights = []
        for frame in (few, more):
            figure = draw(frame)  # type: ignore[operator]
            assert faults(figure) == []
            panel = figure.axes[0].get_window_extent()
            heights.append(panel.height)
        assert heights[1] > 0.85 * heights[0], draw


def _variants(cells: pd.DataFrame, count: int) -> pd.DataFrame:
    """Variants with long names, all alike: what they differ in is too little to be seen."""
    own = cells[:1]
    return pd.concat(
        [own.assign(policy_label=f"fmoe (distance={i}, eviction=lru, search=trajectory)") for i in range(count)],
        ignore_index=True,
    )


def test_equal_policies_are_all_seen(runs: pd.DataFrame) -> None:
    alike = many(runs[runs["policy"] == "lru"], 1, 1)
    frame = pd.concat([alike.assign(policy_label=f"p{i}") for i in range(9)])
    lines = [line for line in pictures.latency(frame).axes[0].lines if str(line.get_label()).startswith("p")][:9]
    sizes = [line.get_markersize() for line in lines]
    assert sizes == sorted(set(sizes), reverse=True), "the last is on top, so it is the smallest"
    markers = [line.get_marker() for line in pictures.latency(alike).axes[0].lines]
    assert len(set(markers)) == len(markers) == 4, "at one budget there is no line to tell the reference rows by"


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
            panels = [axes for axes in figure.axes if axes.get_ylabel().startswith("policy")]
            seen += sum(len(axes.get_yticks()) for axes in panels)
            images = [axes.images[0].get_clim() for axes in figure.axes if axes.images]
            scales.add(tuple(images) or panels[0].get_xlim())
            page += 1
        assert (seen, len(scales)) == (rows, 1)
        assert page > 2 or rows <= 32
    assert [page_of("aabbbcc", 1), page_of("a" * 70, 3)] == [(slice(0, 7), ""), (slice(64, 70), " (3 of 3)")]
    assert page_of("a" * 20 + "b" * 20 + "c" * 5, 2) == (slice(20, 45), " (2 of 2)")


def test_one_look_for_a_whole_page(runs: pd.DataFrame, compared: Comparison) -> None:
    look = style.looks(["aaa", *runs["policy_label"]])
    for figure in (
        pictures.latency(runs, "tpot", look),
        pictures.hits(runs, look),
        pictures.link(runs, look),
        pictures.front(compared.cells, "tpot", look),
    ):
        seen = {}
        for line in itertools.chain.from_iterable(axes.lines for axes in figure.axes):
            name = str(line.get_label()).removesuffix(" (lossy)")
            if name in look:
                assert line.get_marker() == look[name].marker
                colour = line.get_markeredgecolor() if line.get_linestyle() == "None" else line.get_color()
                assert colour == look[name].colour
                seen[name] = True
        assert set(seen) == set(runs["policy_label"])


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
        pictures.front(compared.cells[~compared.cells["lossless"]]),
        pictures.popularity(trace),
        pictures.reuse(trace),
        pictures.latency(runs, "ttft"),
        pictures.latency(runs[runs["policy"] == "swapmoe"]),
        pictures.latency(runs.assign(quality_kept_gate_mass=float("nan"))),
        pictures.front(_variants(compared.cells[~compared.cells["lossless"]], 9)),
        pictures.hits(runs.assign(hit_prefill_recall=float("nan"))),
    ):
        assert faults(figure) == []
    requests = sim.load_requests(grid).assign(tpot_ns=lambda frame: frame["tpot_ns"] * (1 + frame["request"] / 50))
    assert faults(pictures.front(compare_runs(runs, requests).cells)) == []


def test_what_is_unreadable_is_found(runs: pd.DataFrame) -> None:
    figure = pictures.latency(runs)
    figure.axes[0].set_xlabel("budget")
    assert any("without a unit" in fault for fault in faults(figure))
    figure = pictures.latency(runs)
    figure.axes[0].text(0.5, -0.09, "here", transform=figure.axes[0].transAxes)
    assert any("'here' upon" in fault or "upon 'here'" in fault for fault in faults(figure))
    figure.add_subplot(label="another")
    assert any("empty axes" in fault for fault in faults(figure))
    figure = pictures.latency(runs)
    figure.axes[0].legend()
    assert any("a legend upon axes" in fault for fault in faults(figure))
    figure = pictures.latency(runs)
    figure.axes[0].set_xticks([2e9, 2.05e9], ["2.00 GB", "2.05 GB"], rotation=30)
    assert any("'2.00 GB' upon '2.05 GB'" in fault for fault in faults(figure))
    figure.set_figheight(2)
    assert any("collapsed" in fault for fault in faults(figure))
    figure = pictures.link(runs)
    figure.set_figwidth(3)
    assert any(" inches" in fault for fault in faults(figure))


def test_the_parts_of_a_token_add_up_to_the_window(runs: pd.DataFrame) -> None:
    for axes, (budget, own) in zip(pictures.stalls(runs).axes, runs.groupby("budget_bytes"), strict=True):
        names = [label.get_text().removesuffix(" (lossy)") for label in axes.get_yticklabels()]
        assert sorted(names) == sorted(own["policy_label"]), budget
        widths = np.array([[bar.get_width() for bar in part] for part in axes.containers])
        window = own.set_index("policy_label")["wall_ns"] / 1e6 / own.set_index("policy_label")["generated_tokens"]
        assert widths.sum(axis=0) == pytest.approx(window[names].to_numpy(dtype=float))


def test_every_prefetch_has_a_fate(runs: pd.DataFrame) -> None:
    for axes in pictures.fates(runs).axes:
        widths = np.array([[bar.get_width() for bar in part] for part in axes.containers])
        assert widths.sum(axis=0) == pytest.approx(100)
        assert "lru" not in [label.get_text() for label in axes.get_yticklabels()]


def test_lossless_lines_lie_above_the_bound_and_lossy_ones_elsewhere(runs: pd.DataFrame) -> None:
    tpot, window, lossy, quality = pictures.latency(runs).axes
    lines = {str(line.get_label()): line for line in window.lines}
    bound = dict(zip(*lines.pop("time_lower_bound (bound)").get_data(), strict=True))
    assert {"lru", "gate_ahead"} < set(lines)
    assert len(bound) == 2
    for name, line in lines.items():
        if not name.startswith("infinite"):
            assert all(y >= bound[x] for x, y in zip(*line.get_data(), strict=True)), name
    for axes, names in ((tpot, {"lru", "gate_ahead"}), (lossy, {"swapmoe (lossy)"}), (quality, {"swapmoe (lossy)"})):
        assert {str(line.get_label()) for line in axes.lines if "reference" not in str(line.get_label())} == names
    _, copied = pictures.link(runs).axes
    lines = {str(line.get_label()): line for line in copied.lines}
    floor = lines["belady_bypass (bound, lossless)"].get_ydata()
    lru = runs[runs["policy"] == "lru"]
    assert floor == pytest.approx((lru["bound_bytes"] / lru["generated_tokens"] / 1e6).to_numpy(dtype=float))
    assert (lines["lru"].get_ydata() >= floor).all()
    assert (lines["belady_forced (reference)"].get_ydata() >= floor).all()


def test_axes_name_the_latency_as_tables_do(runs: pd.DataFrame, compared: Comparison) -> None:
    for metric, name in (("tpot", "TPOT"), ("request", "request time")):
        for figure in (pictures.latency(runs, metric), pictures.front(compared.cells, metric)):
            assert figure.axes[0].get_ylabel() == f"{name} (ms), mean"


def test_seeds_are_averaged(runs: pd.DataFrame) -> None:
    other = runs.assign(seed=1, tpot_ms_mean=runs["tpot_ms_mean"] + 10)
    line = next(it for it in pictures.latency(pd.concat([runs, other])).axes[0].lines if it.get_label() == "lru")
    assert line.get_ydata() == pytest.approx(runs["tpot_ms_mean"][runs["policy"] == "lru"].to_numpy() + 5)


def test_hits_are_in_percent(runs: pd.DataFrame, layers: pd.DataFrame) -> None:
    lru = runs[runs["policy"] == "lru"]
    axes = next(it for it in pictures.hits(runs).axes if it.get_title().startswith("complete"))
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


def test_layers_of_a_device_are_the_same_in_csv(grid: Path, layers: pd.DataFrame, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(grid, copy)
    for file in copy.glob("*/layers.parquet"):
        pcsv.write_csv(pq.read_table(file), file.with_suffix(".csv"))
        file.unlink()
    pd.testing.assert_frame_equal(sim.load_layers(copy), layers)
    next(copy.glob("*/layers.csv")).unlink()
    with pytest.raises(UserError, match=r"has no layers.parquet, layers.csv"):
        sim.load_layers(copy)


def test_policies_and_parts_are_told_apart_in_grey() -> None:
    seen = list(style.looks(f"policy {i}" for i in range(44)).values())
    assert len({(look.marker, str(look.dash)) for look in seen}) == 44
    greys = [np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) for colour, _ in style.FILLS]
    for (one, (_, a)), (two, (_, b)) in zip(
        zip(greys, style.FILLS, strict=True), list(zip(greys, style.FILLS, strict=True))[1:], strict=False
    ):
        assert a != b or abs(one - two) > 0.2


def test_there_are_no_empty_pictures(runs: pd.DataFrame, layers: pd.DataFrame, compared: Comparison) -> None:
    lru = runs[runs["policy"] == "lru"]
    for draw, frame, why in (
        (pictures.fates, lru, "no policy here copies ahead"),
        (pictures.latency, lru.assign(tpot_ms_mean=float("nan")), "no run has tpot"),
        (pictures.hits, lru.iloc[:0], "no runs"),
        (pictures.layers, layers.assign(lookups=0), "no decode lookups"),
        (
            pictures.front,
            compared.cells[~compared.cells["lossless"]].assign(quality_kept_gate_mass=float("nan")),
            "no lossless row",
        ),
    ):
        with pytest.raises(pictures.EmptyPictureError, match=why):
            draw(frame)  # type: ignore[operator]
    with pytest.raises(UserError, match="a frame without the column policy_label"):
        pictures.hits(pd.DataFrame({"a": [1]}))
    with pytest.raises(UserError, match="metric=p: allowed: ttft"):
        pictures.latency(runs, "p")


def test_the_same_frame_gives_the_same_bytes(runs: pd.DataFrame) -> None:
    assert pictures.png(pictures.hits(runs)) == pictures.png(pictures.hits(runs))
