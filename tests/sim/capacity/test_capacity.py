"""``python -m sim capacity`` as a person calls it: against every rate one by one, its commands, pages and mistakes."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from sim.capacity.answer import _row, _Searched
from sim.capacity.cells import Figures, Point, at
from sim.capacity.draw import draw
from sim.capacity.search import rate
from sim.capacity.show import first, notes
from sim.capacity.words import Options, ask
from sim.cli import main
from sim.experiment.compose import read_config
from tests.sim.saying import refused
from tests.sim.small_trace import MACHINE, Plan, write
from traces.kit.words import parse

SLOW = 1e-7
"""Of the machine by hand, in which 12 ns are .12 s: rates are those of people."""
USUAL = ("trace=t", "hardware=slow.yaml", "budget=36", "count=8", "seeds=2", "within=20%", "slo=e2el<=3s", "share=75%")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trace and a slow machine; what is run there stays."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(5)
    plans = [Plan((2,), 2), Plan((1,), 3), Plan((3,), 1)]
    ids = np.argsort(rng.random((sum(plan.rows for plan in plans), 2, 4)) ** 2, axis=-1)[..., :1]
    write(folder / "t", plans, ids, n_experts=4)
    card = {**MACHINE, "name": "slow", "gpu": {**MACHINE["gpu"], "hbm_gb_per_s": 3 * SLOW}}
    card |= {"link": {**MACHINE["link"], "h2d_gb_per_s": SLOW, "d2h_gb_per_s": SLOW}}
    (folder / "slow.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(card))))
    return folder


@pytest.fixture
def capacity(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """``capacity(...)``: what the command prints of that world, in this process alone."""
    monkeypatch.chdir(world)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})

    def call(*given: str) -> Any:
        own = {word.partition("=")[0] for word in given}
        capsys.readouterr()
        words = [*given, *(word for word in USUAL if word.partition("=")[0] not in own)]
        assert main(["capacity", *words]) == 0
        printed = capsys.readouterr().out
        return json.loads(printed) if "format=json" in given else printed

    return call


def kept(folder: Path) -> float:
    """Which share of a run's requests keeps within 3 s, from its table."""
    rows = pd.read_parquet(folder / "requests.parquet")
    return float((rows["end_ns"] - rows["admitted_ns"] <= 3 * 10**9).mean())


def test_it_is_the_highest_of_all_rates_and_every_figure_is_that_of_an_ordinary_run(
    capacity: Any, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = capacity("policy=lru,lfu", "format=json")
    assert [row["policy"] for row in found["rows"]] == ["lru", "lfu"]
    per_octave = round(1 / np.log2(1 + found["within"]))
    steps = {rate(step, per_octave): step for step in range(-40, 60)}
    for row in found["rows"]:
        points = {steps[point["rate"]]: point for point in row["points"]}
        for point in points.values():
            runs = [kept(world / "outputs" / run["folder"]) for run in point["seeds"]]
            assert [run["attainment"] for run in point["seeds"]] == runs
            assert point["attainment"] == min(runs)
            assert point["meets"] == (min(runs) >= 0.75)
        best = steps[row["requests_per_s"]]
        assert best == max(step for step, point in points.items() if point["meets"])
        assert not points[best + 1]["meets"]
        assert row["above"] == points[best + 1]
    row = max(found["rows"], key=lambda row: row["requests_per_s"])
    capsys.readouterr()
    assert main(["run", *row["run"], "format=json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"read from outputs/{row['at']['seeds'][0]['folder']}\n"
    assert json.loads(printed.out)["serving"]["good_share"] == row["at"]["seeds"][0]["attainment"]
    assert f"python -m sim run {shlex.join(row['run'])}" in capacity("policy=lru,lfu")


def test_what_was_run_is_read_and_the_answer_is_the_same(capacity: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = capacity("format=json")
    monkeypatch.setattr("sim.experiment.run.simulate", None)
    assert capacity("format=json") == before


def test_the_median_of_seeds_is_no_less_strict_than_one_of_them(capacity: Any) -> None:
    of = {rule: capacity(f"rule={rule}", "seeds=3", "format=json")["rows"][0] for rule in ("all", "median")}
    for rule, pick in (("all", min), ("median", np.median)):
        for point in of[rule]["points"]:
            assert point["attainment"] == pick([run["attainment"] for run in point["seeds"]])
    assert of["median"]["requests_per_s"] >= of["all"]["requests_per_s"]


def test_what_was_given_beside_is_said(capacity: Any) -> None:
    words = ("policy.scope=global", "workload.max_num_seqs=128")  # as they are anyway, so that nothing runs anew
    assert f"rates in steps of 18.9 %. With {' '.join(words)}." in " ".join(capacity(*words).split())


def test_objectives_that_nothing_keeps_and_that_everything_keeps(capacity: Any) -> None:
    never = capacity("slo=e2el<=1ms", "format=json")
    (row,) = never["rows"]
    assert (row["requests_per_s"], row["at"], row["run"], len(row["points"])) == (None, None, None, 2)
    assert (
        first(never)
        == "No rate found: nothing that is ranked keeps within e2el<=1ms at 1 request/s, nor at the lowest rate."
    )
    assert "not even at 0.000976562 requests/s, where hardly two meet: 0.0 % keep within, TTFT p90 " in notes(never)[0]
    always = capacity("slo=e2el<=1000s", "format=json", "seeds=1")
    assert always["rows"][0]["at_least"]
    assert always["rows"][0]["above"] is None
    assert first(always) == "At least 4096 requests/s, with lru at 36."


def test_the_page_and_the_picture_say_the_same(capacity: Any, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = world / "knee.svg"
    page = capacity("policy=lru,lfu", f"picture={picture}")
    found = capacity("policy=lru,lfu", "format=json")
    assert page.splitlines()[0] == first(found)
    drawn = picture.read_text()
    for said in (first(found)[:30], "requests per second", "lfu", "75 %"):
        assert said in drawn
    figure = draw(found)
    assert figure is not None
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    for row in found["rows"]:
        assert list(lines[row["policy"]].get_ydata()) == [100 * it["attainment"] for it in row["points"]]


def test_the_command_of_a_row_is_its_cell_at_the_lowest_rate_too(world: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(world)
    it = ask(parse(Options, [*USUAL], ""))
    (key,) = it.configs
    run = Figures(0, 1, 1, 1, 1, None, None, 36, None, "lossless", False, 0, "")
    step = -10 * it.per_octave
    one = _Searched({step: Point(rate(step, it.per_octave), 1, True, 1, 1, None, None, (run,))})
    assert read_config(_row(key, one, step, it)["run"]) == at(it.configs[key], step, it.per_octave, 0)


def test_parts_of_the_memory_that_are_as_good_are_all_named_and_ringed() -> None:
    usual = {"policy": "lru", "output": "lossless", "memorised": False, "at_least": False, "points": [1]}
    rates = {"KV 5%": 1, "KV 10%": 4, "KV 20%": 4, "KV 40%": None}
    rows = [usual | {"memory": memory, "requests_per_s": found} for memory, found in rates.items()]
    asked = {"kv_share": ["5%"], "seeds": [0], "rule": "all", "share": 0.9, "count": 2, "slo": "ttft<=1s"}
    it = asked | {"workload": {"arrivals": "poisson"}, "within": 1.0, "rows": rows}
    figure = draw(it)
    assert figure is not None
    said = " ".join(" ".join(text.get_text() for text in [*figure.texts, figure.axes[0].title]).split())
    assert "10%, 20% for the KV cache are equally good: 4 requests/s, with lru" in said
    assert "rates in steps of 100 %" in said
    (axes,) = figure.axes
    (ring,) = axes.collections
    assert np.asarray(ring.get_offsets()).tolist() == [[10, 4], [20, 4]]
    # Doublings are equal steps, and who has no rate is a step below the least.
    assert axes.get_yscale() == "log"
    ticks = {text.get_text(): tick for tick, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    assert ticks == {"none": 0.5, "1": 1, "2": 2, "4": 4}
    (line,) = (line for line in axes.lines if line.get_label() == "lru")
    assert list(line.get_ydata()) == [1, 4, 4, 0.5]
    near = draw(it | {"rows": [row | {"requests_per_s": row["requests_per_s"] and 3} for row in rows]})
    assert near is not None
    assert (near.axes[0].get_yscale(), near.axes[0].get_ylim()[0]) == ("linear", 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("policy=lur", "policy=lur: allowed: daop,"),
        ("budget=36,lots", "not lots"),
        ("budget=3", "budget=3"),
        ("budget=36 kv_share=10%", "budget=36: kv_share= leaves the rest of the room for experts"),
        ("kv_share=100%", "kv_share=100%: allowed: a share above 0% and below 100%"),
        ("kv_share=10%", "how much a token takes in this model's KV cache is unknown"),
        ("slo=ttft<5", "slo=ttft<5: allowed: a limit for some of ttft, tpot, e2el in us, ms, s"),
        ("share=90", "share=90: allowed: a share, 1% to 100%"),
        ("within=0%", "within=0%: allowed: a share, 0.1% to 100%"),
        ("workload.rate=2", "workload.rate=2: is what is looked for; allowed: without it"),
        ("workload.slo=ttft<=1s", "workload.slo=ttft<=1s: is a key of this command; allowed: slo=ttft<=1s"),
        ("workload=closed_loop", "workload=closed_loop: requests arrive here; allowed: online"),
        ("workload.discipline=fifo", "workload.discipline"),
        ("seed=2147483647", "seed=2147483647: is the first of seeds=2; allowed: none above 2147483647"),
        ("workload.arrivals=recorded count=3", "has no arrival of request 0"),
        (
            "policy=lru,fmoe policy.scope=layer",
            "policy.scope=layer: policy=fmoe: no such key; allowed: name, dis",
        ),
        ("workload.max_num_seqs=4,8", "workload.max_num_seqs=4,8: several values; allowed here: one"),
        ("budget=", "budget=: allowed: sizes, comma-separated"),
        ("experiment=disk_memory", "experiment=disk_memory: no such key"),
    ],
)
def test_a_slip_is_one_line(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    own = {word.partition("=")[0] for word in words.split()} | ({"budget"} if "kv_share" in words else set())
    rest = [word for word in USUAL if word.partition("=")[0] not in own]
    assert said in refused(["capacity", *words.split(), *rest], capsys)
