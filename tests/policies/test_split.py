"""FreeToken's split, worked by hand.

Unless said otherwise: experts of 12 bytes, copies of 60 ns, dense part 10 ns, an expert 100 ns on the GPU and
``host`` on the host's one worker.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest

from policies import registry
from policies.split import Split, fetches
from sim.check.laws import Run, Witness, run
from sim.check.synthetic import FlatHost, Routing, draw, setup_of
from sim.core.accounts import COMPLETE
from tests.policies.desk import Desk
from tests.policies.scripted import SIZE, costs, held, script
from traces.kit.errors import UserError

RATES = Fraction(1), Fraction(3)
HALF = {"phi": 0.5, "prefill": "demand"}


def host_of(host: int = 150, **given: Any) -> FlatHost:
    return FlatHost(host, None, **{"workers": 1, "pair": RATES, "each": RATES, **given})


def made(routing: Routing, room: int, host: FlatHost | None, chunks: int = 1, copy: int = 60, **params: Any) -> Split:
    setup = replace(setup_of(routing, room * SIZE, chunks=chunks, costs=costs(copy)), host=host)
    found = registry.build("split", setup, params)
    assert isinstance(found, Split)
    return found


def go(routing: Routing, room: int, host: int = 150, copy: int = 60, **params: Any) -> Run:
    return run(made(routing, room, host_of(host), copy=copy, **params), routing)


# -- how many ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phi", "of_none_to_six"),
    [
        ("1/2", [0, 0, 1, 1, 2, 2, 3]),  # of 1: 0 or 1 cost a half, a tie; of 3: 1 or 2 cost 1
        ("1/3", [0, 0, 0, 1, 1, 1, 2]),  # of 2: 0 or 1 cost 2/3
        ("2/3", [0, 1, 1, 2, 3, 3, 4]),  # of 1: 0 costs 2/3, 1 costs 1/3; of 2: 1 or 2 cost 2/3
        (
            "2/5",
            [0, 0, 1, 1, 1, 2, 2],
        ),  # of 2: 0 costs .8, 1 costs .6; of 4: 1 or 2 cost 1.2; of 6: 2 cost 1.6, 3 cost 1.8
        ("0", [0] * 7),
        ("1", [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_so_many_that_both_are_done_at_once(phi: str, of_none_to_six: list[int]) -> None:
    assert [fetches(m, Fraction(phi)) for m in range(7)] == of_none_to_six


def test_no_other_number_is_sooner_and_of_equals_it_is_the_fewest() -> None:
    for phi in {Fraction(a, b) for b in range(1, 12) for a in range(b + 1)}:
        for m in range(15):
            slower = [max(f * (1 - phi), (m - f) * phi) for f in range(m + 1)]
            assert fetches(m, phi) == slower.index(min(slower))


def test_a_share_of_at_most_one_in_all_misses_and_one_more_fetches_none() -> None:
    for m in range(1, 12):
        for phi in {Fraction(a, b) for b in range(1, 15) for a in range(b + 1)}:
            assert (fetches(m, phi) > 0) == (phi > Fraction(1, m + 1))


def test_what_never_fetches_never_fills_the_cache() -> None:
    """Two of eight a token: from an empty cache two are missing, and a third is the largest share that fetches none."""
    routing = draw(3, n_experts=8, k=2)
    for phi, ever in ((0.33, False), (0.34, True)):
        done = go(routing, 24, phi=phi)
        assert (sum(row[COMPLETE] for row in done.accounts.hits[1]) > 0) == ever


ONE = script([[[0, 1]]])


def test_phi_is_the_links_share() -> None:
    def decided(**params: Any) -> dict[str, Any]:
        return dict(made(ONE, 8, host_of(pair=(Fraction(1), Fraction(7))), prefill="demand", **params).decided())

    assert decided() == {"backend": "hybrid", "phi": 0.125}
    assert decided(rates="alone") == {"backend": "hybrid", "phi": 0.3333}
    with pytest.raises(UserError, match=r"^policy\.rates=alone: .*; allowed: together with policy\.phi=0\.5$"):
        decided(phi=0.5, rates="alone")
    assert decided(backend="offload") == {"backend": "offload", "phi": 1.0}
    assert decided(backend="cpu") == {"backend": "cpu", "phi": 0.0}
    slow = made(ONE, 8, host_of(each=(Fraction(3), Fraction(2))), rates="alone", prefill="demand")
    assert slow.decided()["phi"] == 1.0  # no more than all


@dataclass
class Uneven(FlatHost):
    """A host that is slower, beside the link, in a later layer."""

    def alone(self, layer: int) -> tuple[Fraction, Fraction]:
        return Fraction(1), Fraction(5 - 3 * layer)

    def together(self, layer: int) -> tuple[Fraction, Fraction]:
        return Fraction(1), Fraction(3 - 2 * layer)


def test_by_layer_where_the_rates_are() -> None:
    two = script([[[0, 1], [2, 3]]])
    host = Uneven(150, None)
    policy = made(two, 8, host, prefill="demand")
    assert policy.decided() == {"backend": "hybrid", "phi": [0.25, 0.5]}
    desk = Desk(policy)
    assert [list(policy.place(desk.event(layer, [8 * layer, 8 * layer + 1]))) for layer in (0, 1)] == [[0, 1], [9]]
    assert made(two, 8, host, prefill="demand", backend="auto").backend == "offload"  # 5 to 1, and then 2 to 1


@pytest.mark.parametrize(("link", "cpu", "backend"), [(10, 20, "offload"), (10, 21, "hybrid"), (10, 9, "offload")])
def test_auto_has_a_host_compute_that_reads_more_than_twice_what_the_link_does(
    link: int, cpu: int, backend: str
) -> None:
    policy = made(ONE, 8, host_of(each=(Fraction(link), Fraction(cpu))), backend="auto", prefill="demand")
    assert policy.backend == backend
    assert policy.uses("place") == (backend == "hybrid")


def test_a_share_is_what_was_typed() -> None:
    """.1 of 9 misses: none and one both cost .9, a tie; in binary .1 is a little more, and one would be cheaper."""
    policy = made(script([[list(range(9))]], n_experts=9), 9, host_of(), phi=0.1, prefill="demand")
    desk = Desk(policy)
    assert len(policy.place(desk.event(0, list(range(9))))) == 9


def test_what_cannot_be_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^policy\.phi=1\.5: allowed: 0 to 1 \(the share .*\)$"):
        made(ONE, 8, host_of(), phi=1.5)
    with pytest.raises(UserError, match=r"^policy\.phi=0\.5: allowed: null with policy\.backend=cpu, .*$"):
        made(ONE, 8, host_of(), phi=0.5, backend="cpu")
    for host in (None, host_of(each=(Fraction(1), Fraction(2)))):  # a share that nothing would read
        with pytest.raises(UserError, match=r"^policy\.phi=0\.5: .*\.backend=auto, which is offload on this .*$"):
            made(ONE, 8, host, phi=0.5, backend="auto")
    assert made(ONE, 8, host_of(), phi=0.5, backend="auto").decided() == {"backend": "hybrid", "phi": 0.5}
    for backend in ("hybrid", "cpu"):
        with pytest.raises(UserError, match=r"^policy=split: .*; allowed: hardware\.host\.cpu_tflops .*$"):
            made(ONE, 8, None, backend=backend)
    for backend in ("offload", "auto"):
        assert made(ONE, 8, None, backend=backend).decided() == {"backend": "offload", "phi": 1.0}


# -- which ------------------------------------------------------------------------------------------------------


def test_those_demanded_last_are_fetched_and_among_equals_the_lowest() -> None:
    policy = made(script([[[0]], [[0]]], n_experts=8), 8, host_of(), **HALF)
    desk = Desk(policy)

    def left(*demand: int) -> list[int]:
        event = desk.event(0, list(demand))
        found = list(policy.place(event))
        policy.on_gate(event)
        return found

    assert left(5, 3, 1) == [3, 5]  # nobody was demanded: by number
    desk.arrive(1)
    assert left(7, 5) == [7]  # 5 was left to the host, and counts as demanded all the same
    assert left(3, 7, 2, 5, 1) == [3, 2]  # 5 and 7 last, then 3; 1 is no miss
    desk.slot(2)
    assert left(3, 2) == [3]  # a part of 2 is here
    desk.slot(4, 6)
    assert left(0, 2, 4, 6) == [0]  # all that are on their way, if more than two


def test_what_is_on_its_way_counts_as_fetched() -> None:
    policy = made(script([[[0]]], n_experts=8), 8, host_of(), **HALF)
    desk = Desk(policy)
    desk.slot(7)
    assert list(policy.place(desk.event(0, [0, 1, 7, 2]))) == [1, 2]  # two of four, 7 among them


class Watched(Witness):
    """Holds what is resident before each decode event against what is after it."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.n_fetched, self.n_hosted, self.gone = 0, 0, set[int]()
        self.before: set[int] | None = None
        self.listen("gate", lambda *_: self.look())
        self.listen("step_begin", lambda *_: self.look())
        self.listen("step_end", lambda *_: self.look())
        self.listen("evict", self.gone.add)

    def look(self) -> None:
        """The event before has ended."""
        if self.before is not None:
            policy: Any = self.policy
            demand, hosted = set(self.event.demand), self.places.experts if self.places else frozenset()
            fetched = demand - hosted - self.before
            misses = demand - self.before  # whole copies: nothing is on its way at a gate
            assert hosted == misses - fetched
            assert len(fetched) == fetches(len(misses), policy.phi[self.event.layer])
            assert not self.gone & demand
            assert {x for x, slot in enumerate(self.state.slot) if slot} == (self.before | fetched) - self.gone
            self.n_fetched += len(fetched)
            self.n_hosted += len(hosted)
        self.before = None

    def gate(self, *given: Any) -> Any:
        residents = {x for x, slot in enumerate(self.state.slot) if slot}
        event = super().gate(*given)
        if not event.prefill:
            self.before = residents
            self.gone.clear()
        return event


@pytest.mark.parametrize(
    "params", [{}, {"phi": 0.5}, {"phi": 0.6, "prefill": "demand"}, {"backend": "offload"}, {"backend": "cpu"}]
)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_fetched_is_admitted_and_nothing_else(seed: int, params: dict[str, Any]) -> None:
    routing = draw(seed, k=4, n_experts=10)
    policy = made(routing, 22, host_of(), 1 + seed, **params)
    done = run(policy, routing, core_type=Watched)
    core: Any = done.core
    assert done.accounts.host_lookups == core.n_hosted
    assert set(policy.pools[0]) == set(held(done))
    assert (core.n_fetched > 0) == (params.get("backend") != "cpu")  # and so the host's: nothing is copied in decode
    assert (core.n_hosted > 0) == (params.get("backend") != "offload")


@pytest.mark.parametrize("seed", range(4))
def test_without_the_host_it_is_lru(seed: int) -> None:
    routing = draw(seed, k=3)
    setup = setup_of(routing, 9 * SIZE, chunks=1 + seed % 2)
    lru = run(registry.build("lru", setup, {}), routing)
    one = run(registry.build("split", setup, {"backend": "offload", "prefill": "demand"}), routing)
    assert one.core.digest() == lru.core.digest()
    assert one.accounts == lru.accounts
    other = run(registry.build("split", setup, {"phi": 1.0, "prefill": "demand"}), routing)
    assert other.accounts == lru.accounts


# -- when -------------------------------------------------------------------------------------------------------


def test_link_and_host_work_at_once() -> None:
    """Gate at 10. Hybrid: one is copied until 70 and computed until 170, the host has the other done at 160.

    Offload: copies until 70 and 130, computed until 170 and 270. The host alone: until 160 and 310.
    """
    assert go(ONE, 8, **HALF).accounts.end_ns == 170
    assert go(ONE, 8, backend="offload", prefill="demand").accounts.end_ns == 270
    alone = go(ONE, 8, backend="cpu", prefill="demand").accounts
    assert (alone.end_ns, alone.demand_bytes + alone.speculative_bytes) == (310, 0)


def test_with_a_wrong_phi_it_is_slower_than_offload() -> None:
    """A host of 1000 ns that is taken for ten times as fast as the link: neither of two misses is ever fetched.

    So each step takes 10 + 2000; offload 270 once, and then 10 + 200. From the true rates, 12 / 60 and 12 / 1000, phi
    is .943, and both are fetched.
    """
    four = script([[[0, 1]]] * 4)
    wrong = go(four, 8, 1000, phi=0.1, prefill="demand")
    assert (wrong.accounts.end_ns, held(wrong)) == (4 * 2010, [])
    assert go(four, 8, 1000, backend="offload", prefill="demand").accounts.end_ns == 270 + 3 * 210
    true = host_of(1000, pair=(Fraction(12, 60), Fraction(12, 1000)))
    assert run(made(four, 8, true, prefill="demand"), four).accounts.end_ns == 270 + 3 * 210
