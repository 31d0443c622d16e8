"""What activations cost on their way from one GPU to another."""

from fractions import Fraction

from sim.prices.hardware import HardwareProfile
from sim.prices.model import ModelProfile
from sim.prices.placement import Spread

ACTIVATION_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class Peers:
    """Whole nanoseconds between any two GPUs, which are all as far apart; nobody else is on the way."""

    def __init__(self, model: ModelProfile, hardware: HardwareProfile, spread: Spread) -> None:
        self.peer, self.parts = hardware.peer, spread.parts
        self._known: dict[int, int] = {}
        self.bytes_per_token = model.hidden * ACTIVATION_BYTES[model.compute_dtype]

    def ns(self, tokens: int) -> int:
        """One vector per token, one way."""
        found = self._known.get(tokens)
        if found is None:
            found = self._known[tokens] = self._ns(tokens, Fraction(1), 1)
        return found

    def all_reduce_ns(self, tokens: int) -> int:
        """What each GPU computed of its part of the experts is added up, and all have the sum: a ring, twice round."""
        parts = self.parts
        return self._ns(tokens, Fraction(2 * (parts - 1), parts), 2 * (parts - 1)) if parts > 1 else 0

    def _ns(self, tokens: int, share: Fraction, times: int) -> int:
        if self.peer is None:
            raise ValueError("activations between GPUs that have no way to each other")
        exact = times * self.peer.latency_us * 1000 + share * tokens * self.bytes_per_token / self.peer.gb_per_s
        return -(-exact.numerator // exact.denominator)
