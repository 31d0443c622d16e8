"""``python -m policies``: fit and apply, and one line for each mistake."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.cli import main
from policies.predictors.examples import Examples, features, targets
from policies.promoe.fit import Options, ProMoEFitter
from tests.policies.predictors.conftest import PROMOE, draw, write
from traces import Trace, UserError, open_trace


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    trace, out = write(tmp_path / "t", draw()), tmp_path / "f.safetensors"
    bare = write(tmp_path / "bare", draw(), leave=("hidden",))
    words = [f"trace={trace.path}", f"out={out}", "hidden=8", "epochs=2", f"apply={trace.path}"]
    assert main(["fit", "promoe", *words]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "layer 1: epochs 2, held_out_loss_nats" in captured.err
    assert "accuracy in %, mean over layers: all" in captured.err
    assert main(["apply", "promoe", f"predictor={out}", f"trace={trace.path}", f"beside={bare.path}", "name=mine"]) == 0
    assert set(open_trace(trace.path).predicted) == {"promoe"}
    assert set(open_trace(bare.path).predicted) == {"mine"}
    assert json.loads((bare.path / "predicted/mine/timing.json").read_text())["threads"] == 1
    # Before anything is fitted, it is known that the outputs could not be written.
    out.unlink()
    assert main(["fit", "promoe", *words]) == 2
    assert "exists already; allowed: another name=, or overwrite=true" in capsys.readouterr().err
    assert not out.exists()
    assert main(["fit", "promoe", *words, "overwrite=true", "seed=1"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "lru"], "fit lru: no such predictor; allowed: promoe"),
        (["fit", "promoe", "trace=nowhere", "out=x"], "trace=nowhere: no such folder"),
        (["fit", "promoe", "trace=x", "out=x", "name=../x"], "name of a predictor is '../x'"),
        (["apply", "promoe", "predictor=nowhere", "trace=x"], "predictor=nowhere: no such file"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_fitting_without_torch_says_what_to_install(trace: Trace, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["fit", "promoe", f"trace={trace.path}", "out=x"]) == 2
    assert "pip install 'moe-offload-workbench[hf]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "other", "message"),
    [
        ("out={folder}/missing/f", {}, "allowed: a file in a folder that can be written"),
        ("out={folder}", {}, "allowed: a file in a folder that can be written"),
        ("out={folder}/f top_k=9", {}, "top_k=9: allowed: 1 to 8"),
        ("out={folder}/f stride=9", {}, "stride=9: allowed: 1 to 3"),
        ("out={folder}/f apply={folder}/o", {"name": "other"}, "other None; the predictor was fitted on 4 layers"),
        ("out={folder}/f apply={folder}/o", {"width": 5}, "gives layer 0 5 numbers of hidden; allowed: 6"),
        ("out={folder}/f apply={folder}/o", {"leave": ("hidden",)}, "has no hidden states"),
    ],
)
def test_what_can_be_known_before_the_fit_is_said_before_it(
    trace: Trace, tmp_path: Path, words: str, other: dict[str, Any], message: str, monkeypatch: Any, capsys: Any
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(ProMoEFitter, "learn", None)
    arrays, manifest = draw(), dict(other)
    arrays["hidden"] = arrays["hidden"][..., : manifest.pop("width", None)]
    write(tmp_path / "o", arrays, **manifest)
    assert main(["fit", "promoe", f"trace={trace.path}", *words.format(folder=tmp_path).split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.timing.json"))


def test_one_trace_named_twice_is_applied_to_once(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    where = write(tmp_path / "t", draw()).path
    words = [f"trace={where}", f"out={tmp_path / 'f'}", "hidden=2", "epochs=1", f"apply={where},{where}"]
    assert main(["fit", "promoe", *words]) == 0


def test_a_fit_that_diverges_is_no_predictor(trace: Trace) -> None:
    pytest.importorskip("torch")
    rows = np.arange(100)
    given = Examples(features(trace, rows, 0, "hidden"), targets(trace, rows, 2, "probs"))
    with pytest.raises(UserError, match=r"^rate=1e\+30: the fit diverged.*; allowed: a lower rate"):
        PROMOE.learn(given, given, Options(trace="", out=Path(), hidden=4, epochs=2, rate=1e30))
