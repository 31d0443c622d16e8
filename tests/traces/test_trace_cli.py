"""The command line: exit statuses, one line per error, nothing written by what fails; and the figures it shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_trace import MANIFEST

from traces import PREFILL, Request, TraceWriter, open_trace
from traces import reader as reader_module
from traces.cli import main
from traces.stats import describe


@pytest.mark.parametrize(
    "words", [["--help"], ["check", "--help"], ["inspect", "-h"], ["import", "--help"], ["arrivals", "--help"]]
)
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "python -m traces" in out
    assert err == ""


def test_check_says_ok(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tiny)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"ok: {tiny}: 3 requests, 6 steps, 15 tokens, 3 layers x 8 experts, top-2")
    assert err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "verb is ''; allowed: check, inspect, import, arrivals, collect"),
        (["chekc"], "verb is 'chekc'"),
        (["check"], "allowed: DIR"),
        (["check", "nowhere"], "nowhere: not a folder"),
        (["check", "a\nb"], "not a folder"),
        (["check", "x", "y"], "no further words"),
        (["inspect", "x", "format=xml"], "format is 'xml'; allowed: table, json"),
        (["inspect", "x", "plots="], "plots is ''; allowed: a folder"),
        (["inspect", "x", "plots=nowhere/x"], "existing folder"),
        (["inspect", "x", "colour=red"], "option is 'colour=red'; allowed, once each: format=..., plots=..."),
        (["inspect", "x", "format=json", "format=json"], "once each"),
        (["import", "csv", "x", "y"], "FORMAT is 'csv'; allowed: route_trace, npz, jsonl, routed_experts"),
        (["import", "npz", "x"], "FORMAT SRC DST"),
        (["import", "npz", "x", "y", "split=1"], "split is '1'"),
        (["import", "npz", "x", "y", "split=half"], "split is 'half'"),
        (["import", "npz", "x", "y", "split=1/0"], "split is '1/0'"),
        (["import", "npz", "x", "y", "seed=-1"], "seed is '-1'"),
        (["import", "npz", "x", "y", "limit=0"], "limit is '0'"),
        (["import", "npz", "x", "y", "n_experts=many"], "n_experts is 'many'"),
        (["import", "npz", "x", "y", "model="], "model is ''"),
        (["import", "npz", "x", "y"], "No such file"),
        (["import", "route_trace", "x", "y"], "No such file"),
        (["import", "route_trace", "x", "y", "n_experts=8"], "option is 'n_experts=8'"),
        (["import", "jsonl", "x", "y", "meta=z"], "option is 'meta=z'"),
        (["import", "jsonl", "x", "y"], "No such file"),
        (["import", "routed_experts", "x", "y", "top_k=0"], "top_k is '0'"),
        (["import", "routed_experts", "x", "y"], "No such file"),
        (["import"], "FORMAT is ''; allowed: route_trace"),
        (["arrivals", "x", "y"], "LOG DIR DST"),
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


def test_no_torch_is_imported() -> None:
    code = "import sys, traces.cli, traces.inspect; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0


def test_inspect_shows_tables_and_json_and_a_picture(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tiny), f"plot={tmp_path / 'heat.png'}"]) == 0
    assert "gate recall, 1 ahead" in capsys.readouterr().out
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", str(tiny), "format=json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sha256"] == open_trace(tiny).sha256
    assert document["tokens"] == {"prefill": 12, "decode": 3}
    assert document["splits"] == {"test": 1, "train": 2}
    assert document["sources"] == {'a, "b"': 3}


@pytest.mark.parametrize("chunk", [1, 2**20])
def test_figures_are_those_of_a_hand_count(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_CHUNK", chunk)
    x = 255
    ids = np.array(
        [
            [[0, 1], [2, 3], [0, x]],
            [[1, 0], [2, 0], [x, x]],
            [[2, 3], [2, 0], [1, x]],
            [[2, 3], [0, 1], [1, x]],  # another request: no neighbour of the row above
        ]
    )
    ahead = np.full((4, 3, 2, 2), x)
    ahead[:, 0, 0] = [2, 3]  # layer 1 from layer 0: 2, 1, 1, 0 of 2 right
    ahead[:, 1, 0] = [1, 0]  # layer 2 from layer 1: 1, -, 1, 1 of 1 right
    ahead[:, 0, 1] = [0, 2]  # layer 2 from layer 0: 1, -, 0, 0 of 1 right
    with TraceWriter(tmp_path / "t", n_layers=3, n_experts=4, top_k=2, signals={"gate_ahead": (3, 2, 2)}) as out:
        for number, part in enumerate((slice(0, 3), slice(3, 4))):
            rows = part.stop - part.start
            request = Request(number, rows, 1, None, None, "hand")
            steps = [(PREFILL, rows, 0)]
            out.add_request(request, steps=steps, expert_ids=ids[part], gate_ahead=ahead[part])
        out.close(**MANIFEST)
    stats = describe(open_trace(tmp_path / "t"))
    np.testing.assert_array_equal(stats.popularity, [[2, 2, 2, 2], [3, 1, 3, 1], [1, 2, 0, 0]])
    np.testing.assert_allclose(stats.overlap, [2 / 4, 3 / 4, np.nan])
    np.testing.assert_allclose(stats.load_max_over_mean, [1, 1.5, 2 / 0.75])
    np.testing.assert_allclose(stats.entropy_bits[0], 2)
    np.testing.assert_allclose(stats.entropy_bits[2], np.log2(3) - 2 / 3)
    assert stats.uniform_overlap == 0.5
    assert stats.gate_recall == [pytest.approx(7 / 11), pytest.approx(1 / 3)]


def test_gpt_oss_20b_has_the_published_overlap(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "traces" / "gptoss20b_decode.npz"
    assert main(["import", "npz", str(source), str(tmp_path / "t"), "model=gpt-oss-20b"]) == 0
    trace = open_trace(tmp_path / "t", verify="shape")
    assert (trace.E, trace.N) == (32, 215438)
    assert describe(trace).overlap.mean() == pytest.approx(0.43, abs=0.01)
