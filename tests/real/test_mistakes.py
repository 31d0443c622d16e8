"""Slips that ``python -m real`` alone can see: one line with what is allowed, status 2, and nothing written.

What holds for the keys of every verb is in tests/install/test_every_verb.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from real.cli import main

BASE = ("policy=lru", "budget=25%")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", *BASE, "device=tpu"), ("device='tpu'", "cpu", "cuda")),
        (("run", *BASE, "device=cuda:99"), ("device='cuda:99'",)),
        (("run", *BASE, "weights=random"), ("weights=random", "routing=TRACE")),
        (("run", *BASE, "temperature=0.5"), ("temperature=", "decoding=sampled")),
        (("run", *BASE, "prompts=a", "routing=sample"), ("routing=sample", "prompts=")),
        (("run", *BASE, "prompts={tmp}/none.jsonl"), ("none.jsonl",)),
        (("run", *BASE, "measure=validation"), ("measure=validation", "allowed: test")),
        (("run", *BASE, "model={tmp}"), ("{tmp}",)),
        (("run", *BASE, "model=olmoe_1b_7b"), ("model=olmoe_1b_7b", "prompts=FILE")),
        (("run", *BASE, "model=nobody/nothing", "prompts={prompts}"), ("nobody/nothing",)),
        (("run", *BASE, "model.dtype=fp8"), ("dtype=fp8",)),
        (("run", *BASE, "host_memory=8GBB"), ("host_memory='8GBB'", "GB", "GiB")),
        (("run", *BASE, "host_memory=0"), ("host_memory='0'",)),
        (("run", *BASE, "routing={tmp}"), ("{tmp}",)),
        (("run", *BASE, "routing=nowhere"), ("routing=nowhere: no such trace", "allowed: sample")),
        (("run", *BASE, "promts=a"), ("promts=a: no such key", "did you mean prompts?")),
        (("run", "polcy=lru"), ("polcy=lru: no such key", "prompts", "budget", "did you mean policy?")),
        (("validate", "policy=lro", "budget=25%"), ("policy=lro", "did you mean lru?")),
        (("validate", *BASE, "hardware=nosuch.yaml"), ("hardware=nosuch.yaml: no such file", "or a100, h100")),
        (("run", *BASE, "predictor={tmp}/none.safetensors"), ("none.safetensors",)),
        (("run", "policy=best", "budget=25%"), ("policy=best", "lru")),
        (("run", "policy=lru", "budget=1B"), ("budget",)),
        (("run", "policy=lru", "budget=300%"), ("budget=",)),
        (("run", *BASE, "chunk=2"), ("chunk=2",)),
        (("run", "policy=lru,fmoe", "budget=25%"), ("policy=lru,fmoe",)),
        (("run", "--config", "{tmp}/none.yaml"), ("none.yaml",)),
        (("run", "policy=lru", "--config", "{prompts}"), ("policy=lru", "config=")),
        (("run", "--config", "{prompts}"), ("prompts.jsonl", "prompt='a': no such key")),
        (("run", "--config"), ("--config",)),
        (("serve", *BASE), ("serve", "run", "validate")),
        (("validate", *BASE, "host_memory=all"), ("host_memory='all'",)),
        (("quality", *BASE, "host_memory=1e9"), ("host_memory='1e9'",)),
        (("calibrate", "hardware=nothing"), ("out=", "FILE.yaml")),
        (("diff", "first={tmp}", "second={tmp}"), ("{tmp}",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_slip_is_one_line(
    words: tuple[str, ...], said: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n')
    places = {"tmp": tmp_path, "prompts": prompts}
    own = [word.format(**places) for word in words]
    out = tmp_path / "out"
    if own[0] != "diff":
        own.append(f"out={out}")
    if "--config" in own[-2:]:
        own = own[:-1]  # nothing after it
    assert main(own) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    for word in said:
        assert word.format(**places) in error
    assert not out.exists()
