"""A device's timeline is of the measured window, and adds up to its accounts."""

from __future__ import annotations

import pytest
import torch

from real.runtime.forced import run_forced
from real.runtime.models import open_model
from real.runtime.offloaded import Offloaded
from sim.cell import make_cell
from sim.compose import read_config


@pytest.mark.parametrize("warmup", [0, 1])
def test_stalls_and_passes_add_up(warmup: int) -> None:
    words = ["policy=gate_ahead", "model=reference", "budget=25%", "limit=1", "bounds=false", f"warmup={warmup}"]
    cell = make_cell(read_config(words))
    model = Offloaded(open_model("reference", "float32", "auto"), torch.device("cpu"))
    run = run_forced(cell, model, cell.policy())
    timeline, accounts = run.machine.timeline, run.outcome.accounts
    by_cause = [0] * len(accounts.stall_row())
    for begin, end, cause in zip(timeline.stalls[::3], timeline.stalls[1::3], timeline.stalls[2::3], strict=True):
        by_cause[cause] += end - begin
    assert by_cause == accounts.stall_row()
    assert sum(timeline.steps[1::4]) - sum(timeline.steps[::4]) == accounts.end_ns - accounts.start_ns
