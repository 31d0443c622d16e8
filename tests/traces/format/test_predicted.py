"""A predictor's outputs beside a trace: whatever is wrong when they are read is refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.traces.format.desk import NO_JSON, STRIDE, add, edit, forge, outputs, refused
from tests.traces.tiny_trace import E, K, L
from traces import open_trace
from traces.cli import main


def test_plain_files_only(tiny: Path) -> None:
    home = add(tiny)
    (home / "timing.json").write_text("{}")
    for name in ("expert_ids.npy", "predictor.json", "timing.json"):
        (home / name).rename(tiny.parent / name)
        if name != "timing.json":
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


def test_the_outputs_of_another_trace(tiny: Path) -> None:
    home = add(tiny)
    document = json.loads((tiny / "trace.json").read_bytes())
    (tiny / "trace.json").write_text(json.dumps(document))  # the same in other bytes: another trace
    refused(tiny, r"predicted/mlp/predictor.json: trace is .*; allowed: \w{64}, the trace that it lies beside", "shape")
    for emptied in (home, home.parent):  # none of them are no error
        shutil.rmtree(emptied)
        assert open_trace(tiny).predicted == {}


@pytest.mark.parametrize("verify", ["hash", "full"])
def test_hash_mismatch(tiny: Path, verify: str) -> None:
    home = add(tiny)
    raw = bytearray((home / "expert_ids.npy").read_bytes())
    raw[-1 - K * STRIDE] ^= 1
    (home / "expert_ids.npy").write_bytes(bytes(raw))
    refused(tiny, "predicted/mlp/expert_ids.npy: SHA-256 is", verify)
    open_trace(tiny, verify="shape")


def test_values(tiny: Path) -> None:
    home, good = add(tiny), outputs(open_trace(tiny))
    for place, value, message in (
        ((3, 0, 1), E, rf"row 3, layer 0, slot 1 is {E}; allowed: 0 to {E - 1}"),
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
        (lambda d: d.pop("fit"), "exactly the keys"),
        (lambda d: d.update(name="gru"), "name is 'gru'; allowed: mlp"),
        (lambda d: d.update(input="future"), "input is 'future'; allowed: hidden, routing"),
        (lambda d: d.update(stride=0), "stride is 0"),
        (lambda d: d.update(stride=L), f"stride is {L}; allowed: an integer, at least 1, at most {L - 1}"),
        (lambda d: d.update(stride=2), "absent past the last layer"),
        (lambda d: d.update(top_k=E + 1), f"top_k is {E + 1}"),
        (lambda d: d.update(top_k=1), "shape"),
        (lambda d: d.update(fit=[]), r"fit is \[\]"),
        (lambda d: d["accuracy"].pop("test"), "accuracy is .*exactly the keys all, train, test"),
        (lambda d: d["accuracy"].update(test=[1, 1]), "accuracy.test is"),
        (lambda d: d["accuracy"].update(test=[1, 1.5, None]), r"accuracy.test\[1\] is 1.5; allowed: a number, 0 to 1"),
        (lambda d: d["accuracy"].update(test=[1, True, None]), r"accuracy.test\[1\] is True"),
        (lambda d: d["files"].update({"../x.npy": {}}), "files is .*exactly the keys expert_ids.npy"),
        (lambda d: d["files"]["expert_ids.npy"].update(dtype="<u2"), "dtype and shape|dtype"),
    ],
)
def test_what_predictor_json_may_not_say(tiny: Path, change: Callable[[Any], object], message: str) -> None:
    edit(add(tiny) / "predictor.json", change)
    refused(tiny, message)


@pytest.mark.parametrize("raw", [*NO_JSON, b" " * 2**20 + b"{}"], ids=lambda raw: raw[:9])
def test_what_is_no_json(tiny: Path, raw: bytes) -> None:
    (add(tiny) / "predictor.json").write_bytes(raw)
    refused(tiny, "predicted/mlp/predictor.json: (content|size|schema|document) is", "shape")


def test_the_command_line_checks_them_too(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = add(tiny)
    assert main(["check", str(tiny)]) == 0
    assert capsys.readouterr().out.endswith(", predictors mlp\n")
    (home / "run.py").write_text("")
    assert main(["check", str(tiny)]) == 2
    assert capsys.readouterr().err.startswith("error: predicted/mlp/run.py: name")
