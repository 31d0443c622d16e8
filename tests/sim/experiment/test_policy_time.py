"""A policy's own time: how it is measured from logs, and what a run says where it is charged."""

import gc
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from policies.api import LayerEvent, Setup
from policies.on_demand import OnDemand
from sim.experiment.again import Again
from sim.experiment.cell import make_cell, make_core, make_machine, passes_of
from sim.experiment.compose import read_config
from sim.experiment.config import RunConfig
from sim.experiment.policy_time import Logged, measure_policy_time
from sim.experiment.run import Result, run, run_config
from sim.prices.chosen import changed
from sim.results.table import show
from tests.commands import bench
from tests.sim.saying import printed
from tests.sim.small_trace import MACHINE, SIZE, Plan, config, one_layer
from traces import Trace
from traces.kit.units import figure

PLANS = [Plan((1,), 1), Plan((3,), 2), Plan((5,), 4), Plan((1,))]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    rows = sum(plan.rows for plan in PLANS)
    return one_layer(tmp_path_factory.mktemp("t") / "t", PLANS, [i % 4 for i in range(rows)])


# -- measuring --------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A thread's CPU time that passes only where somebody says so, and the collector's is nobody's."""
    monkeypatch.setattr("sim.experiment.policy_time.gc.collect", lambda: 0)  # of all tests' objects, at each turn
    clock = SimpleNamespace(ns=0)
    monkeypatch.setattr("sim.experiment.policy_time.time.thread_time_ns", lambda: clock.ns)
    return clock


class Slow(OnDemand):
    """Takes its time at each gate: so many ns in prefill, in decode."""

    def __init__(self, setup: Setup, clock: SimpleNamespace, prefill: int, decode: int) -> None:
        super().__init__(setup)
        self.clock, self.prefill, self.decode = clock, prefill, decode

    def on_gate(self, event: LayerEvent) -> None:
        self.clock.ns += self.prefill if event.prefill else self.decode


Make = Callable[..., Logged]


@pytest.fixture
def logged(trace: Trace, clock: SimpleNamespace) -> Make:
    made: list[tuple[int, int]] = []

    def make(prefill: int, decode: int, **changes: Any) -> Logged:
        cell = make_cell(config(trace, 2 * SIZE, **changes))

        def core() -> Any:
            clock.ns += 10**9  # fitting, filling a store
            made.append((prefill, decode))
            return make_core(cell, Slow(cell.setup, clock, prefill, decode), record=True)

        own = core()
        make_machine(cell, own).run(passes_of(cell, cell.selection.warmup), passes_of(cell, cell.selection.measured))
        made.clear()
        return Logged(own.log, core)

    make.made = made  # type: ignore[attr-defined]
    return make


def test_what_is_above_on_demand_is_found_by_phase(logged: Make) -> None:
    found = measure_policy_time(logged(70_000, 9_000), logged(1_000, 2_500), repeat=3)
    of = attrgetter("us", "baseline_us", "passes", "tokens")
    assert {phase: of(it) for phase, it in found.items()} == {"prefill": (69, 1, 4, 2.5), "decode": (6.5, 2.5, 7, 1)}


def test_it_is_not_below_zero_and_says_what_the_turns_gave(logged: Make) -> None:
    found = measure_policy_time(logged(1_000, 0), logged(3_000, 0), repeat=1)["prefill"]
    assert (found.us, found.lowest_us, found.highest_us) == (0, -2, -2)


def test_the_warm_up_is_not_counted(logged: Make) -> None:
    found = measure_policy_time(logged(5_000, 7_000, warmup=2), logged(0, 0, warmup=2), repeat=1)
    assert {phase: (it.passes, it.us) for phase, it in found.items()} == {"prefill": (2, 5), "decode": (4, 7)}


def test_the_two_take_turns_and_each_is_first_as_often(logged: Make) -> None:
    own, base = logged(1, 1), logged(0, 0)
    measure_policy_time(own, base, repeat=4)
    assert logged.made == [(1, 1), (0, 0), (0, 0), (1, 1), (1, 1), (0, 0), (0, 0), (1, 1)]  # type: ignore[attr-defined]


def test_a_phase_without_passes_has_no_figure(logged: Make) -> None:
    assert set(measure_policy_time(logged(5, 5, warmup=3), logged(0, 0, warmup=3), repeat=1)) == {"prefill"}


def test_runs_of_other_passes_are_not_compared(logged: Make) -> None:
    with pytest.raises(ValueError, match="same measured passes"):
        measure_policy_time(logged(1, 1), logged(1, 1, limit=2), repeat=1)
    with pytest.raises(ValueError, match="repeat=0"):
        measure_policy_time(logged(1, 1), logged(1, 1), repeat=0)


def test_the_collector_is_left_as_it_was(logged: Make) -> None:
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    measure_policy_time(logged(1, 1), logged(1, 1), repeat=1)
    assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen


def test_the_bench_prints_words_that_charge_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.experiment.bench.REPEAT", 1)
    assert bench(["policy_us=fmoe", "budget=8GB", "limit=1"]) == 0
    *_, words = capsys.readouterr().out.splitlines()
    given = read_config(["policy=fmoe", *words.split()]).hardware["software"]["policy_us"]
    assert set(given) == {"fmoe"}
    assert set(given["fmoe"]) <= {"prefill", "decode"}
    assert given["fmoe"]["decode"] > 0
    assert bench(["policy_us=lru_layer,lru", "budget=8GB", "limit=1", "format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)["policies"]
    assert [(name, row["policy"], row["prefill"]["passes"]) for name, row in rows.items()] == [
        ("lru_layer", "lru", 1),
        ("lru", "lru", 1),
    ]


# -- charging ---------------------------------------------------------------------------------------------------


def charging(trace: Trace, policy: str, policy_us: Any, **changes: Any) -> RunConfig:
    software = dict(MACHINE["software"]) | ({} if policy_us is None else {"policy_us": policy_us})
    given = config(trace, 2 * SIZE, policy=policy, **changes)
    return replace(given, hardware=dict(MACHINE) | {"software": software})


@pytest.fixture
def runs(trace: Trace, tmp_path: Path) -> Callable[..., Result]:
    return lambda policy, policy_us, **changes: run_config(charging(trace, policy, policy_us, **changes), tmp_path)


PRICE = {"lru": {"prefill": 3, "decode": 0.5}}


def test_what_is_charged_is_compute_and_the_result_says_so(runs: Callable[..., Result]) -> None:
    free, own = runs("lru", None).document, runs("lru", PRICE).document
    assert own["totals"]["policy_ns"] == 4 * 3000 + 7 * 500
    rest = own["totals"]["compute_ns"] - own["totals"]["policy_ns"]
    assert rest == free["totals"]["compute_ns"]
    assert own["provenance"]["hardware"]["policy_us"] == {"prefill": 3, "decode": 0.5, "within": "compute"}
    assert own["config"]["hardware"]["software"]["policy_us"] == {"lru": {"prefill": "3", "decode": "1/2"}}


@pytest.mark.parametrize(
    "policy_us", [{}, {"lru": {"decode": 0}}, {"fmoe": {"prefill": 0, "decode": 0.0}}], ids=["none", "0", "another's 0"]
)
def test_to_charge_nothing_is_the_same_cell(runs: Callable[..., Result], policy_us: Any) -> None:
    one, other = runs("lru", None), runs("lru", policy_us)
    assert other.cached
    text = json.dumps(one.document)
    assert json.dumps(other.document) == text
    assert "policy_us" not in text
    assert "policy_ns" not in text


def test_what_was_changed_in_a_shipped_machine_is_named() -> None:
    def own(*words: str) -> list[str]:
        return changed("hardware", read_config(["policy=lru", "budget=4GB", *words]).hardware)

    assert own() == own("+hardware.software.policy_us.lru.decode=0") == []
    assert own("+hardware.software.policy_us.fmoe.decode=5000") == ["software.policy_us"]
    without = read_config(["policy=lru", "budget=4GB"])
    older = dict(without.hardware) | {"software": {"layer_overhead_us": 0, "copy_overhead_us": 0}}
    assert changed("hardware", older) == []


@pytest.mark.parametrize("words", [(), ("+hardware.software.policy_us.lru={prefill:3,decode:0.5}",)], ids=len)
def test_the_command_that_makes_a_run_again_charges_it_too(words: tuple[str, ...], tmp_path: Path) -> None:
    own = run("policy=lru", "budget=4GB", "limit=1", "bounds=false", *words, out=tmp_path)
    command = shlex.split(Again(tmp_path).command(own.folder.name, "simulated"))
    assert command[:4] == ["python", "-m", "sim", "run"]
    assert [word for word in command if "policy_us" in word] == (
        [] if not words else [f"+hardware.software.policy_us.lru.{key}" for key in ("prefill=3", "decode=0.5")]
    )
    assert run(*command[4:], out=tmp_path).folder == own.folder


def test_a_run_from_before_the_knob_is_made_again_in_words(tmp_path: Path) -> None:
    own = run("policy=lru", "budget=4GB", "limit=1", "bounds=false", out=tmp_path)
    path = own.folder / "config.yaml"
    before = yaml.safe_load(path.read_text())
    del before["hardware"]["software"]["policy_us"]
    path.write_text(yaml.safe_dump(before))
    command = Again(tmp_path).command(own.folder.name, "simulated")
    assert command == "python -m sim run policy=lru budget=4GB limit=1 bounds=false"


def test_another_policys_time_costs_nothing(runs: Callable[..., Result]) -> None:
    free, other = runs("lru", None).document, runs("lru", {"fmoe": {"prefill": 9, "decode": 9}}).document
    assert free["config"] != other["config"]
    assert [other[key] for key in ("totals", "latency_ms", "hit_rate")] == [
        free[key] for key in ("totals", "latency_ms", "hit_rate")
    ]
    assert "policy_us" not in other["provenance"]["hardware"]


def test_bounds_and_reference_rows_are_charged_nothing(runs: Callable[..., Result]) -> None:
    """Of these, ``infinite`` is LRU: it cheats with memory, and is no choice."""
    free, own = (runs("lru", given, bounds=True).document for given in (None, PRICE))
    assert own["reference"] == free["reference"]
    for name in own["bounds"]:
        floors = [{k: v for k, v in result["bounds"][name].items() if k != "gap"} for result in (free, own)]
        assert floors[0] == floors[1]
    assert own["bounds"]["time_lower_bound"]["gap"] > free["bounds"]["time_lower_bound"]["gap"] >= 1


def test_it_is_in_the_table_where_it_is_charged(runs: Callable[..., Result]) -> None:
    found = runs("lru", PRICE).document
    own = figure(found["totals"]["policy_ns"] / 1e6 / found["totals"]["generated_tokens"])
    line = f"of compute, the policy's own decisions: {own} ms/token (3 us per prefill pass, 0.5 us per"
    assert line in "\n".join(printed(show, found, 200))
    assert "decisions" not in "\n".join(printed(show, runs("lru", None).document))
