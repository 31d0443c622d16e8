"""The replay of a log of facts without a clock: it must decide as the machine that wrote it (rule 1)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sim.core.core import Core
from sim.core.log import OPERATIONS, entries


def replay(log: Sequence[int], core: Core) -> str:
    """Feed a log to a fresh core; returns the decision digest. CoreError if the log is cut."""
    for _, call, operands in calls(log, core):
        call(*operands)
    return core.digest()


def calls(log: Sequence[int], core: Core) -> Iterator[tuple[int, Callable[..., object], tuple[Any, ...]]]:
    """What a log tells and asks, in order: (operation, method of ``core``, its operands). CoreError if it is cut."""
    methods = [getattr(core, name) for name in OPERATIONS]
    return ((op, methods[op], operands) for op, operands in entries(log))
