"""What compare says: a clause per policy, true without intervals and of few requests; and prints, at any width."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

import sim
from sim.cli import main
from sim.results.compare import Comparison, comparison
from sim.results.compare.cli import document
from sim.results.compare.comparison import compare, compare_runs
from sim.results.compare.conclude import conclude, limits
from sim.results.compare.table import show
from sim.results.compare.target import Target
from sim.results.compare.words import budgets, milliseconds, sizes
from sim.workload.passes import select
from tests.sim.many_requests import grid, topical
from tests.sim.saying import edit, printed
from tests.sim.small_trace import Plan, one_layer

ROOT = Path(__file__).parents[4]


def said(found: Comparison) -> str:
    return " ".join([*conclude(found), *limits(found)])


def copies(out: Path, *names: str, **columns: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of LRU, also under other names and with other columns."""
    runs = sim.load(out).query("policy == 'lru'")
    requests = sim.load_requests(out, runs)
    all_runs = [runs, *(runs.assign(policy=name, policy_label=name, **columns) for name in names)]
    all_requests = [requests, *(requests.assign(policy_label=name) for name in names)]
    return pd.concat(all_runs, ignore_index=True), pd.concat(all_requests, ignore_index=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("says")
    return grid(topical(folder / "trace", n=30), folder / "out", ("lru", "fifo"), (4, 8), (0,))


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("five")
    return grid(topical(folder / "trace", n=30), folder / "out", ("lru", "fifo"), (4, 8), (0,), limit=5)


def test_of_an_interval_that_is_not_there_nothing_is_said(five: Path) -> None:
    found = compare(five, target="tpot<=1ms")
    assert found.cells["low"].isna().all()
    assert found.pairs["p"].isna().all()
    assert not found.pairs["significant"].any()
    text = said(found)
    assert re.search(r"that meets tpot<=1ms \(by the mean over requests\): 48 B with \w+ \(0\.0", text)
    assert "reaches" not in text
    assert text.count("very few") == text.count("interval") == 1, "said once"
    assert "5 requests are very few: with others, the order of the policies may turn. For intervals and tests" in text


def test_a_target_between_mean_and_end_of_the_interval(out: Path) -> None:
    cells = compare(out, selection=["policy=lru"]).cells.set_index("budget_bytes")
    mean, high = cells.loc[48, ["value", "high"]]
    text = said(compare(out, target=f"tpot<={(mean + high) / 2 * 1e6:.6f}ns"))
    assert f"48 B with lru ({milliseconds(mean)} ms; its interval reaches {milliseconds(high)} ms" in text
    assert "and stays below only from 96 B on)" in text
    text = said(compare(out, target=f"tpot<={high * 1e6 + 1:.6f}ns"))
    assert f"48 B with lru ({milliseconds(mean)} ms)" in text
    text = said(compare(out, target="tpot_p90<=1ms"))
    assert "(a percentile, without an interval)" in text
    assert "reaches" not in text


def test_a_target_that_some_miss(out: Path) -> None:
    values = compare(out).cells.set_index(["policy_label", "budget_bytes"])["value"].groupby("policy_label").min()
    between = values.mean() * 1e6
    first, second = values.sort_values().index
    meets, misses = (line for line in conclude(compare(out, target=f"tpot<={between:.6f}ns")) if "tpot<=" in line)
    assert meets.startswith("The smallest budget here that meets tpot<=")
    assert first in meets
    assert second not in meets
    assert misses.startswith("Missing tpot<=")
    assert second in misses


def test_a_budget_above_that_misses_the_target_is_named(out: Path) -> None:
    runs, requests = copies(out)
    requests.loc[requests["budget_bytes"] == 96, "tpot_ns"] *= 100
    found = compare_runs(runs, requests, target=Target.parse("tpot<=100ns"))
    assert "; a larger budget misses it)" in said(found)


def test_too_many_comparisons_are_not_put_on_few_requests(out: Path) -> None:
    """30 requests are 12 blocks, and 1000 would be no more: after 103 comparisons nothing can be significant."""
    runs, requests = copies(out, *(f"copy {i}" for i in range(52)))
    requests.loc[requests["policy_label"] != "lru", "tpot_ns"] *= 2
    found = compare_runs(runs, requests)
    assert not found.pairs["significant"].any()
    text = said(found)
    assert "No p value of 12 blocks of requests is below 0.00049, so none of 104 comparisons" in text
    assert "measure more" not in text
    assert "over all budgets together there are fewer tests" in text
    assert found.overall["significant"].all()
    assert "copy 0: 100.0 % higher TPOT than lru on average over 48 and 96 B (100.0 %), at no budget by itself." in text
    assert "104 of them exclude 0 without a significant p" in text
    fewer = runs["policy_label"].isin(["lru", *(f"copy {i}" for i in range(51))])
    found = compare_runs(runs[fewer], requests[requests["policy_label"].isin(runs["policy_label"][fewer])])
    assert found.pairs["significant"].all()
    assert "No p value" not in said(found)


@pytest.mark.parametrize(("level", "shown"), [(0.999, "99.9 %"), (0.995, "99.5 %"), (0.95, "95 %")])
def test_a_level_is_shown_as_it_is(out: Path, level: float, shown: str) -> None:
    found = compare(out, level=level)
    assert any(re.match(rf"interval +{shown}, over", line) for line in printed(show, found, 120))
    assert f"Intervals ({shown} each) are not corrected" in said(found)
    assert "No interval" not in said(found)
    narrow = compare(out, level=0.6)
    for wide, other in ((found.cells, narrow.cells), (found.pairs, narrow.pairs)):
        assert (other["high"] - other["low"] < wide["high"] - wide["low"]).all()


def test_a_level_that_gives_no_interval_is_named(out: Path) -> None:
    found = compare(out, level=0.9999)
    assert found.cells["low"].isna().all()
    assert "No interval at 99.99 %" in said(found)


def test_one_policy_is_its_own_baseline(out: Path) -> None:
    found = compare(out, selection=["policy=fifo"])
    assert found.baseline == "fifo"
    assert "p: " not in " ".join(printed(show, found, 120))


def test_without_lru_the_first_is_the_baseline() -> None:
    def base(*labels: str) -> str:
        frame = pd.DataFrame({"policy_label": labels, "policy": [label.partition(" ")[0] for label in labels]})
        return comparison._baseline(frame.assign(lossless=[not label.startswith("keeps") for label in labels]), None)

    assert base("zeta", "lru (scope=layer)", "lru") == "lru"
    assert base("zeta", "fmoe (distance=1)", "fmoe") == "fmoe"
    assert base("fmoe (distance=2)", "fmoe (distance=1)") == "fmoe (distance=1)"
    assert base("keeps", "zeta (a=1)") == "zeta (a=1)", "lossy ones have no say while there are others"
    assert base("keeps_b", "keeps_a") == "keeps_a"


def test_requests_of_one_token_have_no_tpot(tmp_path: Path) -> None:
    plans = [Plan((1,), 0 if i % 3 == 0 else 3) for i in range(30)]
    trace = one_layer(tmp_path / "t", plans, [i % 8 for i in range(sum(p.rows for p in plans))], n_experts=8)
    out = grid(trace, tmp_path / "out", ("lru", "fifo"), (4,), (0,))
    found = compare(out)
    assert set(found.cells["requests"]) == {20}
    assert "This holds for 20 requests that have a TPOT, of 30" in said(found)
    assert "20 requests are few." in said(found)
    assert "This holds for 30 requests (" in said(compare(out, metric="ttft"))


def test_every_seed_measures_the_same_requests(tmp_path: Path) -> None:
    trace = topical(tmp_path / "trace", n=30)
    for words in ({"limit": 5}, {"warmup": 4}, {"limit": 5, "warmup": 4}):
        recorded = select(trace, **words)
        for seed in (1, 2, 3):
            other = select(trace, seed=seed, **words)
            assert other.measured != recorded.measured
            assert sorted(other.measured) == list(recorded.measured)
            assert other.warmup == recorded.warmup
    out = grid(trace, tmp_path / "out", ("lru",), (4,), (0, 1, 2), limit=6)
    assert set(compare(out).cells["requests"]) == {6}


def test_lossy_policies_are_set_against_each_other_with_what_they_keep(out: Path) -> None:
    quality = [f"quality_{share}" for share in ("kept_gate_mass", "substituted", "skipped", "low_precision")]
    runs, requests = copies(out, "keeps", "loses", lossless=False, **dict.fromkeys(quality, 0.9))
    runs.loc[runs["policy"] == "loses", "quality_kept_gate_mass"] = 0.5
    found = compare_runs(runs, requests, baseline="keeps")
    front = found.cells.set_index("policy_label")["front"]
    assert front["keeps"].all()
    assert not front["loses"].any(), "quality is good"
    requests.loc[requests["policy_label"] == "loses", "tpot_ns"] *= 0.5
    text = said(compare_runs(runs, requests, baseline="keeps"))
    assert "loses: 50 % lower TPOT than keeps at 48 and 96 B; " in text
    assert ", whatever either keeps of the quality." in text


def test_two_states_of_the_engine_are_seen_in_the_reference_rows(out: Path) -> None:
    runs, requests = copies(out, "new")
    runs["infinite_tpot_ms_mean"] = 1.0
    assert "two states of the code" not in said(compare_runs(runs, requests))
    runs.loc[runs["policy"] == "new", "infinite_tpot_ms_mean"] = 1.1
    assert said(compare_runs(runs, requests)).count("two states of the code") == runs["budget_bytes"].nunique()


def test_a_row_has_its_figures_and_the_best_comes_first(out: Path) -> None:
    runs, requests = copies(out, "zeta")
    requests.loc[requests["policy_label"] == "zeta", "tpot_ns"] /= 2
    figures = {"hit_complete": 0.333, "bound_time_gap": 1.5, "bound_bytes_gap": 2.5}
    lines = printed(show, compare_runs(runs.assign(**figures), requests), 120)
    rows = [line.split() for line in lines if re.match(r"[+ ] (lru|zeta) ", line)]
    assert rows[0] == ["zeta", "-50.0*", *rows[0][2:]], "over both budgets"
    at = rows[1:]
    assert [row[row[0] == "+"] for row in at] == ["zeta", "lru"] * 2
    figures = ["33.3", "1.50x", "2.50x"]
    assert all(row[-3:] == figures for row in at if "zeta" not in row)
    assert all(row[-4:] == [*figures, "0"] for row in at if "zeta" in row), "as many tokens per second close no gap"
    assert [row[0] for row in at] == ["+", "lru"] * 2
    assert "-50.0*" in at[0]


def test_the_share_of_the_gap_that_is_closed_is_of_the_baselines(out: Path) -> None:
    """Of a baseline of 10 ms and a bound of 4: 7 ms close half, 12 open it by a third, and other classes close none."""
    runs, requests = copies(out, "half", "worse", "loses")
    ms = runs["policy"].map({"half": 7.0, "worse": 12.0, "loses": 5.0}).fillna(10.0)
    gap = runs["policy"].map({"half": 7 / 4, "worse": 3.0}).fillna(2.5)
    runs = runs.assign(throughput_tokens_per_s=1000 / ms, bound_time_gap=gap)
    runs["lossless"] = runs["lossless"] & (runs["policy"] != "loses")
    cells = compare_runs(runs, requests, baseline="lru").cells
    closed = cells.groupby("policy")["gap_closed"].first()
    assert closed["half"] == pytest.approx(0.5)
    assert closed["worse"] == pytest.approx(-1 / 3)
    assert closed["lru"] == 0
    assert cells.loc[cells["policy"] == "loses", "gap_closed"].isna().all()
    alone = compare_runs(runs.assign(bound_time_gap=float("nan")), requests, baseline="lru").cells
    assert alone["gap_closed"].isna().all()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_table_is_whole_at_any_width(out: Path, width: int) -> None:
    lines = printed(show, compare(out), width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    rows = [line for line in lines if re.match(r"[+ ] (lru|fifo) ", line)]
    assert len(rows) == 5
    assert all(".." in row for row in rows)
    heads = next(line for line in lines if "TPOT ms" in line).split()
    assert heads[-2:] == ["hits", "%"], "p goes before hits"
    assert any(f"no room in {width} columns for: p (" in line for line in lines) == (" p " not in " ".join(heads))


def test_a_name_is_never_markup(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(out, tmp_path / "out")
    for file in (tmp_path / "out").glob("*/result.json"):
        edit(file.parent, lambda it: it["provenance"].update(routing_from="of[/me] :fire: [bold]"))
    assert main(["compare", str(tmp_path / "out")]) == 0
    assert "routing of of[/me] :fire: [bold], priced as tiny" in capsys.readouterr().out


def test_figures_below_a_millisecond_have_digits() -> None:
    assert [milliseconds(x) for x in (1234.5, 12.345, 1.0, 0.0456, 0.0000456, 0.0)] == [
        *("1,234.50", "12.35", "1.00", "0.0456", "0.000046", "0.00")
    ]
    assert milliseconds(12.5, 0.5) == "12.500"
    assert milliseconds(float("nan")) == "-"


def test_the_document_is_documented(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(out), "target=tpot<=1ms", "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == document(compare(out, target="tpot<=1ms"))
    text = (ROOT / "docs/results.md").read_text()
    section = text[text.index("## The document of `format=json`") : text.index("## Columns of `sim.load`")]
    named = set(re.findall(r"`([a-z_]+)`", section))
    for key, value in found.items():
        assert key in named
        rows = value if isinstance(value, list) and value and isinstance(value[0], dict) else []
        for row in rows:
            assert set(row) <= named, key


def scaled(out: Path, **names: tuple[float, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """LRU, and under other names with times that are a multiple at each of the two budgets."""
    runs, requests = copies(out, *names)
    for name, factors in names.items():
        for budget, factor in zip((48, 96), factors, strict=True):
            requests.loc[(requests["policy_label"] == name) & (requests["budget_bytes"] == budget), "tpot_ns"] *= factor
    return runs, requests


def test_a_policy_is_one_clause_by_effect(out: Path) -> None:
    assert conclude(compare_runs(*scaled(out, fast=(0.9, 0.8))))[0] == (
        "fast: 10 to 20 % lower TPOT than lru at 48 and 96 B; 15.0 % lower on average over 48 and 96 B"
        " (14.6 to 15.3 %)."
    )
    both = conclude(compare_runs(*scaled(out, turns=(0.9, 1.1))))[0]
    assert both.startswith("turns: 10.0 % lower TPOT than lru at 48 B (10.0 %); 10.0 % higher at 96 B (10.0 %); on ")
    assert "not shown to differ (" in both
    assert conclude(compare_runs(*scaled(out, same=(1, 1))))[0] == "Equal to lru wherever both were run: same."


def test_there_is_no_share_of_a_baseline_that_takes_no_time(out: Path) -> None:
    runs, requests = scaled(out, fast=(0.9, 1))
    nothing = (requests["policy_label"] == "lru") & (requests["budget_bytes"] == 96)
    requests["tpot_ns"] = requests["tpot_ns"].astype("Float64").mask(nothing, 0.0)
    found = compare_runs(runs, requests)
    assert conclude(found)[0] == "fast: 10.0 % lower TPOT than lru at 48 B (10.0 %)."
    assert "fast at 96 B: lru takes no time there, of which there is no share." in found.missing
    requests["tpot_ns"] = requests["tpot_ns"] * 0
    assert conclude(compare_runs(runs, requests))[0] == "Neither a difference from lru nor its absence is shown: fast."


def test_the_largest_gain_comes_first(out: Path) -> None:
    found = compare_runs(*scaled(out, slow=(1.2, 1.2), a=(0.9, 0.9), b=(0.7, 0.7)))
    assert [line.partition(":")[0] for line in conclude(found)[:3]] == ["b", "a", "slow"]


def test_the_target_is_answered_first_and_findings_stand_before_limits(out: Path) -> None:
    lines = printed(show, compare(out, target="tpot<=1ms"), 80)
    beginnings = (
        *("TPOT in ms, mean over 30 requests: 2 policies at 2 budgets", "routing of tiny, ", "simulated on by_hand"),
        *("What was found", "- The smallest budget here that meets tpot<=1ms", "- fifo: "),
        *("48 and 96 B together", "budget 48 B", "budget 96 B", "What may not be concluded"),
    )
    at = [next(i for i, line in enumerate(lines) if line.startswith(text)) for text in beginnings]
    assert at == sorted(at)
    assert at[4] == at[3] + 1


def test_with_too_few_requests_no_column_is_empty(five: Path) -> None:
    for found in (compare(five), compare(five, selection=["policy=lru"])):
        lines = printed(show, found, 120)
        heads = next(line for line in lines if "TPOT ms" in line)
        assert "interval" not in heads
        assert " p " not in heads
        assert sum("very few" in line for line in lines) == 1
        assert not any("significant" in line or "corrected" in line for line in lines)


def test_budgets_and_shares_are_said_as_a_reader_says_them() -> None:
    every = [x * 10**9 for x in (2, 4, 6, 8, 10)]
    assert budgets(every, every) == "2 to 10 GB"
    assert budgets(every[:2], every) == "2 and 4 GB"
    assert budgets([every[0], every[1], every[4]], every) == "2, 4 and 10 GB"
    assert budgets(every[2:3], every) == "6 GB"
    assert budgets([5 * 10**8, 10**9], [5 * 10**8, 10**9]) == "500 MB and 1 GB"
    given = ([-0.0647, -0.1651], [0.012, 0.023], [-0.081], [0.07, 0.0701])
    assert [sizes(shares) for shares in given] == ["6 to 17 %", "1.2 to 2.3 %", "8.1 %", "7 %"]
