"""How well a policy foretells: AUC and log loss against their definitions, of the measured requests alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.api import Setup
from policies.lru import LRU
from sim.experiment.cell import Cell, make_cell
from sim.experiment.provenance import identify, result_of
from sim.experiment.run import run_config, simulate
from sim.experiment.scoring import LEAST, auc
from sim.results.columns import row
from sim.results.load import load
from tests.sim.small_trace import Plan, config, write
from traces.kit.errors import UserError

L, E, K = 2, 6, 2
PLANS = [Plan((2,), 3, split="train"), *[Plan((2,), 3, split="test")] * 3]


class Says(LRU):
    """Says of each expert what a table has."""

    name = "lru"
    calibrated = True
    table: Any = np.array([[0.1, 0.9, 0.5, 0.5, 0.0, 1.0], [0.3, 0.2, 0.4, 0.1, 0.6, 0.5]])

    def foretells(self, layer: int) -> Any:
        return self.table[layer]


class Half(Says):
    calibrated = False

    def foretells(self, layer: int) -> Any:
        return None if layer else super().foretells(layer)


def ids() -> Any:
    rng = np.random.default_rng(1)
    return rng.random((sum(plan.rows for plan in PLANS), L, E)).argsort(-1)[..., :K].astype(np.uint8)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    folder = tmp_path_factory.mktemp("scores") / "t"
    ahead = np.full((len(ids()), L, 1, K), 255, np.uint8)
    ahead[:, 0, 0] = ids()[:, 1]
    write(folder, PLANS, ids(), n_experts=E, signals={"gate_ahead": ahead})
    return make_cell(replace(config(folder, 60), scores=True, warmup=1))


def brute(scores: Any, demanded: Any) -> float:
    pairs = [(float(a > b) + float(a == b) / 2) for a in scores[demanded] for b in scores[~demanded]]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(20))
def test_auc_is_the_share_of_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, demanded = rng.integers(0, 4, 9).astype(float), rng.permutation(9) < rng.integers(1, 8)
    assert auc(scores, demanded) == pytest.approx(brute(scores, demanded), abs=1e-12)


def test_figures_are_those_of_the_measured_events(cell: Cell) -> None:
    found = simulate(cell, Says(cell.setup)).scores
    assert found is not None
    areas, losses, hit = [], [], []
    for request in cell.selection.measured:
        for one in range(cell.trace.rows_of(request).start + 2, cell.trace.rows_of(request).stop):
            for layer in range(L):
                demanded = np.isin(np.arange(E), cell.trace.expert_ids[one, layer])
                p = np.clip(Says.table[layer], LEAST, 1 - LEAST)
                areas.append(brute(Says.table[layer], demanded))
                losses += [-np.log(p[x] if demanded[x] else 1 - p[x]) for x in range(E)]
                hit += demanded.tolist()
    decode, share = found["decode"], np.mean(hit)
    assert (decode["events"], decode["answered"]) == (18, 18)
    assert decode["auc"] == pytest.approx(np.mean(areas), abs=1e-12)
    assert decode["log_loss"] == pytest.approx(np.mean(losses), abs=1e-12)
    assert decode["log_loss_of_share"] == pytest.approx(-(share * np.log(share) + (1 - share) * np.log(1 - share)))
    assert found["prefill"]["events"] == 6


def test_a_policy_that_foretells_decides_as_one_that_is_not_asked(cell: Cell, tmp_path: Path) -> None:
    given = cell.config.policy
    for name, more in (("gate_ahead", {}), ("next_use", {"scores": False, "components": 0})):
        own = replace(cell.config, policy={"name": name, **more}, warmup=0)
        asked = run_config(own, tmp_path / name).document
        silent = run_config(replace(own, scores=False), tmp_path / name).document
        assert asked["provenance"]["decision_digest"] == silent["provenance"]["decision_digest"]
        assert "scores" in asked
        assert "scores" not in silent
        assert "scores" not in silent["config"]
        assert {key: asked[key] for key in ("totals", "latency_ms")} == {
            key: silent[key] for key in ("totals", "latency_ms")
        }
        (one,) = load(tmp_path / name).to_dict("records")  # two results, and one run
        assert one["score_decode_auc"] == asked["scores"]["decode"]["auc"]
    assert cell.config.policy is given
    assert load(tmp_path / "gate_ahead")["score_decode_auc"].item() == 1.0  # the true routing, of layer 1


def test_what_is_null_has_its_reason(cell: Cell) -> None:
    result = result_of(cell, simulate(cell, Half(cell.setup)), None, identify(cell, ()))
    assert result["scores"]["decode"]["answered"] == 9
    assert result["scores"]["decode"]["log_loss"] is None
    assert result["nulls"]["scores.decode.log_loss"] == "its scores are no probabilities"
    assert row(result, "")["score_decode_log_loss_of_share"] > 0


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (np.full((L, E), 1.5), "6 probabilities from 0 to 1, or None"),
        (np.full((L, E), np.nan), "6 probabilities"),
        (np.zeros((L, E + 1)), "6 probabilities"),
    ],
)
def test_an_answer_that_is_none_is_refused(table: Any, said: str, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Says, "table", table)
    with pytest.raises(UserError, match=rf"policy=lru: foretells\(0\) gives .*; allowed: {said}"):
        simulate(cell, Says(cell.setup))


def test_who_foretells_nothing_is_refused(cell: Cell, tmp_path: Path) -> None:
    setup: Setup = cell.setup
    with pytest.raises(UserError, match="scores=true: policy=lru foretells nothing; allowed: false"):
        simulate(cell, LRU(setup))
