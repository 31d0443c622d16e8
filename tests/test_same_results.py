"""tests/same_results.py tells one checkout's results from another's, and what is refused alike."""

from pathlib import Path

import pytest

from tests.install.installing import ROOT, copy_of_the_project
from tests.same_results import main
from tests.sim.small_trace import Plan, one_layer


@pytest.mark.ci
def test_a_changed_decision_is_found_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copy_of_the_project(tmp_path / "other")
    lru = other / "policies" / "lru.py"
    code = lru.read_text(encoding="utf-8")
    assert code.count("in event.demand:") == 1
    lru.write_text(code.replace("in event.demand:", "in reversed(event.demand):"), encoding="utf-8")
    words = [f"after={other}", f"out={tmp_path / 'answers'}", "quick=true", "limit=1", f"trace={_decoding(tmp_path)}"]
    assert main([str(ROOT), *words, "policies=lru,fifo,fmoe"]) == 1
    told = capsys.readouterr().out
    assert "DIFFERS policy=lru trace=sample " in told
    assert "decision_digest" in told
    assert "DIFFERS policy=fifo" not in told
    assert "4 same, 1 refused alike, 1 different" in told


def _decoding(folder: Path) -> Path:
    """A trace without what fmoe needs."""
    return one_layer(folder / "trace", [Plan((2,), 8)], [0, 1, 2, 3, 0, 1, 2, 3, 1, 2], n_experts=4).path
