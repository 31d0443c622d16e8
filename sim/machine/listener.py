"""Who is told what a machine does when: a timeline (sim.results.timeline). Times in nanoseconds."""

from collections.abc import Sequence

LEAD, PASS = -1, -2
"""In the place of a layer: what comes before the first MoE layer; all of a pass, on a device that need not say more.
The number of layers stands for what comes after the last."""


class SpanListener:
    """Told of spans of time, and does nothing with them: a machine that nobody watches."""

    def of(self, gpu: int) -> "SpanListener":
        """Who is told of this one of several GPUs: of all but the start and predictions."""
        return self

    def start(self, now: int) -> None:
        """What was before lay in the warm-up."""

    def copy(self, begin: int, end: int, chunk: int, kind: int) -> None:
        """A chunk was on the link; ``kind`` as sim.core.state has it."""

    def read(self, begin: int, end: int, chunk: int) -> None:
        """A chunk was read from the disk into host memory."""

    def layer(self, begin: int, end: int, layer: int) -> None:
        """The dense part of a layer ran, up to its gate, or :data:`LEAD`, or the head (one past the last layer)."""

    def compute(self, begin: int, end: int, experts: Sequence[int]) -> None:
        """These experts were computed, one after the other or together."""

    def host(self, begin: int, end: int, expert: int) -> None:
        """A worker of the host's computed this expert."""

    def decide(self, begin: int, end: int) -> None:
        """The policy's own time passed."""

    def stall(self, begin: int, end: int, cause: int) -> None:
        """Compute waited; ``cause`` as an index of sim.core.accounts.STALLS."""

    def peer(self, begin: int, end: int) -> None:
        """Activations were on their way between GPUs, and this one waited for them."""

    def idle(self, begin: int, end: int) -> None:
        """One of several GPUs had nothing to do, or had to wait until others had ended the layer."""

    def step(self, begin: int, end: int, number: int, prefill: bool) -> None:
        """A forward pass has ended, and all that it did was told."""

    def predict(self, begin: int, end: int, blocking: bool) -> None:
        """A prediction of the policy's ran."""

    def occupancy(self, now: int, nbytes: int) -> None:
        """Bytes of the budget that have an owner, from now on."""


NOBODY = SpanListener()
