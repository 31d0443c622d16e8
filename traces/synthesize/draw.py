"""Draw the states of one request's tokens from a law, layer by layer. The same seed draws the same request."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.signal import lfilter

from traces.format.layout import Array
from traces.synthesize.law import FACTORS, REQUEST_SCALES, SCALES, Law, chances_of

_PLACES, _TOPIC, _REQUEST, _BESIDE, _DRIFT, _ALONE = range(6)
"""What a stream of random numbers is for."""


class Drawn(NamedTuple):
    """The random numbers of one layer of a request, whatever the law."""

    own: list[Array]
    topic: Array
    noise: Array


class Source:
    """Requests of one model: which expert is which, and what the factors and topics do to it, are drawn once.

    ``memory``: keeps the random numbers of requests, for other laws that are tried with the same seed on the same rows
    and layers: 2 kB for each row and layer of 128 experts.
    """

    def __init__(self, law: Law, seed: int, memory: dict[Any, Any] | None = None) -> None:
        self.law, self._seed, self._memory = law, seed, memory
        layers, experts = law.means.shape
        random = self._random(_PLACES)
        self._means = np.stack([row[random.permutation(experts)] for row in law.means])
        # The first factors matter most, as the first principal components of recorded routing do.
        loads = random.standard_normal((layers, experts, FACTORS)) / np.sqrt(np.arange(1, FACTORS + 1))
        self._loads = loads / np.linalg.norm(loads, axis=2, keepdims=True)
        self._drifted: tuple[int, Array] = (-1, np.zeros(0))

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *stream])

    def random_of(self, number: int, purpose: int) -> np.random.Generator:
        """Random numbers for what lies beside the states, a stream for each number and purpose."""
        return self._random(_BESIDE, number, purpose)

    def chances(self, top_k: int) -> Array:
        """How often each expert is chosen, by layer [L, E]."""
        return np.stack([chances_of(row, top_k) for row in self._means])

    def _drift(self, request: int) -> Array:
        """What ``request`` has of those before it: of all layers, then of each, FACTORS factors of variance below 1."""
        if not (drift := self.law.drift).any():
            return np.zeros((1 + len(self._means), FACTORS))
        last, factors = self._drifted if self._drifted[0] <= request else (-1, np.zeros(0))
        left = np.exp(-1 / np.array(REQUEST_SCALES))[:, None, None]
        for number in range(last + 1, request + 1):
            pushes = self._random(_DRIFT, number).standard_normal((len(REQUEST_SCALES), 1 + len(self._means), FACTORS))
            factors = left * factors + np.sqrt(1 - left**2) * pushes if number else pushes
        self._drifted = request, factors
        found: Array = np.tensordot(np.sqrt(drift), factors, 1)
        return found

    def states(self, request: int, rows: int, topic: int, layers: Iterable[int] | None = None) -> Iterator[Array]:
        """Yield the state of each layer [rows, E] of a request that is about ``topic``; or of some ``layers``."""
        chosen = [*(range(len(self._means)) if layers is None else layers)]
        drawn = self._drawn(request, rows, topic, len(chosen))
        common, common_topic, _ = next(drawn)
        drift, new_here = self._drift(request), np.sqrt(1 - self.law.drift.sum())
        for layer, (own, own_topic, alone) in zip(chosen, drawn, strict=True):
            means = self._means[layer]
            parts, kin = self.law.parts[layer], self.law.topic[layer]
            new = max(0.0, 1 - parts.sum())
            whole = np.sqrt(kin) * self._mixed(common_topic, own_topic)
            beside = new_here * self._mixed(common[-1], own[-1]) + self._mixed(drift[0], drift[1 + layer])
            whole = whole + np.sqrt(1 - kin) * beside
            factors = np.repeat(np.sqrt(parts[-1]) * whole, rows, axis=0)
            for variance, one, other in zip(parts, common[1:-1], own[1:-1], strict=False):
                if variance:
                    factors = factors + np.sqrt(variance) * self._mixed(one, other)
            # In place: means + lasting + sqrt(new) (sqrt(shared) sudden + sqrt(1 - shared) noise).
            state, sudden = factors @ self._loads[layer].T, common[0] @ self._loads[layer].T
            sudden *= np.sqrt(self.law.shared)
            sudden += np.sqrt(1 - self.law.shared) * alone
            sudden *= np.sqrt(new)
            state += means
            state += sudden
            yield state

    def _drawn(self, request: int, rows: int, topic: int, layers: int) -> Iterator[Drawn]:
        """What all layers of a request have in common, then what each of so many has alone."""
        if self._memory is None:
            return self._draw(request, rows, topic, layers)
        key = request, rows, topic, layers
        if key not in self._memory:
            self._memory[key] = [*self._draw(request, rows, topic, layers)]
        return iter(self._memory[key])

    def _draw(self, request: int, rows: int, topic: int, layers: int) -> Iterator[Drawn]:
        shared, of_topic = self._random(_REQUEST, request), self._random(_TOPIC, topic)
        yield Drawn(_parts(shared, rows), of_topic.standard_normal(FACTORS), np.zeros(0))
        for _ in range(layers):
            own, own_topic = _parts(shared, rows), of_topic.standard_normal(FACTORS)
            yield Drawn(own, own_topic, shared.standard_normal((rows, self._means.shape[1])))

    def alone(self, layer: int, count: int) -> Array:
        """States of a layer [count, E]: a token each of so many requests that have nothing to do with one another."""
        random, parts = self._random(_ALONE, layer), self.law.parts[layer]
        new = max(0.0, 1 - parts.sum())
        factors = np.sqrt(parts.sum() + new * self.law.shared) * random.standard_normal((count, FACTORS))
        noise = random.standard_normal((count, self._means.shape[1]))
        noise *= np.sqrt(new * (1 - self.law.shared))
        states: Array = factors @ self._loads[layer].T
        states += self._means[layer]
        states += noise
        return states

    def _mixed(self, common: Array, own: Array) -> Array:
        both: Array = np.sqrt(self.law.shared) * common + np.sqrt(1 - self.law.shared) * own
        return both


def _parts(random: np.random.Generator, rows: int) -> list[Array]:
    """Of FACTORS factors, all of variance 1: what is new at each token, what fades by scale, what stays [1]."""
    new = random.standard_normal((rows, FACTORS))
    fading = []
    for scale in SCALES:
        kept = np.exp(-1 / scale)
        pushes = random.standard_normal((rows, FACTORS))
        pushes[1:] *= np.sqrt(1 - kept**2)
        fading.append(lfilter([1.0], [1.0, -kept], pushes, axis=0))
    return [new, *fading, random.standard_normal((1, FACTORS))]


def largest(states: Array, top_k: int) -> Array:
    """The K largest entries of each row, the largest first: int64 [rows, K]."""
    found = np.argpartition(-states, top_k - 1, axis=-1)[:, :top_k]
    order = np.argsort(-np.take_along_axis(states, found, -1), axis=-1, kind="stable")
    return np.take_along_axis(found, order, -1)
