"""What a core and a machine say to each other, beside plain numbers."""

from collections.abc import Sequence
from typing import Protocol

from policies.api import Signals

NONE = -1
"""Answer of ``next_chunk``: nothing to copy now."""

WAIT, END = -1, -2
"""Answers of ``next_expert``: a load must arrive first; all of the event's experts have been handed out."""

Rows = tuple[int, int]
"""Rows of the trace: (first row, rows)."""

Prediction = tuple[int, int, bool]
"""One that a policy asks for (policies.api.Actions.predict): (tag, latency in ns, blocking)."""


class StepSignals(Protocol):
    """Signals that the core moves along: only the current step, only the layer whose gate has run.

    A policy gets :meth:`shown`, which has no way to move them.
    """

    layer: int

    def enter(self, parts: Sequence[Rows]) -> None:
        """A step begins; no gate has run."""

    def shown(self) -> Signals:
        """The signals without the handles."""
