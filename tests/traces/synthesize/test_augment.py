"""A recorded trace with signals made up: what was recorded stays, what is made up fits it and knows no future."""

from pathlib import Path

import numpy as np
import pytest

from tests.traces.tiny_trace import MANIFEST
from traces import DECODE, PREFILL, Request, TraceWriter, open_trace
from traces.cli import main
from traces.synthesize.signals import foreseen

L, E, K = 4, 16, 3


def recorded(path: Path, ids: np.ndarray, split: str = "test", **signals: np.ndarray) -> Path:
    """Two requests for training and two others, of two sources; 200 rows each."""
    shapes = {name: array.shape[1:] for name, array in signals.items()}
    with TraceWriter(path, n_layers=L, n_experts=E, top_k=K, signals=shapes) as out:
        for number in range(4):
            rows = slice(200 * number, 200 * number + 200)
            request = Request(number, 150, 51, None, "train" if number < 2 else split, f"source {number % 2}")
            steps = [(PREFILL, 150, 0), *((DECODE, 1, 150 + index) for index in range(50))]
            arrays = {name: array[rows] for name, array in signals.items()}
            out.add_request(request, steps=steps, expert_ids=ids[rows], **arrays)
        out.close(**{**MANIFEST, "expert_bytes": [10] * L, "recording": "recorded"})
    return path


@pytest.fixture
def ids() -> np.ndarray:
    return np.argsort(np.random.default_rng(0).random((800, L, E)), axis=2)[..., :K]


def augment(source: Path, out: Path, *words: str) -> Path:
    assert main(["augment", str(source), f"out={out}", *words]) == 0
    return out


def test_what_was_recorded_stays_byte_for_byte(ids: np.ndarray, tmp_path: Path) -> None:
    tokens = np.arange(800)
    source = recorded(tmp_path / "a", ids, token_ids=tokens)
    out = augment(source, tmp_path / "b")
    for name in ("expert_ids.npy", "token_ids.npy", "steps.npy", "requests.csv"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    before, after = open_trace(source).manifest, open_trace(out).manifest
    assert set(after.modelled) == {"expert_weights", "router_probs", "gate_ahead", "embedding"}
    assert (after.model, after.recorder, after.recording) == (before.model, before.recorder, "recorded")
    assert not before.modelled


def test_a_copy_with_arrivals_still_says_what_is_modelled(ids: np.ndarray, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    lines = [f"2023-11-16 18:15:4{second}.0,12,4" for second in range(4)]
    log.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines) + "\n")
    augmented = augment(recorded(tmp_path / "a", ids), tmp_path / "b")
    assert main(["arrivals", str(log), str(augmented), str(tmp_path / "c")]) == 0
    manifests = [open_trace(tmp_path / name).manifest for name in "bc"]
    assert manifests[0].modelled == manifests[1].modelled != {}


def test_gates_are_right_as_often_as_stated(ids: np.ndarray, tmp_path: Path) -> None:
    trace = open_trace(augment(recorded(tmp_path / "a", ids), tmp_path / "b", "recall=.9,.6", "signals=gate_ahead"))
    ahead, true = np.asarray(trace.gate_ahead), np.asarray(trace.expert_ids)
    for distance, recall in ((1, 0.9), (2, 0.6)):
        named = ahead[:, : L - distance, distance - 1]
        found = (named[..., :, None] == true[:, distance:, None, :]).any(axis=3).mean()
        assert found == pytest.approx(recall, abs=0.01)
    assert (ahead[:, L - 1] == trace.absent).all()


def test_two_gates_that_agree_are_no_surer_than_one(ids: np.ndarray, tmp_path: Path) -> None:
    trace = open_trace(augment(recorded(tmp_path / "a", ids), tmp_path / "b", "recall=.8,.7", "signals=gate_ahead"))
    true, near, far = trace.expert_ids[:, 2:], trace.gate_ahead[:, 1:-1, 0], trace.gate_ahead[:, :-2, 1]
    both = (near[..., :, None] == far[..., None, :]).any(axis=3)
    right = (near[..., :, None] == true[..., None, :]).any(axis=3)
    assert right[both].mean() < 0.9
    assert (right | (far[..., :, None] == true[..., None, :]).any(axis=3)).mean() < 0.9


def test_the_future_changes_nothing_before_it(ids: np.ndarray, tmp_path: Path) -> None:
    other = ids.copy()
    other[500:] = (other[500:] + 5) % E
    traces = [
        open_trace(augment(recorded(tmp_path / f"a{n}", each), tmp_path / f"b{n}"))
        for n, each in enumerate((ids, other))
    ]
    for name in ("expert_weights", "router_probs", "gate_ahead", "embedding"):
        one, two = (np.asarray(getattr(trace, name)) for trace in traces)
        assert (one[:500] == two[:500]).all()
    embeddings = [np.asarray(trace.embedding) for trace in traces]
    assert (embeddings[0] == embeddings[1]).all()
    ahead = [np.asarray(trace.gate_ahead) for trace in traces]
    assert (ahead[0][500:] != ahead[1][500:]).any()


def test_a_gate_says_nothing_of_layers_that_it_does_not_speak_of(ids: np.ndarray, tmp_path: Path) -> None:
    other = ids.copy()
    other[:, 3] = (other[:, 3] + 5) % E
    one, two = (
        np.asarray(
            open_trace(augment(recorded(tmp_path / f"a{n}", each, "train"), tmp_path / f"b{n}", "recall=.8")).gate_ahead
        )
        for n, each in enumerate((ids, other))
    )
    assert (one[:, :2] == two[:, :2]).all()
    assert (one[:, 2] != two[:, 2]).any()


def test_scores_rank_the_chosen_first_and_keep_recorded_weights(ids: np.ndarray, tmp_path: Path) -> None:
    weights = -np.sort(-np.random.default_rng(1).dirichlet(np.ones(K), (800, L)), axis=2)
    source = recorded(tmp_path / "a", ids, expert_weights=weights)
    trace = open_trace(augment(source, tmp_path / "b", "signals=router_probs"))
    probs = np.asarray(trace.router_probs).astype(float)
    chosen = np.take_along_axis(probs, ids, axis=2)
    assert np.sort(probs, axis=2)[..., -K:].sum(axis=2) == pytest.approx(chosen.sum(axis=2), abs=1e-3)
    assert probs.sum(axis=2) == pytest.approx(1, abs=0.01)
    assert chosen / chosen.sum(axis=2, keepdims=True) == pytest.approx(weights, abs=0.01)


def test_embeddings_tell_the_source(ids: np.ndarray, tmp_path: Path) -> None:
    trace = open_trace(augment(recorded(tmp_path / "a", ids), tmp_path / "b", "signals=embedding"))
    means = np.asarray(trace.embedding).astype(float).reshape(4, 200, -1).mean(axis=1)
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    alike = unit @ unit.T
    assert min(alike[0, 2], alike[1, 3]) > max(alike[0, 1], alike[0, 3], alike[1, 2], alike[2, 3]) + 0.1


@pytest.mark.parametrize("top_k", [1, 5, 7, 8])
def test_recall_where_few_experts_are_left_to_be_wrong_with(top_k: int) -> None:
    random = np.random.default_rng(0)
    ids = np.argsort(random.random((4000, 8)), axis=1)[:, :top_k]
    least = max(0.0, (2 * top_k - 8) / top_k)
    for recall in (least, (1 + least) / 2, 1.0):
        named = foreseen(ids, recall, random.random((4000, top_k + 1)), random.random((4000, 8)))
        assert all(len({*row}) == top_k for row in named.tolist())
        found = (named[:, :, None] == ids[:, None, :]).any(axis=2).mean()
        assert found == pytest.approx(recall, abs=0.02)


def test_absent_experts_stay_absent() -> None:
    ids = np.array([[3, 1, 255], [255, 255, 255], [0, 2, 4]])
    random = np.random.default_rng(0)
    named = foreseen(ids, 0.0, random.random((3, 4)), random.random((3, 6)))
    assert ((named == 255) == (ids == 255)).all()
    assert not {*named[0, :2].tolist()} & {3, 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("recall=.2,x", "recall=.2,x: allowed: shares from 0 to 1"),
        ("recall=.9,.9,.9,.9", "recall=0.9, 0.9, 0.9, 0.9: 4 layers ahead; allowed: up to 3 for 4 layers"),
        ("signals=token_ids", "signals=token_ids: allowed: none, or some of"),
        ("signals=none", "signals=none: "),
        ("signals=gate_ahead,gate_ahead", "signals=gate_ahead,gate_ahead: allowed: none, or some of"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: str, said: str, ids: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = recorded(tmp_path / "a", ids)
    assert main(["augment", str(source), f"out={tmp_path / 'b'}", words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_signal_that_is_there_is_not_made_up(
    ids: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = recorded(tmp_path / "a", ids, embedding=np.zeros((800, 3)))
    assert main(["augment", str(source), f"out={tmp_path / 'b'}", "signals=embedding"]) == 2
    said = "the trace has embedding already; allowed: expert_weights, router_probs, gate_ahead\n"
    assert capsys.readouterr().err.endswith(f"signals=embedding: {said}")


@pytest.mark.parametrize("words", [(), ("signals=none",), ("signals=gate_ahead",)])
def test_a_trace_that_lacks_nothing_is_told_so(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["augment", "sample", f"out={tmp_path / 'b'}", *words]) == 2
    error = capsys.readouterr().err
    assert (
        "sample: has all that can be made up (expert_weights, router_probs, gate_ahead, embedding); allowed: " in error
    )
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
