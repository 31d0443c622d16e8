"""The four weights of the cache's score, tuned on train requests: the least penalty of misses in a clockless cache."""

from collections.abc import Iterator
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from policies.api import History, PastStep, Setup
from policies.hobbit.precision import Thresholds, least_by_expert, unimportance
from policies.hobbit.uses import TERMS, distances, last_rows

PASSES = 128
"""Of the train requests, so many are replayed: some seconds of a large model's."""
STEPS = 4
"""Weights are whole multiples of 1 / STEPS."""
Event = tuple[list[int], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Experts that a layer demands, and of each its unimportance, its tokens, and the last row that chose it."""


def grid() -> list[tuple[float, ...]]:
    """All weights that are tried; equals prefer the first, which goes by the last use most."""
    parts = [it for it in product(range(STEPS, -1, -1), repeat=len(TERMS)) if sum(it) == STEPS]
    return [tuple(part / STEPS for part in it) for it in parts]


def tuned(history: History, setup: Setup, thresholds: Thresholds | None, pools: list[int]) -> tuple[float, ...]:
    """The weights of :func:`grid` with which the first PASSES of the train requests miss the fewest bytes.

    A miss costs the bytes of the version that is loaded. ``pools``: bytes of each version's. ``thresholds``: None where
    all is loaded in the model's own precision.
    """
    tried = grid()
    replay = Replay(setup, np.array(tried), pools, thresholds)
    request = None
    for step in islice(history.steps(), PASSES):
        if step.request != request:
            request = step.request
            replay.begin()
        for layer, event in enumerate(events_of(step, setup.n_experts, weighed=thresholds is not None)):
            replay.event(layer, step.rows, event)
        replay.tokens += step.rows
    return tried[int(replay.penalty.argmin())]


def events_of(step: PastStep, n_experts: int, *, weighed: bool) -> Iterator[Event]:
    """The layer events of a pass, [m] each; not ``weighed``: nothing is unimportant."""
    ids = step.expert_ids()
    scores = unimportance(step.expert_weights(), ids < n_experts) if weighed else np.zeros(ids.shape)
    for layer in range(ids.shape[1]):
        chosen = ids[:, layer]
        tokens = np.bincount(np.minimum(chosen, n_experts).ravel(), minlength=n_experts + 1)[:n_experts]
        experts = np.flatnonzero(tokens)
        least = least_by_expert(chosen, scores[:, layer], n_experts)[experts]
        yield (
            experts.tolist(),
            least,
            tokens[experts].astype(float),
            last_rows(chosen, n_experts)[experts].astype(float),
        )


class Replay:
    """One cache for each of C weights [C, 4], all fed with the same events. Arrays are [C, V, L x E] or [C, L x E]."""

    def __init__(
        self, setup: Setup, weights: NDArray[np.float64], pools: list[int], thresholds: Thresholds | None
    ) -> None:
        tried, n, versions = len(weights), setup.n_all, len(pools)
        self.weights, self.thresholds, self.n_experts = weights, thresholds, setup.n_experts
        self.near = distances(setup.n_layers, setup.n_experts)
        self.bytes = np.array(setup.expert_bytes).reshape(-1, setup.n_layers)[:versions]  # [V, L]
        self.slots = [pool // int(size) for pool, size in zip(pools, self.bytes.max(1), strict=True)]
        self.there = np.zeros((tried, versions, n), np.bool_)
        self.last, self.often, self.precise = (np.zeros((tried, n)) for _ in range(3))
        self.penalty = np.zeros(tried, np.int64)
        self.tokens = 0

    def begin(self) -> None:
        """Another sequence."""
        for counts in (self.last, self.often, self.precise):
            counts[:] = 0
        self.tokens = 0

    def event(self, layer: int, rows: int, event: Event) -> None:
        """A layer of a pass of so many rows: judge, charge, note, admit."""
        own, unimportant, tokens, last = event
        if not own:
            return
        experts = [layer * self.n_experts + x for x in own]
        wanted = self._wanted(experts, unimportant)
        used = wanted[0] if len(wanted) == 1 else wanted[0] | wanted[1]
        self.last[:, experts] = np.where(used, self.tokens + last, self.last[:, experts])
        self.often[:, experts] += tokens * used
        self.precise[:, experts] += tokens * wanted[0]
        worth = None
        for version, chosen in enumerate(wanted):
            missed = chosen & ~self.there[:, version, experts]
            self.penalty += missed.sum(1) * self.bytes[version, layer]
            if missed.any():
                worth = self._worth(layer, rows) if worth is None else worth
                self._admit(version, experts, chosen, missed, worth)

    def _wanted(self, experts: list[int], unimportant: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
        """Which of the experts are computed in each version, [V] of [C, m]."""
        high = self.there[:, 0, experts]
        if self.thresholds is None:
            return [np.ones_like(high)]
        t1, t2 = self.thresholds.t1, self.thresholds.t2
        if not self.thresholds.lower:
            return [high | (unimportant <= t2)]
        high = high | (unimportant <= t1)
        return [high, ~high & (self.there[:, 1, experts] | (unimportant <= t2))]

    def _worth(self, layer: int, rows: int) -> NDArray[np.float64]:
        lru, lfu, lhu, fld = self.weights.T[:, :, None]
        used = (lru * self.last + lfu * self.often + lhu * self.precise) / (self.tokens + rows)
        return np.asarray(used + fld * np.roll(self.near, layer * self.n_experts))

    def _admit(
        self,
        version: int,
        experts: list[int],
        chosen: NDArray[np.bool_],
        missed: NDArray[np.bool_],
        worth: NDArray[np.float64],
    ) -> None:
        """Let what was missed in, each for the one of the least worth that the event does not use."""
        there = self.there[:, version]
        able = np.where(there, worth, np.inf)
        able[:, experts] = np.where(chosen, np.inf, able[:, experts])
        held = there.sum(1)
        for place, expert in enumerate(experts):
            who = np.flatnonzero(missed[:, place])
            full = who[held[who] >= self.slots[version]]
            if len(full):
                victims = able[full].argmin(1)
                goes = np.isfinite(able[full, victims])
                there[full[goes], victims[goes]] = False
                able[full[goes], victims[goes]] = np.inf
                held[full[goes]] -= 1
                who = who[held[who] < self.slots[version]]  # else it passes through
            there[who, expert] = True
            held[who] += 1
