"""ProMoE's copies, orders and cache, worked by hand from SYSTEMS 2.1 (arXiv 2410.22134, section 4); see promoe_desk."""

from policies.api import Schedule
from policies.promoe import ProMoE
from sim.check.synthetic import setup_of
from tests.policies.promoe.desk import RIGHT, WRONG, OnDesk, foretold, go, script
from tests.policies.scripted import SIZE, sums


def test_gate_l_speaks_of_layer_l_plus_2() -> None:
    """Demand copy 10-70, then expert 2 of layer 2 to 130; gate 1 at 180 waits to 240; gate 2 at 350 finds it there."""
    done = go(RIGHT, 60)
    assert sums(done) == ([1, 0, 0, 0, 0], [120, 0, 0, 0, 0], 450)
    assert foretold(done) == (1, 1, 1)


def test_what_is_demanded_while_it_loads_is_not_copied_twice() -> None:
    """Copies of 200: 10-210, 10 from 210; gate 1 at 320 waits for it, 410 to 610; gate 2 at 720 finds it there."""
    assert sums(go(RIGHT, 200)) == ([1, 0, 0, 0, 0], [400, 0, 90, 0, 0], 330 + 490)
    done = go(RIGHT, 600, chunks=3)
    # Chunks of 200. Demand 10-610; 10 from 610: gate 1 at 720 lets the chunk finish, 810; its demand to 1410; the
    # second chunk 1410-1610; gate 2 at 1520: the rest of it and the third are awaited, to 1810: late.
    assert sums(done) == ([0, 1, 0, 0, 0], [600 + 600, 290, 90, 0, 0], 330 + 1580)
    assert done.accounts.demand_bytes == 2 * SIZE + SIZE // 3  # the third chunk was copied on demand
    assert foretold(done) == (1, 1, 0)


def test_early_preemption() -> None:
    """Both predictions are wrong; copies of 240 in three chunks of 80.

    Demand 10-250-490, computed 250-350 and 490-590. 8 from 490: gate 1 at 600 waits for its second chunk, 650; demand
    to 890 and 1130, computed to 990 and 1230. 8's third chunk to 1210; 9's first to 1290. Gate 2 at 1240 drops 9 and
    waits for that chunk; demand to 1530 and 1770, computed to 1870.
    """
    done = go(WRONG, 240, chunks=3)
    assert sums(done) == ([0, 0, 1, 1, 0], [240 + 140 + 240 + 140 + 240 + 140, 0, 50 + 50, 0, 0], 1870)
    assert done.accounts.fate_bytes == [0, 0, SIZE, SIZE // 3, 0]
    assert foretold(done) == (2, 0, 1)  # FetchRate counts what was fetched in vain, too


def test_without_preemption_each_miss_waits_for_its_turn_and_stale_predictions_stay() -> None:
    """The same, fixed order. 0 to 250, computed to 350; meanwhile 8, two chunks to 410; 1 to 650, computed to 750.

    8's third to 730, 9's first to 810, awaited by gate 1 at 760; 4 to 1050, computed to 1150; 9 to 1210; 5 to 1450,
    computed to 1550. Gate 2 at 1560: 10 to 1800, computed to 1900; only then 11 to 2140, computed to 2240.
    """
    done = go(WRONG, 240, chunks=3, preemption=False, reordering=False)
    assert sums(done) == ([0, 0, 2, 0, 0], [6 * 240, 0, 60 + 50 + 60, 0, 0], 2240)


def test_without_preemption_a_passed_layer_is_not_cancelled() -> None:
    """Copies of 1000: of 8 one or two chunks are there when gate 2 runs, and 9 is still queued."""
    assert go(WRONG, 1000, chunks=3).accounts.fates == [0, 0, 0, 2, 0]
    assert go(WRONG, 1000, chunks=3, preemption=False).accounts.fates[3] == 0


def test_reordering() -> None:
    desk = OnDesk()
    desk.chunks.update({4: 0, 5: 3, 6: 1, 7: 2})
    desk.complete.add(5)
    event = desk.event(1, [4, 5, 6, 7])
    assert desk.policy.schedule(event) == Schedule(copy=[7, 6, 4])  # what is there runs first, as it is complete
    desk.chunks.update({6: 2})
    assert desk.policy.schedule(event) == Schedule(copy=[6, 7, 4])  # among equals, in token order
    fixed = OnDesk(reordering=False)
    fixed.chunks.update(desk.chunks)
    assert fixed.policy.schedule(desk.event(1, [7, 4, 6, 5])) == Schedule(compute=[4, 5, 6, 7])
    each = OnDesk(preemption=False)
    each.chunks.update({4: 0, 5: 3, 6: 1, 7: 2})
    assert each.policy.schedule(event) == Schedule(compute=[5, 7, 6, 4], ahead=0)
    none = OnDesk(preemption=False, reordering=False)
    assert none.policy.schedule(desk.event(1, [7, 4])) == Schedule(compute=[4, 7], ahead=0)


def test_what_is_there_is_computed_while_the_rest_arrives() -> None:
    """Step 2 has expert 1 in layer 0 from step 1; 0 is copied in 60 of its 100 ns. In fixed order 0 comes first."""
    routing = script([[[1, 2], [0, 1], [0, 1]], [[0, 1], [0, 1], [0, 1]]], [])
    wall = [sums(go(routing, 60, reordering=ordered))[2] for ordered in (True, False)]
    assert wall[1] - wall[0] == 60


# -- the cache --------------------------------------------------------------------------------------------------


def test_a_predicted_resident_expert_is_refreshed() -> None:
    desk = OnDesk()
    for x in (8, 9, 10):
        desk.policy.on_slot(x)
    desk.resident.update((8, 9, 10))
    assert desk.policy.victim(11, True) == 8
    desk.says(0, [0], [[0, 3]])  # 8 and 11 in layer 2
    assert desk.expected == [[8, 11]]
    assert desk.prefetched == [8, 11]  # the core says no to the one that is complete
    assert desk.policy.victim(11, True) == 9
    desk.says(2, [9], [])
    assert desk.policy.victim(11, True) == 10


def test_each_layer_has_its_own_list() -> None:
    setup = setup_of(RIGHT, 7 * SIZE)
    assert ProMoE(setup).layer_budgets() == [3 * SIZE, 2 * SIZE, 2 * SIZE]
    assert ProMoE(setup, scope="global").layer_budgets() is None
    desk, everywhere = OnDesk(), OnDesk(scope="global")
    for each in (desk, everywhere):
        each.policy.on_slot(0)
        each.policy.on_slot(8)
    assert desk.policy.victim(9, True) == 8
    assert everywhere.policy.victim(9, True) == 0


def test_a_full_layer_makes_room_for_what_is_predicted() -> None:
    """One slot per layer. In step 2 gate 0 says what layer 2 will use; it takes the slot when its copy begins."""
    routing = script([[[0], [0], [1]], [[0], [0], [2]]], [[[], [], []], [[2], [], []]])
    done = go(routing, 60, room=3)
    # Step 1: 3 copies. Step 2 is hit, hit, and the copy under gate 0's compute.
    assert sums(done) == ([1, 0, 0, 0, 0], [180, 0, 0, 0, 0], 6 * 110 + 180)
