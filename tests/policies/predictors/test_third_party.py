"""A learned policy of another package: fitted, applied, run and checked, and no file of ours knows of it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies import cli, registry
from policies.predictors import saved
from sim.check import cli as check
from sim.experiment.run import run
from tests.docs.test_contributing import BLOCK, RECIPES
from tests.policies.predictors.traces import E, L, draw, write
from traces import Trace, UserError, open_trace

FILES = {name: text for name, _, text in BLOCK.findall(RECIPES["predictor"]) if name}


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CONTRIBUTING's package, as pip leaves it: files, and metadata with an entry point."""
    site, info = tmp_path / "counting", tmp_path / "counting" / "counted-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "counted").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    points = tomllib.loads(FILES["counting/pyproject.toml"])["project"]["entry-points"]
    lines = [f"[{group}]\n{key} = {value}\n" for group, named in points.items() for key, value in named.items()]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join(lines))
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
    with pytest.raises(UserError, match="policy=counted needs the predictor counted, which was not fitted"):
        run("policy=counted", f"trace={trace.path}", "budget=50%", "bounds=false", out=tmp_path / "out")
    assert cli.main(["fit", "counted", f"trace={trace.path}", f"out={out}", "even=0.5"]) == 0
    assert cli.main(["apply", "counted", f"predictor={out}", f"trace={trace.path}"]) == 0
    assert "layer 0: examples 208; " in capsys.readouterr().err
    found = saved.load(out)
    assert (found.name, found.layers[0].inputs, len(found.layers)) == ("counted", E, L - 1)
    assert found.about["fit"]["settings"]["even"] == 0.5
    assert open_trace(trace.path).predicted["counted"].about.kind == "counted"
    done = run("policy=counted", f"trace={trace.path}", "budget=50%", "bounds=false", out=tmp_path / "out")
    assert list(done.document["provenance"]["predictors"]) == ["counted"]
    assert cli.main(["fit", "counted", "--help"]) == 0
    assert "[even=1.0]" in capsys.readouterr().out


@pytest.mark.ci  # it starts processes
@pytest.mark.usefixtures("theirs")
def test_it_keeps_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    """On predictors that are made up: as many layers ahead as it says that it looks."""
    assert check.main(["counted"]) == 0
    assert capsys.readouterr().out.startswith("counted: 2 variants\n")


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("fitter", "message"),
    [
        ("counted.fit:Nosuch", r"cannot be loaded \(AttributeError: .*\); allowed: MODULE:CLASS"),
        ("counted:Counted", r"allowed: a class of policies\.predictors\.fitter\.Fitter"),
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
