"""docs/fmoe_online.md shows the numbers beside it, which are those of the script's cells, and still so."""

from pathlib import Path
from types import ModuleType

import pytest

from sim.experiment.cell import Inputs
from sim.experiment.compose import read_config
from sim.experiment.run import run_config
from tests.scripts import script_of

SYSTEM = "mixtral_offloading_as_in_finemoe"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return script_of("docs/fmoe_online.py")


def test_the_page_shows_the_numbers(script: ModuleType) -> None:
    shown = script.shown(script.read())
    assert f"{script.BEGIN}{shown}{script.END}" in script.PAGE.read_text(encoding="utf-8")
    assert "nobody has looked" not in shown


def test_every_cell_is_in_them(script: ModuleType) -> None:
    numbers = script.read()
    asked = [
        (trace, reading, system)
        for trace in script.TRACES
        for reading in script.READINGS
        for system in (*script.SYSTEMS, *script.BESIDE)
    ]
    assert list(numbers[["trace", "reading", "system"]].itertuples(index=False, name=None)) == asked
    alone = numbers[numbers["reading"] == "fifo"]
    assert (alone["busy"] < 1).all(), "a rate that is not stable"
    assert (numbers["queueing_s"] <= numbers["ttft_s"]).all()


# A policy, a price or the engine has changed, and the page has not.
@pytest.mark.ci
def test_a_number_is_still_so(script: ModuleType, tmp_path: Path) -> None:
    question = script.Question("sample", "service", SYSTEM)
    config = read_config(question.words("sample", "no log"))
    found = script.row(question, run_config(config, tmp_path, inputs=Inputs()).document)
    wanted = script.read().set_index(["trace", "reading", "system"]).loc["sample", "service", SYSTEM]
    assert found["decision_digest"] == wanted["decision_digest"]
    for figure in ("request_s", "ttft_s", "tpot_ms", "complete", "gb_per_token"):
        assert found[figure] == pytest.approx(wanted[figure], rel=1e-4)


@pytest.mark.parametrize(
    ("gaps", "standin", "said"),
    [
        ([-5, -1], [9, 9], "reproduced"),
        ([5, -1], [9, 9], "cannot be said"),
        ([5, 1], [9, -9], "cannot be said"),
        ([5, 1], [9, 9], "refuted"),
    ],
)
def test_verdicts(script: ModuleType, gaps: list[float], standin: list[float], said: str) -> None:
    assert script.page.verdict(gaps, standin) == said
