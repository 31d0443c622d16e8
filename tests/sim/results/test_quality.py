"""A lossy row: what is known of its quality, and how it is set apart (docs/design.md, rule 8)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policies import registry
from policies.api import LayerEvent, Routing, Setup
from policies.lru import LRU
from sim.experiment.run import Result, run_config
from sim.results.columns import row
from sim.results.table import show
from tests.sim.saying import printed
from tests.sim.small_trace import Plan, config, write

SIZE = 12


class Skips(LRU):
    """Planted: skips the experts of the second choice, and says so as it is told to."""

    name = "skips"
    lossless = False

    def __init__(self, setup: Setup, *, states: str = "all") -> None:
        super().__init__(setup)
        self.states = states

    def route(self, event: LayerEvent) -> Routing | None:
        if self.states == "none" or (self.states == "prefill" and not event.prefill):
            return None
        kept = event.signals.expert_ids()[:, 0].tolist()
        first = event.layer * self.setup.n_experts
        tokens = {first + x: kept.count(x) for x in kept}
        slots = sum(event.tokens)
        mass = {} if self.states == "no mass" else {"kept_mass": 0.75 * len(kept), "gate_mass": 1.0 * len(kept)}
        return Routing(list(tokens), list(tokens.values()), slots=slots, skipped=slots - len(kept), **mass)


class Begins(LRU):
    """Planted: in decoding the host begins experts 2 and 3 of layer 1 at the gate before, and computes 3."""

    name = "begins"
    lossless = False

    def place(self, event: LayerEvent) -> Sequence[int]:
        return [x for x in event.demand if x == 7 and not event.prefill]

    def precompute(self, event: LayerEvent) -> Mapping[int, int]:
        return {7: 1, 6: 1} if event.layer == 0 and not event.prefill else {}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    known = {name: registry.find(name) for name in registry.names()}
    monkeypatch.setattr(registry, "_catalogue", lambda: known | {"skips": Skips, "begins": Begins})
    # 2 rows of prefill and 2 of decode; the last row of each has but one expert.
    ids = [[[0, 1]], [[2, 255]], [[1, 3]], [[3, 255]]]
    trace = write(tmp_path / "t", [Plan((2,), 2)], ids, n_experts=4)

    def one(policy: str = "skips", **given: Any) -> Result:
        chosen = replace(config(trace, 4 * SIZE, bounds=True), policy={"name": policy, **given})
        return run_config(chosen, tmp_path / "out")

    return one


def test_the_quality_of_a_lossy_row_by_hand(run: Any) -> None:
    result = run().document
    shares = {"kept_gate_mass": 0.75, "substituted": 0.0, "skipped": 2 / 6, "low_precision": 0.0}
    assert result["quality"] == {**shares, "prefill": shares, "decode": shares, "first_order": True}
    assert result["totals"]["lookups"] == 4
    assert not result["provenance"]["lossless"]
    assert result["bounds"] is None
    assert result["reference"] is None
    assert result["nulls"]["bounds"] == result["nulls"]["reference"] == "policy skips is lossy"
    json.dumps(result, allow_nan=False)


def test_what_was_not_stated_is_null_with_the_reason(run: Any) -> None:
    """Else a policy that speaks only of some events would look better, or worse, than it is."""
    some = run(states="prefill").document
    assert some["quality"]["kept_gate_mass"] is None
    assert some["nulls"]["quality.kept_gate_mass"] == "policy skips did not state it for 2 events"
    assert some["quality"]["skipped"] == 1 / 6  # of all slots: those of decode count, and nothing was skipped there
    assert some["quality"]["prefill"]["kept_gate_mass"] == 0.75
    assert some["quality"]["decode"]["skipped"] == 0.0
    silent = run(states="none").document
    assert silent["quality"]["kept_gate_mass"] is None
    assert silent["quality"]["skipped"] == 0.0
    massless = run(states="no mass").document
    assert massless["quality"]["kept_gate_mass"] is None
    assert massless["nulls"]["quality.decode.kept_gate_mass"] == "policy skips stated no gate mass here"


def test_what_the_host_began_early_stands_in_the_result_of_who_may(run: Any, tmp_path: Path) -> None:
    # Of 2 x 2 x 2 slots of decode 1 is stale; begun were 3 for both tokens, and once more 2 while 3 was not wanted.
    ids = [[[0, 1], [3, 2]], [[0, 1], [3, 2]], [[0, 1], [3, 1]], [[0, 1], [0, 1]]]
    trace = write(tmp_path / "two", [Plan((2,), 2)], ids, n_experts=4)
    chosen = replace(config(trace, 8 * SIZE), policy={"name": "begins"})
    result = run_config(chosen, tmp_path / "out").document
    assert [result["quality"][phase]["stale"] for phase in ("prefill", "decode")] == [0, 1 / 8]
    assert result["quality"]["stale"] == 1 / 16
    early = result["totals"]["precomputed"]
    assert (early["asked"], early["used"], early["wasted"] + early["dropped"]) == (4, 1, 3)
    assert row(result, "f")["quality_stale"] == 1 / 16
    table = "\n".join(printed(show, result, 120))
    assert "1 lookups, " in table
    assert "; 4 asked for before their gate: 1 used, " in table
    assert "low precision 0.0, stale 6.2" in table

    other = run().document
    assert "stale" not in other["quality"]
    assert "precomputed" not in other["totals"]
    assert row(other, "f")["quality_stale"] is None


def test_a_table_sets_a_lossy_row_apart(run: Any) -> None:
    given = run(), run("lru", scope="global"), run(states="none")
    lossy, lossless, silent = ("\n".join(printed(show, result.document, 120)) for result in given)
    assert "\nskips, lossy " in lossy
    assert "lossy, %: kept gate mass 75.0, substituted 0.0, skipped 33.3, low precision 0.0" in lossy
    assert "compared with lossy rows only" in lossy
    assert "belady" not in lossy
    assert "infinite" not in lossy
    assert given[1].document["quality"] is None
    assert given[1].document["nulls"]["quality"] == "policy lru is lossless"
    assert "lossy" not in lossless
    assert "belady_bypass" in lossless
    assert "nothing is known" not in silent
