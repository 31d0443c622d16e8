"""Passes of mixed kind, and in pieces: against the textbook machines, bit for bit, and by their laws."""

from dataclasses import replace
from itertools import accumulate, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.lru import LRU
from sim.core.accounts import BYTES_DEMANDED, LOOKUPS, SHARED
from sim.core.host_memory import HostTier
from sim.core.state import CoreError
from sim.workload.passes import Pass, Piece
from tests.sim.machine.against import agree
from tests.sim.machine.cases import FlatDisk, make_pass, make_setup, simulate
from tests.sim.machine.disk_cases import tiered_cases
from tests.sim.machine.restless import EXAMPLES, Case, Lossy, Placing, Restless, cases, hosted_cases
from tests.sim.machine.several_cases import spread_cases
from tests.sim.machine.textbook import Textbook
from tests.sim.machine.textbook_disk import TextbookDisk
from tests.sim.machine.textbook_gpus import TextbookGpus
from tests.sim.machine.version_cases import AnyVersion, version_cases


def cut(n: int, sizes: list[int], random: Random) -> list[int]:
    """Tokens over pieces of so many rows."""
    left, found = n, []
    for i, rows in enumerate(sizes):
        later = sum(sizes[i + 1 :])
        found.append(random.randint(max(0, left - later), min(rows, left)))
        left -= found[-1]
    return found


def odd(step: Pass, random: Random) -> Pass:
    """The same pass, mixed or in pieces or as it was."""
    if step.rows == 1:
        return step
    chance, counts = random.random(), [rows for _, rows in step.parts]
    if chance < 0.6:
        told = [random.randint(0, n) for n in counts]
        told[0] = max(told[0], 1)
        told[-1] = min(told[-1], counts[-1] - 1) if len(counts) > 1 else random.randint(1, counts[0] - 1)
        of_prompts = [[random.randint(0, n) for n in layer] for layer in step.tokens]
        step = replace(step, prefill=True, prompt_rows=tuple(told), prompt_tokens=of_prompts)
    if chance > 0.4:
        ends = sorted({step.rows, *(random.randint(1, step.rows) for _ in range(2))})
        sizes = [b - a for a, b in pairwise([0, *ends])]
        pieces = [
            Piece(rows, kv, random.randint(1, 9), random.randint(1, 3))
            for rows, kv in zip(sizes, accumulate(sizes), strict=True)
        ]
        tokens = [[cut(n, sizes, random) for n in layer] for layer in step.tokens]
        step = replace(step, pieces=tuple(pieces), piece_tokens=tokens)
    return step


def of(case: Case) -> Case:
    random = Random(case.setup.seed)
    return replace(
        case,
        warmup=[odd(step, random) for step in case.warmup],
        passes=[odd(step, random) for step in case.passes],
    )


@settings(EXAMPLES, max_examples=24)
@given(cases(), st.sampled_from([Restless, Lossy]))
def test_one_gpu(case: Case, kind: type[Restless]) -> None:
    agree(Textbook, of(case), kind, {}, by_layer=case.by_layer)


@settings(EXAMPLES, max_examples=15)
@given(case=hosted_cases(), last=st.booleans())
def test_places(case: Case, last: bool) -> None:
    agree(Textbook, of(case), Placing, {}, by_layer=case.by_layer, last=last)


@settings(EXAMPLES, max_examples=9)
@given(spread_cases())
def test_several_gpus(case: Case) -> None:
    agree(TextbookGpus, of(case), Restless, {"root": case.root}, by_layer=case.by_layer)


@settings(EXAMPLES, max_examples=12)
@given(tiered_cases())
def test_above_a_disk(found: tuple[Case, HostTier, FlatDisk]) -> None:
    case, tier, disk = found
    agree(TextbookDisk, of(case), Restless, {"tier": tier, "disk": disk}, by_layer=case.by_layer)


@settings(EXAMPLES, max_examples=12)
@given(version_cases(), st.booleans())
def test_versions(case: Case, pools: bool) -> None:
    agree(Textbook, of(case), AnyVersion, {}, by_layer=case.by_layer, pools=pools)


# Experts 0 to 5 of one layer: row 0 is of a prompt, rows 1 and 2 decode.
CHOSEN = [[[0, 1]], [[1, 2]], [[2, 3]]]


def a_mixed_pass() -> Pass:
    step = make_pass(CHOSEN, 6)
    of_prompts = [[1 if x in (0, 1) else 0 for x in step.demand[0]]]
    return replace(step, prefill=True, prompt_rows=(1, 0, 0), prompt_tokens=of_prompts)


def test_lookups_are_of_a_class_and_time_of_a_kind() -> None:
    """Expert 0 is the prompt's, 1 both want, 2 and 3 are the decode rows'."""
    setup = make_setup([10], 6, 60)
    accounts, _ = simulate(LRU(setup), setup, [make_pass(CHOSEN[:1], 6, prefill=True), a_mixed_pass()])
    assert [accounts.hit_row(i)[LOOKUPS] for i in range(3)] == [2 + 1, 2, 1]
    assert accounts.hit_row(SHARED)[BYTES_DEMANDED] == 10
    prefill, decode, mixed = accounts.pass_ns
    assert decode == 0
    assert prefill + mixed == accounts.wall_ns
    stalls = [sum(accounts.stall_row(kind)) for kind in range(3)]
    assert stalls[0] > 0 < stalls[2]  # two copies each
    assert stalls[1] == 0


@pytest.mark.parametrize("wrong", [(3, 0, 0), (1, 1, 1), (0, 0, 0), (1, 0)])
def test_what_is_not_mixed_is_none(wrong: tuple[int, ...]) -> None:
    setup = make_setup([10], 6, 60)
    with pytest.raises(CoreError, match="is not mixed"):
        simulate(LRU(setup), setup, [replace(a_mixed_pass(), prompt_rows=wrong)])
