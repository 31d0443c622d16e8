"""Every corruption is refused with one line that says where it is, and nothing is ever unpickled."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.traces.format.desk import NO_JSON, edit, refused
from traces import open_trace
from traces.format.npy import header_bytes
from traces.format.reader import VERIFY

Forge = Callable[[Path, str, bytes], None]


def npy(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def test_hash_and_size_mismatch(tiny: Path) -> None:
    path = tiny / "token_ids.npy"
    raw = bytearray(path.read_bytes())
    raw[-4] ^= 1
    path.write_bytes(raw)
    refused(tiny, "token_ids.npy: SHA-256 is", verify="hash")
    open_trace(tiny, verify="shape")
    path.write_bytes(raw[:-1])
    for verify in VERIFY:
        refused(tiny, "token_ids.npy: size is", verify)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("expert_ids", 7, 8, "is 8; allowed: 0 to 7, or 255"),
        ("expert_ids", (3, 1), 5, "row 3, layer 1, slot 1 is 5; allowed: an expert at most once"),
        ("gate_ahead", 7, 8, "is 8; allowed: 0 to 7, or 255"),
        ("gate_ahead", (0, 2, 0), (0, 1), "row 0, layer 2, ahead 0, slot 0 is 0; allowed: absent past the last layer"),
        ("expert_weights", 7, np.nan, "is nan; allowed: finite"),
        ("expert_weights", 7, -1, "at least 0"),
        ("router_probs", 7, 1.5, "is 1.5; allowed: 0 to 1"),
        ("router_probs", 7, np.nan, "is nan"),
        ("router_choice", 7, np.inf, "is inf"),
        ("hidden", 7, np.inf, "layer 0, column 0 is inf; allowed: finite"),
        ("embedding", 7, np.nan, "row 7, column 0 is nan"),
        ("token_ids", 7, -1, "row 7 is -1"),
    ],
)
def test_forbidden_values(tiny: Path, forge: Forge, name: str, place: Any, value: Any, message: str) -> None:
    """``place``: the first entry of that row, or where it says. That it was right before, or wrong, excuses nothing."""
    open_trace(tiny)
    array = np.load(tiny / f"{name}.npy", allow_pickle=False)
    array[(place,) + (0,) * (array.ndim - 1) if isinstance(place, int) else place] = value
    forge(tiny, f"{name}.npy", npy(array))
    for _ in range(2):
        refused(tiny, message)
    open_trace(tiny, verify="hash")


def test_pickled_arrays_are_never_loaded(tiny: Path, forge: Forge) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tiny.parent / "exploded"),)

    forge(tiny, "token_ids.npy", npy(np.array([Bomb()], object), allow_pickle=True))
    refused(tiny, "token_ids.npy: dtype is .*pickled objects are never read")
    assert not (tiny.parent / "exploded").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hidden", lambda raw: raw[:-1], "size is .* which the header claims"),
        ("expert_ids", lambda raw: header_bytes(np.dtype("u1"), (10**12, 3, 2)) + raw[128:], "shape"),
        ("token_ids", lambda _: npy(np.zeros(15, ">i4")), "dtype is '>i4'; allowed: <i4"),
        ("token_ids", lambda _: npy(np.zeros(15, "<i8")), "dtype is '<i8'; allowed: <i4"),
        ("token_ids", lambda _: npy(np.zeros(14, "<i4")), r"shape is \(14,\); allowed: \(15,\)"),
        ("token_ids", lambda _: npy(np.zeros((15, 1), "<i4")), "shape of token_ids|shape is"),
        ("embedding", lambda raw: raw.replace(b"False", b"True "), "order is 'Fortran'; allowed: C"),
        ("hidden", lambda _: b"PK\x03\x04", "first bytes"),
    ],
)
def test_wrong_arrays(tiny: Path, forge: Forge, name: str, change: Callable[[bytes], bytes], message: str) -> None:
    """Whose size and hash the manifest has."""
    forge(tiny, f"{name}.npy", change((tiny / f"{name}.npy").read_bytes()))
    refused(tiny, message, "shape")


@pytest.mark.parametrize("name", ["hidden.npy", "trace.json", "requests.csv"])
def test_symbolic_links_and_pipes(tiny: Path, name: str) -> None:
    (tiny / name).rename(tiny.parent / name)
    (tiny / name).symlink_to(tiny.parent / name)
    refused(tiny, f"{name}: kind of file", "shape")
    (tiny / name).unlink()
    os.mkfifo(tiny / name)
    refused(tiny, f"{name}: kind of file", "shape")  # and does not hang


@pytest.mark.parametrize("name", ["../hidden.npy", "/etc/passwd", "a/b.npy", "notes.txt", "trace.json"])
def test_paths_that_lead_elsewhere(tiny: Path, name: str) -> None:
    edit(tiny / "trace.json", lambda document: document["files"].update({name: document["files"]["hidden.npy"]}))
    refused(tiny, "trace.json: name in files", "shape")


def test_unknown_and_missing_files(tiny: Path) -> None:
    (tiny / "notes.txt").write_text("hello")
    refused(tiny, "notes.txt: name", "shape")
    (tiny / "notes.txt").unlink()
    (tiny / "hidden.npy").unlink()
    refused(tiny, "hidden.npy: file is 'missing'", "shape")


@pytest.mark.parametrize("schema", [2, 0, "1", None, True, 1.5, []])
def test_other_schema_versions(tiny: Path, schema: Any) -> None:
    edit(tiny / "trace.json", lambda document: document.update(schema=schema))
    refused(tiny, "trace.json: schema is .*; allowed: 1", "shape")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("prompts"), "exactly the keys"),
        (lambda d: d.update(extra=1), "exactly the keys"),
        (lambda d: d["model"].update(n_layers=4), "model.expert_bytes"),
        (lambda d: d["model"].update(n_layers=True), "model.n_layers is True"),
        (lambda d: d["model"].update(n_experts=4), "shape of router_probs|dtype|shape"),
        (lambda d: d["model"].update(expert_bytes=[1, 2, 3.5]), r"model.expert_bytes\[2\] is 3.5"),
        (lambda d: d["model"].update(dense_bytes=[1, 2]), "model.dense_bytes is .*; allowed: a list of 3 integers"),
        (lambda d: d["model"].update(dense_bytes=[1, 2, -3]), r"model.dense_bytes\[2\] is -3; allowed: .* at least 0"),
        (lambda d: d["model"].update(name="a\nb"), "model.name"),
        (lambda d: d["counts"].update(tokens=14), "rows of all steps is 15; allowed: 14"),
        (lambda d: d["counts"].update(tokens=10**12), "rows of all steps is 15"),
        (lambda d: d["counts"].update(requests=4), "number of requests is 3; allowed: 4"),
        (lambda d: d["files"].pop("steps.npy"), "at least requests.csv"),
        (lambda d: d["files"].pop("hidden.npy"), "hidden.npy: name"),
        (lambda d: d["files"]["hidden.npy"].update(sha256="0"), "64 lower-case"),
        (lambda d: d["files"]["hidden.npy"].update(dtype="<f4"), "dtype and shape of hidden.npy"),
        (lambda d: d["decoding"].update(mode="beam"), "greedy, sampled, teacher_forced, unknown"),
    ],
)
def test_manifests_that_disagree(tiny: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(tiny / "trace.json", change)
    refused(tiny, message, "shape")


@pytest.mark.parametrize("raw", NO_JSON, ids=lambda raw: raw[:9])
def test_manifests_that_are_not_json(tiny: Path, raw: bytes) -> None:
    (tiny / "trace.json").write_bytes(raw)
    refused(tiny, "trace.json", "shape")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1,4,2,0.5,", "1,4,2,0.5s,", "line 3, arrival_s is '0.5s'"),
        ("1,4,2,0.5,", "1,4,2,-1,", "line 3, arrival_s"),
        ("1,4,2,0.5,", "1,4,2,nan,", "line 3, arrival_s"),
        ("1,4,2,0.5,", "1,04,2,0.5,", "line 3, prompt_tokens is '04'"),
        ("1,4,2,0.5,", "1,4,٢,0.5,", "line 3, output_tokens"),
        ("1,4,2,0.5,", "7,4,2,0.5,", "line 3, request is '7'; allowed: 1"),
        ("1,4,2,0.5,train,", "1,4,2,0.5,dev,", "line 3, split is 'dev'"),
        ("1,4,2,0.5,", "1,4,2,0.5,,", "line 3, fields is 7"),
        ("1,4,2,0.5,", "1,5,2,0.5,", "steps.npy: context of step 2, the first decode step is 4; allowed: 5"),
        ("request,", "Request,", "requests.csv: line 1"),
        ('b"""\n', 'b""" ', "line"),
    ],
)
def test_request_lines(tiny: Path, forge: Forge, old: str, new: str, message: str) -> None:
    text = (tiny / "requests.csv").read_text()
    assert old in text
    forge(tiny, "requests.csv", text.replace(old, new).encode())
    refused(tiny, message, "shape")


@pytest.mark.parametrize(
    ("step", "field", "value", "message"),
    [
        (1, "request", 2, "request of step 1|request"),
        (5, "request", 1, "request"),
        (2, "phase", 2, "phase of step 2 is 2"),
        (2, "phase", 0, "prefill step 2"),
        (4, "phase", 0, "first decode step is 5; allowed: 4"),
        (3, "phase", 1, "1 for a decode step"),
        (3, "rows", 3, "first_row of step 4"),
        (3, "rows", -4, "rows of step 3 is -4"),
        (5, "first_row", 2**62, "first_row of step 5"),
        (5, "context", 7, "context of step 5 is 7"),
        (0, "context", -1, "at least 0"),
    ],
)
def test_steps_that_contradict(tiny: Path, forge: Forge, step: int, field: str, value: int, message: str) -> None:
    steps = np.load(tiny / "steps.npy", allow_pickle=False)
    steps[field][step] = value
    forge(tiny, "steps.npy", npy(steps))
    refused(tiny, message, "shape")


def test_folders_that_are_no_traces(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "not a folder")
    refused(tmp_path, "no trace, the folder is empty; allowed: a folder that import or collect has made")
    (tmp_path / "expert_ids.npy").write_bytes(b"")
    refused(tmp_path, "no trace, it has no trace.json")
