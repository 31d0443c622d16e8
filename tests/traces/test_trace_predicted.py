"""A predictor's outputs beside a trace: what was written opens, whatever is wrong is refused in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_trace import E, K, L

from traces import Trace, TraceError, UserError, open_trace
from traces.cli import main
from traces.npy import header_bytes
from traces.predicted import About, open_one
from traces.predicted_writer import write_predicted

ABSENT, STRIDE = 255, 1
FACTS: dict[str, Any] = {"kind": "promoe", "input": "hidden", "stride": STRIDE, "top_k": K, "fit": {"seed": 0}}


def outputs(trace: Trace, seed: int = 0, stride: int = STRIDE, wide: int = K) -> np.ndarray:
    ids = np.argsort(np.random.default_rng(seed).random((trace.N, L, E)), axis=-1)[..., :wide].astype(np.uint8)
    ids[:, L - stride :] = ABSENT
    return ids


def add(folder: Path, name: str = "mlp", seed: int = 0, **changes: Any) -> Path:
    trace = open_trace(folder)
    write_predicted(trace, [outputs(trace, seed)], name=name, **{**FACTS, **changes})
    return folder / "predicted" / name


def refused(folder: Path, message: str, verify: str = "full") -> None:
    with pytest.raises(TraceError, match=message) as caught:
        open_trace(folder, verify=verify)
    assert "\n" not in str(caught.value)


def edit(home: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((home / "predictor.json").read_bytes())
    change(document)
    (home / "predictor.json").write_text(json.dumps(document))


def forge(home: Path, ids: np.ndarray) -> None:
    """Other outputs, with a hash and a size that agree."""
    raw = header_bytes(ids.dtype, ids.shape) + ids.tobytes()
    (home / "expert_ids.npy").write_bytes(raw)
    entry = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "dtype": "|u1", "shape": list(ids.shape)}
    edit(home, lambda document: document["files"].update({"expert_ids.npy": entry}))


# -- the round trip ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 4, 100])
def test_what_was_written_opens(tiny: Path, cut: int) -> None:
    trace, ids = open_trace(tiny), outputs(open_trace(tiny), wide=3)
    blocks = (ids[first : first + cut].astype(np.int64) for first in range(0, len(ids), cut))
    given = {**FACTS, "top_k": 3, "fit": {"seed": 3, "who": "me"}}
    written = write_predicted(trace, blocks, name="mlp", timing={"s": 1.5}, **given)
    again = open_trace(tiny)
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


def test_it_is_mapped_only_when_asked_for(tiny: Path) -> None:
    add(tiny)
    found = open_trace(tiny, verify="hash").predicted["mlp"]
    assert "expert_ids" not in vars(found)
    assert isinstance(found.expert_ids, np.memmap)
    assert "expert_ids" in vars(found)


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


# -- writing ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "blocks", ["too few", "too many", "none", "failing", "floats", "flat", "twice", "past", "stray"]
)
def test_what_cannot_be_written_leaves_nothing_new(tiny: Path, blocks: str) -> None:
    home, trace = add(tiny), open_trace(tiny)
    before = (home / "predictor.json").read_bytes()
    ids = outputs(trace, 1)

    def failing() -> Any:
        yield ids[:3]
        raise KeyboardInterrupt

    twice, past, stray = ids.copy(), ids.copy(), ids.copy()
    twice[3, 1, 1] = twice[3, 1, 0]
    past[0, L - 1, 0] = 0
    stray[2, 0, 0] = E
    made = {
        "too few": [ids[:-1]],
        "too many": [ids, ids[:1]],
        "none": [],
        "failing": failing(),
        "floats": [ids.astype(float)],
        "flat": [ids[:, :, 0]],
        "twice": [twice],
        "past": [past],
        "stray": [stray],
    }[blocks]
    for name in ("mlp", "other"):
        with pytest.raises((TraceError, KeyboardInterrupt)):
            write_predicted(trace, made, name=name, overwrite=True, **FACTS)
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


# -- reading ----------------------------------------------------------------------------------------------------


def test_no_predictors_are_no_error(tiny: Path) -> None:
    assert open_trace(tiny).predicted == {}
    (tiny / "predicted").mkdir()
    assert open_trace(tiny).predicted == {}


def test_plain_files_only(tiny: Path) -> None:
    home = add(tiny)
    for stray in ("run.py", "more.npy", "timing.json.bak"):
        (home / stray).write_text("")
        refused(tiny, f"predicted/mlp/{stray}: name", "shape")
        (home / stray).unlink()
    (home / "timing.json").symlink_to("/etc/passwd")
    refused(tiny, "predicted/mlp/timing.json: kind of file", "shape")
    (home / "timing.json").unlink()
    for name in ("expert_ids.npy", "predictor.json"):
        (home / name).rename(tiny.parent / name)
        refused(tiny, f"predicted/mlp/{name}: file is 'missing'", "shape")
        (home / name).symlink_to(tiny.parent / name)
        refused(tiny, f"predicted/mlp/{name}: kind of file", "shape")
        (home / name).unlink()
        (tiny.parent / name).rename(home / name)
    (tiny / "predicted" / "notes.txt").write_text("")
    refused(tiny, "predicted/notes.txt: kind of file", "shape")


def test_links_to_folders_are_not_followed(tiny: Path) -> None:
    home = add(tiny)
    shutil.move(home, tiny.parent / "elsewhere")
    home.symlink_to(tiny.parent / "elsewhere")
    refused(tiny, "predicted/mlp: kind of file", "shape")
    home.unlink()
    shutil.move(tiny / "predicted", tiny.parent / "predicted")
    (tiny / "predicted").symlink_to(tiny.parent / "predicted")
    refused(tiny, "predicted: kind of file", "shape")


def test_nothing_is_unpickled(tiny: Path) -> None:
    home = add(tiny)
    np.save(home / "expert_ids.npy", np.array([{}], object), allow_pickle=True)
    raw = (home / "expert_ids.npy").read_bytes()
    entry = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "dtype": "|O", "shape": [1]}
    edit(home, lambda document: document["files"].update({"expert_ids.npy": entry}))
    refused(tiny, "pickled objects", "shape")


def test_the_outputs_of_another_trace(tiny: Path) -> None:
    home = add(tiny)
    document = json.loads((tiny / "trace.json").read_bytes())
    (tiny / "trace.json").write_text(json.dumps(document))  # the same in other bytes: another trace
    refused(tiny, r"predicted/mlp/predictor.json: trace is .*; allowed: \w{64}, the trace that it lies beside", "shape")
    shutil.rmtree(home)
    open_trace(tiny)


@pytest.mark.parametrize("verify", ["hash", "full"])
def test_hash_mismatch(tiny: Path, verify: str) -> None:
    home = add(tiny)
    raw = bytearray((home / "expert_ids.npy").read_bytes())
    raw[-1 - K * STRIDE] ^= 1
    (home / "expert_ids.npy").write_bytes(bytes(raw))
    refused(tiny, "predicted/mlp/expert_ids.npy: SHA-256 is", verify)
    open_trace(tiny, verify="shape")


def test_truncated(tiny: Path) -> None:
    home = add(tiny)
    (home / "expert_ids.npy").write_bytes((home / "expert_ids.npy").read_bytes()[:-1])
    refused(tiny, "predicted/mlp/expert_ids.npy: size is", "shape")
    edit(home, lambda d: d["files"]["expert_ids.npy"].update(bytes=d["files"]["expert_ids.npy"]["bytes"] - 1))
    refused(tiny, "size is .* which the header claims", "shape")


def test_values(tiny: Path) -> None:
    home, good = add(tiny), outputs(open_trace(tiny))
    for place, value, message in (
        ((3, 0, 1), E, rf"row 3, layer 0, slot 1 is {E}; allowed: 0 to {E - 1}"),
        ((2, 1, 0), ABSENT, "row 2, layer 1, slot 1 is .*absent entries come last"),
        ((5, 0, 1), good[5, 0, 0], "row 5, layer 0, slot 1 is .*at most once"),
        ((4, L - 1, 0), 2, f"row 4, layer {L - 1}, slot 0 is 2; allowed: absent past the last layer"),
    ):
        bad = good.copy()
        bad[place] = value
        forge(home, bad)
        refused(tiny, f"predicted/mlp/expert_ids.npy: value at {message}")
        open_trace(tiny, verify="hash")
    for shape in (good[:-1], good[:, :-1], good[..., :1]):
        forge(home, shape)
        refused(tiny, "predicted/mlp/expert_ids.npy: shape", "shape")
    forge(home, good)
    open_trace(tiny)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema=2), "schema is 2; allowed: 1"),
        (lambda d: d.update(schema=True), "schema is True; allowed: 1"),
        (lambda d: d.pop("fit"), "exactly the keys"),
        (lambda d: d.update(extra=1), "exactly the keys"),
        (lambda d: d.update(name="gru"), "name is 'gru'; allowed: mlp"),
        (lambda d: d.update(kind=""), "kind is ''"),
        (lambda d: d.update(input="future"), "input is 'future'; allowed: hidden, routing"),
        (lambda d: d.update(stride=0), "stride is 0"),
        (lambda d: d.update(stride=L), f"stride is {L}; allowed: an integer, at least 1, at most {L - 1}"),
        (lambda d: d.update(stride=2), "absent past the last layer"),
        (lambda d: d.update(top_k=E + 1), f"top_k is {E + 1}"),
        (lambda d: d.update(top_k=1), "shape"),
        (lambda d: d.update(trace=None), "trace is None"),
        (lambda d: d.update(fit=[]), r"fit is \[\]"),
        (lambda d: d["accuracy"].pop("test"), "accuracy is .*exactly the keys all, train, test"),
        (lambda d: d["accuracy"].update(test=[1, 1]), "accuracy.test is"),
        (lambda d: d["accuracy"].update(test=[1, 1.5, None]), r"accuracy.test\[1\] is 1.5; allowed: a number, 0 to 1"),
        (lambda d: d["accuracy"].update(test=[1, True, None]), r"accuracy.test\[1\] is True"),
        (lambda d: d["files"].update({"../x.npy": {}}), "files is .*exactly the keys expert_ids.npy"),
        (lambda d: d["files"]["expert_ids.npy"].update(sha256="x"), "sha256 is 'x'"),
        (lambda d: d["files"]["expert_ids.npy"].update(dtype="<u2"), "dtype and shape|dtype"),
    ],
)
def test_what_predictor_json_may_not_say(tiny: Path, change: Callable[[Any], object], message: str) -> None:
    edit(add(tiny), change)
    refused(tiny, message)


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[" * 10**5, b'{"a":1,"a":2}', b'{"schema":NaN}', b" " * 2**20 + b"{}"])
def test_what_is_no_json(tiny: Path, raw: bytes) -> None:
    (add(tiny) / "predictor.json").write_bytes(raw)
    refused(tiny, "predicted/mlp/predictor.json: (content|size|schema) is", "shape")


def test_the_command_line_checks_them_too(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = add(tiny)
    assert main(["check", str(tiny)]) == 0
    assert capsys.readouterr().out.endswith(", predictors mlp\n")
    (home / "run.py").write_text("")
    assert main(["check", str(tiny)]) == 2
    assert capsys.readouterr().err.startswith("error: predicted/mlp/run.py: name")


def test_every_field_is_written(tiny: Path) -> None:
    document = json.loads((add(tiny) / "predictor.json").read_bytes())
    assert set(document) == {"schema", "files", *About.__dataclass_fields__}
