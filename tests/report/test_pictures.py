"""Pictures can be read whatever the runs, show the figures of the frame, and refuse to be empty."""

from __future__ import annotations

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
from sim.pictures import style
from traces import open_trace
from traces.errors import UserError

OF_RUNS: tuple[Callable[[pd.DataFrame], Figure], ...] = (
    pictures.latency,
    pictures.hits,
    pictures.stalls,
    pictures.fates,
    pictures.link,
)


def many(runs: pd.DataFrame, policies: int, budgets: int) -> pd.DataFrame:
    """Rows of a sweep: long names, budgets from 100 MB up, none of a value that the real ones have not."""
    parts = []
    for i in range(policies):
        own = runs[runs["policy"] == ("lru", "gate_ahead", "swapmoe")[i % 3]].iloc[:1]
        for b in range(budgets):
            name = f"policy_{i} (scope=layer, other={'x' * 3 * i})" if i else "_$lru_$"
            parts.append(own.assign(policy_label=name, budget_bytes=int(1e8 * 1.5**b)))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("draw", OF_RUNS, ids=lambda draw: draw.__name__)
def test_pictures_of_runs_can_be_read(draw: Callable[[pd.DataFrame], Figure], runs: pd.DataFrame) -> None:
    alone = runs[(runs["policy"] == "gate_ahead") & (runs["budget_bytes"] == 2_000_000_000)]
    for frame in (runs, alone, many(runs, 6, 6)):
        assert faults(draw(frame)) == []


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
    assert (lines["lru"].get_ydata() >= floor).all()
    assert (lines["belady_forced (reference)"].get_ydata() >= floor).all()


def test_seeds_are_averaged(runs: pd.DataFrame) -> None:
    other = runs.assign(seed=1, tpot_ms_mean=runs["tpot_ms_mean"] + 10)
    line = next(it for it in pictures.latency(pd.concat([runs, other])).axes[0].lines if it.get_label() == "lru")
    assert line.get_ydata() == pytest.approx(runs["tpot_ms_mean"][runs["policy"] == "lru"].to_numpy() + 5)


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
