"""The time bound where a host computes: the best split found by trying all of them, and no run that beats it."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest

from policies.api import LayerEvent, Setup
from policies.lru import LRU
from sim.experiment.host_bound import best_split, host_floor
from sim.experiment.run import run
from sim.results.columns import REFERENCE_ROWS
from sim.results.load import load
from tests.policies.bounds.toy import random_lab
from tests.sim.machine.cases import FlatHost


@pytest.mark.parametrize("seed", range(40))
def test_the_best_split_is_the_best_of_all(seed: int) -> None:
    random = Random(seed)
    nbytes, per_byte = random.randint(0, 60), Fraction(random.randint(1, 30), random.randint(1, 9))
    host = Fraction(random.randint(0, 30), random.randint(1, 9))

    def link_ns(n: int) -> int:
        return int(n * per_byte)

    shortest = min(max(link_ns(nbytes - h), int(h * host)) for h in range(nbytes + 1))
    assert max(best_split(nbytes, link_ns, host)) == shortest


class Cheaper(LRU):
    """The host computes a miss where that is sooner than its copy, or any at random."""

    def __init__(self, setup: Setup, at_random: float) -> None:
        super().__init__(setup)
        self.at_random, self.random = at_random, Random(setup.seed)

    def place(self, event: LayerEvent) -> Sequence[int]:
        return [x for x in event.demand if self.there(x, event) or self.random.random() < self.at_random]

    def there(self, x: int, event: LayerEvent) -> bool:
        setup, host = self.setup, self.setup.host
        assert host is not None
        ns = host.expert_ns(event.layer, event.tokens[event.demand.index(x)])
        return not self.view.complete(x) and ns <= sum(setup.chunk_ns(event.layer))


# A bound that a run passes: the runs on the GPU alone would, with theirs.
def test_no_run_beats_it_from_the_start_or_after_a_warm_up() -> None:
    beaten = 0
    for seed in range(60):
        random = Random(seed)
        lab = random_lab(random)
        per_token, per_expert = random.choice([0, 1, 5]), random.choice([0, 3, 20])
        host = FlatHost(random.randint(1, 3), random.choice([None, Fraction(3)]), per_expert, per_token)
        lab = replace(lab, setup=replace(lab.setup, host=host))
        warmup = random.choice([0, len(lab.passes) // 2])
        floor = host_floor(lab.passes[warmup:], lab.setup, lab.costs, lab.bypass(warmup))  # type: ignore[arg-type]
        for at_random in (0.0, 0.3, 1.0):
            accounts = lab.run(Cheaper(lab.setup, at_random), warmup)
            took = accounts.end_ns - accounts.start_ns
            assert took >= floor["ns"], (seed, at_random)
            beaten += took < lab.floor(warmup).ns
    assert beaten, "no run was faster than a GPU alone can be, so the other bound was not tried"


WORDS = ("policy=fiddler", "budget=4GB", "limit=1")


def test_a_result_has_it_and_says_why_it_has_no_bound_of_bytes(tmp_path: Path) -> None:
    own = tmp_path / "own"
    found = run(*WORDS, out=own).document
    bounds, totals = found["bounds"], found["totals"]
    assert bounds["belady_bypass"] == {"bytes": None, "bytes_per_token": None, "gap": None}
    assert found["nulls"]["bounds.belady_bypass"] == "experts that the host computes need no copy"
    time = bounds["time_lower_bound"]
    assert time["windows_ms"] is None
    assert found["nulls"]["bounds.time_lower_bound.windows_ms"]
    assert time["wall_ms"] == max(time[part] for part in ("compute_ms", "link_ms", "host_ms"))
    assert totals["wall_ns"] / 1e6 == pytest.approx(time["gap"] * time["wall_ms"])
    assert time["gap"] >= 1
    assert totals["host_lookups"] > 0
    assert found["provenance"]["costs"]["host"] == "roofline"
    # Reference rows are those of the GPU alone, for it as for others.
    alone = run("policy=lru", *WORDS[1:], out=tmp_path / "alone").document
    assert found["reference"].keys() == set(REFERENCE_ROWS)
    assert found["reference"] == alone["reference"]
    assert alone["bounds"]["time_lower_bound"]["windows_ms"] > 0
    # Runs of one window share their bounds: those of the GPU are none for it, and its own are none for them.
    run("policy=lru", *WORDS[1:], "bounds=false", out=own)
    rows = load(own).set_index("policy")
    assert rows["bound_time_ms"].notna().to_dict() == {"fiddler": True, "lru": False}
    assert rows["bound_bytes"].isna().all()
    assert rows["host_lookups"].to_dict() == {"fiddler": totals["host_lookups"], "lru": 0}
    of_workers = totals["host_ns"] / 1e6 / totals["generated_tokens"]
    assert rows["host_ms_per_token"].to_dict() == pytest.approx({"fiddler": of_workers, "lru": 0})
