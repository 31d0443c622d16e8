"""Wrong inputs: one line that names value, key and allowed set; exit status 2; nothing written."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.cli import main
from tests.sim.conftest import SAMPLE

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


GRIDS = [
    (["-m", "polcy=lru,fifo"], ["polcy", "policy"]),
    (["-m", "policy=lru,nosuch"], ["policy", "nosuch", "gate_ahead"]),
    (["-m", "policy=lru,fifo", "seed=0,x"], ["seed", "x", "whole number"]),
    (["-m", "policy=[a,b"], ["policy=[a,b", "key=value"]),
]
"""A grid is stopped before it begins."""
Refused = Callable[..., None]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """That a run with these words ends with one line, which names the parts, and writes nothing."""

    def check(*words: str, named: Sequence[str]) -> None:
        out = tmp_path / "out"
        assert main(["run", f"out={out}", *words]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1, printed.err
        for part in named:
            assert part in printed.err
        assert not out.exists()

    return check


@pytest.mark.parametrize(("words", "named"), WORDS + GRIDS, ids=lambda value: " ".join(value))
def test_a_mistake_is_one_line_that_helps(words: list[str], named: list[str], refused: Refused) -> None:
    refused(*words, named=named)


def _rewrite(trace: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change an array, or a text, and state the hash that it has then."""
    if name.endswith(".npy"):
        array = np.load(trace / name)
        change(array)
        np.save(trace / name, array)
    else:
        (trace / name).write_text(change((trace / name).read_text()))
    raw = (trace / name).read_bytes()
    _restate(trace, lambda files: files[name].update(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw)))


def _restate(trace: Path, change: Callable[[Any], Any]) -> None:
    manifest = json.loads((trace / "trace.json").read_text())
    change(manifest["files"])
    (trace / "trace.json").write_text(json.dumps(manifest))


def _truncate(trace: Path) -> None:
    file = trace / "expert_ids.npy"
    file.write_bytes(file.read_bytes()[:-100])


def _flip(trace: Path) -> None:
    raw = bytearray((trace / "expert_weights.npy").read_bytes())
    raw[-1] ^= 1
    (trace / "expert_weights.npy").write_bytes(raw)


def _link_outside(trace: Path) -> None:
    outside = trace.parent / "outside.npy"
    (trace / "token_ids.npy").rename(outside)
    (trace / "token_ids.npy").symlink_to(outside)


def _unrecord(trace: Path) -> None:
    (trace / "gate_ahead.npy").unlink()
    _restate(trace, lambda files: files.pop("gate_ahead.npy"))


def _unsplit(trace: Path) -> None:
    _rewrite(trace, "requests.csv", lambda text: text.replace(",train,", ",,").replace(",test,", ",,"))


def _reorder_beside_predicted(trace: Path) -> None:
    shutil.copytree(SAMPLE / "predicted", trace / "predicted")
    _rewrite(trace, "expert_ids.npy", lambda ids: ids.__setitem__((0, 0), ids[0, 0, ::-1].copy()))


def _put(name: str, place: tuple[int, ...], value: float) -> Callable[[Path], None]:
    return lambda trace: _rewrite(trace, name, lambda array: array.__setitem__(place, value))


OF_ANOTHER = "predicted/promoe/predictor.json: trace"


@pytest.mark.parametrize(
    ("damage", "policy", "named"),
    [
        (_truncate, "lru", ["expert_ids.npy"]),
        (_flip, "lru", ["expert_weights.npy", "SHA-256"]),
        (_put("expert_ids.npy", (100, 3, 2), 64), "lru", ["expert_ids.npy", "64"]),
        (_put("router_probs.npy", (10, 1, 5), np.nan), "lru", ["router_probs.npy", "nan"]),
        (_link_outside, "lru", ["token_ids.npy", "link"]),
        (_unrecord, "gate_ahead", ["gate_ahead", "recorded"]),
        (_unsplit, "static", ["static", "split=0.7"]),
        (lambda _: None, "promoe", ["policy=promoe", "promoe, which was not", "policies fit promoe", "gate_ahead"]),
        (_reorder_beside_predicted, "promoe", [OF_ANOTHER, "the trace that it lies beside"]),
    ],
)
def test_a_trace_that_cannot_be_used_is_named(
    damage: Callable[[Path], None], policy: str, named: list[str], broken: Path, refused: Refused
) -> None:
    damage(broken)
    refused(f"trace={broken}", f"policy={policy}", "budget=50%", named=named)


def test_a_result_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    assert main(["run", f"out={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.startswith("error: out=")


def test_an_unfinished_folder_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", f"out={tmp_path}", "limit=1", "bounds=false"]
    assert main(words) == 0
    folder = next(tmp_path.glob("lru-*"))
    (folder / "result.json").unlink()
    capsys.readouterr()
    assert main(words) == 2
    assert "remove it" in capsys.readouterr().err


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
