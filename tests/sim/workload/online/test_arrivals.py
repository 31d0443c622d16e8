"""Who arrives when, and what each replays: by hand, and by the laws of the distributions."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import sqrt
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from sim.workload.online.arrivals import NS, Plan, drawn, nearest, traffic
from sim.workload.online.schedule import Limits
from tests.sim.small_trace import Plan as Request
from tests.sim.small_trace import one_layer
from traces import Trace, open_trace
from traces.importers.arrivals import add_arrivals
from traces.kit.errors import UserError

LENGTHS = [(3, 2), (1, 4), (2, 1)]
"""Prompt and output tokens."""
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:00:00.0000000,3,2
2023-11-16 18:00:00.5000000,0,5
2023-11-16 18:00:01.0000000,2,3
2023-11-16 18:00:03.0000000,9,1
2023-11-16 18:00:03.0000001,1,9
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrivals")


@pytest.fixture(scope="module")
def trace(folder: Path) -> Trace:
    plans = [Request((p,), n - 1) for p, n in LENGTHS]
    return one_layer(folder / "trace", plans, [0] * sum(plan.rows for plan in plans))


@pytest.fixture(scope="module")
def log(folder: Path) -> Path:
    path = folder / "azure.csv"
    path.write_text(AZURE)
    return path


def rate(value: float) -> Fraction:
    return Fraction(str(value))


@pytest.mark.parametrize("kind", ["poisson", "gamma", "constant"])
@pytest.mark.parametrize("per_second", [3, 0.7])
def test_the_last_arrival_is_at_count_over_rate(kind: str, per_second: float) -> None:
    for count in (1, 2, 50):
        times = drawn(Plan(kind, rate=rate(per_second), burstiness=Fraction(1, 4)), count)
        assert times[-1] == -(-count * NS // rate(per_second)), "exactly, rounded up to a nanosecond"
        assert times == sorted(times)
        assert times[0] >= 0
        assert len(times) == count


def test_constant_arrivals_have_equal_gaps() -> None:
    assert drawn(Plan("constant", rate=rate(4)), 3) == [NS // 4, NS // 2, 3 * NS // 4]


@pytest.mark.parametrize(("kind", "burstiness"), [("poisson", 1), ("gamma", 0.25), ("gamma", 4), ("gamma", 10_000)])
def test_gaps_vary_as_burstiness_says(kind: str, burstiness: float) -> None:
    n = 20_000
    times = [0, *drawn(Plan(kind, rate=rate(2), burstiness=rate(burstiness), seed=7), n)]
    gaps = [b - a for a, b in pairwise(times)]
    assert fmean(gaps) == NS / 2
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(1 / sqrt(burstiness), rel=0.05)


def test_a_seed_draws_other_arrivals_and_the_same_one_the_same() -> None:
    first, again, other = (drawn(Plan("poisson", rate=rate(1), seed=seed), 9) for seed in (1, 1, 2))
    assert first == again != other
    assert first == drawn(Plan("gamma", rate=rate(1), seed=1), 9), "poisson is gamma with burstiness 1"


def test_requests_come_in_order_and_again_where_more_arrive(trace: Trace) -> None:
    found = traffic(Plan("constant", rate=rate(1), count=7), trace, (2, 0, 1), "t")
    assert [a.request for a in found.arrivals] == [2, 0, 1, 2, 0, 1, 2]
    assert [a.id for a in found.arrivals] == list(range(7))
    assert {(a.prompt_tokens, a.output_tokens) for a in found.arrivals} == set(LENGTHS)
    assert found.replays == Counter({2: 3, 0: 2, 1: 2})
    assert found.replayed
    assert found.described()["replays"] == {"most": 3, "mean": 7 / 3}
    once = traffic(Plan("constant", rate=rate(1)), trace, (2, 0, 1), "t")
    assert (len(once.arrivals), once.replayed) == (3, False)
    assert once.sha256 != found.sha256
    assert {a.priority for a in found.arrivals} == {0}
    classes = traffic(Plan("constant", rate=rate(1), count=60, priority_classes=3), trace, (0, 1, 2), "t")
    assert {a.priority for a in classes.arrivals} == {0, 1, 2}


def test_who_could_never_be_served_is_refused_before_a_run(trace: Trace) -> None:
    found = traffic(Plan("constant", rate=rate(1)), trace, (0, 1, 2), "t")
    found.check(Limits(block_size=2, kv_blocks=2))
    with pytest.raises(UserError, match=r"^kv: request 0 \(3 prompt and 2 output tokens\) needs 2 blocks of 2 tokens"):
        found.check(Limits(block_size=2, kv_blocks=1))


def test_a_log_gives_times_and_only_where_asked_lengths(trace: Trace, log: Path) -> None:
    plan = Plan("azure", log)
    found = traffic(plan, trace, (0, 1, 2), "t")
    assert [a.time_ns for a in found.arrivals] == [0, NS, 3 * NS], "an entry without a prompt is passed over"
    assert [(a.prompt_tokens, a.output_tokens) for a in found.arrivals] == LENGTHS
    near = traffic(Plan("azure", log, assign="nearest_length", count=4), trace, (0, 1, 2), "t")
    # (3, 2) is there; (2, 3) is 2 from each, of which 1 is the first that was not replayed; (9, 1) is as far from 0 as
    # from 2; (1, 9) is nearest to 1, for the second time.
    assert [a.request for a in near.arrivals] == [0, 1, 2, 1]
    cut = traffic(Plan("azure", log, lengths="cut", count=4), trace, (0, 1, 2), "t")
    assert [(a.prompt_tokens, a.output_tokens) for a in cut.arrivals] == [(3, 2), (1, 3), (2, 1), (1, 2)]
    half = traffic(Plan("azure", log, scale=Fraction(1, 2)), trace, (0, 1, 2), "t")
    assert [a.time_ns for a in half.arrivals] == [0, NS // 2, 3 * NS // 2]
    at = traffic(Plan("azure", log, rate=rate(4), count=4), trace, (0, 1, 2), "t")
    last = 3 * NS + 100
    times = [NS * time // last for time in (0, NS, 3 * NS, last)]
    assert [a.time_ns for a in at.arrivals] == times, "the shape of the log, and its last at 4 / rate"


def test_the_nearest_is_so_in_tokens_of_both() -> None:
    lengths = {4: (10, 10), 5: (20, 1), 6: (10, 10)}
    assert nearest([(12, 9), (12, 9), (100, 0), (12, 9)], (4, 5, 6), lengths) == [4, 6, 5, 4]


def test_as_recorded(trace: Trace, log: Path, folder: Path) -> None:
    timed = open_trace(add_arrivals(log, trace.path, folder / "timed"))
    found = traffic(Plan("recorded"), timed, (2, 1), "t")
    assert [(a.request, a.time_ns) for a in found.arrivals] == [(1, 0), (2, NS // 2)]
    assert not found.replayed
    with pytest.raises(UserError, match=r"^workload\.count=3: as recorded, each of the 2 measured requests "):
        traffic(Plan("recorded", count=3), timed, (2, 1), "t")


MISTAKES: Sequence[tuple[Plan, str]] = [
    (Plan("recorded"), r"workload\.arrivals=recorded: trace=t has no arrival of request 0; allowed: a trace with arr"),
    (Plan("constant", rate=Fraction(1, 10**9), count=10), r"workload\.rate=1e-09: the last of 10 arrivals is after ov"),
    (Plan("mooncake", Path("LOG")), r"workload\.path: azure\.csv: format is azure; allowed: mooncake"),
    (Plan("azure", Path("none.csv")), r"workload\.path: none\.csv: "),
    (
        Plan("azure", Path("LOG"), count=9),
        r"workload\.path: azure\.csv: number of requests .* is 4; allowed",
    ),
    (
        Plan("azure", Path("LOG"), count=1, rate=rate(1)),
        r"workload\.rate=1: the first 1 requests of the log a",
    ),
    (
        Plan("azure", Path("LOG"), scale=Fraction(10**12)),
        r"workload\.scale=1e\+12: the last arrival is after ov",
    ),
    (
        Plan("azure", Path("BACK")),
        r"workload\.path: back\.csv: line 3, time is '1\.0 s before the line above'; ",
    ),
]


@pytest.mark.parametrize(("plan", "said"), MISTAKES)
def test_a_mistake_is_one_line(plan: Plan, said: str, trace: Trace, log: Path) -> None:
    back = log.with_name("back.csv")
    lines = AZURE.splitlines()
    back.write_text("\n".join([lines[0], lines[3], lines[1]]))
    paths = {"LOG": log, "BACK": back}
    path = paths.get(str(plan.path), plan.path)
    given = {name: getattr(plan, name) for name in plan.__slots__} | {"path": path}
    with pytest.raises(UserError, match=rf"^{said}[^\n]*$"):
        traffic(Plan(**given), trace, (0, 1, 2), "t")


def test_a_trace_without_prompts_is_refused_by_name(tmp_path: Path) -> None:
    decoded = one_layer(tmp_path / "trace", [Request((), 2, prompt=5)], [0, 0])
    with pytest.raises(UserError, match=r"^trace=mine: request 0 has 5 prompt tokens, of which 0 were recorded"):
        traffic(Plan("constant", rate=rate(1)), decoded, (0,), "mine")
