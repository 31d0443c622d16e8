"""A plan for a host that has not memory for all experts: how fast with the others read from its disk."""

import json
from typing import Any

import pytest

from sim.cli import main

TOTAL = 3 * 8 * 49152
WORDS = ("hardware=large.yaml", "hardware.gpu.memory_bytes=6000000", "model.dtype=float32")


def test_what_the_host_cannot_hold_is_read_from_disk_and_less_memory_is_never_faster(
    short: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [("host_memory=300000",), ("host_memory=600000",), ()]
    few, some, every = (json.loads(short(*WORDS, *more, "policy=lru", "format=json"))["machines"][0] for more in asked)
    assert [it["from_disk"] for it in (few, some, every)] == [TOTAL - 300_000, TOTAL - 600_000, 0]
    assert few["best"]["ms"] >= some["best"]["ms"] > every["best"]["ms"]
    narrower = [(it["instead"]["dtype"], it["instead"]["from_disk"]) for it in (some, few)]
    assert narrower == [("bfloat16", 0), ("int4", 0)]
    best = some["best"]
    assert "host_memory=600000" in best["run"]
    assert best["real"] is None
    capsys.readouterr()
    assert main([*best["run"][3:], "out=again", "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["latency_ms"]["tpot"]["mean"] == best["ms"]
    assert found["totals"]["host_memory"]["lookups"] > 0


def test_the_page_says_what_it_is(short: Any) -> None:
    page = " ".join(short(*WORDS, "host_memory=600000", "policy=lru,split_prompts", "target=tpot<=0.001ms").split())
    assert page.startswith("No: Small in float32 on Large with 580 KB of its experts on disk fits, and misses ")
    assert "1.18 MB, on disk; host memory has 600 KB for them, and what is not there is read" in page
    assert "split_prompts cannot run here: host_memory=600000: the policy has the host compute" in page
    assert "host memory: 1.18 MB for the experts alone, 580 KB more than there are" in page
    assert "In bfloat16, which is other weights and another output: Yes" not in page  # it misses it as well
    assert "In bfloat16, which is other weights and another output: No: Small in bfloat16" in page


def test_an_expert_has_to_pass_through_host_memory(short: Any) -> None:
    page = short(*WORDS, "host_memory=40000", "policy=lru")
    assert page.startswith("No: Small in float32 on Large does not fit: its experts take 1.18 MB of host memory")
