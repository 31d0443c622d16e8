"""Plans for virtual experts, and what each would have meant on the train requests: gate mass kept, experts changed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policies.api import Costs, History, Learned, PastStep, Setup, Shapes
from policies.swapmoe.virtual_experts import Floats, Ids, importance, ranked, token_norms

Unit = Literal["request", "pass"]
Ranking = NDArray[np.int64]
Plans = NDArray[np.int64]  # [P, L + 1]: experts per layer, then the index of the frequency


class TrainInputs:
    """The train requests as a sequence of inputs: requests, or forward passes. Reads them once, and per replay again.

    ``hidden``: token norms from the hidden states; otherwise 1.
    """

    def __init__(self, history: History, shapes: Shapes | Setup, unit: Unit, *, hidden: bool) -> None:
        self.history, self.unit, self.hidden = history, unit, hidden
        self.n_layers, self.n_experts = shapes.n_layers, shapes.n_experts
        self.count = sum(begins for _, begins in self._steps())
        self.half = (self.count + 1) // 2
        self.importance = np.zeros((2, self.n_layers, self.n_experts))
        """Sums over the first and the second half of the inputs, [2, L, E]."""
        self.work: Counter[tuple[int, int]] = Counter()
        """(layer, tokens) -> experts computed."""
        number = -1
        for step, begins in self._steps():
            number += begins
            ids = step.expert_ids()
            self.importance[int(number >= self.half)] += self._weigh(step, ids)[0]
            tokens = importance(ids, np.ones(ids.shape), None, self.n_experts).astype(np.int64)
            layers, _ = np.nonzero(tokens)
            self.work.update(zip(layers.tolist(), tokens[tokens > 0].tolist(), strict=True))

    def unknown(self) -> Ranking:
        """That of one who knows nothing."""
        return np.tile(np.arange(self.n_experts), (self.n_layers, 1))

    def firsts(self) -> list[Ranking]:
        """For each half, the ranking by the other half's importance: no set is judged on what it was chosen from."""
        return [ranked(self.unknown(), self.importance[1 - half]) for half in (0, 1)]

    def served(self, half: int) -> Iterator[tuple[Floats, Floats]]:
        """Importance and gate mass of every expert, [L, E] each, per input of one half, in order."""
        number, sums = -1, None
        for step, begins in self._steps():
            number += begins
            if (number >= self.half) != half:
                continue
            weight, mass = self._weigh(step, step.expert_ids())
            if begins and sums is not None:
                yield sums
            sums = (weight, mass) if begins or sums is None else (sums[0] + weight, sums[1] + mass)
        if sums is not None:
            yield sums

    def _steps(self) -> Iterator[tuple[PastStep, bool]]:
        last = None
        for step in self.history.steps():
            yield step, self.unit == "pass" or step.request != last
            last = step.request

    def _weigh(self, step: PastStep, ids: Ids) -> tuple[Floats, Floats]:
        weights = step.expert_weights()
        mass = importance(ids, weights, None, self.n_experts)
        if not self.hidden:
            return mass, mass
        return importance(ids, weights, token_norms(step.hidden()), self.n_experts), mass


class Replay:
    """Virtual experts of all sizes at once, chosen anew every ``frequency`` inputs, swapped on the spot.

    By the tie rule of :func:`ranked` the best n are the first n of one ranking, whatever n, and layers do not touch
    each other: one replay holds every plan of this frequency.
    """

    def __init__(self, frequency: int, n_layers: int, n_experts: int) -> None:
        self.frequency, self.updates = frequency, 0
        self.gains = np.zeros((n_layers, n_experts))  # gate mass of the expert in each place of the ranking
        self.entered = np.zeros((n_layers, n_experts + 1))
        """Experts that an update brought into the best n, as differences along n."""

    def begin(self, ranking: Ranking) -> None:
        """Inputs follow that were preceded by none."""
        self.ranking, self.inputs = ranking, 0
        self.window = np.zeros_like(self.gains)

    def serve(self, weight: Floats, mass: Floats) -> None:
        """One input: importance and gate mass of every expert, [L, E]."""
        if self.inputs == self.frequency:
            self._update()
        self.gains += np.take_along_axis(mass, self.ranking, 1)
        self.window += weight
        self.inputs += 1

    def _update(self) -> None:
        new = ranked(self.ranking, self.window)
        before, after = np.argsort(self.ranking, axis=1), np.argsort(new, axis=1)
        risers = np.nonzero(after < before)  # into the sets of after + 1 to before
        np.add.at(self.entered, (risers[0], after[risers] + 1), 1)
        np.add.at(self.entered, (risers[0], before[risers] + 1), -1)
        self.updates += 1
        self.begin(new)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the train inputs say of all plans, whatever the experts' sizes, the prices and the budget."""

    count: int
    """Inputs."""
    work: NDArray[np.int64]
    """[n, 3]: layer, tokens of an expert, and how many experts had so many."""
    frequencies: NDArray[np.int64]
    gains: Floats
    """Of :class:`Replay`, [F, L, E]."""
    entered: Floats
    """The same, per update, [F, L, E + 1]."""

    @classmethod
    def of(cls, train: TrainInputs, frequencies: Sequence[int], firsts: Sequence[Ranking]) -> "Rehearsal":
        """Replay the halves of the train inputs, each from its ranking in ``firsts``. O(F x inputs x L x E log E)."""
        replays = [Replay(f, train.n_layers, train.n_experts) for f in frequencies]
        for half, first in enumerate(firsts):
            for replay in replays:
                replay.begin(first)
            for weight, mass in train.served(half):
                for replay in replays:
                    replay.serve(weight, mass)
        work = np.array([(*key, n) for key, n in sorted(train.work.items())], np.int64).reshape(-1, 3)
        gains = np.stack([r.gains for r in replays])
        entered = np.stack([r.entered.cumsum(1) / max(1, r.updates) for r in replays])
        return cls(train.count, work, np.array(frequencies, np.int64), gains, entered)

    def kept(self) -> Learned:
        arrays = {name: getattr(self, name) for name in ("work", "frequencies", "gains", "entered")}
        return Learned(arrays, {"count": self.count})

    @classmethod
    def recalled(cls, learned: Learned) -> "Rehearsal":
        arrays: dict[str, NDArray[Any]] = dict(learned.arrays)
        found = (arrays[name] for name in ("work", "frequencies", "gains", "entered"))
        return cls(int(learned.facts["count"]), *found)

    def input_ns(self, costs: Costs) -> float:
        """Compute time of the gate's own experts, per input."""
        total: int = sum(
            n * (costs.expert_ns(layer, tokens) + costs.launch_ns) for layer, tokens, n in self.work.tolist()
        )
        return total / max(1, self.count)


@dataclass(frozen=True, slots=True)
class Profile:
    """What each plan would have meant: sums over layers of what a layer's number of experts gives.

    Accuracy is the share of gate mass kept; with 0 to E experts in a layer, [F, L, E + 1]. For sets that do not change
    this is exact, so that there is nothing for the paper's network (2 layers, trained on random plans) to learn.
    """

    frequencies: tuple[int, ...]
    kept: Floats
    swap_ns: Floats  # link time of the swaps of one update, [F, L, E + 1]
    input_ns: float


def profile(found: Rehearsal, setup: Setup) -> Profile:
    """The same at the prices of a machine."""
    gains = found.gains
    zero = np.zeros((len(gains), setup.n_layers, 1))
    kept = np.concatenate([zero, gains.cumsum(2)], axis=2) / gains[0].sum()
    copies = np.array([sum(setup.chunk_ns(layer)) for layer in range(setup.n_layers)], np.float64)
    swap_ns = found.entered * copies[:, None]
    return Profile(tuple(found.frequencies.tolist()), kept, swap_ns, found.input_ns(setup.costs))


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
            herd = np.concatenate([herd[order], children])
            scores = np.concatenate([scores[order], self.scores(children)])
        best = herd[int(np.argmax(scores))].tolist()
        return Plan(self.profile.frequencies[best[-1]], tuple(best[:-1]))

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
