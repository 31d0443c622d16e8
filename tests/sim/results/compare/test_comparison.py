"""What compare finds and says, whatever the files' order: pairs, fronts, targets, what was mixed, and mistakes."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sim
from sim.cli import main
from sim.results.compare import stats
from sim.results.compare.comparison import compare, compare_runs
from sim.results.compare.selection import MixedRunsError
from sim.results.compare.target import Target
from tests.sim.many_requests import grid, topical
from tests.sim.saying import edit, refused
from traces.kit.errors import UserError


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    trace = topical(folder / "trace", n=30)
    return grid(trace, folder / "out", ("lru", "lfu_incache", "fifo"), (4, 8), (0, 1), bounds=True)


def test_a_planted_policy_stands_out_among_copies(out: Path) -> None:
    """Ten copies of LRU and one that is 3 % slower: Holm's correction leaves that one alone."""
    runs = sim.load(out)
    lru = runs[runs["policy"] == "lru"]
    requests = sim.load_requests(out, lru)
    noise = np.random.default_rng(0)
    copies = [(lru, requests)]
    for name in (*(f"copy {i}" for i in range(9)), "slow"):
        times = requests["tpot_ns"] * (1.03 if name == "slow" else 1) * noise.normal(1, 0.01, len(requests))
        copies.append((lru.assign(policy=name, policy_label=name), requests.assign(policy_label=name, tpot_ns=times)))
    found = compare_runs(*(pd.concat(parts, ignore_index=True) for parts in zip(*copies, strict=True)))
    assert len(found.pairs) == 20
    assert set(found.pairs["policy_label"][found.pairs["significant"]]) == {"slow"}
    assert found.pairs["significant"].sum() == 2
    assert (found.pairs["p_adjusted"] >= found.pairs["p"]).all()


def test_results_do_not_depend_on_files(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(folder: Path) -> str:
        assert main(["compare", str(folder), "target=tpot<=20ns", "format=json"]) == 0
        return capsys.readouterr().out

    expected = printed(out)
    assert "in 2 orders" in expected
    assert "p values are corrected for 4 comparisons (Holm)" in expected
    folders = sorted(path.parent for path in out.rglob("result.json"))
    for seed in range(2):
        random.Random(seed).shuffle(folders)
        elsewhere = tmp_path / str(seed)
        for i, folder in enumerate(folders):
            shutil.copytree(folder, elsewhere / f"part {i % 3}" / f"{i:02d}")
        shutil.copytree(folders[0], elsewhere / "twice")
        assert printed(elsewhere) == expected


def test_cells_are_the_means_of_the_runs(out: Path) -> None:
    found = compare(out, metric="ttft")
    means = found.runs.groupby(["policy_label", "budget_bytes"])["ttft_ms_mean"].mean()
    assert list(found.cells["value"]) == pytest.approx(list(means))
    assert (found.cells["low"] <= found.cells["value"]).all()
    assert (found.cells["value"] <= found.cells["high"]).all()
    for pair in found.pairs.itertuples():
        gap = means[pair.policy_label, pair.budget_bytes] - means["lru", pair.budget_bytes]
        assert pair.difference_ms == pytest.approx(gap)
        assert pair.relative == pytest.approx(gap / means["lru", pair.budget_bytes])
    assert list(found.references["budget_bytes"]) == sorted(set(found.cells["budget_bytes"]))
    assert (found.references["infinite"] <= found.references["belady_forced"]).all()


def test_only_what_was_run_alike_is_paired(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "out")
    runs = sim.load(out)
    gone = runs[(runs["policy"] == "fifo") & (runs["seed"] == 1) & (runs["budget_bytes"] == runs["budget_bytes"].min())]
    shutil.rmtree(tmp_path / "out" / gone["folder"].iloc[0])
    found = compare(tmp_path / "out")
    fifo = found.pairs[found.pairs["policy_label"] == "fifo"]
    assert list(fifo["seeds"]) == [1, 2]
    assert found.missing == (
        "fifo at 48 B: only 1 seed and 30 requests are in common with lru; the difference is of these alone.",
    )
    alone = compare(out, selection=["budget=48"]).pairs.query("policy_label == 'fifo'")
    assert alone["difference_ms"].iloc[0] != fifo["difference_ms"].iloc[0]


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1, 5), (2, 3), (2, 4), (3, 3), (4, 1), (4, 1), (5, float("nan"))]
    assert list(stats.pareto(points)) == [True, True, False, False, True, True, False]
    assert list(stats.pareto([(1, 5, 0.5), (1, 4, 0.6), (1, 6, 0.6)])) == [True, True, False]
    points = np.random.default_rng(0).integers(0, 8, (60, 3))
    brute = [not any((q <= p).all() and (q < p).any() for q in points) for p in points]
    assert list(stats.pareto(points)) == brute


def cells(*rows: tuple[str, int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(
        [{"policy_label": p, "lossless": True, "budget_bytes": b, "value": v, "high": h} for p, b, v, h in rows]
    )


def test_the_smallest_budget_that_meets_a_target() -> None:
    given = cells(
        ("a", 1, 40, 44), ("a", 2, 29, 33), ("a", 4, 20, 22), ("b", 1, 50, 55), ("c", 1, 10, 11), ("c", 2, 31, 32)
    )
    found = Target.parse("tpot<=30ms").met(given, pd.DataFrame()).set_index("policy_label")
    assert (found.loc["a", "budget_bytes"], found.loc["a", "sure_budget_bytes"]) == (2, 4)
    assert found.loc["a", "value_ms"] == 29
    assert pd.isna(found.loc["b", "budget_bytes"])
    assert (found.loc["b", "best_ms"], found.loc["b", "best_budget_bytes"]) == (50, 1)
    assert (found.loc["c", "best_ms"], found.loc["c", "best_budget_bytes"]) == (10, 1)
    assert list(found["gap_above"]) == [False, False, True]
    assert Target.parse("ttft_p99<=2s") == Target("ttft", "p99", 2000.0, "ttft_p99<=2s")


def test_a_target_for_a_percentile_is_met_by_the_runs() -> None:
    given = cells(("a", 1, 10, 11), ("a", 2, 9, 10))
    runs = pd.DataFrame({"policy_label": "a", "budget_bytes": [1, 1, 2], "tpot_ms_p99": [35.0, 45.0, 25.0]})
    found = Target.parse("tpot_p99<=30ms").met(given, runs).iloc[0]
    assert (found["budget_bytes"], found["value_ms"], found["best_ms"]) == (2, 25, 25)
    assert pd.isna(found["high_ms"])
    assert pd.isna(found["sure_budget_bytes"])
    assert Target.parse("tpot_p99<=40ms").met(given, runs)["budget_bytes"].iloc[0] == 1, "the mean over seeds"


def test_lossy_rows_are_not_ranked_with_lossless_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["budget=50%", "limit=8", f"out={tmp_path}"]
    for policy in ("lru", "lfu_incache", "swapmoe_uniform"):
        assert main(["run", f"policy={policy}", "bounds=false", *words]) == 0
    capsys.readouterr()
    found = compare(tmp_path)
    assert set(found.pairs["policy_label"]) == {"lfu_incache"}
    assert found.cells.set_index("policy")["front"]["swapmoe"]
    assert found.cells[found.cells["lossless"]]["front"].sum() == 1
    assert main(["compare", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    table = text[text.index("\n\n", text.index("What was found")) : text.index("What may not be concluded")]
    assert table.index("lfu_incache") < table.index("kept gate mass %") < table.index("swapmoe (planner=uniform)")
    assert "not ranked with the others" in text
    alone = compare(tmp_path, baseline="swapmoe")
    assert alone.pairs.empty


MISTAKES = [
    (["baseline=best"], ["baseline=best", "lru", "fifo"]),
    (["target=tpot<30"], ["target=tpot<30", "tpot<=30ms"]),
    (["target=tpot<=0ms"], ["target=tpot<=0ms", "above 0"]),
    (["level=0.3"], ["level=0.3", "0.95"]),
    (["policy=nosuch"], ["policy=nosuch", "lru (4 runs)"]),
    (["budget=8GBB"], ["budget", "8GBB", "GiB"]),
    (["colour=red"], ["colour=red", "trace"]),
    (["bach=1"], ["error: bach=1: not understood", "; did you mean batch?\n"]),
    (["metrc=ttft"], ["error: metrc=ttft: not understood", "; did you mean metric?\n"]),
    (["seed=7"], ["seed=7", "0 (6 runs)"]),
]


@pytest.mark.parametrize(("words", "named"), MISTAKES, ids=lambda value: " ".join(value))
def test_a_mistake_is_one_line(
    out: Path, words: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["compare", str(out), *words], capsys)
    assert all(part in said for part in named)


def test_a_folder_may_be_named_like_a_setting(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(out, tmp_path / "seed=0, 1")
    assert main(["compare", str(tmp_path / "seed=0, 1"), "policy=lru,fifo", "format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 8


def test_seeds_do_not_count_as_requests(out: Path) -> None:
    """Five seeds that measure the same say what one of them says, and no more."""
    runs = sim.load(out).query("seed == 1")
    requests = sim.load_requests(out, runs)
    one = compare_runs(runs, requests)
    copies = [(runs.assign(seed=seed), requests.assign(seed=seed)) for seed in range(5)]
    five = compare_runs(*(pd.concat(parts, ignore_index=True) for parts in zip(*copies, strict=True)))
    assert set(five.cells["seeds"]) == {5}
    figures = ["requests", "value", "low", "high"]
    np.testing.assert_allclose(five.cells[figures], one.cells[figures], rtol=1e-12)
    figures = ["requests", "relative", "low", "high", "p", "p_adjusted"]
    np.testing.assert_allclose(five.pairs[figures], one.pairs[figures], rtol=1e-12)


def test_runs_of_two_states_of_the_code_are_not_mixed(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "out")
    edit(next((tmp_path / "out").glob("lru-*")), lambda it: it["provenance"].update(code="-old", cell="another"))
    with pytest.raises(MixedRunsError, match=r"code of lru is -old \(1 run\), \w+ \(3 runs\)\.") as caught:
        compare(tmp_path / "out")
    assert len(compare(tmp_path / "out", selection=caught.value.words).runs) == caught.value.count == 11


def test_a_device_s_runs_are_apart(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Repeated runs of a device are measurements of the same, not copies of one."""
    for i, folder in enumerate(sorted(out.glob("*-*"))):
        if (folder / "result.json").exists():
            for again in range(2):
                here = shutil.copytree(folder, tmp_path / "out" / f"real-{i}-{again}")
                device = {"name": "H200", "date": f"2026-01-0{again + 1}"}
                edit(here, lambda it, device=device: it["provenance"].update(device=device))
                if again:
                    table = pd.read_parquet(here / "requests.parquet")
                    table.assign(tpot_ns=table["tpot_ns"] * 3).to_parquet(here / "requests.parquet")
    found, simulated = compare(tmp_path / "out"), compare(out)
    assert list(found.cells["value"]) == pytest.approx(list(2 * simulated.cells["value"]))
    assert main(["compare", str(tmp_path / "out")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "measured on H200 (policies' prices: by_hand, published figures)" in text
    assert "drift from run to run, which at least 2 runs of each are averaged for" in text
    shutil.copytree(out, tmp_path / "out" / "simulated")
    with pytest.raises(UserError, match=r"not alike: source is device \(24 runs\), simulated \(12 runs\)"):
        compare(tmp_path / "out")
    assert len(compare(tmp_path / "out", selection=["source=simulated"]).runs) == 12
