"""Plans for virtual experts: how many per layer, and how often they are chosen anew."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.api import Setup
from policies.swapmoe.kept_mass import Profile
from policies.swapmoe.virtual_experts import Floats

Plans = NDArray[np.int64]
"""[P, L + 1]: experts per layer, then the index of the frequency."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``frequency``: inputs between two updates; ``experts``: how many are virtual in each layer, [L]."""

    frequency: int
    experts: tuple[int, ...]


def uniform(setup: Setup, room: int, frequency: int) -> Plan:
    """As many experts in each layer, in ``room`` bytes; remainders go to the lowest layers."""
    shares = zip(setup.layer_budgets(room), setup.expert_bytes, strict=True)
    return Plan(frequency, tuple(share // size for share, size in shares))


def frequencies(inputs: int) -> list[int]:
    """What a planner may choose from: 1, 2, 4, ... and the number of inputs, by which nothing changes."""
    return sorted({1 << i for i in range(max(1, inputs).bit_length())} | {max(1, inputs)})


def swaps_per_pass(setup: Setup) -> int:
    """Experts that the link copies while one token's experts compute, all layers; at least 1."""
    costs, layers = setup.costs, range(setup.n_layers)
    compute = setup.top_k * sum(costs.expert_ns(layer, 1) + costs.launch_ns for layer in layers)
    copies = sum(sum(setup.chunk_ns(layer)) for layer in layers)
    return max(1, compute * setup.n_layers // copies) if copies else setup.n_layers * setup.n_experts


class Genetic:
    """SwapMoE's search (arXiv 2308.15030, planner) over plans that fit in ``room`` bytes and have ``least`` per layer.

    A child exchanges genes between two parents, averages them, or redraws one gene of one; then experts are dropped or
    added at random until the plan fits and fills the room. The better half lives on, so the best is never lost; the
    herd begins with the uniform plan at every frequency. Latency suffers once the swaps of an update take longer than
    the compute of the inputs up to the next: the share by which they do, times ``latency_weight``, is taken from the
    share of gate mass kept. O(generations x population x L), in numpy.
    """

    def __init__(self, setup: Setup, profile: Profile, room: int, least: int, latency_weight: float) -> None:
        self.profile, self.room, self.least, self.weight = profile, room, least, latency_weight
        self.setup, self.most = setup, setup.n_experts
        self.sizes = np.array(setup.expert_bytes, np.int64)
        self.rng = np.random.default_rng(setup.seed)

    def search(self, population: int, generations: int) -> Plan:
        """The best plan found."""
        shape, choices = self.sizes.shape[0], len(self.profile.frequencies)
        plain = uniform(self.setup, self.room, 1).experts
        herd = np.array([(*plain, f) for f in range(choices)], np.int64)
        extra = max(0, population - choices)
        strangers = np.empty((extra, shape + 1), np.int64)
        strangers[:, :shape] = self.rng.integers(self.least, self.most, (extra, shape), endpoint=True)
        strangers[:, shape] = self.rng.integers(0, choices, extra)
        herd = np.concatenate([herd, self._fit(strangers)])
        scores = self.scores(herd)
        for _ in range(generations):
            order = np.argsort(-scores, kind="stable")[: max(1, population // 2)]
            children = self._children(herd[order], population - len(order))
            herd, scores = (
                np.concatenate([herd[order], children]),
                np.concatenate([scores[order], self.scores(children)]),
            )
        best = herd[int(np.argmax(scores))].tolist()
        return Plan(self.profile.frequencies[best[-1]], tuple(best[:-1]))

    def score(self, plan: Plan) -> float:
        """Of one plan, as :meth:`scores`."""
        genes = [*plan.experts, self.profile.frequencies.index(plan.frequency)]
        return float(self.scores(np.array([genes], np.int64))[0])

    def scores(self, herd: Plans) -> Floats:
        """Accuracy less what latency suffers, [P]."""
        layers, experts, chosen = np.arange(len(self.sizes)), herd[:, :-1], herd[:, -1]
        at = chosen[:, None], layers, experts
        window_ns = np.array(self.profile.frequencies)[chosen] * max(1.0, self.profile.input_ns)
        late = np.maximum(0.0, self.profile.swap_ns[at].sum(1) / window_ns - 1)
        return np.asarray(self.profile.kept[at].sum(1) - self.weight * late)

    def _children(self, parents: Plans, n: int) -> Plans:
        rng, genes = self.rng, parents.shape[1]
        mother, father = (parents[rng.integers(0, len(parents), n)] for _ in range(2))
        exchanged = np.where(rng.random((n, genes)) < 0.5, mother, father)
        averaged = (mother + father + rng.integers(0, 2, (n, 1))) // 2
        mutated = mother.copy()
        gene = rng.integers(0, genes, n)
        low = np.where(gene == genes - 1, 0, self.least)
        high = np.where(gene == genes - 1, len(self.profile.frequencies), self.most + 1)
        mutated[np.arange(n), gene] = rng.integers(low, high)
        how = rng.integers(0, 3, (n, 1))
        return self._fit(np.where(how == 0, exchanged, np.where(how == 1, averaged, mutated)))

    def _fit(self, herd: Plans) -> Plans:
        """Drop experts of random layers until each plan fits, then add some until nothing more does."""
        experts = herd[:, :-1]
        while True:
            left = self.room - (experts * self.sizes).sum(1)
            over = left < 0
            able = np.where(
                over[:, None], experts - self.least, np.minimum(self.most - experts, left[:, None] // self.sizes)
            )
            rows = np.nonzero((able > 0).any(1))[0]
            if not len(rows):
                return herd
            layer = np.argmax(np.where(able > 0, self.rng.random(able.shape), -1.0), axis=1)[rows]
            need = np.where(over[rows], -(left[rows] // self.sizes[layer]), self.most)
            amount = self.rng.integers(1, np.minimum(able[rows, layer], need), endpoint=True)
            experts[rows, layer] += np.where(over[rows], -amount, amount)
