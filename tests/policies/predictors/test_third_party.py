"""A learned policy of another package: fitted, applied, run and checked, and no file of ours knows of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies import cli, registry
from policies.predictors import saved
from sim.check import cli as check
from sim.experiment.run import run
from tests.policies.predictors.traces import E, L, draw, write
from traces import Trace, UserError, open_trace

POLICY = '''
"""Somebody else's policy."""
from policies.lru import LRU
from policies.parts.foreseen import by_tokens


class Counted(LRU):
    """Prefetch the experts that followed most often. O(rows x K) per event. Lossless."""

    name = "counted"
    fitter = "their_learned.fit:CountedFitter"
    ahead = "stride"

    def __init__(self, setup, *, stride: int = 1) -> None:
        super().__init__(setup)
        self.stride = stride

    def predictors(self):
        return frozenset({f"counted_{self.stride}"})

    def on_gate(self, event):
        super().on_gate(event)
        layer = event.layer + self.stride
        if layer < self.setup.n_layers:
            said = event.signals.predicted(f"counted_{self.stride}")
            experts = by_tokens(said, layer, self.setup.n_experts)
            self.actions.expect(experts)
            for x in experts:
                self.actions.prefetch(x, 0.0)
'''
FIT = '''
"""Counts of what followed what."""
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from policies.predictors.fitter import FitOptions, Fitter
from traces.kit.words import Between


@dataclass(frozen=True)
class Table:
    """``followed`` [F, E]: how often an expert was used after an input."""

    followed: np.ndarray

    @property
    def inputs(self):
        return self.followed.shape[0]

    @property
    def experts(self):
        return self.followed.shape[1]

    def top(self, x, k):
        return np.argsort(-(x.astype(np.float32) @ self.followed), axis=1, kind="stable")[:, :k]


@dataclass(frozen=True, kw_only=True)
class Options(FitOptions):
    """Counts."""

    input: Annotated[Literal["routing"], "the router's scores"] = "routing"
    even: Annotated[float, Between(0, 100), "added to each count"] = 1.0


class CountedFitter(Fitter):
    options, layer = Options, Table

    def called(self, source, stride):
        return f"{self.kind}_{stride}"

    def learn(self, examples, held, options):
        counts = examples.x.astype(np.float32).T @ examples.y.astype(np.float32)
        return Table(counts + np.float32(options.even)), {"examples": len(examples.x)}
'''


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Their package, as pip leaves it: a folder, and metadata with an entry point."""
    site = tmp_path / "site"
    for name, text in (("__init__", POLICY), ("fit", FIT)):
        (site / "their_learned").mkdir(parents=True, exist_ok=True)
        (site / "their_learned" / f"{name}.py").write_text(text, encoding="utf-8")
    info = site / "their_learned-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-learned\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[moe_offload.policies]\ncounted = their_learned:Counted\n")
    monkeypatch.syspath_prepend(site)
    registry._catalogue.cache_clear()
    yield
    registry._catalogue.cache_clear()


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return write(tmp_path / "t", draw(), leave=("hidden",))


@pytest.mark.usefixtures("theirs")
def test_a_learned_policy_of_another_package_needs_no_edit_of_ours(
    trace: Trace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("safetensors")
    out = tmp_path / "counted.safetensors"
    with pytest.raises(UserError, match="policy=counted needs the predictor counted_1, which was not fitted"):
        run("policy=counted", f"trace={trace.path}", "budget=50%", "bounds=false", out=tmp_path / "out")
    assert cli.main(["fit", "counted", f"trace={trace.path}", f"out={out}", "even=0.5"]) == 0
    assert cli.main(["apply", "counted", f"predictor={out}", f"trace={trace.path}"]) == 0
    assert "layer 0: examples 208; " in capsys.readouterr().err
    found = saved.load(out)
    assert (found.name, found.layers[0].inputs, len(found.layers)) == ("counted_1", E, L - 1)
    assert found.about["fit"]["settings"]["even"] == 0.5
    assert open_trace(trace.path).predicted["counted_1"].about.kind == "counted"
    done = run("policy=counted", f"trace={trace.path}", "budget=50%", "bounds=false", out=tmp_path / "out")
    assert list(done.document["provenance"]["predictors"]) == ["counted_1"]
    assert cli.main(["fit", "counted", "--help"]) == 0
    assert "  even       added to each count  [1]\n" in capsys.readouterr().out


@pytest.mark.ci  # it starts processes
@pytest.mark.usefixtures("theirs")
def test_it_keeps_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    """On predictors that are made up: as many layers ahead as it says that it looks."""
    assert check.main(["counted"]) == 0
    assert capsys.readouterr().out.startswith("counted: 3 variants\n")


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("fitter", "message"),
    [
        ("their_learned.nosuch:Fitter", r"cannot be loaded \(ModuleNotFoundError: .*\); allowed: MODULE:CLASS"),
        ("their_learned:Counted", r"allowed: a class of policies\.predictors\.fitter\.Fitter"),
        ("", r"fit counted: no such predictor; allowed: promoe"),
    ],
)
def test_a_fitter_that_is_none_is_told_in_one_line(
    fitter: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry.find("counted"), "fitter", fitter)
    assert cli.main(["fit", "counted", "trace=x", "out=y"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
