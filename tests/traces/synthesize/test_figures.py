"""Figures: what is shipped, what a file may hold, and what changes with a shape."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.traces.tiny_trace import MANIFEST
from traces import PREFILL, Request, TraceWriter
from traces.cli import main
from traces.kit.errors import UserError
from traces.synthesize.changed import shaped
from traces.synthesize.figures import Figures, read_figures, shipped_figures
from traces.synthesize.words import Synthesize


def test_what_is_shipped_reads_back_and_stands_on_the_page() -> None:
    names = shipped_figures()
    for name in names:
        figures = read_figures(name)
        assert figures.name == name
        assert Figures.from_dict(yaml.safe_load(figures.to_yaml())) == figures
    page = " ".join((Synthesize.__doc__ or "").split())
    assert f"Figures that are shipped: {', '.join(names)};" in page


def test_a_file_of_before_is_read_and_drawn_from(tmp_path: Path) -> None:
    figures = yaml.safe_load(read_figures("tiny-moe").to_yaml())
    del figures["between"]
    figures["lags"], figures["overlap"] = figures["lags"][:8], [row[:8] for row in figures["overlap"]]
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(figures))
    words = ["model=tiny-moe", "requests=2", "prompt=4", "output=2", "signals=none"]
    assert main(["synthesize", f"like={tmp_path / 'f.yaml'}", f"out={tmp_path / 't'}", *words]) == 0


def test_described_is_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.yaml"
    assert main(["describe", "sample", f"out={file}", "name=mine"]) == 0
    assert main(["describe", "sample", "name=mine"]) == 0
    assert file.read_text() == capsys.readouterr().out
    found, shipped = read_figures(str(file)), read_figures("tiny-moe")
    assert (found.name, found.overlap, found.popularity) == ("mine", shipped.overlap, shipped.popularity)
    assert found.between == shipped.between


def test_another_shape_keeps_correlations_and_spread() -> None:
    before = read_figures("gpt_oss_20b")
    after = shaped(shaped(before, 48, 128, 8), 24, 32, 4)
    for key in ("overlap", "popularity"):
        old, new = (np.array(getattr(figures, key), float) for figures in (before, after))
        assert new.mean() == pytest.approx(old.mean(), rel=0.05)
    wide = shaped(before, 48, 128, 8)
    assert (wide.layers, len(wide.popularity), len(wide.overlap[0])) == (48, 48, len(before.lags))
    assert all(sum(row) == pytest.approx(8, rel=0.01) for row in wide.popularity)
    assert shaped(before, 24, 32, 4) is before


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("top_k", 99, "top_k=99: allowed: at most experts=64"),
        ("schema", 2, "schema=2: allowed: at most 1"),
        ("lags", [2, 4], "lags=[2, 4]: allowed: ascending, the first is 1"),
        ("overlap", [[0.1] * 8], "overlap, number of layers=1: allowed: 16, as layers says"),
        ("popularity", [[0.1, 0.0]] * 16, "popularity[0]=[0.1, 0.0]: allowed: 2 to 64 chances, ascending, not all 0"),
        ("kinship", [2] * 16, "kinship[0]=2: allowed: a number, 0 to 1, or null"),
        ("assumed", ["colour"], "assumed='colour': allowed: layers, experts"),
        ("between", [0.1] * 12, "between, number of shares=12: allowed: at most 9"),
        ("between", [2], "between[0]=2: allowed: a number, 0 to 1, or null"),
        ("prompt_tokens", [], "prompt_tokens=[]: allowed: at least one number, ascending"),
        ("colour", 1, "colour=1: no such key"),
    ],
)
def test_what_is_wrong_is_one_line(key: str, value: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(read_figures("tiny-moe").to_yaml()), key: value}))
    with pytest.raises(UserError) as caught:
        read_figures(str(file))
    assert str(caught.value).startswith(f"like={file}: {said}")


@pytest.mark.parametrize("content", [b"- 1", b"{", b"\xff", b"a: &a [*a]", b""])
def test_what_is_no_mapping_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"like={file}: "):
        read_figures(str(file))


def test_one_expert_per_layer_has_no_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TraceWriter(tmp_path / "t", n_layers=2, n_experts=1, top_k=1, signals={}) as out:
        request = Request(0, 4, 1, None, None, "a")
        out.add_request(request, steps=[(PREFILL, 4, 0)], expert_ids=np.zeros((4, 2, 1), np.int64))
        out.close(**{**MANIFEST, "expert_bytes": [10] * 2})
    assert main(["describe", str(tmp_path / "t")]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "has one expert per layer, and no choice to describe; allowed: two or more" in printed.err
