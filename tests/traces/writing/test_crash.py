"""Whenever a recording is killed, the same command ends in the same trace, byte for byte."""

import json
import os
import random
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces.tiny_trace import SIGNALS, E, K, L
from tests.traces.writing.recording import Plan, Player, contents, reference
from traces.format.manifest import Counts
from traces.writing.growing import NOTHING, Layout

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed processes are forked")
SMALL = Plan("", (1, 0, 2), (0, 1))


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with Player() as player:
        yield player


def survive(
    player: Player, plan: Plan, deaths: list[int], expected: Mapping[str, bytes], noise: random.Random | None = None
) -> None:
    """Play the plan, dying at each of ``deaths``, then to its end; nothing may be lost, nor look finished.

    With ``noise``, what a death leaves is made worse.
    """
    sure = 0
    for death in [*deaths, None]:
        finished = plan.path.exists()
        report = player(replace(plan, die_at=death))
        if finished:
            assert "died" in report or "exists already" in report["error"], report
        else:
            assert "error" not in report, report
        assert report.get("resumed", sure) >= sure
        sure = max(sure, report.get("sure", 0))
        if plan.path.exists():
            assert contents(plan.path) == expected
        else:
            assert death is not None
            if noise is not None:
                scramble(plan, noise)
    assert [entry.name for entry in Path(plan.folder).iterdir()] == ["trace"]
    assert contents(plan.path) == expected


def scramble(plan: Plan, noise: random.Random) -> None:
    """Replace what the journal does not vouch for: all after the marks, and heads that were being replaced.

    Not always: what a death really leaves must do as well.
    """
    place = Path(plan.folder) / ".trace.partial"
    if not (place / "journal.json").exists() or not (place / "unfinished").exists() or noise.random() < 0.5:
        return
    journal = json.loads((place / "journal.json").read_bytes())
    layout = Layout(E, {"expert_ids": (L, K), **{name: SIGNALS[name] for name in plan.signals}})
    for name, mark in journal["files"].items():
        old, new = layout.head(name, NOTHING), layout.head(name, Counts(**journal["counts"]))
        mixed = bytes(noise.choice(pair) for pair in zip(old, new, strict=True))
        sure = (place / "unfinished" / name).read_bytes()[len(old) : mark["bytes"]]
        (place / "unfinished" / name).write_bytes(mixed + sure + noise.randbytes(noise.choice((0, 1, 100))))
    (place / "unfinished" / "trace.json").write_bytes(noise.randbytes(noise.choice((0, 100))))
    (place / "journal.json.new").write_bytes(noise.randbytes(10))


def test_death_before_every_single_call(tmp_path: Path, player: Player) -> None:
    expected = reference(SMALL)
    (tmp_path / "whole").mkdir()
    points = player(replace(SMALL, folder=str(tmp_path / "whole")))["points"]
    assert points > 100
    for death in range(points):
        folder = tmp_path / str(death)
        folder.mkdir()
        survive(player, replace(SMALL, folder=str(folder)), [death], expected)


def test_death_while_the_remains_of_another_are_removed(tmp_path: Path, player: Player) -> None:
    """A finished recording left its journal, and the trace has been moved away."""
    expected = reference(SMALL)
    for death in range(12):
        folder = tmp_path / str(death)
        folder.mkdir()
        player(replace(SMALL, folder=str(folder), die_at=60))
        (folder / ".trace.partial" / "unfinished").rename(tmp_path / f"moved {death}")
        assert player(replace(SMALL, folder=str(folder), die_at=death)).get("resumed", 0) == 0
        survive(player, replace(SMALL, folder=str(folder)), [], expected)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    steps = draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
    checkpoints = draw(st.sets(st.integers(0, len(steps) - 1)))
    signals = draw(st.lists(st.sampled_from(list(SIGNALS)), unique=True, max_size=3))
    return Plan("", tuple(steps), tuple(sorted(checkpoints)), tuple(signals))


@settings(max_examples=40)
@given(plan=plans(), deaths=st.lists(st.integers(0, 300), max_size=4), seed=st.integers(0, 2**32))
def test_any_plan_survives_any_deaths(player: Player, plan: Plan, deaths: list[int], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        survive(player, replace(plan, folder=folder), deaths, reference(plan), random.Random(seed))
