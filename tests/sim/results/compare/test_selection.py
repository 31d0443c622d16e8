"""Runs that are not alike: every difference is named at once, and the command that is offered works."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import sim
from sim.cli import main
from sim.results.compare.comparison import compare
from sim.results.compare.selection import MixedRunsError
from tests.sim.many_requests import grid, topical
from tests.sim.saying import edit, refused
from traces import Trace


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trace, Trace]:
    folder = tmp_path_factory.mktemp("traces")
    return topical(folder / "one", n=8), topical(folder / "other", n=8, seed=1)


@pytest.fixture(scope="module")
def mixed(traces: tuple[Trace, Trace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As after a day of trying: no two groups of runs are alike, and several axes differ between them."""
    one, other = traces
    out = tmp_path_factory.mktemp("mixed") / "out put"
    grid(one, out, ("lru", "fifo"), (4, 6), (0,))
    grid(other, out, ("lru",), (4,), (0,), chunks=2)
    grid(other, out, ("lru",), (4,), (0,), batch=2, limit=4)
    grid(one, out, ("lru",), (4,), (0,), warmup=2)
    return out


def offered(error: str) -> list[str]:
    """The words of the command that an error ends with."""
    return shlex.split(error[error.index("python -m sim ") :])[3:]


def test_all_that_differs_is_named_at_once_and_the_command_works(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(["compare", str(mixed), "target=tpot<=30ms", "format=json"], capsys)
    for key, values in (
        ("trace", r"\w{12} \(\d runs?\), \w{12} \(\d runs?\)"),
        ("batch", r"1 \(6 runs\), 2 \(1 run\)"),
        ("chunks", r"1 \(6 runs\), 2 \(1 run\)"),
        ("warmup", r"0 \(6 runs\), 2 \(1 run\)"),
        ("limit", r"4 \(1 run\), null \(6 runs\)"),
    ):
        assert re.search(rf"{key} is {values}", error), (key, error)
    assert "The largest group that is alike, 4 runs: python -m sim compare " in error
    words = offered(error)
    assert words[:2] == ["compare", str(mixed)]
    assert set(words[2:4]) == {"target=tpot<=30ms", "format=json"}, "what was asked for stays"
    assert {word.partition("=")[0] for word in words[4:]} == {"trace", "warmup"}, "no more words than it takes"
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 4


def test_the_report_offers_its_own_command(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = offered(refused(["report", str(mixed), f"out={tmp_path / 'a page.html'}"], capsys))
    assert words[:3] == ["report", str(mixed), f"out={tmp_path / 'a page.html'}"]
    assert not (tmp_path / "a page.html").exists()


@pytest.mark.parametrize("changes", [{"batch": 2}, {"limit": 4}, {"chunks": 2}, {"warmup": 3}], ids=lambda it: str(it))
def test_one_difference_is_one_word(
    traces: tuple[Trace, Trace], tmp_path: Path, changes: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = grid(traces[0], tmp_path / "out", ("lru",), (4,), (0, 1))
    grid(traces[0], out, ("lru",), (4,), (0,), **changes)
    words = offered(refused(["compare", str(out)], capsys))
    assert [word.partition("=")[0] for word in words[2:]] == list(changes)
    assert main(words) == 0


def test_profiles_of_one_name_are_told_apart(mixed: Path, tmp_path: Path) -> None:
    """Same label, other figures: the hash of the profile chooses."""
    out = shutil.copytree(mixed, tmp_path / "out")
    runs = sim.load(out)
    for folder in runs["folder"][runs["policy"] == "fifo"]:
        edit(out / str(folder), lambda it: it["config"]["hardware"]["gpu"].update(launch_us="77"))
    with pytest.raises(MixedRunsError) as caught:
        compare(out)
    assert any(line.startswith("hardware_sha is ") for line in caught.value.differences)
    assert len(compare(out, selection=caught.value.words).runs) == caught.value.count == 2


def test_a_predictor_that_was_fitted_again_is_told_apart(mixed: Path, tmp_path: Path) -> None:
    """Runs that read no predictor stay, whichever is chosen."""
    with pytest.raises(MixedRunsError) as caught:
        compare(mixed)
    first = compare(mixed, selection=caught.value.words).runs
    for i, (folder, policy) in enumerate(zip(first["folder"], first["policy"], strict=True)):
        here = shutil.copytree(mixed / str(folder), tmp_path / "out" / str(i))
        if policy == "fifo":
            edit(here, lambda it, i=i: it["config"].update(predictors={"near": f"{i}{'f' * 63}"}))
    with pytest.raises(MixedRunsError, match=r"predictors of fifo is 0f{11} \(1 run\), 1f{11} \(1 run\)") as caught:
        compare(tmp_path / "out")
    assert caught.value.words == ("predictors=0fffffffffff",)
    chosen = compare(tmp_path / "out", selection=caught.value.words).runs
    assert list(chosen["policy"]) == ["fifo", "lru", "lru"]


# One of several names that was mistyped left the others alone in the table, without a word.
def test_a_name_among_others_that_no_run_has_is_refused(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, said in (
        ("policy=lru,fivo", "policy=fivo: no run has it; there are: fifo (2 runs), lru (5 runs)"),
        ("budget=48,49", "budget=49: no run has it; there are: 48 (6 runs), 72 (2 runs)"),
        ("warmup=0,3", "warmup=3: no run has it; there are: 0 (6 runs), 2 (1 run)"),
    ):
        for verb in ("compare", "report", "regret"):
            assert said.partition(" (")[0] in refused([verb, str(mixed), word], capsys), (verb, word)
    names = sorted(path.name for path in mixed.iterdir() if (path / "result.json").is_file())
    for call in (sim.compare, sim.regret):
        with pytest.raises(sim.UserError, match=r"only=\['nobody'\]: no run lies there; allowed: fifo-"):
            call(mixed, only=[names[0], "nobody"])
        with pytest.raises(sim.UserError, match=r"only=\[\]: at least one folder"):
            call(mixed, only=[])
    assert len(sim.compare(mixed, only=names[0]).frame) == 1, "one name is no list of letters"
