"""Pictures of serving: they show the figures of their frames, can be read, and refuse to be empty; and comparisons."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sim
from sim.experiment.run import run_config
from sim.results import pictures
from sim.results.compare import compare
from sim.results.compare.cli import document
from sim.results.compare.selection import MixedRunsError
from sim.results.compare.table import show
from sim.results.load import load_served
from sim.results.pictures.colours import looks
from sim.results.report.serving import _one_total, of_serving
from tests.sim.experiment.serving import serving
from tests.sim.results.report.readable import faults
from tests.sim.saying import printed
from tests.sim.small_trace import Plan, write

NS = 10**9


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies at two rates in two orders: 14 arrivals each of four requests."""
    folder = tmp_path_factory.mktemp("online")
    rng = np.random.default_rng(3)
    plans = [Plan((4,), 3), Plan((5,), 5), Plan((1,), 2), Plan((7,), 2)]
    ids = np.argsort(rng.random((sum(plan.rows for plan in plans), 2, 8)) ** 3, axis=-1)[..., :2]
    trace = write(folder / "trace", plans, ids, n_experts=8)
    for policy in ("lru", "lfu"):
        for rate in (2_000_000, 8_000_000):
            for seed in (0, 1):
                workload = {"arrivals": "poisson", "rate": rate, "count": 14, "slo": "e2el<=2us"}
                run_config(serving(trace, 5 * 12, policy=policy, seed=seed, workload=workload), folder / "runs")
    return folder / "runs"


def test_runs_of_several_seeds_are_compared_on_the_same_arrivals(grid: Path) -> None:
    with pytest.raises(MixedRunsError, match="rate_per_s") as caught:
        compare(grid)
    found = compare(grid, selection=caught.value.words)
    assert (len(found.runs), found.cells["seeds"].tolist(), found.cells["requests"].tolist()) == (4, [2, 2], [14, 14])
    requests = sim.load_requests(grid, found.runs)
    means = requests.assign(ms=requests["tpot_ns"] / 1e6).groupby("policy_label")["ms"].mean()
    assert found.pairs["difference_ms"].iloc[0] == pytest.approx(means["lfu"] - means["lru"])
    page = " ".join(" ".join(printed(show, found, 120)).split())
    assert "mean over 14 arrivals" in page
    assert "over blocks of neighbouring arrivals" in page
    assert "goodput arrivals per second within e2el<=2us" in page
    assert "Arrivals are paired by seed and place" in page
    goodput = found.runs.groupby("policy_label")["goodput_per_s"].mean()
    cells = {row["policy_label"]: row["goodput_per_s"] for row in document(found)["cells"]}
    assert cells == pytest.approx(goodput.to_dict())


def test_other_arrivals_of_the_same_seed_are_not_compared(grid: Path) -> None:
    runs = sim.load(grid)
    assert runs.groupby(["rate_per_s", "seed"])["arrivals_sha256"].nunique().eq(1).all()
    assert runs["arrivals_sha256"].nunique() == 4
    from sim.results.compare.selection import check_alike

    own = runs[runs["rate_per_s"] == runs["rate_per_s"].max()].reset_index(drop=True)
    check_alike(own)
    own.loc[0, "arrivals_sha256"] = "0" * 64
    with pytest.raises(MixedRunsError, match="arrivals_sha256 of seed 0 is 000000000000 ") as caught:
        check_alike(own)
    assert any(word.startswith("arrivals_sha256=") for word in caught.value.words)


def test_a_report_has_every_rate_whichever_it_is_of_and_one_run_of_each_policy(grid: Path) -> None:
    rate = sim.load(grid)["rate_per_s"].min()
    found = compare(grid, selection=[f"rate_per_s={int(rate)}"])
    made = {name: make() for name, _, make in of_serving(found, grid, looks(found.runs["policy_label"]))}
    assert [*made] == ["rates", "queue", "waits"]
    assert all(sheet.about for sheet in made.values())
    assert "e2el<=2us" in made["rates"].about


def test_against_the_rate_every_figure_is_a_mean_over_seeds(grid: Path) -> None:
    runs = sim.load(grid)
    figure = pictures.rates(runs)
    assert faults(figure) == []
    columns = ("ttft_ms_p90", "tpot_ms_p90", "goodput_per_s")
    for axes, column in zip(figure.axes, columns, strict=True):
        for line in axes.lines:
            if (policy := str(line.get_label())) in ("lru", "lfu"):
                means = runs[runs["policy_label"] == policy].groupby("rate_per_s")[column].mean()
                assert np.allclose(line.get_xydata(), [*means.items()])
    with pytest.raises(pictures.EmptyPictureError, match="one rate"):
        pictures.rates(runs[runs["rate_per_s"] == runs["rate_per_s"].min()])


def test_the_best_part_has_a_ring(grid: Path) -> None:
    runs = sim.load(grid)[:3].assign(kv_share=[0.1, 0.2, 0.4], policy_label="lru", goodput_per_s=[1.0, 3.0, 2.0])
    figure = pictures.shares(runs)
    assert faults(figure) == []
    (ring,) = figure.axes[2].collections
    assert np.asarray(ring.get_offsets()).tolist() == [[20.0, 3.0]]
    assert "best at 20.0 % (lru)" in figure.axes[2].get_title(loc="left").replace("\n", " ").replace(
        "\N{NO-BREAK SPACE}", " "
    )
    tied = pictures.shares(runs.assign(goodput_per_s=[3.0, 1.0, 3.0]))
    (ring,) = tied.axes[2].collections
    assert np.asarray(ring.get_offsets()).tolist() == [[10.0, 3.0], [40.0, 3.0]]
    title = " ".join(tied.axes[2].get_title(loc="left").replace("\N{NO-BREAK SPACE}", " ").split())
    assert "best at 10.0 % (lru), 40.0 % (lru)" in title
    with pytest.raises(pictures.EmptyPictureError, match="one share"):
        pictures.shares(runs[:1])


def test_a_split_that_holds_all_experts_is_beside_those_that_do_not(grid: Path) -> None:
    runs = sim.load(grid)[:6].reset_index(drop=True)
    whole = 2 * 8 * 12
    budgets, kv = [whole, whole, 150, 100, 100, whole], [20, 60, 150, 200, 50, 400]
    runs = runs.assign(budget_bytes=budgets, kv_bytes=pd.array(kv, dtype="Int64"))
    assert _one_total(runs, grid).index.tolist() == [0, 1, 2, 3], "the room is of 300 bytes"
    assert _one_total(runs[:2], grid).index.tolist() == [0, 1]
    assert not len(_one_total(runs.assign(kv_bytes=pd.NA), grid))


def test_queue_and_latencies_are_those_of_the_requests(grid: Path) -> None:
    runs = sim.load(grid)
    one = runs[(runs["seed"] == 0) & (runs["rate_per_s"] == runs["rate_per_s"].max())].reset_index(drop=True)
    served = load_served(grid, one)
    figure = pictures.queue(served)
    assert faults(figure) == []
    for axes, (since, until) in zip(figure.axes, (("admitted", "first_pass"), ("first_pass", "end")), strict=True):
        for line in axes.lines:
            own = served[served["policy_label"] == line.get_label()]
            times, count = (np.asarray(it, dtype=float) for it in line.get_data())
            area = float((np.diff(times) * count[:-1]).sum())
            assert area == pytest.approx(float((own[f"{until}_ns"] - own[f"{since}_ns"]).sum()) / NS), "Little's law"
            assert count[-1] == 0
    figure = pictures.waits(served)
    assert faults(figure) == []
    for axes, values in zip(figure.axes, (served["end_ns"] - served["admitted_ns"], served["ttft_ns"]), strict=True):
        for line in axes.lines:
            x, y = (np.asarray(it, dtype=float) for it in line.get_data())
            own: Any = values[served["policy_label"] == line.get_label()].astype(float) / NS
            assert np.allclose(x[1:], np.sort(own))
            assert (x[0], y[0], y[-1], len(y)) == (x[1], 0, 100, 15)
    empty: pd.DataFrame = served[:0]
    with pytest.raises(pictures.EmptyPictureError):
        pictures.queue(empty)
