"""The time bound where a host computes: the best split found by trying all of them, and no run that beats it."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest

from policies.api import LayerEvent, Setup
from policies.lru import LRU
from sim.experiment.host_bound import HostBound, Work, best_split
from sim.experiment.run import run
from sim.results.columns import REFERENCE_ROWS
from sim.results.load import load
from sim.workload.passes import Pass
from tests.policies.bounds.toy import ToyCosts, random_lab
from tests.sim.machine.cases import FlatHost


def ratio(random: Random, most: int) -> Fraction:
    return Fraction(random.randint(0, most), random.randint(1, 9))


@pytest.mark.parametrize("seed", range(60))
def test_the_best_split_is_the_best_of_all(seed: int) -> None:
    random = Random(seed)
    nbytes, per_byte, host = random.randint(0, 60), ratio(random, 30), ratio(random, 30)
    dense = random.randint(0, 50)
    work = Work(dense, dense + random.randint(0, 200), ratio(random, 30))

    def link_ns(n: int) -> int:
        return int(n * per_byte)

    def longest(h: int) -> int:
        compute = max(work.dense_ns, work.compute_ns - int(h * work.spared))
        return max(compute, link_ns(max(0, nbytes - h)), int(h * host))

    found = best_split(nbytes, work, link_ns, host)
    assert found.ns == min(longest(h) for h in range(2000)), "beyond, all has been spared that can be"


def test_what_a_pass_wants_of_the_gpu_by_hand() -> None:
    """Two layers of 10 bytes and one of 100: the dearest lookup is spared by the byte, of whichever layer."""
    costs = ToyCosts(overhead=0, bytes_per_ns=Fraction(1), expert=40, dense=100, launch=6)
    host = FlatHost(2, None, 30, 0)
    bound = HostBound(Setup(3, 5, 2, (10, 10, 100), 1, 100, costs, host=host), costs)  # type: ignore[arg-type]
    step = Pass(True, (0,), [(0, 8)], 8, 60, 32, [[0, 1], [5], [14]], [[8, 3], [1], [8]])
    bound.add(step, 1000)
    dense = 50 + 3 * (100 + 1 + 3) + 100
    assert bound.passes == [Work(dense, 1000, Fraction(80 + 6, 10))]  # in layers 1 and 2: 41 + 6 of 10, 82 + 6 of 100
    assert bound.per_byte == Fraction(30, 100) / 2
    step.tokens[:2] = [[], []]
    bound.add(step, 1000)
    assert bound.passes[1].spared == Fraction(82 + 6, 100)


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
    beaten = by_windows = 0
    for seed in range(60):
        random = Random(seed)
        lab = random_lab(random)
        per_token, per_expert = random.choice([0, 1, 5]), random.choice([0, 3, 20])
        host = FlatHost(random.randint(1, 3), random.choice([None, Fraction(3)]), per_expert, per_token)
        lab = replace(lab, setup=replace(lab.setup, host=host))
        warmup = random.choice([0, len(lab.passes) // 2])
        stride, reach = random.randint(1, 4), random.randint(1, 12)
        floor = lab.floor(warmup, stride, reach, with_host=True)
        beside = floor.with_host
        assert beside is not None
        by_windows += beside.windows_ns > beside.whole.ns
        for at_random in (0.0, 0.3, 1.0):
            accounts = lab.run(Cheaper(lab.setup, at_random), warmup)
            took = accounts.end_ns - accounts.start_ns
            assert took >= beside.ns, (seed, at_random)
            beaten += took < floor.ns
    assert beaten, "no run was faster than a GPU alone can be, so the other bound was not tried"
    assert by_windows, "windows never said more than the run as a whole"


def test_it_is_never_more_than_that_of_the_gpu_alone() -> None:
    """Whose runs are runs of this machine, too; and with a host that takes for ever, it is the same."""
    for seed in range(40):
        lab = random_lab(Random(seed))
        for ns in (3, 10**9):
            floor = replace(lab, setup=replace(lab.setup, host=FlatHost(1, None, ns, 0))).floor(with_host=True)
            assert floor.with_host is not None
            assert floor.with_host.ns <= floor.ns
        assert floor.with_host.whole.compute_ns == floor.compute_ns
        assert floor.with_host.ns == floor.ns


WORDS = ("policy=fiddler", "budget=4GB", "limit=1")


def test_a_result_has_it_and_says_why_it_has_no_bound_of_bytes(tmp_path: Path) -> None:
    own = tmp_path / "own"
    found = run(*WORDS, out=own).document
    bounds, totals = found["bounds"], found["totals"]
    assert bounds["belady_bypass"] == {"bytes": None, "bytes_per_token": None, "gap": None}
    assert found["nulls"]["bounds.belady_bypass"] == "experts that the host computes need no copy"
    time = bounds["time_lower_bound"]
    assert "bounds.time_lower_bound.windows_ms" not in found["nulls"]
    parts = ("compute_ms", "link_ms", "host_ms", "windows_ms")
    assert time["wall_ms"] == max(time[part] for part in parts)
    assert time["windows_ms"] > 0
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
