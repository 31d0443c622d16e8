"""How well a policy foretells who is demanded, on requests that it did not learn from: AUC and log loss (``scores=``).

Before each gate of the measured window the policy is asked how likely each expert of that layer is to be demanded
(:meth:`policies.api.Policy.foretells`); then the gate says who was. The question tells it nothing, and it decides as it
does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import Policy
from sim.core.accounts import PHASES
from sim.core.core import Core
from traces.kit.errors import UserError, shown

LEAST = 1e-6
"""A probability counts as at least it, and as at most one minus it: one event must not decide a mean."""


def auc(scores: NDArray[np.float64], demanded: NDArray[np.bool_]) -> float:
    """The share of pairs of one who was demanded and one who was not in which the former has more; half for a tie.

    ``scores`` and ``demanded`` [E], with one of each kind at least. O(E log E): the sum of ranks (Mann and Whitney).
    """
    ordered = np.sort(scores)
    below, upto = (
        np.searchsorted(ordered, scores[demanded], "left"),
        np.searchsorted(ordered, scores[demanded], "right"),
    )
    n, others = int(demanded.sum()), int((~demanded).sum())
    ranks = float((below + upto).sum()) / 2  # among all; n * n / 2 of it is among those demanded themselves
    return (ranks - n * n / 2) / (n * others)


class Scoring:
    """Listens to a core whose policy answers; what it heard before the measured window is forgotten."""

    def __init__(self, policy: Policy, core: Core) -> None:
        self.policy, self.core = policy, core
        self.E = policy.setup.n_experts
        self._begin()
        core.listen("gate", self._gate)
        core.listen("measure_from", self._begin)

    def _begin(self, *_: int) -> None:
        self.events = [[0, 0, 0] for _ in PHASES]  # all, those with an answer, of these with both kinds of experts
        self.sums = [[0.0, 0.0, 0.0] for _ in PHASES]  # of AUC, of log losses, of demanded experts

    def _gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> None:
        if not demand:
            return
        phase = 0 if self.core.event.prefill else 1
        events, sums = self.events[phase], self.sums[phase]
        events[0] += 1
        given = self.policy.foretells(layer)
        if given is None:
            return
        found = self._checked(layer, np.asarray(given, np.float64))
        demanded = np.zeros(self.E, np.bool_)
        demanded[np.asarray(demand) - layer * self.E] = True
        events[1] += 1
        if len(demand) < self.E:
            events[2] += 1
            sums[0] += auc(found, demanded)
        if self.policy.calibrated:
            likely = np.clip(found, LEAST, 1 - LEAST)
            sums[1] -= float(np.log(np.where(demanded, likely, 1 - likely)).sum())
        sums[2] += len(demand)

    def _checked(self, layer: int, found: NDArray[np.float64]) -> NDArray[np.float64]:
        good = found.shape == (self.E,) and bool(np.isfinite(found).all())
        if good and self.policy.calibrated:
            good = bool(((found >= 0) & (found <= 1)).all())
        if not good:
            what = "probabilities from 0 to 1" if self.policy.calibrated else "finite numbers"
            said = f"policy={self.policy.name}: foretells({layer}) gives {shown(found)}"
            raise UserError(f"{said}; allowed: {self.E} {what}, or None")
        return found

    def told(self) -> dict[str, Any]:
        """By phase: layer events, those with an answer, the mean AUC of these, and per expert of one the log loss.

        ``log_loss_of_share``: that of one who says of each expert the share that is demanded, and knows no more.
        """
        return {phase: self._told(i) for i, phase in enumerate(PHASES)}

    def _told(self, phase: int) -> dict[str, Any]:
        (every, answered, both), (areas, losses, demanded) = self.events[phase], self.sums[phase]
        pairs = answered * self.E
        share = demanded / pairs if pairs else 0.0
        even = -sum(p * np.log(p) for p in (share, 1 - share) if 0 < p < 1)
        known = bool(pairs) and self.policy.calibrated
        return {
            "events": every,
            "answered": answered,
            "auc": areas / both if both else None,
            "log_loss": losses / pairs if known else None,
            "log_loss_of_share": float(even) if pairs else None,
        }


def scoring(policy: Policy, core: Core) -> Scoring:
    """UserError for a policy that gives no scores."""
    if not policy.uses("foretells"):
        raise UserError(f"scores=true: policy={policy.name} foretells nothing; allowed: false")
    return Scoring(policy, core)
