"""What a policy learns from: the train requests, request by request, and no bit of any other."""

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.api import History, Setup, Signal
from policies.lru import LRU
from sim.experiment.cell import make_cell, make_policy
from sim.workload.signals import TrainRequests
from tests.sim.small_trace import Plan, config, write
from traces import Trace
from traces.kit.errors import UserError

L, E, K, A = 2, 6, 2, 1
PLANS = [
    Plan((2, 1), 2, split="train"),
    Plan((3,), 1, split="test"),
    Plan((1,), 2, split="train"),
    Plan((2,), 1, split="test"),
]
TRAIN = [0, 2]
SIGNALS = [s.value for s in Signal]
READERS = ["expert_ids", *SIGNALS]


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng, n = np.random.default_rng(seed), sum(plan.rows for plan in PLANS)
    ids = rng.permuted(np.tile(np.arange(E), (n, L, A + 1, 1)), axis=-1)[..., :K]
    return {
        "expert_ids": ids[:, :, 0],
        "expert_weights": -np.sort(-rng.random((n, L, K))),
        "router_probs": rng.random((n, L, E)),
        "gate_ahead": np.where(np.arange(L)[:, None, None] < L - 1, ids[:, :, 1:], 255),
        "hidden": rng.random((n, L, 3)),
        "embedding": rng.random((n, 3)),
        "token_ids": rng.integers(0, 99, n),
    }


def given(path: Path, signals: dict[str, np.ndarray]) -> Trace:
    rest = dict(signals)
    return write(path, PLANS, rest.pop("expert_ids"), n_experts=E, signals=rest)


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return given(tmp_path / "t", arrays(0))


def history(trace: Trace, declared: Sequence[str] = SIGNALS) -> TrainRequests:
    return TrainRequests(trace, TRAIN, {Signal(name) for name in declared})


def test_a_whole_request_is_its_steps_in_a_row(trace: Trace) -> None:
    past, steps = history(trace), list(history(trace).steps())
    requests = list(past.requests())
    assert [(it.request, it.prompt_rows, it.rows) for it in requests] == [(0, 3, 5), (2, 1, 3)]
    assert [it.firsts.tolist() for it in requests] == [[0, 2, 3, 4], [0, 1, 2]]
    for whole in requests:
        own = [step for step in steps if step.request == whole.request]
        for name in READERS:
            apart = np.concatenate([getattr(step, name)() for step in own])
            np.testing.assert_array_equal(getattr(whole, name)(), apart)
    requests[0].expert_ids()[:] = 0  # of a copy
    assert requests[0].expert_ids().any()


def test_a_whole_request_has_what_was_declared(trace: Trace) -> None:
    first = next(history(trace, []).requests())
    assert len(first.expert_ids()) == 5
    with pytest.raises(RuntimeError, match="reads hidden and does not declare it"):
        first.hidden()


def test_the_steps_come_in_order_request_by_request(trace: Trace) -> None:
    steps = list(history(trace).steps())
    assert [(s.request, s.prefill, s.rows) for s in steps] == [
        (0, True, 2),
        (0, True, 1),
        (0, False, 1),
        (0, False, 1),
        (2, True, 1),
        (2, False, 1),
        (2, False, 1),
    ]
    places = [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5), slice(9, 10), slice(10, 11), slice(11, 12)]
    for name in READERS:
        for step, rows in zip(steps, places, strict=True):
            np.testing.assert_array_equal(getattr(step, name)(), getattr(trace, name)[rows])
            assert getattr(step, name)().dtype == getattr(trace, name).dtype


def test_popularity_counts_each_layer_event_once(trace: Trace) -> None:
    expected = np.zeros(L * E, int)
    for step in history(trace).steps():
        for layer, ids in enumerate(step.expert_ids().transpose(1, 0, 2)):
            expected[[layer * E + x for x in np.unique(ids)]] += 1
    np.testing.assert_array_equal(history(trace).popularity(), expected)


@pytest.mark.parametrize("name", READERS)
def test_what_is_handed_out_is_a_copy(trace: Trace, name: str) -> None:
    step = next(history(trace).steps())
    link = array = getattr(step, name)()
    while link is not None:
        assert not isinstance(link, mmap.mmap)
        assert getattr(link, "_mmap", None) is None
        link = getattr(link, "base", None)
    array[...] = 0
    np.testing.assert_array_equal(getattr(step, name)(), getattr(trace, name)[:2])


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_that_was_not_declared_or_not_recorded_is_refused(trace: Trace, name: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=f"{name}.*declare"):
        getattr(next(history(trace, [s for s in SIGNALS if s != name]).steps()), name)()
    bare = given(tmp_path / "bare", {"expert_ids": arrays(0)["expert_ids"]})
    with pytest.raises(UserError, match=rf"{name}.*not record"):
        getattr(next(history(bare).steps()), name)()


# -- the test requests ------------------------------------------------------------------------------------------


def learnt(history: History) -> list[Any]:
    """All that can be learnt from it."""
    steps = [
        (s.request, s.prefill, s.rows, *(getattr(s, name)().tolist() for name in READERS)) for s in history.steps()
    ]
    return [history.popularity().tolist(), steps]


def assert_learns_from_train_requests_alone(make: Callable[[Trace], History], folder: Path) -> None:
    """Nothing that is learnt changes when all test requests do."""
    folder.mkdir(exist_ok=True)
    one, other = arrays(0), arrays(1)
    train = np.concatenate([np.full(plan.rows, plan.split == "train") for plan in PLANS])
    for name, array in other.items():
        array[train] = one[name][train]
        assert not np.array_equal(array, one[name])
    before, after = (learnt(make(given(folder / n, a))) for n, a in (("one", one), ("other", other)))
    assert before == after, "the test requests leak into what is learnt from"


class Learner(LRU):
    """Planted: it keeps what it is shown to learn from, where its parameter wants any."""

    signals = frozenset(Signal)

    def __init__(self, setup: Setup, wants: bool) -> None:
        super().__init__(setup)
        self.wants, self.shown = wants, list[History]()

    def wants_history(self) -> bool:
        return self.wants

    def fit(self, history: History) -> None:
        self.shown.append(history)


def shown(trace: Trace, wants: bool) -> list[History]:
    """What a policy of a cell is shown."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("policies.registry.build", lambda name, setup, given: Learner(setup, wants))
        policy: Any = make_policy(make_cell(config(trace, 1000)))
    return policy.shown  # type: ignore[no-any-return]


def test_the_test_requests_change_nothing_that_is_learnt(tmp_path: Path) -> None:
    assert_learns_from_train_requests_alone(history, tmp_path / "alone")
    assert_learns_from_train_requests_alone(lambda trace: shown(trace, True)[0], tmp_path / "cell")


def test_a_parameter_may_decide_who_learns(trace: Trace) -> None:
    assert (len(shown(trace, True)), shown(trace, False)) == (1, [])


class LeakySteps(TrainRequests):
    """Planted: the last row of a prefill is one too far."""

    def _reader(self, name: str, first: int, rows: int) -> Callable[[], Any]:
        return super()._reader(name, first, rows + 1)


def test_a_leak_is_caught(tmp_path: Path) -> None:
    def leaky(trace: Trace) -> History:
        found = history(trace)
        found._requests = (0, 1, 2)  # a test request among the train requests
        return found

    for planted in (leaky, lambda trace: LeakySteps(trace, TRAIN, set(Signal))):
        with pytest.raises(AssertionError, match="leak"):
            assert_learns_from_train_requests_alone(planted, tmp_path / str(len(list(tmp_path.iterdir()))))


@pytest.mark.parametrize("requests", [[1], [0, 1, 2], [2, 3]])
def test_requests_that_are_not_for_training_are_refused(trace: Trace, requests: list[int]) -> None:
    with pytest.raises(RuntimeError, match="split is not train"):
        TrainRequests(trace, requests, set())
