"""What layers to come in this pass will choose, how often that has come true, and what of it is worth a load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policies.api import Setup
from policies.parts.lanes import alone_ns

PRIOR = 8.0
"""Names that are taken to have come true half of the time, before any has been seen."""
FORGET = 0.998
"""Of what was seen, at each name of the same distance and rank: other texts, other odds."""


@dataclass(slots=True)
class Named:
    """An expert that was absent when it was named for a layer to come."""

    expert: int
    distance: int
    rank: int
    issued: bool


class Odds:
    """How often the name of a rank, at a distance, came true where its expert was absent: what was seen, nothing else.

    Experts that are there are left out, as they are chosen more often. All that is named counts, loaded or not, so that
    odds which forbid a load still recover.
    """

    def __init__(self, distances: int, ranks: int) -> None:
        self.true = [[PRIOR / 2] * ranks for _ in range(distances)]
        self.all = [[PRIOR] * ranks for _ in range(distances)]

    def of(self, distance: int, rank: int) -> float:
        """The share, ``distance`` from 1 on, ``rank`` from 0 on."""
        return self.true[distance - 1][rank] / self.all[distance - 1][rank]

    def saw(self, name: Named, chosen: bool) -> None:
        """Whether a name came true."""
        true, every = self.true[name.distance - 1], self.all[name.distance - 1]
        true[name.rank] = FORGET * true[name.rank] + chosen
        every[name.rank] = FORGET * every[name.rank] + 1


SEEN = 0.98
"""Per decode event, of how often something was missing."""


class Gain:
    """What a load ahead gains and costs in time, at the machine's prices.

    One that comes true is ahead of its demand by what the layer under way computes when its own copies are there, at
    most its own copy: that it gains. One that does not holds up what is missing then, if anything is, for the rest of
    its copy, which cannot be interrupted; and it has pushed out an expert, whose use costs a copy.
    """

    def __init__(self, setup: Setup) -> None:
        layers, costs = range(setup.n_layers), setup.costs
        self.copy_ns = [alone_ns(setup, layer) for layer in layers]
        self.expert_ns = [costs.expert_ns(layer, 1) + costs.launch_ns for layer in layers]
        self.top_k, self.missing = setup.top_k, True
        self.busy = 1.0
        """The share of decode events in which something is missing."""

    def saw(self, missing: bool) -> None:
        """An event, and whether anything was missing."""
        self.missing = missing
        self.busy = SEEN * self.busy + (1 - SEEN) * missing

    def pays(self, layer: int, distance: int, odds: float, victim: float) -> bool:
        """Whether a name of ``layer``, so many layers ahead, is worth its load, for a victim that is worth so much."""
        copy, busy = self.copy_ns[layer], self.missing + (distance - 1) * self.busy  # layers that wait for their last
        hidden = min(copy, self.expert_ns[layer] * (busy + (distance - busy) * self.top_k))
        return odds * hidden >= (1 - odds) * (self.busy * (copy - hidden) + victim * copy)


class Ahead:
    """Names by layer, until its gate has run."""

    def __init__(self, n_layers: int, distances: int, ranks: int) -> None:
        self.odds = Odds(distances, ranks)
        self.named: list[list[Named]] = [[] for _ in range(n_layers)]

    def settle(self, layer: int, demand: Sequence[int]) -> list[int]:
        """The gate of ``layer`` has run: what had been asked for in vain."""
        names, self.named[layer] = self.named[layer], []
        chosen = set(demand)
        for name in names:
            self.odds.saw(name, name.expert in chosen)
        return [name.expert for name in names if name.issued and name.expert not in chosen]

    def drop(self) -> list[int]:
        """A pass has ended, or is not to be foreseen: what was asked for and had no gate."""
        issued = [name.expert for names in self.named for name in names if name.issued]
        for names in self.named:
            names.clear()
        return issued
