"""Hits without a clock are the simulator's, for every policy that prefetches nothing, whatever the machine's times."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import LayerEvent
from policies.lru import LRU
from sim.core.accounts import BYTES_DEMANDED, BYTES_READY, COMPLETE, LOOKUPS, Accounts
from sim.core.whole import PrefetchingError, whole
from sim.experiment.cell import Cell, Inputs, make_cell, make_policy
from sim.experiment.clockless import accounts_of, hits_of
from sim.experiment.compose import read_config
from sim.experiment.curves import CACHING, cells_of, curve, document, grid
from sim.experiment.run import simulate
from tests.sim.small_trace import SIZE, Plan, config, some_absent, write
from traces.kit import conf
from traces.kit.errors import UserError

INPUTS = Inputs(keep=True)
KINDS = ("without a clock", "on the machine", "it prefetches")
TOGETHER = ("fifo", "lfru", "lfu")
ANY = ("lfu", "lfru", "fifo", "random", "on_demand")


def counted(accounts: Accounts) -> tuple[object, ...]:
    """What is the same with a clock and without."""
    hits = [[[row[kind] for kind in (0, *range(2, BYTES_DEMANDED + 1))] for row in rows] for rows in accounts.hits]
    assert BYTES_READY < BYTES_DEMANDED
    return hits, accounts.demand_bytes


def both(cell: Cell) -> tuple[Accounts, Accounts]:
    return accounts_of(cell, make_policy(cell)), simulate(cell, make_policy(cell)).accounts


@pytest.mark.parametrize("policy", CACHING)
def test_every_caching_policy_on_the_sample(policy: str) -> None:
    cell = make_cell(read_config([f"policy={policy}", "limit=1", "budget=30%"]), INPUTS)
    least = make_policy(cell).min_budget()
    budgets, hits = (least, cell.setup.budget), []
    for budget in budgets:  # with the least, demand streams through
        found, expected = both(replace(cell, setup=replace(cell.setup, budget=budget)))
        assert counted(found) == counted(expected)
        hits.append([expected.hit_row(phase)[COMPLETE] for phase in (0, 1)])
    together = hits_of(cell, make_policy(cell), budgets)
    assert (together is not None) == (policy in TOGETHER)
    assert together is None or together[1].tolist() == hits


@pytest.fixture(scope="module")
def gpt_oss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of gpt-oss-20b's shape, experts of unequal popularity."""
    rng, path = np.random.default_rng(3), tmp_path_factory.mktemp("shaped") / "trace"
    ids = np.argsort(rng.random((40, 24, 32)) ** (1 + np.arange(32) % 5), axis=-1)[..., -4:].astype(np.uint8)
    plans = [Plan((6,), 8, split="train"), Plan((6,), 8), Plan((4,), 8)]
    write(path, plans, ids, n_experts=32)
    return path


@pytest.mark.parametrize("policy", CACHING)
def test_every_caching_policy_on_the_shape_of_gpt_oss(policy: str, gpt_oss: Path) -> None:
    words = [f"policy={policy}", f"trace={gpt_oss}", "model=gpt_oss_20b", "budget=40%"]
    found, expected = both(make_cell(read_config(words), INPUTS))
    assert counted(found) == counted(expected)


@pytest.fixture(scope="module")
def signalled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With every signal that a policy reads, but for fitted predictors."""
    rng, path = np.random.default_rng(3), tmp_path_factory.mktemp("signalled") / "trace"
    probs = rng.dirichlet(np.full(8, 0.5), (40, 4)).astype(np.float16)
    ids = np.argsort(-probs.astype(float), axis=-1)[..., :2].astype(np.uint8)
    ahead = np.full((40, 4, 2, 2), 255, np.uint8)
    ahead[:, :-1, 0], ahead[:, :-2, 1] = ids[:, 1:], ids[:, 2:]
    signals = {
        "router_probs": probs,
        "expert_weights": np.take_along_axis(probs, ids.astype(np.intp), -1),
        "gate_ahead": ahead,
        "embedding": rng.standard_normal((40, 4)).astype(np.float16),
    }
    plans = [Plan((6,), 8, split="train"), Plan((5,), 8), Plan((5,), 8)]
    write(path, plans, ids, n_experts=8, signals=signals, sizes=[10**6] * 4)
    return path


def kind_of(preset: str, trace: Path) -> str:
    """How the hits of a preset are had, which are the simulator's."""
    words = [f"policy={preset}", f"trace={trace}", "model=as_traced", "budget=70%"]
    try:
        cell = make_cell(read_config(words), INPUTS)
        policy = make_policy(cell)
    except UserError as error:
        return str(error)
    expected = simulate(cell, make_policy(cell)).accounts
    try:
        found = accounts_of(cell, policy)
    except PrefetchingError:
        assert expected.issued or expected.predicts, preset
        return "it prefetches"
    assert counted(found) == counted(expected), preset
    return "without a clock" if whole(policy) else "on the machine"


# A policy that is added is either in the list that a refusal names, and tried above, or refused.
@pytest.mark.ci
def test_of_every_preset_the_hits_are_the_simulators_or_refused(signalled: Path) -> None:
    kinds = {preset: kind_of(preset, signalled) for preset in sorted(conf.names("policy"))}
    counted_so = {preset for preset, kind in kinds.items() if kind == "without a clock"}
    assert {*counted_so, "lru_copy_first"} == set(CACHING)  # whose order of copies wants the machine
    assert kinds["lru_copy_first"] == "on the machine"
    others = {preset: kind for preset, kind in kinds.items() if kind not in KINDS}
    predict = {"promoe", "fmoe_2026", "fmoe_artifact"}  # with what was fitted, or in more layers
    assert set(others) == predict | {"hobbit", "hobbit_no_prefetch"}, others  # which want experts in int4


@pytest.mark.ci
@settings(max_examples=15)
@given(data=st.data())
def test_whatever_the_times_are(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Compute that takes longer than copies, or as long: then it counts who has been computed by when."""
    n_layers, n_experts = 2, data.draw(st.integers(2, 6))
    plans = [Plan((data.draw(st.integers(1, 4)),), data.draw(st.integers(1, 8))) for _ in range(3)]
    path = tmp_path_factory.mktemp("clockless") / "trace"
    some_absent(path, plans, n_layers, n_experts, data.draw(st.integers(0, 2**32)))
    changes = {"batch": data.draw(st.integers(1, 2)), "chunks": data.draw(st.integers(1, 3)), "warmup": 1}
    cell = make_cell(config(path, SIZE * data.draw(st.integers(1, n_layers * n_experts)), **changes))
    machine = cell.config.hardware
    speed = data.draw(st.sampled_from([1, 2, 3, 5, 12]))  # of the link; an expert is computed in 4 ns, copied in 12
    given = {**machine, "link": {**machine["link"], "h2d_gb_per_s": speed}}
    if own := data.draw(st.sampled_from([0, 0, 7])):
        names = {policy: {"prefill": own / 1000, "decode": own / 1000} for policy in ANY}
        given["software"] = {**machine["software"], "policy_us": names}
    for policy in ANY:
        again = make_cell(replace(cell.config, hardware=given, policy={"name": policy}))
        found, expected = both(again)
        assert counted(found) == counted(expected), policy
        if together := hits_of(again, make_policy(again), [again.setup.budget]):
            rows = [expected.hit_row(phase) for phase in (0, 1)]
            assert together[1].tolist() == [[row[COMPLETE] for row in rows]], policy
            assert together[0] == [row[LOOKUPS] for row in rows], policy


class Eager(LRU):
    """Prefetches once, at a gate."""

    name = "eager"

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self.actions.prefetch(0, 0.0)


def test_what_prefetches_is_refused_wherever_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = make_cell(read_config(["policy=static", "policy.preload=true", "limit=1", "budget=30%"]), INPUTS)
    with pytest.raises(PrefetchingError):
        accounts_of(cell, make_policy(cell))
    with pytest.raises(PrefetchingError):
        accounts_of(cell, Eager(cell.setup))
    deep = make_cell(read_config(["policy=gate_ahead", "limit=1", "budget=30%", "hardware.link.depth=2"]), INPUTS)
    with pytest.raises(PrefetchingError):
        accounts_of(deep, make_policy(deep))


def test_a_curve_is_the_simulators_and_marks_what_streams_through() -> None:
    for cell in cells_of(["lru", "lru_layer", "lfu"], ["limit=1"]):
        budgets = grid(cell, ["3%", "25%"], 0)
        found = curve(cell, budgets)
        for point in found.points:
            it = replace(cell, setup=replace(cell.setup, budget=point.budget))
            accounts = simulate(it, make_policy(it)).accounts
            assert point.hits == (accounts.hit_row(0)[3], accounts.hit_row(1)[3])
            assert found.lookups == (accounts.hit_row(0)[0], accounts.hit_row(1)[0])
            assert point.fits == (point.budget == budgets[1] and found.label != "lru (scope=layer)")
        (told,) = document(cell, [found])["policies"]
        assert told["budget_bytes"] == budgets
        assert told["complete_hits"]["decode"] == [point.hits[1] for point in found.points]


def test_budgets_are_whole_experts_up_to_all_of_them() -> None:
    (cell,) = cells_of(["lru"], ["limit=1"])
    size, total = cell.setup.expert_bytes[0], cell.total_expert_bytes
    budgets = grid(cell, [], 7)
    assert len(budgets) == 7
    assert budgets[-1] == total
    assert all(budget % size == 0 for budget in budgets)
