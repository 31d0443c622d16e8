"""A plan of several GPUs: the room of all, the policies that run there, and commands that give what is printed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.cli import main
from sim.plan.sentences import facts, first
from tests.sim.saying import refused
from tests.sim.small_trace import MACHINE
from traces.kit.units import format_bytes

PEER = "hardware.peer={gb_per_s: 20, latency_us: 10}"
TWO = ("hardware.gpus=2", PEER)
ROOT = "hardware.root_gb_per_s=1.5"


def machine(plan: Any, *given: str) -> dict[str, Any]:
    (it,) = json.loads(plan(*given, "format=json"))["machines"]
    found: dict[str, Any] = it
    return found


@pytest.mark.parametrize("placement", ["layers", "shard"])
def test_its_command_gives_its_figures_and_the_room_is_that_of_all(
    placement: str, short: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    one, it = machine(short, "policy=lru"), machine(short, "policy=lru", *TWO, f"placement={placement}")
    assert it["room"] == one["room"]
    assert it["capacity_bytes"] == 2 * one["capacity_bytes"] == 2 * one["room"]["bytes"]
    assert (it["gpus"], it["placement"], it["machine"]) == (2, placement, "2 x Little")
    held = {"layers": 4, "shard": 3}[placement]  # three layers: one GPU has two of them
    assert it["most_bytes"] * 3 == it["expert_bytes"] * held
    best = it["best"]
    assert best["budget_bytes"] <= it["capacity_bytes"]
    capsys.readouterr()
    assert main([*best["run"][3:], "out=again", "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["latency_ms"]["tpot"]["mean"] == best["ms"]
    assert found["gpus"]["count"] == 2
    assert best["real"] is None
    # A budget of all may be more than all experts: what each has is said, and so many times that is the budget.
    assert f" with {format_bytes(best['budget_bytes'] // 2)} for experts on each of 2 GPUs (lru)" in first(it)
    most, total = it["most_bytes"], format_bytes(it["expert_bytes"])
    room = f"; {format_bytes(most)} have room for all experts, {total}, as one holds {format_bytes(most // 2)} of them"
    (whose,) = [line for line in facts(it) if line.startswith("a budget is that of all 2 GPUs, an even part each")]
    assert whose.endswith(room if placement == "layers" else "an even part each")
    (whose,) = [line for line in facts(it | {"most_bytes": 2 * it["expert_bytes"]}) if line.startswith("a budget")]
    assert whose.endswith(f" have room for all experts, {total}, as each holds all of them")


def test_who_cannot_run_there_says_why_and_what_would_help_is_of_each_gpu(short: Any) -> None:
    words = (*TWO, "target=tpot<=0.2ms", "hardware.gpu.memory_bytes=5400000")
    it = machine(short, *words, ROOT)
    assert it["verdict"] == "misses"
    alone = next(row for row in it["policies"] if row["policy"] == "split_prompts")
    assert alone["best"] is None
    page = " ".join(short(*words, ROOT).split())
    assert "split_prompts cannot run here: not with experts on 2 GPUs: it has the host compute" in page
    assert "on each of 2 GPUs (placement=hash)" in page
    memory, link = (next(need for need in it["needs"] if need["what"] == what) for what in ("gpu_memory", "link"))
    assert "in all on each GPU" in page
    enough = machine(short, *TWO, ROOT, words[2], f"hardware.gpu.memory_bytes={memory['needed_bytes']}", "policy=lru")
    assert enough["verdict"] == "meets"
    link_words = [f"hardware.link.h2d_gb_per_s={link['factor']}", f"hardware.root_gb_per_s={1.5 * link['factor']}"]
    assert machine(short, *words, *link_words, "policy=lru")["verdict"] == "meets"


def test_a_gpu_more_never_raises_the_answer(short: Any) -> None:
    """Where each has a link of its own, and what goes from one to the other takes no time to speak of."""
    peer = "hardware.peer={gb_per_s: 1000000, latency_us: 0.000001}"
    each = [machine(short, "policy=lru", peer, f"hardware.gpus={n}", "placement=hash") for n in (1, 2)]
    ms = [it["best"]["ms"] for it in each]
    assert ms == sorted(ms, reverse=True)
    assert ms[0] > ms[-1]


def test_a_placement_that_cannot_be_is_refused(short: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "model=model.yaml", "hardware=little.yaml", "hardware.gpus=2"]
    assert "hardware.peer=null: hardware.gpus=2 placement=hash sends activations" in refused(words, capsys)
    Path("bare.yaml").write_text(yaml.safe_dump({**MACHINE, "name": "bare"}))
    error = refused(["run", "hardware=bare.yaml", "hardware.gpus=2"], capsys)
    assert "hardware.gpus=2: no such key; allowed: " in error
    assert error.endswith("; a profile that does not say it takes it as +hardware.gpus=2\n")
    error = refused([*words[:-1], "hardware.gpus=4", PEER, "placement=layers"], capsys)
    assert "a GPU would hold nothing; allowed: at most 3, the MoE layers" in error
