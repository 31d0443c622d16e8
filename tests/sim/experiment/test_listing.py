"""``python -m sim list``: every choice there is, as other commands take it, and what it is in truth."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from policies import registry
from sim.cli import main
from sim.experiment.listing import LISTS
from sim.prices import AS_TRACED
from tests.sim.conftest import SAMPLE
from tests.sim.saying import refused
from traces.kit import conf

GROUPS = {"policies": "policy", "models": "model", "hardware": "hardware", "experiments": "experiment"}


@pytest.fixture(scope="module")
def listed() -> dict[str, list[dict[str, Any]]]:
    return {what: list(LISTS[what]()) for what in GROUPS}


@pytest.mark.parametrize("what", GROUPS)
def test_every_file_has_a_line_that_is_whole(
    what: str, listed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [entry["name"] for entry in listed[what]]
    assert set(names) >= conf.names(GROUPS[what]) - {AS_TRACED}
    assert names == sorted(set(names))
    assert all(entry.get("title", "there") and entry.get("about", "there") for entry in listed[what])
    assert main(["list", what]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line[0] != " "] == names
    assert main(["list", what, "format=json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, what: listed[what]}


def test_a_policy_is_of_the_class_that_it_runs_as_and_reads_what_it_says(listed: dict[str, Any]) -> None:
    known = {entry["name"]: entry for entry in listed["policies"]}
    assert {entry["output"] for entry in known.values()} == {"lossless", "lossy", "modified"}
    assert not any(registry.find(entry["policy"]).clairvoyant for entry in known.values())
    assert known["fmoe"]["signals"] == ["embedding", "router_probs"]
    assert known["fiddler_max"]["source"] == ["arXiv 2402.07033"]
    assert known["promoe"]["predictors"] == ["promoe"]
    # By its parameters, and not by what its class may do.
    assert [known[name]["learns"] for name in ("ktransformers", "ktransformers_frequency")] == [False, True]


def test_traces_are_found_here_and_one_that_is_broken_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SAMPLE, "mine")
    Path("broken").mkdir()
    Path("broken/trace.json").write_text("{}")
    assert main(["list", "traces", "format=json"]) == 0
    sample, broken, mine = json.loads(capsys.readouterr().out)["traces"]
    assert (mine["name"], mine | {"name": "sample"}) == ("mine", sample)
    assert (sample["layers"], sample["experts"], sample["top_k"]) == (16, 64, 8)
    assert broken["name"] == "broken"
    assert "trace.json" in broken["why_not"]


def test_another_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "list polices: no such list; allowed: policies, models, " in refused(["list", "polices"], capsys)
    assert "missing WHAT; usage: python -m sim list WHAT" in refused(["list"], capsys)


def test_a_configuration_with_a_budget_that_is_no_size_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "budget='8GBB': not a positive size; allowed: " in refused(["config", "budget=8GBB"], capsys)
    assert main(["config", "budget=auto"]) == 0
    assert main(["config", "-m", "budget=[50%,8GiB]"]) == 0
