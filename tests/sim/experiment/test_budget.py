"""How large a budget may be: what the rest of the model and the KV cache leave."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main
from sim.experiment.budget import AUTO, Room, budget_bytes
from sim.experiment.cell import Cell, make_cell
from sim.experiment.groups import choices
from sim.experiment.provenance import identify
from sim.experiment.run import run_config
from sim.experiment.sweep.plan import read_grid
from sim.experiment.words import report
from sim.prices import AS_TRACED, HardwareProfile, ModelProfile, shipped
from sim.prices.chosen import changed
from sim.results.wording import room_line
from tests.sim.many_requests import EXPERTS, topical
from tests.sim.saying import refused
from tests.sim.small_trace import MACHINE, SIZE, Plan, config, one_layer, write
from traces.kit.errors import UserError


def machine(memory: int) -> dict[str, Any]:
    return {**MACHINE, "gpu": {**MACHINE["gpu"], "memory_bytes": memory}}


@pytest.mark.parametrize("name", sorted(set(choices("model")) - {AS_TRACED, "tiny-moe"}))
def test_experts_and_the_rest_are_the_whole_model(name: str) -> None:
    """The law: nothing of a model is left out, as its publisher counts its parameters."""
    model = ModelProfile.from_dict(shipped("model", name))
    room = Room.of(model, HardwareProfile.from_dict(MACHINE), [], 1)
    rest = (room.dense_bytes + room.head_bytes) // model.dense_bytes_per_param
    published = re.search(r"([0-9,]+) parameters in all", model.source)
    assert published is not None
    assert rest + model.moe_layers * model.experts * model.expert_params == int(published[1].replace(",", ""))
    assert room.kv_bytes == 0


def test_the_kv_cache_is_that_of_the_longest_requests_that_can_meet() -> None:
    model = ModelProfile.from_dict(shipped("model", "deepseek_v2_lite"))
    hardware = HardwareProfile.from_dict(shipped("hardware", "a100"))
    one, room, every = (Room.of(model, hardware, [5, 9, 7], batch) for batch in (1, 2, 2**62))
    assert [(it.kv_requests, it.kv_tokens) for it in (one, room, every)] == [(1, 9), (2, 16), (3, 21)]
    assert room.kv_bytes == 27 * 1152 * 16, "the leading dense layer has a cache as well"
    assert room.bytes == 80 * 10**9 - room.dense_bytes - room.head_bytes - room.kv_bytes


def test_only_what_is_served_counts_and_a_batch_counts_together(tmp_path: Path) -> None:
    plans = [Plan((prompt,), 1) for prompt in (9, 3, 5, 4)]  # and two tokens of output each
    trace = one_layer(tmp_path / "trace", plans, [0] * sum(plan.rows for plan in plans))

    def tokens(batch: int = 1, **changes: Any) -> int:
        return make_cell(config(trace, SIZE, batch=batch, **changes)).room.kv_tokens

    assert tokens() == 11
    assert tokens(warmup=1, limit=1) == 11, "what warms up needs its cache too"
    assert tokens(limit=1, warmup=0, seed=3) == 11
    assert tokens(batch=3) == 11 + 7 + 6
    assert tokens(batch=2, limit=2) == 11 + 5


def test_up_to_the_room_and_no_byte_more() -> None:
    model = ModelProfile.from_dict(shipped("model", "olmoe_1b_7b"))
    room = Room.of(model, HardwareProfile.from_dict(shipped("hardware", "rtx_4090")), [100], 1)
    total = model.experts * sum(model.priced())
    assert budget_bytes(room.bytes, total, room, "x") == room.bytes
    with pytest.raises(UserError, match=rf"budget={room.bytes + 1}: 23\.0 GB are there for experts on x: 24 GB"):
        budget_bytes(room.bytes + 1, total, room, "x")
    allowed = re.search(r"up to ([0-9.]+GB), or auto", _refused("24GB", total, room))
    assert allowed is not None
    assert 0 <= room.bytes - budget_bytes(allowed[1], total, room, "x") < 10**6
    assert budget_bytes(AUTO, total, room, "x") == total, "no budget is larger than all experts"
    small = replace(room, gpu_bytes=10**10)
    assert budget_bytes(AUTO, total, small, "x") == small.bytes == 10**10 - (24 * 10**9 - room.bytes)
    assert "allowed: a larger GPU" in _refused("1", total, replace(room, gpu_bytes=10**6))


def _refused(budget: str, total: int, room: Room) -> str:
    with pytest.raises(UserError) as caught:
        budget_bytes(budget, total, room, "x")
    return str(caught.value)


def test_a_run_says_how_much_room_there_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = topical(tmp_path / "trace", n=3)
    given = config(trace, AUTO, hardware=machine(5 * SIZE), bounds=True)
    result = run_config(given, tmp_path / "out")
    assert result.document["memory"]["budget_bytes"] == 5 * SIZE
    assert result.document["memory"]["room"]["bytes"] == 5 * SIZE
    assert (
        room_line(result.document["memory"]["room"])
        == "room for experts: 60 B of 60 B, the rest of the model being unknown"
    )
    infinite = result.document["reference"]["infinite"]
    assert infinite["peak_bytes"] > 5 * SIZE, "a reference row has memory for all experts, wherever it is to come from"
    again = run_config(config(trace, 5 * SIZE, hardware=machine(5 * SIZE), bounds=True), tmp_path / "out")
    assert again.cached, "the same budget in bytes is the same run"
    with pytest.raises(UserError, match="budget=61: 60 B are there for experts on by_hand"):
        make_cell(config(trace, 61, hardware=machine(5 * SIZE)))
    assert make_cell(config(trace, AUTO)).setup.budget == EXPERTS * SIZE
    report(result.document, "table")
    printed = capsys.readouterr().out
    assert "\nroom for experts: 60 B of 60 B, the rest of the model being unknown\n" in printed
    assert "\n3 requests are very few: with others, the order of the policies may turn. compare wants 6" in printed


def test_a_sweep_takes_auto() -> None:
    cells = [make_cell(given) for given in read_grid(["budget=[2GB,auto]", "limit=1"])]
    assert [cell.setup.budget for cell in cells] == [2 * 10**9, 12_884_901_888]


def test_the_curve_says_which_budgets_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["curve", "limit=1", "hardware.gpu.memory_bytes=12000000000"]
    assert main(words) == 0
    assert "room for experts: 10.9 GB of 12 GB" in capsys.readouterr().out


def test_a_machine_without_room_is_named_and_no_budget_that_nobody_gave(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["curve", "limit=1", "hardware.gpu.memory_bytes=900000000"], capsys)
    assert said.startswith("error: hardware=rtx_4090: 0 B are there for experts: 900 MB, less ")
    assert "budget" not in said


def test_a_trace_is_priced_as_the_model_that_it_names(tmp_path: Path) -> None:
    """Where it has no sizes of its own, by the name here or at the source; model= has the last word."""
    ids = [[[*range(8)]] * 16] * 4

    def named(name: str, budget: int | str = 10**9, sizes: bool = False, **changes: Any) -> Cell:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        trace = write(folder, [Plan((1,), 3)], ids, n_experts=64, name=name, sizes=sizes)
        return make_cell(config(trace, budget, hardware=shipped("hardware", "h100"), **changes))

    for name in ("olmoe_1b_7b", "allenai/OLMoE-1B-7B-0924"):
        cell = named(name)
        assert (cell.model.name, cell.model.shapes_known) == ("olmoe_1b_7b", True)
    assert named("olmoe_1b_7b", 5 * SIZE, sizes=True).setup.expert_bytes == (SIZE,) * 16
    assert named("olmoe_1b_7b", "50%", model=shipped("model", "tiny-moe")).model.name == "tiny-moe"
    with pytest.raises(UserError, match="the trace does not know the bytes of one expert of 'other'"):
        named("other")
    by_trace = named("olmoe_1b_7b", model={"name": "as_traced", "dtype": "fp8"})
    by_name = replace(
        by_trace, config=replace(by_trace.config, model={**shipped("model", "olmoe_1b_7b"), "dtype": "fp8"})
    )
    assert by_trace.setup.expert_bytes == (6_292_992,) * 16
    assert [changed("model", cell.config.model, cell.model) for cell in (by_trace, by_name)] == [["dtype"]] * 2
    assert identify(by_trace, ()).resolved == identify(by_name, ()).resolved, "two ways to say it are one run"
