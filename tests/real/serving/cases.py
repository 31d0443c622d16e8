"""The tiny model's trace, whose requests arrive; a clock that another has kept; the tokens that a closed loop gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

from policies.api import Policy
from real.runtime.recorded import run_forced
from real.runtime.runner import DeviceRun
from real.serving.apart import Apart
from real.serving.loop import Clock, apart_of, run_arrivals
from sim.experiment import served
from sim.experiment.cell import Cell, make_cell, make_policy
from sim.experiment.run import simulate
from sim.workload.online.schedule import Batch
from tests.real.validation.cases import config, tiny

TIGHT = ("workload.block_size=1", "workload.max_num_batched_tokens=7", "workload.max_num_seqs=4")
"""Prompts of 5 and 9 tokens in chunks."""


@contextmanager
def blocks(n: int | None) -> Iterator[None]:
    """Within this block a KV cache has so many blocks: this model's shapes are not all known, and kv= counts bytes."""
    plain = served.limits_of
    with patch.object(served, "limits_of", lambda *given: replace(plain(*given), kv_blocks=n)):
        yield


def arriving(*words: str, policy: str = "lru", rate: int = 20_000, count: int = 6) -> Cell:
    """A cell of ``count`` arrivals, each request twice; on the simulated machine some of them wait for others."""
    online = ("workload=online", f"workload.rate={rate}", f"workload.count={count}")
    return make_cell(config(f"policy={policy}", "budget=40%", *online, *words))


class Ends(Apart):
    """Notes when each of its passes has ended, since the arrivals' time began."""

    def __init__(self, other: Apart) -> None:
        super().__init__(other.traffic, other.scheduler, other.rows)
        self.ends: list[int] = []

    def ended(self, now: int) -> None:
        super().ended(now)
        self.ends.append(now - (self.start or 0))


def simulated(cell: Cell) -> Ends:
    """What the simulated machine makes of a cell's arrivals."""
    serving = Ends(apart_of(cell))
    simulate(cell, make_policy(cell), serving=serving)
    return serving


class Kept:
    """The clock of passes that have run elsewhere: each ends when it ended there."""

    def __init__(self, ends: list[int]) -> None:
        self.time, self._ends = 0, iter(ends)

    def open(self) -> int:
        return self.time

    def now(self) -> int:
        return self.time

    def ended(self) -> int:
        self.time = next(self._ends)
        return self.time

    def idle(self, until: int) -> None:
        assert until > self.time
        self.time = until


def on_device(cell: Cell, policy: Policy | None = None, clock: Clock | None = None) -> tuple[DeviceRun, dict[int, Any]]:
    """A run, and of each instance what the model said after each pass that gave it a token."""
    said: dict[int, list[int]] = {}

    def take(batch: Batch, chosen: Any) -> None:
        assert len(chosen) == len(batch.shares)
        for share, token in zip(batch.shares, chosen.tolist(), strict=True):
            if share.yields:
                said.setdefault(share.id, []).append(token)

    more: dict[str, Any] = {} if clock is None else {"clock": lambda _: clock}
    return run_arrivals(cell, tiny()[2], policy or make_policy(cell), take, **more), said


@cache
def alone() -> dict[int, list[int]]:
    """What the model says after each token of each recorded request, served alone, under another policy."""
    cell = make_cell(config("policy=on_demand", "budget=40%"))
    said: dict[int, list[int]] = {}
    run_forced(
        cell,
        tiny()[2],
        make_policy(cell),
        lambda step, chosen: said.setdefault(step.requests[0], []).extend(chosen[0].tolist()),
    )
    return said
