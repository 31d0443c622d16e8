"""docs/fmoe_testbed.md shows the numbers beside it, which are those of the script's cells, and still so."""

from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from sim.experiment.cell import Inputs
from sim.experiment.compose import read_config
from sim.experiment.run import run_config
from tests.scripts import script_of

ROOT = Path(__file__).resolve().parents[2]
BASELINE = "mixtral_offloading_as_in_finemoe"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return script_of("docs/fmoe_testbed.py")


def test_the_page_shows_the_numbers(script: ModuleType) -> None:
    shown = script.shown(script.read())
    assert f"{script.BEGIN}{shown}{script.END}" in script.PAGE.read_text(encoding="utf-8")


def test_every_cell_is_in_them_and_the_preset_has_those_of_its_model(script: ModuleType) -> None:
    numbers = script.read()
    asked = [(q.machine, q.model, q.cache, q.system) for q in script.questions()]
    assert list(numbers[["machine", "model", "cache", "system"]].itertuples(index=False, name=None)) == asked
    assert len(set(asked)) == len(asked)
    preset = yaml.safe_load((ROOT / "conf/experiment/fmoe_testbed.yaml").read_text(encoding="utf-8"))
    own = [(cache, system) for machine, model, cache, system in asked if (machine, model) == ("six", "mixtral_8x7b")]
    swept = preset["hydra"]["sweeper"]["params"]["policy"].split(",")
    assert [cell for cell in own if cell[1] in swept] == [(b, p) for b in preset["budget"] for p in swept]


# A policy, a price or the engine has changed, and the page has not.
def test_a_number_is_still_so(script: ModuleType, tmp_path: Path) -> None:
    (question,) = [q for q in script.questions() if (q.model, q.cache, q.system) == ("sample", "6GB", BASELINE)]
    config = read_config((*question.words, "model=as_traced", "trace=sample"))
    found = script.row(question, run_config(config, tmp_path, inputs=Inputs()).document)
    wanted = script.read().set_index(["machine", "model", "cache", "system"]).loc["six", "sample", "6GB", BASELINE]
    assert found["decision_digest"] == wanted["decision_digest"]
    for figure in ("ttft_ms", "tpot_ms", "complete", "gb_per_token", "link_busy"):
        assert found[figure] == pytest.approx(wanted[figure], rel=1e-4)


@pytest.mark.parametrize(
    ("printed", "drawn", "standin", "said"),
    [
        (-46, [-60, -20], 5, "reproduced"),
        (-46, [-90, -3], -5, "reproduced"),
        (-46, [-30, -10], -40, "cannot be said"),
        (-20, [-50, -40], -40, "cannot be said"),
        (-46, [30, 20], -5, "cannot be said"),
        (-46, [30, 20], 5, "refuted"),
        (14, [-30, 5], -5, "refuted"),
        (14, [-1, 20, 20], -5, "reproduced"),
        (14, [-9, -1, 52], -5, "cannot be said"),
    ],
)
def test_verdicts(script: ModuleType, printed: int, drawn: list[int], standin: int, said: str) -> None:
    assert script.page.verdict(printed, drawn, standin) == said


@pytest.mark.parametrize(("experts", "chosen", "gpus"), [(8, 2, 6), (7, 3, 2), (9, 4, 3)])
def test_how_experts_spread_is_what_counting_them_gives(
    script: ModuleType, experts: int, chosen: int, gpus: int
) -> None:
    counts = [[sum(x % gpus == g for x in own) for g in range(gpus)] for own in combinations(range(experts), chosen)]
    some, most = script.page.spread(experts, chosen, gpus)
    assert some == pytest.approx(sum(sum(map(bool, c)) for c in counts) / len(counts))
    assert most == pytest.approx(sum(map(max, counts)) / len(counts))
