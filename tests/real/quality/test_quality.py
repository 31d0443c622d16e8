"""Quality as it is measured: against the library's own model, with planted masks and damage."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.api import LayerEvent, Routing
from policies.lru import LRU
from real.quality.compared import full_outputs
from real.quality.scores import Sums, compare
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_forced
from sim.core.accounts import SKIPPED, SUBSTITUTED
from sim.core.log import replay
from sim.core.state import CoreError
from sim.experiment.cell import make_core, make_policy
from tests.real.quality.cases import (
    FIXED,
    cell_of,
    loss_of,
    masked_routers,
    outputs,
    plain,
    prompts,
    record,
    recorded,
    requests_of,
    scored,
)
from traces.kit.conf import PROMPTS_FILE
from traces.models.load import load
from traces.prompts.source import PromptFile

pytestmark = pytest.mark.ci  # whole models, many times
NORMALISED = {"olmoe": False, "qwen2_moe": False, "qwen3_moe": True, "mixtral": True}
CPU = torch.device("cpu")


# The policy's choice weighted by another law, summed in another place, or lost on its way to the kernels.
@pytest.mark.parametrize("family", NORMALISED)
def test_a_mask_gives_what_the_librarys_model_gives_with_masked_routers(family: str, tmp_path: Path) -> None:
    model, trace = record(family, tmp_path)
    words = (*FIXED, f"trace={trace}", "policy.least=1")
    first = cell_of(*words, budget="50%")
    requests, size = requests_of(first), first.setup.expert_bytes[0]
    full, expected = plain(model, requests), {}
    for per_layer in (5, 2):  # of 8; with 2 and top-3, each token goes without one
        with masked_routers(model, range(per_layer), NORMALISED[family]):
            expected[per_layer] = plain(model, requests)
    offloaded = Offloaded(model, CPU)
    for per_layer, masked in expected.items():
        for batch in (1, 2):
            cell = cell_of(*words, budget=(4 * per_layer + 1) * size, batch=batch)
            found, run = outputs(cell, offloaded)
            assert (found - masked).abs().max() < 1e-5 * masked.abs().max()
            assert (found - full).abs().max() > 0.01 * masked.abs().max()
            lost = run.outcome.accounts.quality_row()
            assert lost[SKIPPED] == (0 if per_layer > 2 else len(found) * 4)
            assert lost[SUBSTITUTED] > 0


@pytest.mark.parametrize("family", ["olmoe", "mixtral", "qwen3_moe", "deepseek_v3"])
def test_with_all_experts_virtual_the_output_is_the_full_models_to_the_bit(family: str, tmp_path: Path) -> None:
    model, trace = record(family, tmp_path)
    words = (*FIXED, f"trace={trace}")
    whole = cell_of(*words, budget="100%", batch=2)
    cell = cell_of(*words, budget=(4 * 8 + 1) * whole.setup.expert_bytes[0], batch=2)
    offloaded = Offloaded(model, CPU)
    assert torch.equal(outputs(cell, offloaded)[0], outputs(whole, offloaded, LRU(whole.setup))[0])
    figures = scored(cell, offloaded, full_outputs(cell, offloaded))
    for part in (figures, figures["prefill"], figures["decode"]):
        assert (part["kl_nats"], part["kl_max_nats"], part["token_agreement"]) == (0, 0, 1)
        assert part["perplexity"] == part["perplexity_full"]


def test_perplexity_of_the_full_model_is_the_librarys(tmp_path: Path) -> None:
    model, trace = record("olmoe", tmp_path)
    cell = cell_of("policy=lru", f"trace={trace}", budget="30%", batch=2)
    requests = requests_of(cell)
    expected = loss_of(plain(model, requests), requests)
    offloaded = Offloaded(model, CPU)
    figures = scored(cell, offloaded, full_outputs(cell, offloaded))
    assert np.log(figures["perplexity_full"]) == pytest.approx(expected, rel=1e-6)
    assert figures["perplexity"] == figures["perplexity_full"]  # a lossless policy, at any budget
    assert figures["kl_nats"] == 0
    assert figures["tokens"] == sum(map(len, requests)) == figures["targets"] + len(requests)
    assert figures["prefill"]["tokens"] == 6 * len(requests) == figures["prefill"]["targets"]


# A comparison of a run with itself.
def test_damage_raises_the_divergence(tmp_path: Path) -> None:
    model, trace = record("olmoe", tmp_path)
    cell = cell_of("policy=lru", f"trace={trace}", budget="50%")
    offloaded = Offloaded(model, CPU)
    kept = full_outputs(cell, offloaded)
    before = offloaded.store.blocks[2].clone()
    found = [scored(cell, offloaded, kept)]
    for size in (0.01, 0.3):
        views = offloaded.store.layout.views(offloaded.store.blocks[2])
        noise = torch.randn(views["down_proj"].shape, generator=torch.Generator().manual_seed(0))
        views["down_proj"] += size * noise
        found.append(scored(cell, offloaded, kept))
        offloaded.store.blocks[2].copy_(before)
    none, some, much = (figures["kl_nats"] for figures in found)
    assert 0 == none < some < much / 10
    assert found[2]["token_agreement"] < 1
    assert found[2]["perplexity"] != found[2]["perplexity_full"]
    assert scored(cell, offloaded, kept)["kl_nats"] == 0


def test_a_smaller_budget_is_no_better_on_tiny_moe(tmp_path: Path) -> None:
    """Static pruning to the most important experts of the train texts."""
    loaded = load("tiny-moe", "float32", "cpu")
    texts = [json.loads(line)["prompt"] for line in PROMPTS_FILE.read_text().splitlines()[:9]]
    file = prompts(tmp_path / "texts.jsonl", {text: "train" if i % 3 else "test" for i, text in enumerate(texts)})
    trace = recorded(loaded, PromptFile(file), 16, 4, tmp_path / "trace")
    offloaded = Offloaded(loaded.model, CPU)
    words = (*FIXED[:2], "policy.least=4", f"trace={trace}")
    cells = [cell_of(*words, budget=budget) for budget in ("10%", "25%", "50%", "75%", "100%")]
    kept = full_outputs(cells[0], offloaded)
    figures = [scored(cell, offloaded, kept) for cell in cells]
    divergences = [each["kl_nats"] for each in figures]
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[0] > 1 > 0.01 > divergences[-1] > 0  # at 100 % one expert is missing: a swap needs a slot
    assert figures[0]["perplexity"] > 2 * figures[0]["perplexity_full"]


def test_two_distributions_by_hand() -> None:
    truth = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    other = torch.tensor([[0.125, 0.625, 0.25], [0.1, 0.2, 0.7]])
    sums = compare(truth.log() + 3, other.log() - 5, torch.tensor([0, -1]))  # a constant is of no effect
    first = 0.5 * np.log(4) + 0.25 * np.log(0.4)
    assert (sums.tokens, sums.targets, sums.agreed) == (2, 1, 1)
    assert (sums.kl, sums.kl_max) == (pytest.approx(first, rel=1e-6), pytest.approx(first, rel=1e-6))
    assert (sums.loss_full, sums.loss) == (pytest.approx(np.log(2), rel=1e-6), pytest.approx(np.log(8), rel=1e-6))
    whole = Sums(2, 1, 1.0, 2.0, 0.5, 0.375, 1) + Sums(2, 2, 3.0, 4.0, 0.25, 0.25, 2)
    assert whole == Sums(4, 3, 4.0, 6.0, 0.75, 0.375, 3)
    assert whole.figures()["kl_nats"] == 0.75 / 4
    assert whole.figures()["perplexity"] == pytest.approx(np.exp(2))


# The experts of the gate computed from slots that hold others, or not at all.
def test_a_lossy_policy_that_does_not_say_who_computes_is_refused(tmp_path: Path) -> None:
    model, trace = record("olmoe", tmp_path)
    cell = cell_of("policy=lru", f"trace={trace}", budget="100%")

    class Silent(LRU):
        name, lossless = "silent", False

        def route(self, event: LayerEvent) -> Routing | None:
            return Routing(event.demand[:1], event.tokens[:1]) if event.layer == 2 else None

    with pytest.raises(CoreError, match="policy silent does not say who computes which token"):
        outputs(cell, Offloaded(model, CPU), Silent(cell.setup))


def test_a_traces_routing_is_masked_by_its_recorded_scores(tmp_path: Path) -> None:
    model, trace = record("mixtral", tmp_path)
    cell = cell_of(*FIXED, f"trace={trace}", budget="60%")
    offloaded = Offloaded(model, CPU)
    policy, seen = make_policy(cell), []
    route = policy.route

    def spy(event: LayerEvent) -> Routing:
        routing = route(event)
        assert routing.chosen is not None
        seen.append((event.layer, *routing.chosen))
        return routing

    policy.route = spy  # type: ignore[method-assign]
    run = run_forced(cell, offloaded, policy)
    assert replay(run.core.log, make_core(cell, make_policy(cell))) == run.core.digest()
    layer, ids, weights = seen[0]
    first = int(cell.trace.steps["first_row"][cell.trace.steps_of(cell.selection.measured[0])][0])
    scores = cell.trace.router_probs[first : first + len(ids), layer].astype(np.float64)
    picked = np.take_along_axis(scores, ids, 1)
    assert weights == pytest.approx(picked / picked.sum(1, keepdims=True), rel=1e-5)
    assert set(ids.ravel()) <= set(range(policy.plan.experts[layer]))  # type: ignore[attr-defined]
