"""Link and host workers on one memory: rates fixed at a beginning, against rates shared anew at every moment."""

from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest

from policies.api import LayerEvent, Setup
from policies.lru import LRU
from tests.sim.machine.cases import FlatCosts, FlatHost, make_pass, make_setup, simulate

SIZE, EXPERTS = 840, 18
FREE = FlatCosts(0, 0, 0, 0, 0, 0, 0)
SOONER, LATER = Fraction(9, 10), Fraction(23, 20)
"""Against the fluid model, when a layer may end that one worker and the link share. (Seen: 0.95 to 1.11.)"""


class Split(LRU):
    """The host computes the first ``on_host`` of an event's experts."""

    def __init__(self, setup: Setup, on_host: int) -> None:
        super().__init__(setup)
        self.on_host = on_host

    def place(self, event: LayerEvent) -> list[int]:
        return list(event.demand[: self.on_host])


def fluid(queues: list[list[Fraction]], nbytes: Fraction, dram: Fraction) -> list[Fraction]:
    """When each queue of reads ends, of ``nbytes`` each at the rates given, whoever reads sharing ``dram`` by rate.

    The last queue is a worker's, the others are the link's lanes. Who has the memory for itself has its own rate.
    """
    left, waiting, ends, now = (
        dict[int, Fraction](),
        [list(q) for q in queues],
        [Fraction(0)] * len(queues),
        Fraction(0),
    )
    while any(waiting):
        for i, queue in enumerate(waiting):
            if queue:
                left.setdefault(i, nbytes)
        rates = {i: waiting[i][0] for i in left}
        shared = len(waiting) - 1 in rates and len(rates) > 1
        share = min(Fraction(1), dram / sum(rates.values())) if shared else Fraction(1)
        step = min(left[i] / (rates[i] * share) for i in left)
        now += step
        for i in list(left):
            left[i] -= rates[i] * share * step
            if not left[i]:
                del left[i], waiting[i][0]
                ends[i] = now
    return ends


def ended(
    copies: int, on_host: int, link: int, host: int, dram: Fraction | None, chunks: int = 1, lanes: int = 1
) -> int:
    """When one layer has ended that copies and computes so many; ``link``, ``host``: ns of an expert alone.

    ``link`` is a multiple of SIZE.
    """
    setup = make_setup([SIZE], EXPERTS, SIZE * EXPERTS, chunks=chunks, costs=replace(FREE, per_byte=link // SIZE))
    setup = replace(setup, host=FlatHost(1, dram, host, 0))
    passes = [make_pass([[list(range(copies + on_host))]], EXPERTS)]
    accounts, _ = simulate(Split(setup, on_host), setup, passes, lanes=lanes)
    return accounts.end_ns


# Who reads a memory that gives enough is in nobody's way; who reads alone has its own rate, be that above the memory's.
def test_nobody_is_slowed_where_there_is_enough_or_nobody_else() -> None:
    assert ended(3, 2, link=SIZE, host=2 * SIZE, dram=Fraction(3, 2)) == 4 * SIZE
    assert ended(3, 0, link=SIZE, host=1, dram=Fraction(1, 9)) == 3 * SIZE
    assert ended(0, 3, link=SIZE, host=SIZE, dram=Fraction(1, 9)) == 3 * SIZE
    assert ended(5, 4, link=SIZE, host=SIZE, dram=None) == 5 * SIZE


# By hand, D = 1 and both at rate 1 alone. The link begins first, at its own rate; the host, beside it, at half.
def test_who_begins_beside_another_keeps_the_rate_that_it_began_with() -> None:
    assert ended(1, 1, link=SIZE, host=SIZE, dram=Fraction(1)) == 2 * SIZE
    assert ended(2, 1, link=SIZE, host=SIZE, dram=Fraction(1)) == 3 * SIZE  # 1 + 2: the second copy at half, too


# Lanes that slow each other, whose rate is that of all of them; or a worker that takes a link for one of its lanes.
def test_lanes_are_in_a_workers_way_and_not_in_each_others() -> None:
    assert ended(6, 0, link=SIZE, host=1, dram=Fraction(1, 9), lanes=3) == 2 * SIZE
    assert ended(0, 3, link=SIZE, host=SIZE, dram=Fraction(1, 9), lanes=3) == 3 * SIZE
    # Beside two lanes at rate 1 the host, too, has 2 / 3 of its own.
    assert ended(2, 1, link=SIZE, host=SIZE, dram=Fraction(2), lanes=2) == 3 * SIZE // 2
    # Of the copies that begin at 1 the first is beside the host alone, and the second beside both: 1 + 3 / 2.
    assert ended(4, 1, link=SIZE, host=SIZE, dram=Fraction(2), lanes=2) == 5 * SIZE // 2


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("seed", range(30))
def test_it_ends_about_when_rates_shared_at_every_moment_would(seed: int, lanes: int) -> None:
    random = Random(seed)
    copies, on_host, chunks = random.randint(2, 6), random.randint(2, 6), random.choice([1, 2, 4])
    link, host = SIZE * random.randint(1, 4), SIZE * random.randint(1, 4)
    rates = Fraction(SIZE, link), Fraction(SIZE, host)
    dram = (lanes * rates[0] + rates[1]) * Fraction(random.randint(5, 11), 10)
    expected = max(fluid([*[[rates[0]] * copies] * lanes, [rates[1]] * on_host], Fraction(SIZE), dram))
    found = ended(copies * lanes, on_host, link, host, dram, chunks, lanes)
    assert SOONER * expected <= found <= LATER * expected
