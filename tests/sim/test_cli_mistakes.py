"""Wrong inputs: one line that names value, key and allowed set; exit status 2; nothing written."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sim.cli import main

WORDS = [
    (["budget=8GBB"], ["budget", "8GBB", "GiB"]),
    (["budget=Auto"], ["budget='Auto': not a positive size", ", such as 50%, or auto; did you mean auto?"]),
    (["budget=-1GB"], ["budget", "-1GB", "positive"]),
    (["budget=0"], ["budget", "positive"]),
    (["budget=200%"], ["budget='200%': above 100%, which is all experts; allowed: "]),
    (["budget=12MB"], ["budget", "12000000", "12582912"]),
    (["budget=24GB"], ["budget=24GB: 23.0 GB are there for experts on rtx_4090: 24 GB, less 541 MB dense part, "]),
    (["budget=23.1GB"], ["budget=23.1GB: 23.0 GB ", "; allowed: up to 23.026GB, or auto"]),
    (["budget=100%", "hardware.gpu.memory_bytes=12000000000"], ["budget=100%: 11.0 GB are there for experts"]),
    (["budget=auto", "hardware.gpu.memory_bytes=900000000"], ["hardware=rtx_4090: 0 B are there for experts: 900 MB"]),
    (["budget=9999999TB"], ["budget='9999999TB'", "up to 4611686018427387904 bytes"]),
    (["seed=9999999999999999999999"], ["seed=9999999999999999999999: allowed: at most 4611686018427387904"]),
    (["limit=9999999999999999999999"], ["limit=9999999999999999999999: allowed: at most 4611686018427387904"]),
    (["policy=fmoe", "policy.distance=99999999999999999999"], ["policy.distance=9999", "at most 4611686018427387904"]),
    (["hardware.gpu.memory_bytes=99999999999999999999"], ["hardware.gpu.memory_bytes=9999", "at most 4611686018"]),
    (["policy.scope=層"], ["policy.scope='層': allowed: global, layer"]),
    (["policy.scope=${x}"], ["policy.scope: ", "'x' not found"]),
    (["model=${x}"], ["model=${x}: the name of a model is wanted; allowed: as_traced, "]),
    (["policy=[1,2]"], ["policy=[1,2]: the name of a policy is wanted; allowed: "]),
    (["模=3"], ["模=3: no such key"]),
    (["hardware.link=[]"], ["hardware.link=[]: a group of keys; allowed: hardware.link.h2d_gb_per_s, "]),
    (["hardware.link={a:1}"], ["hardware.link has no key a; allowed: h2d_gb_per_s, "]),
    (["seed=\udcff"], ["seed=\\udcff: not a text in UTF-8"]),
    (["policy=nosuch"], ["policy", "nosuch", "lru", "gate_ahead"]),
    (["polcy=lru"], ["polcy", "policy"]),
    (["policy.scop=layer"], ["policy.scop", "scope"]),
    (["hardware.software.policy_us.lru.decode=5"], ["no such key", "+hardware.software.policy_us.lru.decode=5"]),
    (["policy.scope=both"], ["policy.scope", "both", "global", "layer"]),
    (["policy=lru,fifo"], ["policy=lru,fifo", "-m"]),
    (["policy.name=belady_forced"], ["policy.name=belady_forced", "future"]),
    (["policy.name=abc"], ["policy.name=abc: unknown; allowed: ", "lru"]),
    (["seed=abc"], ["seed", "abc", "whole number"]),
    (["seed=-1"], ["seed", "-1", "0"]),
    (["chunks=0"], ["chunks", "0", "1"]),
    (["limit=0"], ["limit", "0", "1"]),
    (["warmup=1000"], ["warmup", "1000"]),
    (["bounds=maybe"], ["bounds", "maybe", "true"]),
    (["workload.batch=0"], ["workload.batch", "0", "1"]),
    (["trace=nosuch"], ["trace", "nosuch", "sample"]),
    (["model=nosuch"], ["model", "nosuch", "olmoe_1b_7b"]),
    (["model=no/such.yaml"], ["model", "no/such.yaml"]),
    (["model=mixtral_8x7b"], ["mixtral_8x7b", "layers", "32", "16"]),
    (["model.dtype=fp99"], ["dtype", "fp99", "bfloat16"]),
    (["hardware=nosuch"], ["hardware", "nosuch", "rtx_4090"]),
    (["hardware.link.h2d=3"], ["hardware.link.h2d", "h2d_gb_per_s"]),
    (["hardware.link.depth=0"], ["hardware.link.depth", "0"]),
    (["hardware.link.h2d_gb_per_s=fast"], ["hardware.link.h2d_gb_per_s", "fast"]),
    (["format=xml"], ["format", "xml", "table", "json"]),
    (["budget"], ["budget", "key=value"]),
    (["=3"], ["=3", "key=value"]),
]


@pytest.mark.parametrize(("words", "named"), WORDS, ids=lambda value: " ".join(value))
def test_a_mistake_is_one_line_that_helps(
    words: list[str], named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["run", f"out={out}", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1, printed.err
    for part in named:
        assert part in printed.err
    assert not out.exists()


def _refused(trace: Path, capsys: pytest.CaptureFixture[str], *named: str, policy: str = "lru") -> None:
    out = trace.parent / "out"
    assert main(["run", f"trace={trace}", f"out={out}", f"policy={policy}", "budget=50%"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    for part in named:
        assert part in printed.err
    assert not out.exists()


def _rewrite(trace: Path, name: str, array: np.ndarray) -> None:
    """Put other values into an array, with the hash that they have."""
    np.save(trace / name, array)
    raw = (trace / name).read_bytes()
    manifest = json.loads((trace / "trace.json").read_text())
    manifest["files"][name]["sha256"] = hashlib.sha256(raw).hexdigest()
    manifest["files"][name]["bytes"] = len(raw)
    (trace / "trace.json").write_text(json.dumps(manifest))


def test_a_truncated_array(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = broken / "expert_ids.npy"
    file.write_bytes(file.read_bytes()[:-100])
    _refused(broken, capsys, "expert_ids.npy")


def test_an_array_whose_hash_differs(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = broken / "expert_weights.npy"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    _refused(broken, capsys, "expert_weights.npy", "SHA-256")


def test_an_expert_that_does_not_exist(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = np.load(broken / "expert_ids.npy")
    ids[100, 3, 2] = 64
    _rewrite(broken, "expert_ids.npy", ids)
    _refused(broken, capsys, "expert_ids.npy", "64")


def test_a_probability_that_is_not_a_number(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probs = np.load(broken / "router_probs.npy")
    probs[10, 1, 5] = np.nan
    _rewrite(broken, "router_probs.npy", probs)
    _refused(broken, capsys, "router_probs.npy", "nan")


def test_a_link_out_of_the_folder(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = broken / "token_ids.npy"
    outside = broken.parent / "outside.npy"
    file.rename(outside)
    file.symlink_to(outside)
    _refused(broken, capsys, "token_ids.npy", "link")


def test_a_signal_that_was_not_recorded(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (broken / "gate_ahead.npy").unlink()
    manifest = json.loads((broken / "trace.json").read_text())
    del manifest["files"]["gate_ahead.npy"]
    (broken / "trace.json").write_text(json.dumps(manifest))
    _refused(broken, capsys, "gate_ahead", "recorded", policy="gate_ahead")


def test_a_policy_that_learns_from_a_trace_without_a_split(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (broken / "requests.csv").read_text().replace(",train,", ",,").replace(",test,", ",,")
    (broken / "requests.csv").write_text(text)
    manifest = json.loads((broken / "trace.json").read_text())
    entry = manifest["files"]["requests.csv"]
    entry["sha256"], entry["bytes"] = hashlib.sha256(text.encode()).hexdigest(), len(text.encode())
    (broken / "trace.json").write_text(json.dumps(manifest))
    _refused(broken, capsys, "static", "split=0.7", policy="static")


def test_a_result_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    assert main(["run", f"out={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.startswith("error: out=")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["polcy=lru,fifo"], ["polcy", "policy"]),
        (["policy=lru,nosuch"], ["policy", "nosuch", "gate_ahead"]),
        (["policy=lru,fifo", "seed=0,x"], ["seed", "x", "whole number"]),
        (["policy=[a,b"], ["policy=[a,b", "key=value"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_mistake_in_a_grid_stops_it_before_it_begins(
    words: list[str], named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["run", "-m", f"out={out}", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    for part in named:
        assert part in printed.err
    assert not out.exists()


def test_an_unfinished_folder_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", f"out={tmp_path}", "limit=1", "bounds=false"]
    assert main(words) == 0
    folder = next(tmp_path.glob("lru-*"))
    (folder / "result.json").unlink()
    capsys.readouterr()
    assert main(words) == 2
    assert "remove it" in capsys.readouterr().err


def test_a_predictor_that_was_not_fitted(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _refused(
        broken, capsys, "policy=promoe", "promoe, which was not", "policies fit promoe", "gate_ahead", policy="promoe"
    )


def test_the_outputs_of_another_trace(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = Path(__file__).parents[2] / "traces" / "sample"
    shutil.copytree(sample / "predicted", broken / "predicted")
    ids = np.load(broken / "expert_ids.npy")
    ids[0, 0] = ids[0, 0, ::-1]
    _rewrite(broken, "expert_ids.npy", ids)
    _refused(broken, capsys, "predicted/promoe/predictor.json: trace", "the trace that it lies beside", policy="promoe")


@pytest.mark.parametrize("key", ["policy_us", "beside"])
@pytest.mark.parametrize("value", ["", "lru,", "lru,nosuch"])
def test_a_policy_that_is_measured_is_blamed_by_its_own_key(
    key: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", f"{key}={value}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {key}={value}: allowed: deepspeed, ")
    assert f"; not {value.partition(',')[2] or 'nothing'}" in error


@pytest.mark.parametrize("verb", ["curve", "bench", "config"])
def test_what_writes_nothing_takes_no_folder(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "policy=lru", "out=somewhere"]) == 2
    assert capsys.readouterr().err.startswith("error: out=somewhere: ")
