"""What a policy learns from train requests whatever the budget: made once, kept, and recalled at every budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.setup import Setup


class Shapes(NamedTuple):
    """All that learning may know of the model: no sizes, no prices, no budget."""

    n_layers: int
    n_experts: int
    top_k: int

    @classmethod
    def of(cls, setup: Setup) -> Shapes:
        return cls(setup.n_layers, setup.n_experts, setup.top_k)


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned. Arrays may be shared with other policies: they are read, and copied by who changes them."""

    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """By name; of numbers or truths."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON by name: texts, true, false, null, whole and finite numbers, lists of these."""
