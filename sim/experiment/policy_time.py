"""How long a policy's own decisions take on this CPU, above those of ``on_demand``.

The simulator charges no time for a policy's Python, unless the hardware profile says how much it is
(``software.policy_us``). Here it is measured: the logs of two runs of the same passes, one by the policy and one by
``on_demand``, are replayed in turns without a clock, and the CPU time of this thread is taken pass by pass. Both
replays hold what the core itself does for them, and ``on_demand`` decides nothing: its time is in the overhead per
layer.

The form is a figure per prefill pass and one per decode pass. A prompt's tokens count for little, since they choose
nearly all experts of a layer together: from 16 to 1,024 tokens fMoE's figure rises by half and gate_ahead's, which
reads a prediction per token, to less than twice; others' hardly.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from sim.core.accounts import PHASES
from sim.core.core import Core
from sim.core.log import MEASURE, STEP, calls
from sim.core.state import CoreError

REPEAT = 5
BASELINE = "on_demand"


@dataclass(frozen=True, slots=True)
class Logged:
    """A run: its log (sim.core.core.Core.log) and how to make a fresh core for it, which is not timed."""

    log: Sequence[int]
    make_core: Callable[[], Core]


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """Microseconds of CPU time per pass of one phase, above ``on_demand``'s; ``tokens``: mean rows of a pass."""

    us: float  # the median over the turns, not below 0
    lowest_us: float  # of the turns, which may be below 0
    highest_us: float
    baseline_us: float  # what on_demand's own replay took, in the median
    passes: int
    tokens: float


@dataclass(frozen=True, slots=True)
class _Turn:
    """One replay: of each measured pass its kind and rows, and its nanoseconds."""

    passes: list[tuple[bool, list[int], list[tuple[int, int]]]]
    ns: list[int]
    digest: str


def measure_policy_time(policy: Logged, on_demand: Logged, *, repeat: int = REPEAT) -> dict[str, PhaseTime]:
    """Replay both logs ``repeat`` times in turns, and take what is above ``on_demand``'s, by phase that has passes.

    What came before the measured window (a warm-up) is replayed and not counted. ValueError if the two runs are not of
    the same passes, or none was measured; CoreError if a log is cut or a replay decides otherwise than the one before.
    """
    turns: list[tuple[_Turn, _Turn]] = []
    for i in range(repeat):  # who is first changes, so that a drift of the machine's speed cancels
        first, second = map(_replay, (on_demand, policy) if i % 2 else (policy, on_demand))
        turns.append((second, first) if i % 2 else (first, second))
    for own, base in turns:
        if (own.digest, base.digest) != (turns[0][0].digest, turns[0][1].digest):
            raise CoreError("a replay of a log decided otherwise than the one before")
    if not turns or not turns[0][0].passes or turns[0][0].passes != turns[0][1].passes:
        raise ValueError(f"two logs of the same measured passes are wanted, and repeat={repeat} of at least 1")
    passes = turns[0][0].passes
    places = {phase: [i for i, (kind, *_) in enumerate(passes) if kind == (phase == "prefill")] for phase in PHASES}
    return {phase: _phase(turns, of) for phase, of in places.items() if of}


def _phase(turns: Sequence[tuple[_Turn, _Turn]], of: Sequence[int]) -> PhaseTime:
    """Over the passes at these places."""
    above = [fmean(own.ns[i] - base.ns[i] for i in of) / 1000 for own, base in turns]
    return PhaseTime(
        us=max(0.0, median(above)),
        lowest_us=min(above),
        highest_us=max(above),
        baseline_us=median(fmean(base.ns[i] for i in of) / 1000 for _, base in turns),
        passes=len(of),
        tokens=fmean(sum(rows for _, rows in turns[0][0].passes[i][2]) for i in of),
    )


def _replay(run: Logged) -> _Turn:
    """A pass lasts until the next one begins; its facts are read from the log before it is timed."""
    core = run.make_core()
    facts: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
    passes, ns = list[tuple[bool, list[int], list[tuple[int, int]]]](), list[int]()

    def tell() -> int:
        began = time.thread_time_ns()
        for call, operands in facts:
            call(*operands)
        taken = time.thread_time_ns() - began
        facts.clear()
        return taken

    with _no_collections():
        for op, call, operands in calls(run.log, core):
            if op in (STEP, MEASURE):
                taken = tell()
                if passes:
                    ns.append(taken)
            if op == MEASURE:
                call(*operands)
                passes.clear()
                ns.clear()
                continue
            if op == STEP:
                passes.append((operands[1], operands[2], operands[3]))
            facts.append((call, operands))
        ns.append(tell())
    return _Turn(passes, ns, core.digest())


@contextmanager
def _no_collections() -> Iterator[None]:
    """The garbage collector would charge one pass for what others have left."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
