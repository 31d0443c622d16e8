"""What a policy's parameters may be beyond their types; each answers the value, or raises UserError."""

from typing import TypeVar

from policies.api import Setup
from traces.kit.errors import UserError

Number = TypeVar("Number", int, float)
LONGEST_US = 1_000_000  # a prediction of a second is a slip; sums of much longer ones would leave 64 bits


def between(key: str, value: Number, low: float, high: float, what: str) -> Number:
    """A number of ``what``."""
    if not low <= value <= high:
        raise UserError(f"policy.{key}={value}: allowed: {low} to {high} ({what})")
    return value


def at_least(low: int, key: str, value: int, what: str) -> int:
    """A number of ``what`` without an upper bound."""
    if value < low:
        raise UserError(f"policy.{key}={value}: allowed: at least {low} ({what})")
    return value


def layers_ahead(key: str, value: int, setup: Setup) -> int:
    """How many layers further on: another layer of the same pass."""
    return between(key, value, 1, max(1, setup.n_layers - 1), "layers")


def latency_ns(key: str, value_us: float) -> int:
    """How long a prediction takes, in whole nanoseconds."""
    return round(between(key, value_us, 0, LONGEST_US, "microseconds") * 1000)


def at_once(key: str, value: int, setup: Setup) -> int:
    """Speculative loads at a time: so many for each GPU, to wherever they go."""
    return at_least(1, key, value, "loads") * setup.gpus
