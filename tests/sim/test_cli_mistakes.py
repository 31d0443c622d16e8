"""Wrong inputs: one line that names value, key and allowed set; exit status 2; nothing written."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sim.cli import main
from tests.sim.conftest import SAMPLE

SIX = ("hardware.gpus=6",)
WORDS = [
    (["budget=8GBB"], ["budget", "8GBB", "GiB"]),
    (["budget=Auto"], ["budget='Auto': not a positive size", ", such as 50%, or auto; did you mean auto?"]),
    (["budget=-1GB"], ["budget", "-1GB", "positive"]),
    (["budget=0"], ["budget", "positive"]),
    (["budget=200%"], ["budget='200%': above 100%, which is all experts; allowed: "]),
    (["budget=12MB"], ["budget", "12000000", "12582912"]),
    (["budget=24GB"], ["budget=24GB: 22.9 GB are there for experts on rtx_4090: 24 GB, less 541 MB dense part, "]),
    (["budget=23.1GB"], ["budget=23.1GB: 22.9 GB ", "; allowed: up to 22.939GB, or auto"]),
    (["budget=100%", "hardware.gpu.memory_bytes=12000000000"], ["budget=100%: 10.9 GB are there for experts"]),
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
    (["hardware.link.lanes=0"], ["hardware.link.lanes=0", "at least 1"]),
    (["hardware.gpus=0"], ["hardware.gpus=0: allowed: a whole number of at least 1 and at most 64"]),
    (["hardware.gpus=65"], ["hardware.gpus=65: allowed: at most 64"]),
    (
        ["hardware=jetson_agx_orin", "hardware.gpus=2"],
        ["hardware.peer=null", "hardware.gpus=2", "placement=hash", "placement=replicate"],
    ),
    ([*SIX, "hardware.peer=null", "placement=shard"], ["hardware.peer=null", "placement=shard", "placement=replicate"]),
    (
        ["model=tiny-moe", "hardware.gpus=33", "placement=shard"],
        ["hardware.gpus=33 placement=shard: a GPU would hold nothing; allowed: at most 32, the width of an expert"],
    ),
    (["placement=random"], ["placement", "random", "hash, round_robin, layers, shard, replicate"]),
    ([*SIX, "hardware.gpus=17", "placement=layers"], ["hardware.gpus=17", "placement=layers", "at most 16"]),
    (["hardware.gpus=64", "placement=hash", "policy=swapmoe"], ["policy=swapmoe", "64 GPUs", "hardware.gpus=1"]),
    ([*SIX, "policy=mixtral_offloading"], ["policy=mixtral_offloading", "6 GPUs", "policy.buffers=0"]),
    ([*SIX, "policy=fiddler"], ["policy=fiddler", "host", "allowed: hardware.gpus=1"]),
    (
        ["hardware.gpus=2", "placement=replicate", "policy=fiddler"],
        ["policy=fiddler: not with experts on 2 GPUs: it has the host compute", "; allowed: hardware.gpus=1"],
    ),
    ([*SIX, "budget=200GB"], ["budget=200GB", "on each GPU", "auto"]),
    ([*SIX, "budget=20MB"], ["budget=20000000", "policy=lru on 6 GPUs", "at least 75497472 bytes (75.498 MB)"]),
    (
        ["hardware.gpus=2", "placement=replicate", "budget=20MB"],
        ["budget=20000000: too small for policy=lru on 2 GPUs, each with its part; allowed: at least 25165824 bytes"],
    ),
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


def test_a_damaged_trace_is_named(tmp_path: Path, refused: Refused) -> None:
    """Every damage there is: tests/traces/format/test_corruption.py; what a policy lacks: test_lacks.py."""
    shutil.copytree(SAMPLE, tmp_path / "t")
    weights = tmp_path / "t" / "expert_weights.npy"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    refused(f"trace={tmp_path / 't'}", "budget=50%", named=["expert_weights.npy", "SHA-256"])


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


@pytest.mark.parametrize("verb", ["curve", "bench", "config"])
def test_what_writes_nothing_takes_no_folder(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "policy=lru", "out=somewhere"]) == 2
    assert capsys.readouterr().err.startswith("error: out=somewhere: ")
