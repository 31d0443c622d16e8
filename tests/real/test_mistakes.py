"""Slips that ``python -m real`` alone can see: one line with what is allowed, status 2, and nothing written.

What holds for the keys of every verb is in tests/install/test_every_verb.py.
"""

import sys
from pathlib import Path

import pytest
import yaml

from real.cli import main
from real.words import configuration
from sim.prices import shipped
from traces.kit.errors import UserError

BASE = ("policy=lru", "budget=25%")
REHEARSED = ("rehearse=true", "device=cpu")
SMALL = ("device=cpu", "host_memory=1MB")
TOO_SMALL = ("host_memory=1 MB: the model's weights take 59.3 MB; allowed: a model that fits",)
MODIFIED = ("policy=pregated: is of a modified model", "allowed: policies of the model as it is")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", *BASE, "device=tpu"), ("device='tpu'", "cpu", "cuda")),
        (("run", *BASE, "device=cuda:99"), ("device='cuda:99'",)),
        (("run", *BASE, "weights=random"), ("weights=random", "routing=TRACE")),
        (("run", *BASE, "temperature=0.5"), ("temperature=", "decoding=sampled")),
        (("run", *BASE, "prompts=a", "routing=sample"), ("routing=sample", "prompts=")),
        (("run", *BASE, "prompt=a", "prompts=a"), ("prompt=a: instead of prompts=",)),
        (("run", *BASE, "prompt= "), ("prompt: prompt is ' '", "not blank")),
        (("run", *BASE, "top_k=3"), ("top_k=3: is for decoding=sampled, not greedy",)),
        (("run", *BASE, "min_p=0.1"), ("min_p=0.1: is for decoding=sampled",)),
        (("run", *BASE, "min_p=2"), ("min_p=2: allowed: a number, 0 to 1",)),
        (("run", *BASE, "repetition_penalty=0"), ("repetition_penalty=0: allowed: a number, 0.001 to 1000",)),
        (("run", *BASE, "stop=["), ("stop=[: allowed: a text, or a JSON list",)),
        (("run", *BASE, "system=S"), ("system=S: is for chat=true",)),
        (("run", *BASE, "chat=true", "prompt=a"), ("tiny-moe has no chat template", "chat=false")),
        (("run", *BASE, "prompt=a", "max_new_tokens=2000"), ("allowed: 1024, the model's window",)),
        (("run", *BASE, "prompts={tmp}/none.jsonl"), ("none.jsonl",)),
        (("run", *BASE, "measure=validation"), ("measure=validation", "allowed: test")),
        (("run", *BASE, "model={tmp}"), ("{tmp}",)),
        (("run", *BASE, "model=olmoe_1b_7b"), ("model=olmoe_1b_7b", "prompt=TEXT, prompts=FILE")),
        (("run", *BASE, "model=nobody/nothing", "prompts={prompts}"), ("nobody/nothing",)),
        (("run", *BASE, "model.dtype=fp8"), ("dtype=fp8",)),
        (("run", *BASE, "hardware.link.lanes=2"), ("hardware.link.lanes=2: allowed: 1 on a device",)),
        (("run", *BASE, "hardware.gpus=2"), ("hardware.gpus=2: allowed: 1 on a device",)),
        (("validate", *BASE, "hardware=a100", "hardware.gpus=2"), ("hardware.gpus=2: allowed: 1 on a device",)),
        (("run", *BASE, "workload=online", "workload.rate=1"), ("workload=online: is for python -m real validate",)),
        (("validate", *BASE, "workload=online"), ("workload.rate=null: allowed: ",)),
        (("quality", *BASE, "hardware.gpus=2"), ("hardware.gpus=2: allowed: 1 on a device; several are simulated",)),
        (
            ("run", "policy=hobbit", "budget=25%", "prompt=a", "device=cpu"),
            ("policy=hobbit: wants experts in int4", "python -m real quality"),
        ),
        (("run", *BASE, "host_memory=8GBB"), ("host_memory='8GBB'", "GB", "GiB")),
        (("run", *BASE, *SMALL), TOO_SMALL),
        (("validate", *BASE, "hardware={a100}", *SMALL), TOO_SMALL),
        (("quality", "policy=swapmoe", "budget=50%", *SMALL), TOO_SMALL),
        (("peers", *BASE, *SMALL), TOO_SMALL),
        (("calibrate", "hardware={a100}", *SMALL), TOO_SMALL),
        (("run", *BASE, "routing={tmp}"), ("{tmp}",)),
        (("run", *BASE, "routing=nowhere"), ("routing=nowhere: no such trace", "allowed: sample")),
        (("run", "polcy=lru"), ("polcy=lru: no such key", "prompts", "budget", "did you mean policy?")),
        (("validate", "policy=lro", "budget=25%"), ("policy=lro", "did you mean lru?")),
        (("validate", *BASE, "hardware=nosuch.yaml"), ("hardware=nosuch.yaml: no such file", "or a100, apple_m4_max")),
        (("run", *BASE, "predictor={tmp}/none.safetensors"), ("none.safetensors",)),
        (("run", "policy=lru", "budget=1B"), ("budget",)),
        (("run", "policy=lru,fmoe", "budget=25%"), ("policy=lru,fmoe",)),
        (("run", "--config", "{tmp}/none.yaml"), ("none.yaml",)),
        (("run", "policy=lru", "--config", "{prompts}"), ("policy=lru", "config=")),
        (("run", "--config", "{prompts}"), ("prompts.jsonl", "prompt='a': no such key")),
        (("run", "--config"), ("--config",)),
        (("run", "policy=pregated", "budget=25%", "device=cpu", "routing=sample"), MODIFIED),
        (("validate", "policy=pregated", "hardware=a100", "budget=25%", "device=cpu"), MODIFIED),
        (("quality", "policy=pregated", "budget=25%", "device=cpu"), MODIFIED),
        (("serve", *BASE), ("serve", "run", "validate")),
        (("validate", "name=a/b"), ("name=a/b", "letters")),
        (("validate", "--config", "nosuch.yaml"), ("config=nosuch.yaml", "No such file")),
        (("validate", "policy=lru", "model=mixtral_8x7b", "hardware=a100"), ("mixtral_8x7b", "layers")),
        (("validate", "policy=lru", "hardware=a100", "budget=1"), ("no cell could be run", "budget=1")),
        (("quality", "policy=swapmoe", "split=2"), ("split=2: allowed: a number, 0 to 1",)),
        (("quality", "policy=swapmoe", "budget=25%,110%"), ("budget='110%'",)),
        (("quality", "policy=swapmoe", "budget=1%"), ("at least",)),
        (("quality", "policy=belady_forced"), ("policy=belady_forced: unknown",)),
        (("quality", "policy=swapmoe", "prompts=nowhere.txt"), ("nowhere.txt",)),
        (("calibrate", "hardware=nosuch.yaml"), ("hardware=nosuch.yaml", "No such file")),
        (("calibrate", "hardware={a100}", "model=gpt_oss_20b"), ("model.dtype", "mxfp4", "bfloat16")),
        (("calibrate", "hardware={a100}", "model=nosuch", "weights=random"), ("dtype=auto", "bfloat16")),
        (("calibrate", "hardware={a100}", "out=out.txt"), ("out.txt", "FILE.yaml")),
        (("measure", *REHEARSED, "only=profile", "out="), ("out=", "a folder")),
        (("measure", "device=cpu"), ("device=cpu", "cuda", "rehearse=true")),
        (("measure", "device=auto", "only=profile"), ("device=auto", "cuda", "rehearse=true")),
        (("measure", "device=cuda:99"), ("cuda:99",)),
        (("measure", *REHEARSED, "only=copies,all"), ("'all'", "preflight", "profile")),
        (("measure", *REHEARSED, "out={prompts}"), ("out=", "folder")),
        (("evaluate", "{tmp}/none"), ("No such file",)),
        (("diff", "first={tmp}", "second={tmp}"), ("{tmp}",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_slip_is_one_line(
    words: tuple[str, ...], said: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"tmp": tmp_path, "prompts": tmp_path / "prompts.jsonl", "a100": tmp_path / "a100.yaml"}
    places["prompts"].write_text('{"prompt": "a"}\n')
    places["a100"].write_text(yaml.safe_dump(dict(shipped("hardware", "a100"))))
    own = [word.format(**places) for word in words]
    if own[0] not in ("diff", "peers") and own[-1] != "--config" and not own[-1].startswith("out="):
        own.append(f"out={tmp_path / ('out.yaml' if own[0] == 'calibrate' else 'out')}")
    assert main(own) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1 + ("no cell could be run" in printed.err), printed.err
    for word in said:
        assert word.format(**places) in printed.err
    assert {path.name for path in tmp_path.iterdir()} == {"prompts.jsonl", "a100.yaml"}


def test_without_hydra_plain_words_are_taken_and_others_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sim.experiment.by_hydra", None)
    assert configuration(["policy=lfu", "budget=25%"], "").policy["name"] == "lfu"
    with pytest.raises(
        UserError, match=r"^Hydra is not installed \(.*\); allowed: --config FILE, a resolved configuration$"
    ):
        configuration(["policy=lfu", "budget=25%", "+seed=1"], "")
