"""What models, machines and policies are called: in titles only, never in what a result depends on."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import sim
from policies import registry
from sim.experiment.cell import Inputs, make_cell
from sim.experiment.compose import read_config
from sim.experiment.provenance import identify
from sim.experiment.run import run_config
from sim.prices import AS_TRACED, HardwareProfile, ModelProfile, figures, shipped, title_of
from sim.prices.chosen import changed
from sim.results.columns import row
from sim.results.titles import modelled, policy, rests_on, titles
from tests.sim.small_trace import SIZE, Plan, config, write
from traces.kit import conf
from traces.kit.errors import UserError

WORDS = ["policy=lru", "budget=4GB", "limit=1", "bounds=false"]
GROUPS = [(group, name) for group in ("model", "hardware") for name in sorted(conf.names(group) - {AS_TRACED})]
KINDS: dict[str, Any] = {"model": ModelProfile, "hardware": HardwareProfile}


@pytest.mark.parametrize(("group", "name"), GROUPS, ids=[name for _, name in GROUPS])
def test_every_shipped_profile_has_a_title_of_its_own(group: str, name: str) -> None:
    assert title_of(group, name) == shipped(group, name)["title"] != name
    assert sum(title_of(group, other) == title_of(group, name) for of, other in GROUPS if of == group) == 1


@pytest.mark.parametrize("group", KINDS)
def test_a_title_is_optional_and_a_text(group: str) -> None:
    given = shipped(group, {"model": "olmoe_1b_7b", "hardware": "rtx_4090"}[group])
    assert KINDS[group].from_dict(figures(given)).title == ""
    for wrong in ("", 7, None):
        with pytest.raises(UserError, match=rf"^{group}\.title="):
            KINDS[group].from_dict({**given, "title": wrong})


def test_a_title_is_no_part_of_a_cell(tmp_path: Path) -> None:
    """Neither of its address, nor of the profiles in its result, nor of what was changed."""
    inputs = Inputs()
    plain = make_cell(read_config(WORDS), inputs)
    assert "title" not in identify(plain, ()).resolved["model"] | identify(plain, ()).resolved["hardware"]
    assert changed("model", plain.config.model) == changed("hardware", plain.config.hardware) == []
    files = {}
    for group, name in (("model", "olmoe_1b_7b"), ("hardware", "rtx_4090")):
        for title in ("Mine", None):
            files[group, title] = tmp_path / f"{group}_{title}.yaml"
            made = figures(shipped(group, name)) | ({"title": title} if title else {})
            files[group, title].write_text(yaml.safe_dump(made))
    for title in ("Mine", None):
        own = [*WORDS, f"model={files['model', title]}", f"hardware={files['hardware', title]}"]
        cell = make_cell(read_config(own), inputs)
        assert identify(cell, ()).key == identify(plain, ()).key
        assert changed("model", cell.config.model) == changed("hardware", cell.config.hardware) == []


def test_a_run_says_whose_routing_and_whose_price_it_is(tmp_path: Path) -> None:
    result = run_config(read_config(WORDS), tmp_path).document
    said = (
        "routing of tiny-moe (14 M parameters), priced as OLMoE-1B-7B, simulated on RTX 4090 (published figures)",
        "routing of tiny-moe (14 M parameters), priced as OLMoE-1B-7B",
        "simulated on RTX 4090 (published figures)",
    )
    for found in (titles(row(result, "")), titles(sim.load(tmp_path).iloc[0])):
        assert (str(found), found.work, found.where) == said
    older = sim.load(tmp_path).drop(columns=["model_title", "hardware_title"]).iloc[0]
    assert str(titles(older)) == said[0]
    changed = [*WORDS, "hardware.link.depth=2", "hardware.gpu.launch_us=6", "model=olmoe_1b_7b", "model.title=Mine"]
    of = titles(row(run_config(read_config(changed), tmp_path).document, ""))
    assert of.priced_as == "Mine"
    assert of.where == "simulated on RTX 4090 (gpu.launch_us=6, link.depth=2, published figures)"
    device = titles({**row(result, ""), "source": "device", "device": "H200"})
    assert device.where == "measured on H200 (policies' prices: RTX 4090, published figures)"


def test_without_a_title_the_name_stands(tmp_path: Path) -> None:
    trace = write(tmp_path / "t", [Plan((1,), 2)], [[[0], [1]]] * 3, n_experts=4)
    found = titles(row(run_config(config(trace, 8 * SIZE), tmp_path / "out").document, ""))
    assert found.priced_as == "itself"
    assert found.where == "simulated on by_hand (published figures)"


def test_a_policy_is_called_as_its_paper_calls_it() -> None:
    assert [policy(label) for label in ("promoe", "lru", "lru (scope=layer)", "promoe (scope=layer, stride=2)")] == [
        *("ProMoE", "LRU", "LRU per layer", "ProMoE per layer (stride=2)")
    ]
    assert policy("not_installed (a=1)") == "not_installed (a=1)"
    names = {registry.find(name).title or name for name in registry.names()}
    assert len(names) == len(registry.names()), "two policies of one title"


Modelled = dict[str, dict[str, Any]]
ROUTED: Modelled = {"expert_ids": {"figures": "gpt_oss_20b", "seed": 0}}
AHEAD: Modelled = {"gate_ahead": {"recall": [0.9, 0.8], "seed": 0}}
SCORES: Modelled = {"router_probs": {"rest": 0.3}, "embedding": {"from": "source"}}


def said(*rows: tuple[str, Modelled]) -> str:
    return rests_on({"policy_label": label, "modelled": modelled(about)} for label, about in rows).removeprefix(
        "modelled, not recorded: "
    )


def test_what_is_modelled_is_told_in_one_short_sentence() -> None:
    assert said(("lru", {}), ("fifo", {})) == ""
    routing, ahead = "routing (figures gpt_oss_20b)", "gate_ahead (recall 0.9, 0.8"
    assert said(("lru", ROUTED), ("gate_ahead", AHEAD | ROUTED)) == f"{routing}; {ahead}) of gate_ahead"
    # Signals that the same policies read stand together, and a policy's settings are told where they matter.
    several = (("fmoe", ROUTED | SCORES), ("fmoe (distance=2)", ROUTED | SCORES), ("lru", ROUTED))
    assert said(*several) == f"{routing}; router_probs, embedding of fmoe"
    one = (("promoe", ROUTED), ("promoe (predictor=routing)", ROUTED | {"router_probs": {}}))
    assert said(*one) == f"{routing}; router_probs of promoe (predictor=routing)"
    # And so do traces: a signal is named once.
    less = {"gate_ahead": {"recall": [0.7]}}
    assert said(("gate_ahead", AHEAD), ("gate_ahead", less)) == f"{ahead} or recall 0.7) of gate_ahead"


def test_no_name_of_figures_is_cut() -> None:
    odd: Modelled = {"expert_ids": {"figures": "mine; gate_ahead (of May)"}}
    assert said(("lru", odd)) == "routing (figures mine, gate_ahead (of May))"


def test_a_signal_that_is_modelled_makes_no_routing_so() -> None:
    row_ = {"routing_from": "a", "model": "a", "source": "simulated", "figures": "published", "hardware": "b"}
    about = {"predictor routing": {"router_probs": {}}, "router_probs": {}}
    assert titles({**row_, "hardware_title": "b", "modelled": modelled(about)}).routing == "a"
    assert titles({**row_, "hardware_title": "b", "modelled": modelled(ROUTED)}).routing == "a (modelled)"
