"""Where two logs part: planted differences are found, and what is no difference is not."""

from __future__ import annotations

import json
from array import array
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from real import diff
from real.cli import main
from real.diff import facts, in_words
from sim.core.log import CHUNK, EXPERT, NEXT_CHUNK
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.run import simulate
from tests.real.validation.cases import config
from traces.kit.errors import UserError

E, C = 8, 2


def differences(first: Any, second: Any) -> list[dict[str, Any]]:
    return diff.differences({"first": first, "second": second}, E, C)


@pytest.fixture(scope="module")
def log() -> array[int]:
    cell = make_cell(config("policy=lru", "budget=40%", f"chunks={C}", "warmup=1"))
    return simulate(cell, make_policy(cell), record=True).core.log


def places(log: array[int], op: int) -> list[int]:
    """Where facts of one operand stand: the index of the operation. A log is read as the tool does, by hand."""
    found, at = [], 0
    while at < len(log):
        if log[at] == op:
            found.append(at)
        if log[at] in (0, 1):  # a step with its requests, a gate with its demand
            at += 5 + 3 * log[at + 4] if log[at] == 0 else 4 + 2 * log[at + 3]
        else:
            at += {2: 3, 3: 3, 4: 3, 5: 2, 6: 1, 7: 1, 8: 2}[log[at]]
    return found


def test_a_log_does_not_differ_from_itself_later_or_asked_more_often(log: array[int]) -> None:
    later = array("q", log)
    for op in (CHUNK, EXPERT):
        for at in places(log, op):
            later[at + 1] += 7
    asked = array("q", [NEXT_CHUNK, *later, NEXT_CHUNK])
    assert differences(log, later) == differences(log, asked) == []


@pytest.mark.parametrize("which", [0, 5, -1])
def test_another_copy_is_found_where_it_is(log: array[int], which: int) -> None:
    other, at = array("q", log), places(log, CHUNK)
    other[at[which] + 2] = (other[at[which] + 2] + 3 * C) % (3 * E * C)
    found = differences(log, other)
    assert [it["of"] for it in found] == ["facts", "copies"]
    assert found[1]["same_before"] == which % len(at)
    layer, expert = divmod(other[at[which] + 2] // C, E)
    assert f"the copy of expert {expert} of layer {layer} (part" in found[1]["second"]
    assert found[0]["first"] == found[1]["first"] != found[1]["second"]


def test_another_order_of_compute_is_found_and_told_with_its_place(log: array[int]) -> None:
    other, at = array("q", log), places(log, EXPERT)
    i, j = next((i, j) for i, j in pairwise(at) if log[i + 2] != log[j + 2])
    other[i + 2], other[j + 2] = other[j + 2], other[i + 2]
    found = {it["of"]: it for it in differences(log, other)}
    assert set(found) == {"facts", "experts"}
    layer, expert = divmod(log[i + 2], E)
    assert found["experts"]["first"].endswith(f"expert {expert} of layer {layer} has been computed")


def test_a_shorter_log_has_nothing_more(log: array[int]) -> None:
    last = places(log, EXPERT)[-1]
    found = differences(log, log[:last])
    assert {it["second"] for it in found} == {"nothing more"}


def test_every_fact_has_words(log: array[int]) -> None:
    told = [in_words(fact, E, C) for fact in facts(log)]
    assert told[0] == "step 1 begins: prefill of request 0, 5 tokens"
    for part in (
        "the gate of layer 2 asks for experts",
        "(part 2 of 2) has ended",
        "the step ends",
        "the warm-up ends",
    ):
        assert any(part in line for line in told), part
    asked = [line for line in told if "has ended" in line]
    assert all(line.endswith("which this event demands") for line in asked)  # lru copies nothing else


@pytest.mark.parametrize(("cut", "message"), [(1, "in the middle of a fact"), (0, "operation 99")])
def test_what_is_no_log_is_refused(log: array[int], cut: int, message: str) -> None:
    broken = log[: places(log, CHUNK)[0] + 1] if cut else array("q", [99, 0])
    with pytest.raises(UserError, match=message):
        list(facts(broken))


def test_the_command_reads_files_and_says_whether_they_differ(
    log: array[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = array("q", log)
    other[places(log, CHUNK)[2] + 2] ^= 1
    for name, words in (("a", log), ("b", other)):
        np.save(tmp_path / f"{name}.npy", np.frombuffer(words, np.int64))
    same = [f"first={tmp_path}/a.npy", f"second={tmp_path}/a.npy", f"experts={E}", f"chunks={C}"]
    assert main(["diff", *same]) == 0
    assert capsys.readouterr().out == "no difference: the same facts in the same order\n"
    assert main(["diff", same[0], f"second={tmp_path}/b.npy", *same[2:], "format=json"]) == 1
    assert json.loads(capsys.readouterr().out)[1]["same_before"] == 2
    assert main(["diff", *same[:2]]) == 2
    assert "experts= and chunks=" in capsys.readouterr().err
    assert main(["diff", same[0], "second=nosuch.npy", *same[2:]]) == 2
    assert "second=nosuch.npy" in capsys.readouterr().err
