"""How long a calibration takes is said before it begins, within a factor of two, on a clock that nobody waits for."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.traces.calibrate.tiny_configs import MIXTRAL, write_config
from traces.calibrate import forecast, timing
from traces.calibrate.forecast import Forecast, Plan, words
from traces.calibrate.layers import Grids
from traces.calibrate.plan import Part, Timed, Tried, measured, total_s
from traces.calibrate.timing import Budget, Clock


class Now:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s

    def part(self, name: str, axes: dict[str, list[int]], call_s: Callable[..., float], setup_s: float) -> Part:
        """A part whose calls take so long, and whose points are set up for so long; a first call takes a second more,
        as where a GPU chooses its kernels."""
        seen: list[int] = []

        def timed(*point: int) -> Timed:
            self.s += setup_s

            def calls(n: int) -> float:
                self.s += n * call_s(*point) + (not seen)
                seen.append(n)
                return n * call_s(*point) * 1e9

            return calls

        return Part(name, axes, timed)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    clock = Now()
    monkeypatch.setattr(timing.time, "monotonic", clock)
    return clock


def parts(now: Now, slower: float) -> list[Part]:
    """What a machine is like: rates that saturate, a floor of launches, attention that grows with the context."""
    sizes, tokens = [1 << i for i in range(16, 30)], [1 << i for i in range(9)]
    pairs = [(t, c) for t in tokens[::2] for c in (0, 128, 512, 2048)]
    threads = [(n, t) for n in (1, 2, 4, 8, 16) for t in (1, 4, 16, 64)]
    dense = {"tokens": [t for t, _ in pairs], "context": [c for _, c in pairs]}
    cpu = Part(
        *("cpu", {"threads": [n for n, _ in threads], "tokens": [t for _, t in threads]}),
        now.part("", {}, lambda n, t: slower * 1e-3 * (1 + t / 8) / n, 0.0).timed,
        falling=frozenset({"threads"}),
    )
    return [
        now.part("copy", {"bytes": sizes}, lambda b: slower * (1e-5 + b / 10e9), 0.0),
        now.part("expert", {"tokens": tokens}, lambda t: slower * max(1e-3, t * 2e-4), 1e-3),
        now.part("dense", dense, lambda t, c: slower * (1e-3 + 1e-4 * t + 1e-7 * t * c), slower * 0.05),
        now.part("launch", {}, lambda: slower * 2e-6, 0.0),
        cpu,
    ]


@pytest.mark.parametrize("seconds", [0, 5, 100, 2000])
@pytest.mark.parametrize("slower", [0.01, 1, 30])
def test_the_forecast_is_right_within_a_factor_of_two(now: Now, slower: float, seconds: float) -> None:
    every = parts(now, slower)
    before = now.s
    costs = [cost for part in every for cost in Tried(part).costs()]
    tried_s = now.s - before
    budget = Budget(seconds, len(costs))
    began, said = now.s, total_s(costs, seconds)
    for part in every:
        measured(part, budget)
    took = now.s - began
    assert took / 2 <= said <= 2 * took
    assert len(costs) == sum(len(part.points) for part in every)
    assert tried_s < max(10, took)  # the first calls' seconds are lost only once


def test_what_is_set_up_at_each_point_counts(now: Now) -> None:
    slow = now.part("layer", {"tokens": [1, 2, 4, 8]}, lambda t: 1e-5, setup_s=30.0)
    costs, began = Tried(slow).costs(), now.s
    measured(slow, Budget(1, len(costs)))
    assert total_s(costs, 1) == pytest.approx(now.s - began, rel=0.01)


def test_between_the_ends_times_are_of_the_axis(now: Now) -> None:
    threads = [1, 2, 4, 8, 16]
    part = now.part("cpu", {"threads": threads}, lambda n: 8.0 / n, 0.0)
    falling = Part("cpu", part.axes, part.timed, falling=frozenset({"threads"}))
    assert [cost.sample_s for cost in Tried(falling).costs()] == pytest.approx([8, 4, 2, 1, 0.5])
    rising = now.part("copy", {"bytes": threads}, lambda n: 2.0 * n, 0.0)
    assert [cost.sample_s for cost in Tried(rising).costs()] == pytest.approx([2, 4, 8, 16, 32])


def test_what_is_left_is_said_on_the_way_and_falls_to_nothing(now: Now) -> None:
    every, lines = parts(now, 30), list[str]()
    costs = [cost for part in every for cost in Tried(part).costs()]
    budget = Forecast(5, costs, lines.append)
    for part in every:
        measured(part, budget)
    assert len(lines) > 5
    assert all(f" of {len(costs)} points; about " in line for line in lines)
    done = [int(line.split()[0]) for line in lines]
    assert done == sorted(done)
    assert total_s(budget._costs, 0) == 0


def test_every_point_that_is_measured_was_in_the_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_config(tmp_path / "tiny", MIXTRAL)
    grids = Grids(tokens=(1, 2), contexts=(0, 8), cpu_tokens=(1,), threads=(1,))
    asked, share = list[int](), Budget.share
    monkeypatch.setattr(Budget, "share", lambda self: asked.append(1) or share(self))
    lines = list[str]()
    plan = Plan(Clock(torch.device("cpu")), 1 << 17, [str(model)], "float32", grids)
    plan.announce(1e-3, lines.append)
    plan.measure(0, lines.append)
    assert len(asked) == len(plan.costs()) > len(plan.costs(shorter=True))
    assert lines[0].startswith("the whole will take about ")
    assert lines[0].endswith(f"; {words(plan.tried_s)} of it are over")
    assert plan.tried_s > 0
    plan.tried_s += 400  # trying is a part of the whole
    plan.announce(1e-3, lines.append)
    assert re.search(r"about [78] min; [78] min of it", lines[-3])
    assert re.search(r"would take about [78] min", lines[-1])
    assert lines[1] == "(seconds=0.001 is too few for the least number of samples at each point;"
    assert lines[2].startswith(" largest=1 max_tokens=1 max_context=2 would take about ")


def test_a_duration_for_a_person() -> None:
    assert [words(s) for s in (0.2, 59.6, 99.4, 100, 400)] == ["1 s", "60 s", "99 s", "2 min", "7 min"]
    assert forecast.PROGRESS_S < 60
