"""Writing a predictor's outputs beside a trace: what was written opens, there whole or not at all."""

import hashlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.traces.format.desk import ABSENT, FACTS, STRIDE, add, outputs
from tests.traces.tiny_trace import E, K, L
from traces import TraceError, UserError, open_trace
from traces.format.predicted import open_one
from traces.writing.predicted import write_predicted


@pytest.mark.parametrize("cut", [1, 4, 100])
def test_what_was_written_opens(tiny: Path, cut: int) -> None:
    trace, ids = open_trace(tiny), outputs(open_trace(tiny), wide=3)
    blocks = (ids[first : first + cut].astype(np.int64) for first in range(0, len(ids), cut))
    given = {**FACTS, "top_k": 3, "fit": {"seed": 3, "who": "me"}}
    written = write_predicted(trace, blocks, name="mlp", timing={"s": 1.5}, **given)
    again = open_trace(tiny)
    assert "expert_ids" not in vars(open_trace(tiny, verify="hash").predicted["mlp"]), "mapped when it is asked for"
    assert again.sha256 == trace.sha256, "what lies beside a trace is no part of it"
    assert set(again.predicted) == {"mlp"}
    for found in (written, again.predicted["mlp"], open_one(tiny, "mlp", again.manifest, again.sha256)):
        np.testing.assert_array_equal(found.expert_ids, ids)
        assert found.expert_ids.dtype == np.uint8
        assert not found.expert_ids.flags.writeable
        about = found.about
        assert (about.kind, about.input, about.stride, about.top_k) == ("promoe", "hidden", STRIDE, 3)
        assert (about.name, about.trace, about.fit) == ("mlp", trace.sha256, given["fit"])
        assert found.sha256 == hashlib.sha256((tiny / "predicted/mlp/predictor.json").read_bytes()).hexdigest()


def test_time_is_no_part_of_it(tiny: Path) -> None:
    trace = open_trace(tiny)
    hashes = {
        write_predicted(trace, [outputs(trace)], name="mlp", timing=timing, overwrite=True, **FACTS).sha256
        for timing in (None, {"s": 1}, {"s": 2})
    }
    assert len(hashes) == 1


def test_the_accuracy_is_that_of_a_hand_count(tiny: Path) -> None:
    """Request 0 is for testing (4 rows), 1 and 2 for training (5 and 6 rows)."""
    trace = open_trace(tiny)
    ids = np.array(trace.expert_ids)
    said = np.full_like(ids, ABSENT)
    said[:, :-1] = ids[:, 1:]  # all right,
    said[0, 0] = [x for x in range(E) if x not in ids[0, 1]][:2]  # but none of two
    said[1, 0, 0] = next(x for x in range(E) if x not in ids[1, 1])  # one of two
    said[4:6, 1, 1] = ABSENT  # right, and fewer
    said[6, 1] = ids[6, 1]  # the layer itself, and not the one that the stride names
    right = len(set(ids[6, 1].tolist()) & set(ids[6, 2].tolist()))
    accuracy = write_predicted(trace, [said], name="mlp", **FACTS).about.accuracy
    assert accuracy["test"] == (5 / 8, 1.0, None)
    assert accuracy["train"] == (1.0, (18 + right) / 20, None)
    assert accuracy["all"] == (27 / 30, (26 + right) / 28, None)


def test_a_stride_of_two_is_counted_two_layers_on(tiny: Path) -> None:
    trace = open_trace(tiny)
    said = np.full((trace.N, L, K), ABSENT)
    said[:, 0] = trace.expert_ids[:, 2]
    found = write_predicted(trace, [said], name="mlp", **{**FACTS, "stride": 2})
    assert found.about.accuracy["all"] == (1.0, None, None)


def test_an_existing_name_is_replaced_only_on_request(tiny: Path) -> None:
    home = add(tiny)
    before = (home / "predictor.json").read_bytes()
    with pytest.raises(UserError, match=r"predicted/mlp: exists already; allowed: another name=, or overwrite=true"):
        add(tiny, seed=1)
    assert (home / "predictor.json").read_bytes() == before
    trace = open_trace(tiny)
    write_predicted(trace, [outputs(trace, 1)], name="mlp", overwrite=True, **FACTS)
    np.testing.assert_array_equal(open_trace(tiny).predicted["mlp"].expert_ids, outputs(trace, 1))
    assert [path.name for path in (tiny / "predicted").iterdir()] == ["mlp"]


def failing(ids: np.ndarray) -> Iterator[np.ndarray]:
    yield ids[:3]
    raise KeyboardInterrupt("interrupted")


@pytest.mark.parametrize(
    ("blocks", "wrong", "message"),
    [
        (lambda ids: [ids[:-1]], {}, "rows is 14; allowed: 15, as in trace.json"),
        (lambda ids: [ids, ids[:1]], {}, "block is "),
        (lambda ids: [], {}, "rows is 0"),
        (failing, {}, "interrupted"),
        (lambda ids: [ids.astype(float)], {}, "block is 'float64"),
        (lambda ids: [ids[:, :, 0]], {}, "block is "),
        (lambda ids: [np.where(ids == ABSENT, ids, E)], {}, f"is {E}; allowed: 0 to"),
        (lambda ids: [ids], {"kind": ""}, "predictor.json: kind is"),
        (lambda ids: [ids], {"input": "future"}, "predictor.json: input is"),
        (lambda ids: [np.full_like(ids, ABSENT)], {"stride": L}, "predictor.json: stride is"),
        (lambda ids: [ids], {"fit": {"long": "x" * 2**20}}, "predictor.json: size is"),
    ],
)
def test_what_cannot_be_written_or_read_leaves_nothing_new(tiny: Path, blocks: Any, wrong: Any, message: str) -> None:
    """Else nobody could open the trace any more."""
    home, trace = add(tiny), open_trace(tiny)
    before = (home / "predictor.json").read_bytes()
    for name in ("mlp", "other"):
        with pytest.raises((TraceError, KeyboardInterrupt), match=message):
            write_predicted(trace, blocks(outputs(trace, 1)), name=name, overwrite=True, **FACTS | wrong)
    assert [path.name for path in (tiny / "predicted").iterdir()] == ["mlp"]
    assert (home / "predictor.json").read_bytes() == before


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".x", "-x", "x" * 65, "a b", "ä", "x\n"])
def test_names_that_lead_elsewhere(tiny: Path, name: str) -> None:
    with pytest.raises(TraceError, match="name of a predictor"):
        add(tiny, name)
    assert not (tiny / "predicted").exists()


def test_what_a_killed_writing_leaves_is_passed_over(tiny: Path) -> None:
    add(tiny)
    (tiny / "predicted" / ".mlp.0123abcd.partial").mkdir()
    (tiny / "predicted" / ".mlp.0123abcd.partial" / "expert_ids.npy").write_bytes(b"half")
    assert set(open_trace(tiny).predicted) == {"mlp"}


def test_a_folder_that_cannot_be_written(tiny: Path) -> None:
    trace = open_trace(tiny)
    (tiny / "predicted").write_text("")
    with pytest.raises(UserError, match="allowed: a trace in a folder that can be written"):
        write_predicted(trace, [outputs(trace)], name="mlp", **FACTS)


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "interrupt"]
)
def test_the_old_outputs_stay_until_the_new_are_there(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, failing: int, error: BaseException
) -> None:
    """To replace them takes two renames; one fails."""
    home, trace = add(tiny), open_trace(tiny)
    before, rename, calls = (home / "predictor.json").read_bytes(), Path.rename, count(1)

    def fail_once(path: Path, target: Path) -> Path:
        if next(calls) == failing:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        write_predicted(trace, [outputs(trace, 1)], name="mlp", overwrite=True, **FACTS)
    if isinstance(error, OSError):
        assert "predicted/mlp: No space left on device; allowed: " in str(caught.value)
    assert [path.name for path in (tiny / "predicted").iterdir()] == ["mlp"]
    assert (home / "predictor.json").read_bytes() == before
