"""Each eviction of a run beside the one that Belady's rule would have made of the same state.

Belady's choice is, of all that could go at that moment, the expert whose next demand is the farthest away (L. Belady,
IBM Systems Journal 5(2), 1966). The *regret* of an eviction is how many layer events sooner its victim is demanded
again. An expert that is never demanded again is as good a victim as any.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from policies.bounds.future import Future
from sim.core.accounts import PHASES
from sim.core.core import Core

AGES = (0, 1, 2, 4, 8, 16, 32)
"""Bounds of what is counted together: passes since the victim's last demand, from each up to the next."""
NEVER = "never"
"""Of a victim that nobody has demanded: its prefetch was useless."""


@dataclass(slots=True)
class Tally:
    """Evictions of one kind."""

    evictions: int = 0
    worse: int = 0
    """Of these, whose victim comes back before Belady's would."""
    regret_events: int = 0
    """Summed: layer events by which they come back sooner."""

    def add(self, regret: int) -> None:
        self.evictions += 1
        self.worse += regret > 0
        self.regret_events += regret

    def plain(self) -> dict[str, int]:
        return {"evictions": self.evictions, "worse": self.worse, "regret_events": self.regret_events}


@dataclass(slots=True)
class Evictions:
    """Of a measured window."""

    n_layers: int
    whole: Tally = field(default_factory=Tally)
    by_phase: list[Tally] = field(init=False)
    """Of the pass that evicted."""
    by_layer: list[Tally] = field(init=False)
    """Of the victim."""
    by_age: dict[str, Tally] = field(init=False)
    """By :data:`AGES` of the victim."""

    def __post_init__(self) -> None:
        self.by_phase = [Tally() for _ in PHASES]
        self.by_layer = [Tally() for _ in range(self.n_layers)]
        self.by_age = {name: Tally() for name in (*map(_named, range(len(AGES))), NEVER)}

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            **self.whole.plain(),
            "by_phase": {phase: it.plain() for phase, it in zip(PHASES, self.by_phase, strict=True)},
            "by_layer": [it.plain() for it in self.by_layer],
            "by_age": {name: it.plain() for name, it in self.by_age.items()},
        }


def _named(place: int) -> str:
    """``0``, ``2-3``, ``32+`` passes."""
    last = None if place + 1 == len(AGES) else AGES[place + 1] - 1
    return f"{AGES[place]}+" if last is None else str(last) if last == AGES[place] else f"{AGES[place]}-{last}"


class Watch:
    """Listens to a core from before its first fact; ``future``: the demand of its whole run, warm-up included.

    O(experts) in numpy per eviction. Of one GPU, whose experts have one version.
    """

    def __init__(self, core: Core, future: Future) -> None:
        self.core, self.state = core, core.state
        self.found = Evictions(core.setup.n_layers)
        self._next = future.first_use.astype(np.int64)
        self._spans, self._future = pairwise(future.starts.tolist()), future
        self._slot = np.frombuffer(self.state.slot, np.uint8)
        self._pinned = np.frombuffer(self.state.pinned, np.uint8)
        self._last = np.full(future.n_all, -1, np.int64)
        self._pass = 0
        core.listen("step_begin", self._begins)
        core.listen("gate", self._gate)
        core.listen("evict", self._evicts)
        core.listen("measure_from", self._measured)

    def _begins(self, *_: object) -> None:
        self._pass += 1

    def _gate(self, layer: int, demand: Sequence[int], *_: object) -> None:
        first, last = next(self._spans)
        self._next[self._future.experts[first:last]] = self._future.next_use[first:last]
        self._last[demand] = self._pass

    def _evicts(self, victim: int) -> None:
        use = int(self._next[victim])
        regret = self._farthest() - use
        phase = 0 if self.core.step.prefill else 1
        last = int(self._last[victim])
        age = NEVER if last < 0 else _named(int(np.searchsorted(AGES, self._pass - last, side="right")) - 1)
        for it in (
            self.found.whole,
            self.found.by_phase[phase],
            self.found.by_layer[victim // self.state.n_experts],
            self.found.by_age[age],
        ):
            it.add(regret)

    def _farthest(self) -> int:
        """The next use of Belady's choice."""
        uses = np.where((self._slot == 1) & (self._pinned == 0), self._next, -1)
        given, done = self.state.given, self.state.done
        while given[best := int(uses.argmax())] != done[best]:  # on the link
            uses[best] = -1
        return int(uses[best])

    def _measured(self, *_: object) -> None:
        self.found = Evictions(self.core.setup.n_layers)
