"""Importance by token, the score of the cache, and its weights: each against a plain computation."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policies.hobbit.fit import grid, tuned
from policies.hobbit.precision import HIGH, LOW, SKIP, Thresholds, least_by_expert, of_one_token, unimportance
from policies.hobbit.uses import Uses, last_rows, read_weights
from sim.check.synthetic import Recorded, draw, setup_of
from traces.kit.errors import UserError


def test_an_expert_is_as_unimportant_as_the_weight_ranked_before_it() -> None:
    weights = np.array([[0.5, 0.3, 0.2], [0.6, 0.2, 0.0]], np.float16)
    ids = np.array([[4, 1, 2], [1, 0, 255]], np.uint8)
    found = unimportance(weights, ids < 8)
    assert found == pytest.approx(np.array([[0, 0.5, 0.8], [0, 0.75, 1]]), abs=1e-3)
    assert of_one_token(weights[0].tolist()) == pytest.approx(found[0], abs=1e-9)
    least = least_by_expert(ids, found, 8)
    assert least[[4, 1, 2, 0]] == pytest.approx([0, 0, 0.8, 0.75], abs=1e-3)  # 1 is the first of one of both tokens
    assert np.isinf(least[[3, 5, 6, 7]]).all()


def test_thresholds_are_for_what_is_missing_and_include_their_ends() -> None:
    both, single = Thresholds.read("0.6/0.9", lower=True), Thresholds.read("0.6/0.9", lower=False)
    scores = (0.0, 0.6, 0.61, 0.9, 0.91)
    assert [both.missing(s) for s in scores] == [HIGH, HIGH, LOW, LOW, SKIP]
    assert [single.missing(s) for s in scores] == [HIGH, HIGH, HIGH, HIGH, SKIP]
    assert {Thresholds.read("1/1", lower=True).missing(s) for s in scores} == {HIGH}


def test_the_score_is_that_of_the_paper() -> None:
    """Equation 3, written out: R, F, H by the tokens of the sequence, and the layers that are still to come."""
    layers, n, rng = 3, 4, np.random.default_rng(5)
    uses, weights = Uses(layers, n), (0.4, 0.3, 0.2, 0.1)
    last, often, precise, token = (
        dict.fromkeys(range(12), 0),
        dict.fromkeys(range(12), 0),
        dict.fromkeys(range(12), 0),
        0,
    )
    for rows in (3, 1, 1, 2):
        for layer in range(layers):
            chosen = rng.integers(0, n, (rows, 2))
            seen = last_rows(chosen, n)
            experts = [layer * n + x for x in range(n) if seen[x]]
            tokens = [int((chosen == x % n).sum()) for x in experts]
            high = [bool(x % 3) for x in experts]
            uses.note(experts, [int(seen[x % n]) for x in experts], tokens, high)
            for x, count, is_high in zip(experts, tokens, high, strict=True):
                last[x] = token + max(row for row in range(rows) if x % n in chosen[row]) + 1
                often[x] += count
                precise[x] += count * is_high
            total = token + rows
            expected = [
                0.4 * last[x] / total
                + 0.3 * often[x] / total
                + 0.2 * precise[x] / total
                + 0.1 * (1 - (x // n - layer + layers) % layers / layers)
                for x in range(12)
            ]
            assert uses.worth(weights, layer, rows) == pytest.approx(np.array(expected))
        uses.tokens += rows
        token += rows
    uses.begin()
    assert uses.worth((1, 0, 0, 0), 0, 1) == pytest.approx(np.zeros(12))


class Slow:
    """One cache at a time, in plain Python, from the paper: bytes missed with given weights."""

    def __init__(self, setup: Any, weights: tuple[float, ...], pools: list[int], t1: float, t2: float) -> None:
        self.setup, self.weights, self.t1, self.t2 = setup, weights, t1, t2
        self.sizes = [setup.expert_bytes[0], setup.expert_bytes[setup.n_layers]]
        self.slots = [pool // size for pool, size in zip(pools, self.sizes, strict=True)]
        self.cache: list[set[int]] = [set(), set()]
        self.missed = self.token = 0
        self.begin()

    def begin(self) -> None:
        self.uses: dict[int, list[int]] = {x: [0, 0, 0] for x in range(self.setup.n_all)}
        self.token = 0

    def score(self, x: int, layer: int, rows: int) -> float:
        layers, total = self.setup.n_layers, self.token + rows
        terms = [count / total for count in self.uses[x]]
        terms.append(1 - (x // self.setup.n_experts - layer + layers) % layers / layers)
        lru, lfu, lhu, fld = self.weights
        return (lru * terms[0] * total + lfu * terms[1] * total + lhu * terms[2] * total) / total + fld * terms[3]

    def event(self, layer: int, ids: Any, weights: Any) -> None:
        wanted: dict[int, tuple[float, int, int]] = {}
        for row, (chosen, shares) in enumerate(zip(ids.tolist(), weights.tolist(), strict=True), 1):
            for x, before in zip(chosen, of_one_token(shares), strict=True):
                number = layer * self.setup.n_experts + x
                least, count, _ = wanted.get(number, (np.inf, 0, 0))
                wanted[number] = min(least, before), count + 1, row
        used: list[dict[int, bool]] = [{}, {}]
        for x in sorted(wanted):
            least, count, row = wanted[x]
            version = 0 if x in self.cache[0] or least <= self.t1 else 1
            if version and x not in self.cache[1] and least > self.t2:
                continue
            used[version][x] = x in self.cache[version]
            record = self.uses[x]
            self.uses[x] = [self.token + row, record[1] + count, record[2] + count * (not version)]
        for version, experts in enumerate(used):
            for x, there in experts.items():
                if there:
                    continue
                self.missed += self.sizes[version]
                able = sorted(self.cache[version] - experts.keys())
                if len(self.cache[version]) >= self.slots[version] and able:
                    self.cache[version].remove(min(able, key=lambda y: self.score(y, layer, len(ids))))
                if len(self.cache[version]) < self.slots[version]:
                    self.cache[version].add(x)


def test_the_weights_are_those_with_which_the_fewest_bytes_are_missed() -> None:
    setup = setup_of(draw(3, n_layers=3, n_experts=6, k=3), 10**4, size=12).with_versions(["int4"])
    history, pools = Recorded(draw(7, n_layers=3, n_experts=6, k=3, decode=12, prompts=3)), [12 * 7, 4 * 3]
    routing = history.routing.signals
    routing["expert_weights"] = -np.sort(-routing["expert_weights"], axis=-1)
    missed = []
    for weights in grid():
        slow = Slow(setup, weights, pools, 0.5, 0.8)
        for step in history.steps():
            if step.prefill:
                slow.begin()
            for layer in range(3):
                slow.event(layer, step.expert_ids()[:, layer], step.expert_weights()[:, layer])
            slow.token += step.rows
        missed.append(slow.missed)
    assert len(set(missed)) > 5
    assert tuned(history, setup, Thresholds(0.5, 0.8, lower=True), pools) == grid()[missed.index(min(missed))]


def test_only_the_first_passes_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.hobbit.fit.PASSES", 2)

    class Counted(Recorded):
        def steps(self) -> Iterator[Any]:
            for step, rows in zip(super().steps(), ("prompt", "token"), strict=False):
                yield SimpleNamespace(request=0, rows=step.rows, expert_ids=step.expert_ids, about=rows)
            raise AssertionError("more was read")

    setup = setup_of(draw(0), 100)
    assert len(tuned(Counted(draw(1, prompts=1)), setup, None, [100])) == 4


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("0.5/0.5", "not four shares from 0 to 1"),
        ("0.5/0.5/0.5/-0.5", "not four shares from 0 to 1"),
        ("0.5/0.2/0.2/0.2", "they sum to 1.1"),
        ("best", "no numbers"),
        ("nan/0/0/1", "not four shares from 0 to 1"),
    ],
)
def test_weights_that_mean_nothing(given: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"^policy\.weights={given}: {why}; allowed: tuned, or four shares of lru/"):
        read_weights(given)


@pytest.mark.parametrize(
    ("given", "why"),
    [("0.9/0.6", "out of order"), ("0.6", "not two numbers"), ("0.6/1.9", "out of range"), ("a/b", "not two numbers")],
)
def test_thresholds_that_mean_nothing(given: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"^policy\.thresholds={given}: {why}; allowed: two shares T1/T2 "):
        Thresholds.read(given, lower=True)
