"""`exact=` of a command: how experts were computed stands in the result, and the bits are the same on a CPU."""

import json
from pathlib import Path

import pytest

from real.cli import main


@pytest.mark.parametrize(
    ("exact", "budget", "computed"),
    [("true", "100%", "exact"), ("false", "100%", "grouped"), ("false", "50%", "exact")],
)
def test_a_run_says_how_experts_were_computed(
    exact: str, budget: str, computed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["policy=lru", f"budget={budget}", f"exact={exact}", "routing=sample", "limit=1", "threads=1"]
    assert main(["run", *words, "device=cpu", "format=json", f"out={tmp_path}"]) == 0
    device = json.loads(capsys.readouterr().out)["provenance"]["device"]
    assert device["experts"] == computed
    assert device["replay_agrees"] is True
