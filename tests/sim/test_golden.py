"""Golden decision digests (rule 1): what every policy of conf/policy decides on the sample, lossless and lossy.

No change may alter one where nothing new is configured. A policy's own file may, where it is meant to decide otherwise:
``python tests/sim/test_golden.py`` then writes golden.json again, and its diff names no other policy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from sim.experiment.cell import make_cell
from sim.experiment.compose import choices, read_config
from sim.experiment.inputs import Inputs
from sim.experiment.run import simulate

GOLDEN = Path(__file__).with_name("golden.json")
CELLS = (
    ("budget=4GB", "chunks=1", "workload.batch=1", "limit=1"),
    ("budget=8GB", "chunks=3", "workload.batch=2", "limit=2"),
)


@cache
def inputs() -> Inputs:
    return Inputs()


def digests(policy: str) -> Iterator[tuple[str, str]]:
    """By cell, in the words of the command line."""
    for words in CELLS:
        cell = make_cell(read_config([f"policy={policy}", *words, "bounds=false"]), inputs())
        yield " ".join([f"policy={policy}", *words]), simulate(cell, cell.policy()).core.digest()


@pytest.mark.parametrize("policy", choices("policy"))
def test_every_decision_is_as_it_was(policy: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert dict(digests(policy)) == {
        key: value for key, value in golden.items() if key.split()[0] == f"policy={policy}"
    }


def test_no_digest_is_of_a_policy_that_is_gone() -> None:
    named = {key.split()[0].partition("=")[2] for key in json.loads(GOLDEN.read_text(encoding="utf-8"))}
    assert named == set(choices("policy"))


if __name__ == "__main__":
    every = dict(pair for policy in choices("policy") for pair in digests(policy))
    GOLDEN.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
