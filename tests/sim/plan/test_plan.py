"""``python -m sim plan`` as a person calls it: its page, its document, the commands that it prints, and mistakes."""

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from real.cli import PROGRAM as ON_DEVICE
from real.words import checkpoint, configuration
from sim.cli import main
from sim.plan.answer import about
from sim.plan.cells import Figures, Runner
from sim.plan.question import ask
from sim.plan.routing import OUTPUT, ROWS, Lengths, draw, kinds
from sim.plan.sentences import facts, first
from tests.sim.plan.small import question, trace_of
from tests.sim.saying import refused
from traces import open_trace
from traces.kit.words import parse
from traces.synthesize.figures import shipped_figures
from traces.synthesize.synthesize import Model
from traces.synthesize.words import MADE


def test_the_first_line_is_the_answer_and_the_page_is_one(plan: Any) -> None:
    page = plan("target=tpot<=1ms").splitlines()
    assert len(page) < 40
    assert " ".join(page[:3]).startswith("Yes: Small in float32 on Little meets tpot<=1ms with ")
    assert "simulated on modelled routing" in " ".join(page[:3])
    assert any("routing like default, deepseek_v2_lite, 2 seeds each" in line for line in page)
    (table,) = (i for i, line in enumerate(page) if "least memory" in line and "at best" in line)
    assert {page[table + 1].split()[0], page[table + 2].split()[0]} == {"lru", "split_prompts"}
    assert plan("target=tpot<=0.000001ms").startswith(
        "No: Small in float32 on Little fits, and misses tpot<=0.000001ms"
    )
    assert plan().startswith("Yes: Small in float32 on Little fits, and takes ")


def test_the_winners_own_command_gives_the_figures_that_are_printed(
    short: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (it,) = json.loads(short("target=tpot<=1ms", "format=json", "batch=2"))["machines"]
    for won in (it["best"], it["least"]):
        python, flag, program, *command = won["run"]
        assert (python, flag, program) == ("python", "-m", "sim")
        assert shlex.join(won["run"]) in short("target=tpot<=1ms", "batch=2")
        for more in ([], ["out=elsewhere"]):  # as it was kept, and run again
            capsys.readouterr()
            assert main([*command, *more, "format=json"]) == 0
            found = json.loads(capsys.readouterr().out)
            assert found["latency_ms"]["tpot"]["mean"] == won["ms"] == won["tpot_ms"]
            assert found["latency_ms"]["ttft"]["mean"] == won["ttft_ms"]
            assert found["memory"]["budget_bytes"] == won["budget_bytes"]
            assert (found["config"]["workload"]["batch"], found["config"]["warmup"]) == (2, 1)


def test_what_rests_on_a_recall_that_was_assumed_wins_nothing_and_a_range_holds_every_run(plan: Any) -> None:
    (it,) = json.loads(plan("policy=gate_ahead,static", "format=json"))["machines"]
    rows = {row["policy"]: row["best"]["ms"] for row in it["policies"]}
    assert rows["gate_ahead"] < rows["static"]
    assert it["best"]["policy"] == "static"
    assert json.loads(plan("policy=gate_ahead", "format=json"))["machines"][0]["best"]["policy"] == "gate_ahead"
    for row in it["policies"]:
        each = [one["ms"] for one in row["best"]["range"]]
        assert (len(each), each[0]) == (4, row["best"]["ms"])
        assert (row["best"]["low_ms"], row["best"]["high_ms"]) == (min(each), max(each))
        assert min(each) < max(each)


def test_it_is_read_where_it_was_found_before(plan: Any, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan("format=json")
    cells = {path: path.stat().st_mtime_ns for path in (world / "outputs").rglob("result.json")}
    assert len(cells) > 10
    monkeypatch.setattr("sim.experiment.run.simulate", None)
    monkeypatch.setattr("sim.plan.routing.synthesize", None)
    assert plan("format=json") == before
    assert {path: path.stat().st_mtime_ns for path in (world / "outputs").rglob("result.json")} == cells


def test_other_processes_find_the_same(tmp_path: Path) -> None:
    it = question(trace_of(tmp_path / "t", 0), 60)
    configs = [it.cell("lru", budget, str(it.base.trace)) for budget in range(10, 60, 6)]
    with Runner(tmp_path / "two", 2) as two, Runner(tmp_path / "one", 1) as one:
        found = two.run(configs)
        assert found == one.run(configs)
    assert {type(cell) for cell in found} == {str, Figures}


def test_several_machines_have_a_line_each_and_more_memory_is_no_slower(short: Any) -> None:
    page = short("hardware=little.yaml,large.yaml").splitlines()
    assert [line.split(" on ")[1].split()[0] for line in page if line.startswith("Yes: ")] == ["Little", "Large"]
    few, many = json.loads(short("hardware=little.yaml,large.yaml", "format=json"))["machines"]
    assert many["best"]["ms"] <= few["best"]["ms"]
    assert many["room"]["bytes"] - few["room"]["bytes"] == 3_000_000


def test_impossible_questions_say_what_is_missing(short: Any) -> None:
    total = 3 * 8 * 49152
    page = short("host_memory=1000000", "model.dtype=float32")
    assert page.startswith("No: Small in float32 on Little does not fit: its experts take 1.18 MB of host memory")
    (it,) = json.loads(short("host_memory=1000000", "format=json"))["machines"]
    assert it["needs"] == [{"what": "host_memory", "missing_bytes": total - 1_000_000, "needed_bytes": total}]
    assert it["instead"]["dtype"] == "bfloat16"
    assert it["instead"]["best"] is not None
    page = short("context=9000")
    assert "of GPU memory are missing for a single expert" in page
    (it,) = json.loads(short("context=9000", "format=json"))["machines"]
    room = it["room"]
    rest = room["dense_bytes"] + room["head_bytes"] + 9000 * 3 * 1024 + 49152
    assert it["needs"][0]["needed_bytes"] == rest


def test_a_trace_is_planned_with_as_it_is(plan: Any, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace_of(world / "own", 0)
    given = ("trace=own", "model=as_traced", "policy=lru,static", "host=ddr4_2ch", "context=64", "format=json")
    (it,) = json.loads(plan(*given))["machines"]
    assert (it["lengths"], it["model"], it["context"], it["host"]) == (None, "tiny", 64, "ddr4_2ch")
    assert "modelled" not in first(it)
    assert "Little with ddr4_2ch" in first(it)
    assert {one["seed"] for one in it["best"]["range"]} == {0, 1, 2}
    error = refused(["plan", "trace=own", "model=mixtral_8x7b", "hardware=l40s", "host_memory=200GB"], capsys)
    assert "model=mixtral_8x7b: has layers 32, trace=own has 2" in error


def test_this_machine_is_what_was_measured_of_it(short: Any, world: Path) -> None:
    shutil.copy(world / "little.yaml", world / "here.yaml")
    (it,) = json.loads(short("hardware=here", "policy=lru", "format=json"))["machines"]
    assert "hardware=here.yaml" in it["best"]["run"]
    assert it["best"]["ms"] == json.loads(short("policy=lru", "format=json"))["machines"][0]["best"]["ms"]


def test_a_picture_is_drawn(short: Any, world: Path) -> None:
    short("target=tpot<=1ms", "picture=answer.svg", "hardware=little.yaml,large.yaml")
    drawn = (world / "answer.svg").read_text(encoding="utf-8")
    for word in ("target: 1 ms", "split_prompts", "Small on Little", "Small on Large", "GPU memory for experts (GB)"):
        assert word in drawn


def test_where_nothing_runs_the_question_is_answered_and_no_picture_drawn(short: Any, world: Path) -> None:
    page = short("context=9000", "picture=nothing.png")
    assert page.startswith("No: ")
    assert not (world / "nothing.png").exists()


def test_where_cpu_and_gpu_share_one_memory_the_experts_come_from_the_ssd() -> None:
    for hardware in ("jetson_agx_orin", "apple_m4_max"):
        it = ask(hardware, "gpt_oss_120b", None, None, context=None, batch=1, host_memory=10**9, rest=[])
        said = about(it, "default")
        assert (it.missing, said["host_memory"]) == (0, None)
        assert "on the SSD" in " ".join(facts(said))
    it = ask("rtx_4090", "gpt_oss_120b", None, None, context=None, batch=1, host_memory=10**9, rest=[])
    assert it.missing == it.total - 10**9


def test_the_command_for_a_device_is_one_that_it_takes(short: Any) -> None:
    (it,) = json.loads(short("policy=static", "format=json"))["machines"]
    *program, verb = it["best"]["real"][:4]
    assert (program, verb) == (["python", "-m", "real"], "run")
    options: Any = parse(ON_DEVICE.find("run").options, it["best"]["real"][4:], "")
    config = configuration(options.rest, options.config)
    assert (config.policy["name"], config.budget) == (it["best"]["policy"], it["best"]["budget_bytes"])
    assert checkpoint(options.rest, config) == "CHECKPOINT"
    assert config.hardware["name"] == "little"


MISTAKES: list[tuple[Sequence[str], Sequence[str]]] = [
    ([], ["model=: is missing; allowed: a name of conf/model"]),
    (["model=mixtral"], ["model=mixtral: unknown; allowed: ", "did you mean mixtral_8x7b?"]),
    (["model=olmoe_1b_7b", "hardware=rtx_309"], ["hardware=rtx_309: unknown; allowed: a100, "]),
    (["model=olmoe_1b_7b", "hardware=rtx_3090,"], ["hardware=rtx_3090,: allowed: names, comma-separated"]),
    (
        ["model=olmoe_1b_7b", "hardware=here"],
        ["hardware=here: there is no here.yaml", "traces calibrate out=here.yaml"],
    ),
    (["model=olmoe_1b_7b", "host=ddr5"], ["host=ddr5: unknown; allowed: ddr4_2ch, "]),
    (
        ["model=olmoe_1b_7b", "hardware=jetson_agx_orin", "host=ddr5_2ch"],
        ["host=ddr5_2ch: hardware=jetson"],
    ),
    (["model=olmoe_1b_7b", "target=tpot<50ms"], ["target=tpot<50ms: not understood; write tpot<=30ms"]),
    (["model=olmoe_1b_7b", "context=few"], ["context=few: allowed: a whole number, 64 to 16777216"]),
    (["model=olmoe_1b_7b", "batch=0"], ["batch=0: allowed: a whole number, 1 to 256"]),
    (["model=olmoe_1b_7b", "host_memory=64GBB"], ["host_memory='64GBB': not a positive size; allowed: "]),
    (["model=olmoe_1b_7b", "policy=lro"], ["policy=lro: allowed: ", "not lro; did you mean lru?"]),
    (["model=olmoe_1b_7b", "picture=a.gif"], ["picture=a.gif: allowed: FILE.svg or FILE.png"]),
    (["model=olmoe_1b_7b", "budget=8GB"], ["budget=8GB: no such key; allowed: "]),
    (["model=olmoe_1b_7b", "model.dtype=int3"], ["model.dtype='int3': allowed: bfloat16, fp8, int4"]),
    (["model=as_traced"], ["model=as_traced: is what a trace says; allowed: with trace="]),
    (["trace=sample", "context=64"], ["context=64: the trace has a request of ", " tokens; allowed: "]),
    (["trace=nosuch", "model=olmoe_1b_7b"], ["trace=nosuch"]),
    (["model=olmoe_1b_7b", "hardware.gpus=65"], ["hardware.gpus=65: allowed: "]),
    (["model=olmoe_1b_7b", "hardware=rtx_3090_x2", "placement=odd"], ["placement='odd': allowed: hash, round_robin"]),
    (["model=switch_base_128", "hardware=rtx_3090_x2", "hardware.gpus=7", "placement=layers"], ["at most 6, the MoE"]),
]


@pytest.mark.parametrize(("given", "named"), MISTAKES, ids=lambda value: " ".join(value))
def test_a_mistake_is_one_line(
    given: list[str],
    named: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(["plan", *given], capsys)
    for part in named:
        assert part in error
    assert list(tmp_path.iterdir()) == []


def test_what_is_drawn_is_of_the_shape_and_the_lengths_that_are_told(tmp_path: Path) -> None:
    lengths = Lengths.of(96, 3)
    assert lengths == Lengths(3, 96 - OUTPUT, OUTPUT)
    long = Lengths.of(10**6, 4)
    assert long.measured * (long.prompt + long.output) == ROWS
    model = Model("any", 6, 20, 4, expert_bytes=[8] * 6)
    folder = draw(tmp_path, model, "gpt_oss_20b", 5, lengths, MADE)
    trace = open_trace(folder)
    assert (trace.L, trace.E, trace.K) == (6, 20, 4)
    assert {(r.prompt_tokens, r.output_tokens) for r in trace.requests} == {(64, 32)}
    assert sorted(r.split or "" for r in trace.requests) == ["test"] * 3 + ["train"]
    assert trace.has("gate_ahead")
    assert trace.has("router_probs")
    bare = open_trace(draw(tmp_path, model, "gpt_oss_20b", 5, lengths, ["gate_ahead"]))
    assert not bare.has("router_probs")
    for name in ("expert_ids", "gate_ahead"):  # and what is there is the same
        assert (np.asarray(getattr(bare, name)) == np.asarray(getattr(trace, name))).all()
    assert draw(tmp_path, model, "gpt_oss_20b", 5, lengths, MADE) == folder
    assert draw(tmp_path, model, "gpt_oss_20b", 6, lengths, MADE) != folder


def test_a_model_has_its_own_kind_of_routing_first() -> None:
    assert kinds("mixtral_8x7b")[0] == "mixtral_8x7b"
    assert kinds("qwen3_30b_a3b") == ["default", "deepseek_v2_lite", "qwen3_8_flash_next"]
    for model in ("mixtral_8x7b", "gpt_oss_20b", "olmoe_1b_7b"):
        assert len(set(kinds(model))) == len(kinds(model)) >= 3
        assert set(kinds(model)) <= set(shipped_figures())


def test_a_runner_finds_every_cell_once(tmp_path: Path) -> None:
    asked = []

    def find(config: Any, *_: Any) -> str:
        asked.append(config.budget)
        return f"not {config.budget}"

    it = question(trace_of(tmp_path / "t", 0), 60)
    configs = [it.cell("lru", budget, "t") for budget in (12, 24, 12, 36)]
    with Runner(tmp_path, 1, find=find) as runner:
        assert runner.run(configs) == ["not 12", "not 24", "not 12", "not 36"]
        assert runner.run(configs[:1]) == ["not 12"]
    assert asked == [12, 24, 36]
