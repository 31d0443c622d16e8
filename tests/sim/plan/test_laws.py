"""Laws of an answer, on machines and models by hand, whose answers are exhaustive."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.plan.answer import Answer
from sim.plan.needs import OCTAVES, PER_OCTAVE, faster
from sim.plan.question import Question
from sim.plan.search import STEPS, size
from tests.sim.plan.small import POLICIES, TOTAL, answered, question, trace_of
from tests.sim.small_trace import SIZE
from traces import Trace

SLOW = settings(max_examples=4)
MEMORIES = st.integers(SIZE, TOTAL + 4)
BLIND = ("lru", "lru_layer", "lfru", "static", "static_split")
"""Those that do not weigh the link against the host."""


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("traces")
    return cache(lambda seed: trace_of(folder / str(seed), seed))


def ms(it: Answer) -> float:
    return float(it["best"]["ms"])


@SLOW
@given(st.integers(0, 9), MEMORIES, MEMORIES)
def test_more_memory_never_raises_the_answer(traces: Any, seed: int, one: int, other: int) -> None:
    small, large = (answered(question(traces(seed), memory)) for memory in sorted((one, other)))
    assert ms(large) <= ms(small)


@SLOW
@given(st.integers(0, 9), st.floats(0.3, 3), st.floats(1, 4))
def test_a_faster_link_never_raises_the_answer_of_those_that_do_not_weigh_it(
    traces: Any, seed: int, link: float, times: float
) -> None:
    slow, fast = (answered(question(traces(seed), 60, h2d_gb_per_s=rate), BLIND) for rate in (link, link * times))
    assert ms(fast) <= ms(slow)


@SLOW
@given(st.integers(0, 9), st.floats(0.3, 3), st.floats(1, 4))
def test_with_those_that_weigh_it_a_faster_link_never_raises_it_above_what_the_others_had(
    traces: Any, seed: int, link: float, times: float
) -> None:
    """Fiddler and FreeToken's split take the link where it is the sooner for one expert, and both sides get busier."""
    slow = answered(question(traces(seed), 60, h2d_gb_per_s=link), BLIND)
    fast = answered(question(traces(seed), 60, h2d_gb_per_s=link * times))
    assert ms(fast) <= ms(slow)


@SLOW
@given(st.integers(0, 9), MEMORIES, st.floats(5, 16))
def test_the_least_memory_meets_the_target_and_a_step_less_does_not(
    traces: Any, seed: int, memory: int, target: float
) -> None:
    it = answered(question(traces(seed), memory, target=f"tpot<={target:.3f}ns"))
    assert it["verdict"] == ("meets" if ms(it) <= it["target_ms"] else "misses")
    for row in it["policies"]:
        met = {cell["budget_bytes"] for cell in row["cells"] if cell["ms"] <= it["target_ms"]}
        assert (row["least"] or {}).get("budget_bytes") == min(met, default=None)
    if it["verdict"] == "meets":
        at = it["least"]["budget_bytes"]
        own = next(row for row in it["policies"] if row["policy"] == it["least"]["policy"])
        below = [number for number in range(1, STEPS) if size(number, TOTAL) < at]
        looked_at = {cell["budget_bytes"]: cell["ms"] for cell in own["cells"]}
        assert at <= min(row["least"]["budget_bytes"] for row in it["policies"] if row["least"])
        if below and at < memory and size(below[-1], TOTAL) in looked_at:
            assert looked_at[size(below[-1], TOTAL)] > it["target_ms"]


def needed(it: Answer, what: str) -> dict[str, Any]:
    return next(need for need in it["needs"] if need["what"] == what)


def demanding(trace: Trace, policies: tuple[str, ...] = ("lru", "lfru")) -> tuple[Question, Answer]:
    """A target between what the room gives and what all memory and an ideal link would."""
    best = ms(answered(question(trace, 30), policies))
    least = ms(answered(question(trace, TOTAL + 10), policies))
    it = question(trace, 30, target=f"tpot<={(best + 2 * least) / 3 * 1e6:.3f}ns")
    return it, answered(it, policies)


@pytest.mark.parametrize("seed", range(2))
def test_with_the_memory_that_is_asked_for_it_is_met_and_with_less_it_is_not(traces: Any, seed: int) -> None:
    it, found = demanding(traces(seed))
    assert found["verdict"] == "misses"
    need = needed(found, "gpu_memory")
    assert need["needed_bytes"] - need["missing_bytes"] == 30
    assert it.goal is not None
    assert answered(question(traces(seed), need["needed_bytes"], target=it.goal.text))["verdict"] == "meets"
    less = answered(question(traces(seed), need["needed_bytes"] - 1, target=it.goal.text), ("lru", "lfru"))
    assert less["verdict"] == "misses"


@pytest.mark.parametrize("seed", range(2))
def test_with_the_link_that_is_asked_for_it_is_met_and_a_step_slower_it_is_not(traces: Any, seed: int) -> None:
    it, found = demanding(traces(seed))
    need = needed(found, "link")
    if need["factor"] is None:
        assert need["most"] == 2**OCTAVES
        assert answered(faster(it, "link", PER_OCTAVE * OCTAVES), ("lru", "lfru"))["verdict"] == "misses"
        return
    step = next(n for n in range(200) if float(f"{2 ** (n / PER_OCTAVE):.3g}") == need["factor"])
    assert answered(faster(it, "link", step), ("lru", "lfru"))["verdict"] == "meets"
    assert answered(faster(it, "link", step - 1), ("lru", "lfru"))["verdict"] == "misses"
    assert need["gb_per_s"] == pytest.approx(need["factor"])


def test_impossible_questions_are_answered(tmp_path: Path) -> None:
    trace = trace_of(tmp_path / "t", 0)
    tight = answered(question(trace, SIZE - 1))
    assert (tight["verdict"], tight["best"]) == ("no room", None)
    assert tight["needs"] == [{"what": "gpu_memory", "missing_bytes": 1, "needed_bytes": SIZE}]
    assert answered(question(trace, SIZE))["best"] is not None
    poor = answered(question(trace, 60, host_memory=TOTAL - 5))
    assert (poor["verdict"], poor["best"]) == ("no host memory", None)
    assert poor["needs"] == [{"what": "host_memory", "missing_bytes": 5, "needed_bytes": TOTAL}]
    assert answered(question(trace, 60, host_memory=TOTAL))["verdict"] == "speed"


def test_a_policy_that_cannot_run_says_why_and_the_others_answer(tmp_path: Path) -> None:
    trace = trace_of(tmp_path / "t", 0)
    it = answered(question(trace, 60), (*POLICIES, "gate_ahead"))
    row = it["policies"][-1]
    assert (row["best"], row["cells"]) == (None, [])
    assert "gate_ahead" in row["why"]
    assert ms(it) == ms(answered(question(trace, 60)))
