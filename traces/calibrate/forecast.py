"""The whole of ``python -m traces calibrate``: how long it will take, said before it begins and on the way."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from traces.calibrate.copies import ROUNDS, Copies
from traces.calibrate.layers import Grids, Layer
from traces.calibrate.machine import rate_parts, rates
from traces.calibrate.plan import LESS, Cost, Tried, total_s
from traces.calibrate.tables import Rows
from traces.calibrate.timing import Budget, Clock

PROGRESS_S = 10.0
Say = Callable[[str], None]


class Plan:
    """All that is measured. Making one tries the ends of every table, and builds each model once."""

    def __init__(self, clock: Clock, largest: int, models: Sequence[str], dtype: str, grids: Grids) -> None:
        begun = time.monotonic()
        self._clock, self._largest, self._models, self._dtype, self._grids = clock, largest, models, dtype, grids
        self._copies = Copies(clock, largest)
        self._rates = [Tried(part) for part in rate_parts(clock, largest)]
        self._curves = [Tried(part) for part in self._copies.parts]
        self._layers: dict[str, Layer] = {}
        self._tables: list[tuple[float, list[Tried]]] = []
        """By model: seconds to build it again, and its parts."""
        for name in models:
            begin = time.monotonic()
            layer = Layer(name, clock, dtype, grids)
            built_s = time.monotonic() - begin
            if len(models) == 1:  # several may not have room side by side
                self._layers[name], built_s = layer, 0.0
            self._tables.append((built_s, layer.tried()))
        self.tried_s = time.monotonic() - begun

    def costs(self, *, shorter: bool = False) -> list[Cost]:
        """What each point costs, in the order of :meth:`measure`; ``shorter``: with the words of :meth:`less`."""
        found = [cost for tried in self._rates for cost in tried.costs(shorter)]
        once = [cost for tried in self._curves for cost in tried.costs(shorter)]
        found += once + (ROUNDS - 1) * [Cost(0, cost.warm_s, cost.sample_s, cost.at_least) for cost in once]
        for built_s, tables in self._tables:
            found.append(Cost(built_s, 0, 0, 0))
            found += [cost for tried in tables for cost in tried.costs(shorter)]
        return found

    def less(self) -> str:
        words = {"largest": max(1, (self._largest >> 20) // LESS["bytes"])}
        if self._models:
            words["max_tokens"] = max(1, self._grids.tokens[-1] // LESS["tokens"])
            words["max_context"] = self._grids.contexts[-1] // LESS["context"]
        return " ".join(f"{key}={value}" for key, value in words.items() if value)

    def announce(self, seconds: float, say: Say) -> None:
        """Say how long it will take, and where that is much longer than was asked for, what would be shorter."""
        tried, expected = self.tried_s, total_s(self.costs(), seconds)
        say(f"the whole will take about {words(tried + expected)}; {words(tried)} of it are over")
        if expected > 1.5 * seconds:
            shorter = tried + total_s(self.costs(shorter=True), seconds)
            say(f"(seconds={seconds:g} is too few for the least number of samples at each point;")
            say(f" {self.less()} would take about {words(shorter)})")

    def measure(self, seconds: float, say: Say) -> tuple[dict[str, float], dict[str, Rows], dict[str, dict[str, Any]]]:
        """Bare rates, copy tables by name, and the section of each model."""
        budget = Forecast(seconds, self.costs(), say)
        found = rates(self._clock, self._largest, budget)
        curves = self._copies.measure(budget, say)
        sections = {}
        for name in self._models:
            budget.share()  # of the building
            layer = self._layers.pop(name, None) or Layer(name, self._clock, self._dtype, self._grids)
            sections[Path(name).name] = layer.measure(budget, say)
        return found, curves, sections


class Forecast(Budget):
    """A budget that knows what its points cost, and says from time to time how much is left."""

    def __init__(self, seconds: float, costs: Sequence[Cost], say: Callable[[str], None]) -> None:
        super().__init__(seconds, len(costs))
        self._costs, self._say = list(costs), say
        self._all, self._said = len(costs), time.monotonic()

    def share(self) -> float:
        now = time.monotonic()
        if now - self._said >= PROGRESS_S:
            done = self._all - len(self._costs)
            self._say(f"{done} of {self._all} points; about {words(total_s(self._costs, self._end - now))} left")
            self._said = now
        del self._costs[:1]
        return super().share()


def words(seconds: float) -> str:
    """A duration for a person: 8 s, 90 s, 7 min."""
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{seconds / 60:.0f} min"
