"""What requests have in common by how far apart they are: measured by hand, told from popularity, and drawn again."""

from pathlib import Path

import numpy as np
import pytest

from tests.traces.tiny_trace import MANIFEST
from traces import DECODE, Request, TraceWriter, open_trace
from traces.synthesize.between import (
    Between,
    as_uneven,
    between_of,
    by_chance,
    drift_of,
    far_correlations,
    lasting,
    likeness_of,
)
from traces.synthesize.changed import between_in, means_by_layer, shaped, with_entropy, with_overlap
from traces.synthesize.draw import Source, largest
from traces.synthesize.figures import Figures, read_figures
from traces.synthesize.fit import law_of
from traces.synthesize.law import REQUEST_SCALES, Law
from traces.synthesize.measure import measure

MEANS = np.tile(np.linspace(-0.8, 0.8, 32), (3, 1))
KEPT = np.full(3, 0.4)
PLACES = 7


def recorded(folder: Path, experts: list[int], sources: str = "") -> Figures:
    """Of a trace of one layer, whose requests choose one expert each, all the time, for two tokens."""
    with TraceWriter(folder, n_layers=1, n_experts=4, top_k=1, signals={}) as out:
        for number, expert in enumerate(experts):
            request = Request(number, 4, 3, None, None, sources[number : number + 1] or "a")
            steps = [(DECODE, 1, 4), (DECODE, 1, 5)]
            out.add_request(request, steps=steps, expert_ids=np.full((2, 1, 1), expert, np.int64))
        out.close(**{**MANIFEST, "expert_bytes": [10]})
    return measure(open_trace(folder), "mine")


def test_pairs_are_counted_by_how_far_apart_their_requests_are(tmp_path: Path) -> None:
    # 1 apart: 2 of 7 pairs are alike. 2 apart: 1 of 6. 3 or 4: 4 of 5 and 2 of 4. Farther than half of 8, none is told.
    assert recorded(tmp_path / "t", [0, 0, 1, 0, 0, 1, 2, 0]).between == (0.2857, 0.1667, 0.6667)
    assert recorded(tmp_path / "s", [0, 0, 1, 0], "abab").between == (0.3333, None)
    assert recorded(tmp_path / "r", [0, 0, 1, 0], "aabb").between == (0.0, 0.5)
    assert recorded(tmp_path / "one", [0]).between is None


def between(means: np.ndarray, likeness: np.ndarray, requests: int = 256) -> Between:
    within = between_of(means[:1], KEPT[:1], np.ones(1), 4)
    return Between(between_of(means, KEPT, likeness, 4), np.full(3, within[0]), requests)


def faded(scale: float) -> np.ndarray:
    apart = [np.arange(2**place // 2 + 1, 2**place + 1) for place in range(PLACES)]
    return np.array([np.exp(-distances / scale).mean() for distances in apart])


@pytest.mark.parametrize("place", range(len(REQUEST_SCALES)))
def test_drift_is_what_the_likeness_was_made_of(place: int) -> None:
    made = 0.5 * faded(REQUEST_SCALES[place])
    wanted = np.zeros(len(REQUEST_SCALES))
    wanted[place] = 0.5
    assert drift_of(MEANS, KEPT, between(MEANS, made), 4) == pytest.approx(wanted, abs=0.02)
    assert drift_of(MEANS, 0 * KEPT, between(MEANS, made), 4).tolist() == [0] * len(REQUEST_SCALES)
    assert drift_of(MEANS, KEPT, between(MEANS, faded(64) ** 0), 4).sum() <= 1 + 1e-9


def test_popularity_of_few_requests_is_flattened_to_what_requests_far_apart_share() -> None:
    far = between(MEANS, np.zeros(PLACES))
    assert lasting(MEANS, far, 4) == pytest.approx(MEANS, abs=1e-3)
    seen = as_uneven(MEANS, by_chance(MEANS, 4) * 0.9 + 0.1 * far.within, 4)
    assert seen.std() > MEANS.std() * 1.05
    assert by_chance(lasting(seen, far, 4), 4) == pytest.approx(by_chance(MEANS, 4), rel=0.01)
    assert lasting(seen, Between(np.zeros(0), far.within, 8), 4) is seen


def test_what_is_stated_otherwise_keeps_what_requests_have_of_one_another() -> None:
    before = read_figures("gpt_oss_20b")
    had = likeness(before)
    assert had[0] > 3 * had[-1]
    for after in (with_overlap(before, 0.6), with_entropy(before, 0.8), shaped(before, 6, 32, 4)):
        assert after.between != before.between
        assert likeness(after) == pytest.approx(had, abs=0.1)


def likeness(figures: Figures) -> np.ndarray:
    means, found = means_by_layer(figures), between_in(figures)
    return likeness_of(means, far_correlations(means, found.within, figures.top_k), found, figures.top_k)


def test_requests_drawn_are_as_alike_as_the_figures_say() -> None:
    parts = np.tile([0.0] * 6 + [0.4], (3, 1))
    law = Law(MEANS, parts, np.zeros(3), 0.9, np.array([0.0, 0.8, 0.0, 0.0]))
    source, count = Source(law, seed=2), 400
    held = np.zeros((count, 3, 32))
    for request in range(count):
        for layer, states in enumerate(source.states(request, 24, 0)):
            held[request, layer] = np.bincount(largest(states, 4).ravel(), minlength=32) / 24
    drawn = [(held[apart:] * held[: count - apart]).sum(axis=2).mean() / 4 for apart in (1, 4, 64)]
    wanted = between_of(MEANS, KEPT, 0.8 * np.exp(-np.array([1, 4, 64]) / 4), 4)
    assert drawn == pytest.approx(wanted, rel=0.08)
    assert drawn[0] > 1.15 * drawn[2]
    again = next(iter(source.states(3, 5, 0)))
    assert (again == next(iter(Source(law, seed=2).states(3, 5, 0)))).all()


def test_popularity_is_as_uneven_as_the_figures_say_though_factors_are_few() -> None:
    figures = read_figures("gpt_oss_20b")
    law = law_of(figures, 7)
    source, drawn = Source(law, seed=7), []
    for layer in range(0, 24, 3):
        chances = np.bincount(largest(source.alone(layer, 8192), 4).ravel(), minlength=32) / 8192
        drawn.append((chances**2).sum() / 4)
    assert np.mean(drawn) == pytest.approx(by_chance(means_by_layer(figures), 4)[::3].mean(), rel=0.02)
