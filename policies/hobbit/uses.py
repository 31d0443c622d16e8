"""What a sequence has used so far, and what an expert is worth by it: the records and the score of HOBBIT's cache."""

import numpy as np
from numpy.typing import NDArray

from policies.parts.pools import Reals
from traces.kit.errors import UserError

TERMS = ("lru", "lfu", "lhu", "fld")
TUNED = "tuned"
ALLOWED = f"{TUNED}, or four shares of {'/'.join(TERMS)} that sum to 1, as 0.4/0.3/0.2/0.1"


def read_weights(given: str) -> tuple[float, ...] | None:
    """The weights of the four terms of the score; None: they are to be tuned. UserError for anything else."""
    if given == TUNED:
        return None
    try:
        found = tuple(float(word) for word in given.split("/"))
    except ValueError:
        raise UserError(f"policy.weights={given}: no numbers; allowed: {ALLOWED}") from None
    if len(found) != len(TERMS) or not all(0 <= weight <= 1 for weight in found):
        raise UserError(f"policy.weights={given}: not four shares from 0 to 1; allowed: {ALLOWED}")
    if abs(sum(found) - 1) > 1e-6:
        raise UserError(f"policy.weights={given}: they sum to {sum(found):g}; allowed: {ALLOWED}")
    return found


def distances(n_layers: int, n_experts: int) -> Reals:
    """1 - d / L for each expert [L x E], where d is how many layers after the first its layer comes, cyclically.

    Rolled by the E experts of each layer that has passed, it is seen from a later layer.
    """
    return np.repeat(1 - np.arange(n_layers) / n_layers, n_experts)


class Uses:
    """R, F and H of each expert [L x E]: when its last token came, how many came, and how many in high precision.

    Times are tokens of the sequence, of which there were ``tokens``.
    """

    def __init__(self, n_layers: int, n_experts: int) -> None:
        self.n_experts = n_experts
        self.near = distances(n_layers, n_experts)
        self.counts = np.zeros((3, n_layers * n_experts))
        self.tokens = 0

    def begin(self) -> None:
        """Another sequence: nothing was used."""
        self.counts[:] = 0
        self.tokens = 0

    def note(self, experts: list[int], rows: list[int], tokens: list[int], high: list[bool]) -> None:
        """An event has used ``experts``, the last time in so many ``rows`` of its pass, for so many ``tokens``."""
        last, often, precise = self.counts
        last[experts] = rows
        last[experts] += self.tokens
        often[experts] += tokens
        precise[experts] += np.multiply(tokens, high)

    def worth(self, weights: tuple[float, ...], layer: int, rows: int) -> Reals:
        """The score of each expert [L x E] while ``layer`` is computed in a pass of so many rows; the least goes."""
        lru, lfu, lhu, fld = weights
        last, often, precise = self.counts
        used = (lru * last + lfu * often + lhu * precise) / (self.tokens + rows)
        return np.asarray(used + fld * np.roll(self.near, layer * self.n_experts))


def last_rows(ids: NDArray[np.integer], n_experts: int) -> NDArray[np.int64]:
    """In which row, from 1 on, each expert of a layer was chosen for the last time, [E]; 0: in none of ``ids``."""
    found = np.zeros(n_experts + 1, np.int64)
    for row, chosen in enumerate(ids, 1):
        found[np.minimum(chosen, n_experts)] = row
    return found[:n_experts]
