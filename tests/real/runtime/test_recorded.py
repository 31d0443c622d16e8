"""A recorded run: its timeline is of the measured window and adds up, and the result says how experts were computed."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from real.cli import main
from real.runtime.models import open_model
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_forced
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.compose import read_config


@pytest.mark.parametrize("warmup", [0, 1])
def test_stalls_and_passes_add_up(warmup: int) -> None:
    words = ["policy=gate_ahead", "model=tiny-moe", "budget=25%", "limit=1", "bounds=false", f"warmup={warmup}"]
    cell = make_cell(read_config(words))
    model = Offloaded(open_model("tiny-moe", "float32", "auto"), torch.device("cpu"))
    run = run_forced(cell, model, make_policy(cell))
    timeline, accounts = run.machine.timeline, run.outcome.accounts
    by_cause = [0] * len(accounts.stall_row())
    for begin, end, cause in zip(timeline.stalls[::3], timeline.stalls[1::3], timeline.stalls[2::3], strict=True):
        by_cause[cause] += end - begin
    assert by_cause == accounts.stall_row()
    assert length(timeline.steps, 4) == accounts.end_ns - accounts.start_ns
    parts = length(timeline.dense, 3) + length(timeline.computes, 3) + length(timeline.software, 2)
    assert parts == accounts.compute_ns
    of_the_gpu = [(timeline.dense, 3), (timeline.computes, 3), (timeline.stalls, 3), (timeline.software, 2)]
    spans = sorted(span for flat, width in of_the_gpu for span in zip(flat[::width], flat[1::width], strict=True))
    assert all(one[1] == other[0] for one, other in pairwise(spans)), "one after the other, without a gap"
    layers = set(timeline.dense[2::3])
    assert layers == {*range(cell.setup.n_layers + 1)}


def length(flat: Sequence[int], width: int) -> int:
    return sum(flat[1::width]) - sum(flat[::width])


# The bits are the same on a CPU.
@pytest.mark.parametrize(
    ("exact", "budget", "computed"),
    [("true", "100%", "exact"), ("false", "100%", "grouped"), ("false", "50%", "exact")],
)
def test_a_run_says_how_experts_were_computed(
    exact: str, budget: str, computed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["policy=lru", f"budget={budget}", f"exact={exact}", "routing=sample", "limit=1", "threads=1"]
    assert main(["run", *words, "device=cpu", "format=json", f"out={tmp_path}"]) == 0
    device = json.loads(capsys.readouterr().out)["provenance"]["device"]
    assert device["experts"] == computed
    assert device["replay_agrees"] is True
