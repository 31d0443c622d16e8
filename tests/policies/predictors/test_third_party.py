"""A learned policy of another package: fitted, applied, run and checked, and no file of ours knows of it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies import cli, registry
from policies.predictors import saved
from sim.experiment.run import run
from tests.docs.test_contributing import BLOCK, RECIPES
from tests.policies.predictors.conftest import E, L, draw, write
from traces import Trace, UserError, open_trace

FILES = {
    Path(name).name: text.replace("policies.linear", "their_linear")
    for name, _, text in BLOCK.findall(RECIPES["predictor"])
    if name.endswith(".py")
}
"""CONTRIBUTING's predictor, moved into a package of its own."""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package as pip leaves it: a folder, and metadata with an entry point."""
    site = tmp_path / "site"
    for folder in ("their_linear", "their_linear-1.0.dist-info"):
        (site / folder).mkdir(parents=True)
    for name, text in FILES.items():
        (site / "their_linear" / name).write_text(text, encoding="utf-8")
    (site / folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-linear\nVersion: 1.0\n")
    (site / folder / "entry_points.txt").write_text("[moe_offload.policies]\nlinear = their_linear:Linear\n")
    monkeypatch.syspath_prepend(site)
    registry._others.cache_clear()
    registry._catalogue.cache_clear()
    yield
    registry._others.cache_clear()
    registry._catalogue.cache_clear()


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return write(tmp_path / "t", draw(), leave=("hidden",))


@pytest.mark.usefixtures("theirs")
def test_a_learned_policy_of_another_package_needs_no_edit_of_ours(
    trace: Trace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("safetensors")
    out = tmp_path / "linear.safetensors"
    with pytest.raises(UserError, match="policy=linear needs the predictor linear, which was not fitted"):
        run("policy=linear", f"trace={trace.path}", "budget=50%", "bounds=false", out=tmp_path / "out")
    assert cli.main(["fit", "linear", f"trace={trace.path}", f"out={out}", "ridge=0.5"]) == 0
    assert cli.main(["apply", "linear", f"predictor={out}", f"trace={trace.path}"]) == 0
    assert "layer 0: held_out_share_of_the_first " in capsys.readouterr().err
    found = saved.load(out)
    assert (found.name, found.layers[0].inputs, len(found.layers)) == ("linear", E, L - 1)
    assert found.about["fit"]["settings"]["ridge"] == 0.5
    assert open_trace(trace.path).predicted["linear"].about.kind == "linear"
    done = run("policy=linear", f"trace={trace.path}", "budget=50%", "bounds=false", out=tmp_path / "out")
    assert list(done.document["provenance"]["predictors"]) == ["linear"]
    assert cli.main(["fit", "linear", "--help"]) == 0
    assert "\n  ridge " in capsys.readouterr().out


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("fitter", "message"),
    [
        ("their_linear.fit:Nosuch", r"cannot be loaded \(AttributeError: .*\); allowed: MODULE:CLASS"),
        ("their_linear:Linear", r"allowed: a class of policies\.predictors\.fitter\.Fitter"),
        ("", r"fit linear: no such predictor; allowed: promoe"),
    ],
)
def test_a_fitter_that_is_none_is_told_in_one_line(
    fitter: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry.find("linear"), "fitter", fitter)
    assert cli.main(["fit", "linear", "trace=x", "out=y"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
