"""What ``inspect`` shows: hand counts, laws, an oracle for reuse distances, and pictures that can be drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces.tiny_trace import MANIFEST
from traces import DECODE, PREFILL, Request, Trace, TraceError, TraceWriter, open_trace
from traces.cli import main
from traces.describe import stats as stats_module
from traces.describe.stats import Reuse, describe, reuse_distances
from traces.format import npy as npy_module

FIGURES = ["entropy", "gate_recall", "load_balance", "overlap", "popularity", "reuse_distance", "tokens"]


def test_inspect_shows_tables_and_json(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny)]) == 0
    assert "gate recall, 1 ahead" in capsys.readouterr().out
    assert main(["inspect", str(tiny), "format=json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sha256"] == open_trace(tiny).sha256
    assert document["tokens"] == {"prefill": 12, "decode": 3}
    assert document["splits"] == {"test": 1, "train": 2}
    assert document["sources"] == {'a, "b"': 3}
    reuse = document["reuse_distance"]
    looked_up = sum(map(sum, reuse["lookups_at_distance"])) + sum(reuse["first_demands"])
    assert looked_up == sum(map(len, demands(open_trace(tiny))))
    assert document["gate_recall_by_distance_and_layer"][0][0] is None
    assert document["by_source"]["popularity_cosine"] == [[pytest.approx(1)]]


def test_every_figure_is_drawn(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the second time over the first
        assert main(["inspect", str(tiny), f"plots={tmp_path / 'plots'}"]) == 0
    pngs = sorted((tmp_path / "plots").iterdir())
    assert [path.stem for path in pngs] == FIGURES
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pngs)
    capsys.readouterr()
    (tmp_path / "more").mkdir()
    assert main(["inspect", str(many_sources(tmp_path / "many", 3)), f"plots={tmp_path / 'more'}"]) == 0
    drawn = sorted(path.stem for path in (tmp_path / "more").iterdir())
    assert drawn == ["popularity", "reuse_distance", "sources", "tokens"]  # of one layer: no lines over layers


def test_a_picture_that_cannot_be_written(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plots" / "tokens.png").mkdir(parents=True)
    assert main(["inspect", str(tiny), f"plots={tmp_path / 'plots'}"]) == 2
    assert "a folder that can be written" in capsys.readouterr().err


@pytest.mark.parametrize("chunk", [1, 2**20])
def test_figures_are_those_of_a_hand_count(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy_module, "_CHUNK", chunk)
    monkeypatch.setattr(stats_module, "_CELLS", chunk)
    x = 255
    ids = np.array(
        [
            [[0, 1], [2, 3], [0, x]],
            [[1, 0], [2, 0], [x, x]],
            [[2, 3], [2, 0], [1, x]],
            [[2, 3], [0, 1], [1, x]],  # another request: no neighbour of the row above
        ]
    )
    ahead = np.full((4, 3, 2, 2), x)
    ahead[:, 0, 0] = [2, 3]  # layer 1 from layer 0: 2, 1, 1, 0 of 2 right
    ahead[:, 1, 0] = [1, 0]  # layer 2 from layer 1: 1, -, 1, 1 of 1 right
    ahead[:, 0, 1] = [0, 2]  # layer 2 from layer 0: 1, -, 0, 0 of 1 right
    with TraceWriter(tmp_path / "t", n_layers=3, n_experts=4, top_k=2, signals={"gate_ahead": (3, 2, 2)}) as out:
        for number, (part, rows) in enumerate(((slice(0, 3), 3), (slice(3, 4), 1))):
            request = Request(number, rows, 1, None, None, "hand")
            out.add_request(request, steps=[(PREFILL, rows, 0)], expert_ids=ids[part], gate_ahead=ahead[part])
        out.close(**MANIFEST)
    stats = describe(open_trace(tmp_path / "t"))
    np.testing.assert_array_equal(stats.popularity, [[2, 2, 2, 2], [3, 1, 3, 1], [1, 2, 0, 0]])
    np.testing.assert_allclose(stats.overlap, [2 / 4, 3 / 4, np.nan])
    np.testing.assert_allclose(stats.load_max_over_mean, [1, 1.5, 2 / 0.75])
    np.testing.assert_allclose(stats.entropy_bits[0], 2)
    np.testing.assert_allclose(stats.entropy_bits[2], np.log2(3) - 2 / 3)
    assert stats.uniform_overlap == 0.5
    assert stats.gate_recall_by_distance == [pytest.approx(7 / 11), pytest.approx(1 / 3)]
    assert stats.gate_recall is not None
    np.testing.assert_allclose(stats.gate_recall, [[np.nan, 4 / 8, 3 / 3], [np.nan, np.nan, 1 / 3]])
    # A step is judged by what was before it: the first request is one step. It knows no expert, the second all but 1.
    np.testing.assert_array_equal(stats.reuse.first, [4, 4, 2])
    # Last came 2, 3 in layer 0; 2, 0 in layer 1; 0, 1 in layer 2.
    np.testing.assert_array_equal(stats.reuse.counts, [[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])


def of_sources(folder: Path, pairs: list[list[list[int]]]) -> Path:
    """Write a trace of 64 experts whose request r comes from source r, of two tokens of two experts each."""
    with TraceWriter(folder, n_layers=1, n_experts=64, top_k=2) as out:
        for number, pair in enumerate(pairs):
            ids = np.array(pair)[:, None]
            out.add_request(Request(number, 2, 1, None, None, f"${number}"), steps=[(PREFILL, 2, 0)], expert_ids=ids)
        out.close(**{**MANIFEST, "expert_bytes": None})
    return folder


def many_sources(folder: Path, count: int) -> Path:
    """Request r chooses the experts r and r + 1, twice."""
    return of_sources(folder, [[[number, number + 1]] * 2 for number in range(count)])


def test_sources_are_compared(tmp_path: Path) -> None:
    stats = describe(open_trace(many_sources(tmp_path / "t", 3)))
    np.testing.assert_allclose(stats.source_cosine, [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]])
    np.testing.assert_allclose(stats.source_overlap, 1)
    assert stats.domains == {f"${number}": {"prefill": 2, "decode": 0} for number in range(3)}


def test_overlap_is_told_apart_by_source(tmp_path: Path) -> None:
    folder = of_sources(tmp_path / "t", [[[0, 1], second] for second in ([0, 1], [2, 1], [2, 3])])
    np.testing.assert_allclose(describe(open_trace(folder)).source_overlap, [1, 0.5, 0])


def test_many_sources_are_taken_together(tmp_path: Path) -> None:
    stats = describe(open_trace(many_sources(tmp_path / "t", 40)))
    assert list(stats.domains)[-1] == "29 others"
    assert sum(counts["prefill"] for counts in stats.domains.values()) == 80
    assert stats.source_cosine.shape == (12, 12)


def test_more_experts_than_can_be_counted(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_module, "MAX_COUNTED", 23)
    with pytest.raises(TraceError, match="layers x experts is '3 x 8'; allowed: at most 23"):
        describe(open_trace(tiny))


def demands(trace: Trace) -> list[list[int]]:
    """The demand sets of all (step, layer), as flat experts in the order of their last use."""
    found = []
    for step in trace.steps:
        for layer in range(trace.L):
            ids = trace.expert_ids[step["first_row"] : step["first_row"] + step["rows"], layer].ravel().tolist()
            order = dict.fromkeys(reversed([layer * trace.E + x for x in ids if x != trace.absent]))
            found.append(list(order)[::-1])
    return found


def textbook(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Reuse distances by a list per layer, most recent first."""
    counts, first = np.zeros((trace.L, trace.E), int), np.zeros(trace.L, int)
    stacks: list[list[int]] = [[] for _ in range(trace.L)]
    for demand in demands(trace):
        for x in demand:
            stack = stacks[x // trace.E]
            if x in stack:
                counts[x // trace.E, stack.index(x)] += 1
            else:
                first[x // trace.E] += 1
        for x in demand:
            stack = stacks[x // trace.E]
            stack[:] = [x, *(y for y in stack if y != x)]
    return counts, first


@settings(max_examples=60)
@given(
    plan=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)).filter(any), min_size=1, max_size=6),
    n_experts=st.sampled_from([2, 5, 254, 255, 300]),
    cells=st.sampled_from([1, 40, 2**17]),
    seed=st.integers(0, 99),
)
def test_reuse_distances_are_the_textbooks(
    plan: list[tuple[int, int]], n_experts: int, cells: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("reuse") / "t"
    with TraceWriter(folder, n_layers=2, n_experts=n_experts, top_k=2) as out:
        for number, (prompt, decoded) in enumerate(plan):
            steps = [(PREFILL, prompt, 0)] if prompt else []
            steps += [(DECODE, 1, prompt + index) for index in range(decoded)]
            # Few experts are popular, so that there is reuse among 300 as well.
            popular = rng.random((prompt + decoded, 2, n_experts)) * np.minimum(np.arange(n_experts), 6)
            ids = np.argsort(popular, axis=-1)[..., -2:]
            ids[rng.random(ids.shape[:2]) < 0.2, 1:] = out.absent
            ids[rng.random(ids.shape[:2]) < 0.1] = out.absent
            out.add_request(Request(number, prompt, decoded + 1, None, None, "x"), steps=steps, expert_ids=ids)
        out.close(**{**MANIFEST, "expert_bytes": None})
    trace = open_trace(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats_module, "_CELLS", cells)
        reuse = reuse_distances(trace)
    counts, first = textbook(trace)
    np.testing.assert_array_equal(reuse.counts, counts)
    np.testing.assert_array_equal(reuse.first, first)


def test_quantiles_are_those_of_the_distances() -> None:
    reuse = Reuse(np.array([[1, 0, 8, 1], [0, 0, 0, 0]]), np.array([0, 3]))
    np.testing.assert_array_equal(reuse.quantile(0.5), [2, np.nan])
    np.testing.assert_array_equal(reuse.quantile(0.1), [0, np.nan])
    np.testing.assert_array_equal(reuse.quantile(0.95), [3, np.nan])
    np.testing.assert_allclose(reuse.within(), np.array([1, 1, 9, 10]) / 13)


@pytest.mark.ci
def test_gpt_oss_20b_has_the_published_figures(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "traces" / "gptoss20b_decode.npz"
    assert main(["import", "npz", str(source), str(tmp_path / "t"), "model=gpt-oss-20b"]) == 0
    trace = open_trace(tmp_path / "t", verify="shape")
    assert (trace.E, trace.N) == (32, 215438)
    stats = describe(trace)
    assert stats.overlap.mean() == pytest.approx(0.43, abs=0.01)
    # A least-recently-used pool per layer that holds 25 % and 50 % of the experts hits .63 and .89 of the lookups.
    assert stats.reuse.within()[[7, 15]] == pytest.approx([0.63, 0.89], abs=0.03)
