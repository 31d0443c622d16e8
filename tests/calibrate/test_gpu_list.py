"""The script of ``real/GPU.md``: it goes on where it was stopped, and its files fit what may come back."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from real import measure
from real.measure import Item, gather, items, run

ROOT = Path(__file__).resolve().parents[2]


RUNTIME = ".text/measure/h200_measured_runtime.yaml"


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    plan = [Item("a", python("print('once')"), 0), Item("b", python("raise SystemExit(3)"), 0)]
    assert run(plan, tmp_path, 60)["b"].startswith("failed: status 3 after")
    plan[1] = Item("b", python("pass"), 0)
    outcome = run(plan, tmp_path, 60)
    assert outcome["a"].startswith("done before, in")
    assert outcome["b"].startswith("done in")
    assert (tmp_path / "a.log").read_text().count("\nonce") == 1


def test_a_failure_stops_only_what_reads_its_result(tmp_path: Path) -> None:
    plan = [
        Item("a", python("raise SystemExit(3)"), 0),
        Item("b", python("pass"), 0, needs="a"),
        Item("c", python("pass"), 0),
    ]
    outcome = run(plan, tmp_path, 60)
    assert outcome["b"] == "outstanding: a comes first"
    assert outcome["c"].startswith("done in")


def test_what_runs_out_of_time_goes_on_in_the_next_call(tmp_path: Path) -> None:
    plan = [Item("slow", python("import time; time.sleep(60)"), 0, resumes=True), Item("next", python("pass"), 0)]
    began = time.monotonic()
    outcome = run(plan, tmp_path, 0.5)
    assert time.monotonic() - began < 30
    assert outcome == {"slow": outcome["slow"]}
    assert outcome["slow"].startswith("outstanding: stopped after")
    assert not (tmp_path / "slow.done").exists()


def test_what_a_stopped_run_left_is_not_in_the_way(tmp_path: Path) -> None:
    left = tmp_path / "left.yaml"
    code = f"import pathlib; pathlib.Path({str(left)!r}).open('x').close()"
    left.touch()
    assert run([Item("a", python(code), 0, writes=(left,))], tmp_path, 60)["a"].startswith("done in")


def test_what_cannot_end_in_time_is_not_begun(tmp_path: Path) -> None:
    outcome = run([Item("long", python("pass"), 100)], tmp_path, 10)
    assert outcome["long"] == "outstanding: 10 s are left, it wants 100"
    assert not (tmp_path / "long.log").exists()


def test_result_files_fit(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    (work / "model").mkdir(parents=True)
    files = ("h.yaml", "h.png", "a.log", "export.done", "calibrate.done")
    for name in (*files, "model/1.safetensors", "model/config.json"):
        (work / name).write_text(name)
    names = {file.name for file in gather("h", work, out)}
    assert names == {"h.yaml", "h.png", "1.safetensors", "model_rest.tar.gz", "log.txt"}
    assert names == {file.name for file in gather("h", work, out)}
    with (work / "model" / "2.safetensors").open("wb") as file:
        file.truncate(measure.MAX_BYTES + 1)
    with pytest.raises(SystemExit, match=r"2\.safetensors.*too large"):
        gather("h", work, out)


def test_every_item_stands_in_the_list_with_its_command() -> None:
    page = " ".join((ROOT / "real" / "GPU.md").read_text().split()).replace("$HARDWARE", RUNTIME)
    for item in items("h200_measured", Path(".text/measure"), rehearse=False):
        assert f"`{item.name}`" in page
        for word in item.command[2:]:
            assert word.removeprefix("out=.text/measure/h200_measured.yaml") in page, word


@pytest.mark.parametrize("words", [["speed=1"], ["only=fly"], ["rehearse=1"]])
def test_a_mistake_is_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    try:
        status = measure.main(words)
    except SystemExit as error:
        status = int(str(error.code))
    assert status == 2
    assert capsys.readouterr().err.count("\n") == 1
