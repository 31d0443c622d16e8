"""The command line: exit statuses, one line per error, nothing written by what fails; and the figures it shows."""

import subprocess
import sys
from pathlib import Path

import pytest

import traces
from traces.cli import main


def test_check_says_ok(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tiny)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"ok: {tiny}: 3 requests, 6 steps, 15 tokens, 3 layers x 8 experts, top-2")
    assert err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nowhere"], "nowhere: not a folder"),
        (["check", "a\nb"], "not a folder"),
        (["inspect", "x", "plots="], "plots=: allowed: a folder"),
        (["inspect", "x", "plots=nowhere/x"], "existing folder"),
        (["import", "Jsonl", "x", "y"], "did you mean jsonl?"),
        (["import", "route-trace", "x", "y"], "did you mean route_trace?"),
        (["import", "npz", "x", "y", "without_layers=a"], "without_layers=a: allowed: numbers of layers"),
        (["import", "npz", "x", "y", "without_layers=3-1"], "without_layers=3-1:"),
        (["import", "npz", "x", "y", "without_layers=1,,2"], "without_layers=1,,2:"),
        (["import", "npz", "x", "y", "without_layers=99999"], "without_layers=99999:"),
        (["import", "csv", "x", "y"], "csv: no such format; allowed: route_trace, npz, jsonl, routed_experts"),
        (["import", "npz", "x", "y", "split=half"], "split=half:"),
        (["import", "npz", "x", "y", "split=1/0"], "split=1/0:"),
        (["import", "npz", "x", "y", "model="], "model=:"),
        (["import", "npz", "x", "y"], "No such file"),
        (["import", "route_trace", "x", "y"], "No such file"),
        (["import", "jsonl", "x", "y"], "No such file"),
        (["import", "routed_experts", "x", "y"], "No such file"),
        (["import"], "import: missing FORMAT; allowed: route_trace"),
        (["arrivals", "x", "y", "z"], "y: not a folder"),
    ],
)
def test_mistakes_cost_one_line_and_nothing_else(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_the_process_exits_with_the_status(tiny: Path) -> None:
    (tiny / "hidden.npy").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "traces", "check", str(tiny)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: hidden.npy: file is 'missing'")


def test_no_torch_is_imported_for_a_page_or_a_slip() -> None:
    code = """
import sys, traces.cli, traces.describe.cli
traces.cli.main(["collect", "model=m", "prompts=p", "out=t", "batch=0"])
print({"torch", "pandas"} & set(sys.modules))
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    said = "error: batch=0: allowed: a whole number, 1 to 2147483647\n"
    assert (done.returncode, done.stderr, done.stdout) == (0, said, "set()\n")


def test_every_public_name_is_there() -> None:
    assert [name for name in traces.__all__ if not hasattr(traces, name)] == []
    assert dir(traces) == sorted(traces.__all__)
    with pytest.raises(AttributeError, match=r"^module 'traces' has no attribute 'nosuch'$"):
        _ = traces.nosuch
