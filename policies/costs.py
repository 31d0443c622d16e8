"""What a machine tells a policy of its prices (policies.api.Setup)."""

from fractions import Fraction
from typing import Protocol


class Costs(Protocol):
    """Profiled costs of the machine, in whole nanoseconds."""

    launch_ns: int

    def copy_ns(self, nbytes: int) -> int:
        """One copy call of ``nbytes`` from host to device."""

    def expert_ns(self, layer: int, tokens: int) -> int:
        """One expert on ``tokens`` tokens, without its launch."""


class Host(Protocol):
    """The host's own compute, its memory shared with the copies: what an expert costs where it lies."""

    workers: int  # each computes one expert at a time
    dram: Fraction | None  # bytes per ns that its memory gives to all who read it; None: nobody is in another's way

    def expert_ns(self, layer: int, tokens: int) -> int:
        """One expert on ``tokens`` tokens by one worker, alone, in whole ns: activations there and back included."""

    def alone(self, layer: int) -> tuple[Fraction, Fraction]:
        """Bytes per ns of the link and of all workers, each while the other is idle, with experts of ``layer`` on one
        token."""

    def together(self, layer: int) -> tuple[Fraction, Fraction]:
        """The same while both are busy."""
