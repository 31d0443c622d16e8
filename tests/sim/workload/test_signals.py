"""The trace's signals, value by value: every number says which row, layer and distance it was recorded for."""

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.api import Signal, Signals
from sim.workload.signals import TraceSignals
from tests.sim.small_trace import ABSENT, Plan, write
from traces import Trace
from traces.kit.errors import UserError

N, L, E, K, A = 7, 3, 120, 2, 2
PLANS = [Plan((2,), 2), Plan((1,), 2)]  # rows 0-3 and 4-6


def number(row: int, layer: int, *, ahead: int = 0) -> int:
    """Different for each row, layer and distance, and even, so that another one fits after it."""
    return 16 * row + 2 * (layer + 3 * ahead)


def arrays() -> dict[str, np.ndarray]:
    by_layer = np.array([[number(row, layer) for layer in range(L)] for row in range(N)])
    ahead = np.full((N, L, A, K), ABSENT)
    for row in range(N):
        for layer in range(L):
            for a in range(1, L - layer):
                ahead[row, layer, a - 1] = number(row, layer, ahead=a), number(row, layer, ahead=a) + 1
    return {
        "expert_ids": np.stack([by_layer, by_layer + 1], -1),
        "expert_weights": np.stack([by_layer + 1, by_layer], -1),
        "router_probs": np.repeat(by_layer[..., None], E, -1) / 128,
        "gate_ahead": ahead,
        "hidden": np.stack([by_layer, -by_layer, by_layer], -1),
        "embedding": np.stack([np.arange(N), -np.arange(N)], -1),
        "token_ids": 100 + np.arange(N),
    }


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    given = arrays()
    return write(tmp_path / "t", PLANS, given.pop("expert_ids"), n_experts=E, signals=given)


@pytest.fixture
def signals(trace: Trace) -> TraceSignals:
    return TraceSignals(trace, set(Signal))


GATED: dict[str, Callable[[Signals], Any]] = {
    "expert_ids": lambda s: s.expert_ids(),
    "expert_weights": lambda s: s.expert_weights(),
    "router_probs": lambda s: s.router_probs(),
    "gate_ahead": lambda s: s.gate_ahead(1),
    "hidden": lambda s: s.hidden(),
}
ALL = GATED | {"embedding": lambda s: s.embedding(), "token_ids": lambda s: s.token_ids()}
PARTS = {
    "a prefill": [(0, 2)],
    "a token": [(5, 1)],
    "a batch": [(3, 1), (5, 1)],
    "a batch out of order": [(6, 1), (2, 1)],
    "parts of several rows": [(4, 3), (0, 2)],
}


def rows_of(parts: list[tuple[int, int]]) -> list[int]:
    return [row for first, rows in parts for row in range(first, first + rows)]


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("layer", range(L))
def test_a_gate_shows_its_own_layer_and_the_rows_of_every_request(
    signals: TraceSignals, parts: list[tuple[int, int]], layer: int
) -> None:
    signals.enter(parts)
    signals.layer = layer
    shown = signals.shown()
    here = [number(row, layer) for row in rows_of(parts)]
    assert shown.expert_ids().tolist() == [[x, x + 1] for x in here]
    assert shown.expert_weights().tolist() == [[x + 1, x] for x in here]
    assert shown.router_probs().tolist() == [[x / 128] * E for x in here]
    assert shown.hidden().tolist() == [[x, -x, x] for x in here]
    assert shown.token_ids().tolist() == [100 + row for row in rows_of(parts)]
    assert shown.embedding().tolist() == [[row, -row] for row in rows_of(parts)]
    for distance in (1, 2):
        there = [number(row, layer, ahead=distance) for row in rows_of(parts)]
        expected = [[ABSENT, ABSENT] if layer + distance >= L else [x, x + 1] for x in there]
        assert shown.gate_ahead(distance).tolist() == expected


@pytest.mark.parametrize("distance", [-1, 0, 3])
def test_a_distance_that_was_not_recorded_is_refused(signals: TraceSignals, distance: int) -> None:
    signals.enter([(0, 1)])
    signals.layer = 0
    with pytest.raises(UserError, match=rf"gate_ahead at distance {distance}\b.*1 to 2"):
        signals.shown().gate_ahead(distance)


@pytest.mark.parametrize("name", GATED)
def test_nothing_of_a_layer_is_known_before_its_gate(signals: TraceSignals, name: str) -> None:
    shown = signals.shown()
    signals.enter([(0, 2)])
    with pytest.raises(RuntimeError, match=f"{name}.* before a gate"):
        GATED[name](shown)
    signals.layer = 2
    GATED[name](shown)
    signals.enter([(2, 1)])  # the next step begins: the last layer of the one before is no gate of this one
    with pytest.raises(RuntimeError, match=f"{name}.* before a gate"):
        GATED[name](shown)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("name", ALL)
def test_what_is_handed_out_is_a_copy(
    trace: Trace, signals: TraceSignals, name: str, parts: list[tuple[int, int]]
) -> None:
    signals.enter(parts)
    signals.layer = 1
    array = ALL[name](signals.shown())
    whole = getattr(trace, name)
    assert not np.shares_memory(array, whole)
    rows, link = len(rows_of(parts)), array
    while link is not None:
        assert not isinstance(link, mmap.mmap)
        assert getattr(link, "_mmap", None) is None
        assert not isinstance(link, np.ndarray) or link.size <= rows * array[0].size, "more than was asked for"
        link = getattr(link, "base", None)
    # To write into it changes nothing for who asks next.
    before = array.copy()
    if array.flags.writeable:
        array[...] = 0
    np.testing.assert_array_equal(ALL[name](signals.shown()), before)


@pytest.mark.parametrize("name", [s.value for s in Signal])
def test_a_signal_that_was_not_declared_is_refused(trace: Trace, name: str) -> None:
    signals = TraceSignals(trace, {Signal(name)})
    signals.enter([(0, 2)])
    signals.layer = 0
    for other in ALL.keys() - {name, "expert_ids"}:
        with pytest.raises(RuntimeError, match=f"{other}.*declare"):
            ALL[other](signals.shown())
    assert len(ALL[name](signals.shown())) == 2
    assert len(signals.shown().expert_ids()) == 2  # what the machine computes by: never refused


@pytest.mark.parametrize("name", [s.value for s in Signal])
def test_a_signal_that_was_not_recorded_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    bare = TraceSignals(write(tmp_path / "bare", PLANS, arrays()["expert_ids"], n_experts=E), set(Signal))
    bare.enter([(0, 2)])
    bare.layer = 0
    with pytest.raises(UserError, match=name):
        ALL[name](bare.shown())
    assert len(bare.shown().expert_ids()) == 2


# -- the pre-gate of a modified model -----------------------------------------------------------------------------


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_a_pregate_says_who_computes_in_the_next_layer(trace: Trace, parts: list[tuple[int, int]]) -> None:
    """From what every trace has; the last layer's speaks of nobody."""
    signals = TraceSignals(trace, (), pregated=True)
    signals.enter(parts)
    with pytest.raises(RuntimeError, match=r"expert_ids.* before a gate"):
        signals.shown().pregate()
    for layer in range(L - 1):
        signals.layer = layer
        said = signals.shown().pregate()
        np.testing.assert_array_equal(
            said, [[number(row, layer + 1), number(row, layer + 1) + 1] for row in rows_of(parts)]
        )
        assert not np.shares_memory(said, trace.expert_ids)
    signals.layer = L - 1
    assert (signals.shown().pregate() == ABSENT).all()
    assert len(signals.shown().pregate()) == len(rows_of(parts))


def test_no_other_model_has_a_pregate(signals: TraceSignals) -> None:
    signals.enter([(0, 2)])
    signals.layer = 0
    with pytest.raises(RuntimeError, match=r"pregate.*modified model"):
        signals.shown().pregate()
