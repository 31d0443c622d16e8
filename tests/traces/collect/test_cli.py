"""The command: a trace that opens and adds up, and one line for what the user can mend."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.commands import collect as main
from traces import UserError, open_trace

LINES = ["The first prompt is this one.", "A second.", "Und noch ein dritter Satz!"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n\n".join(LINES) + "\n")
    return file


def record(model: Path, prompts: Path, out: Path, *more: str) -> Any:
    main([f"model={model}", f"prompts={prompts}", f"out={out}", *more])
    return open_trace(out)


def test_a_trace_adds_up(saved: Path, prompts: Path, tmp_path: Path) -> None:
    trace = record(saved, prompts, tmp_path / "t", "max_new_tokens=5", "signals=all", "split=0.5")
    assert [r.prompt_tokens for r in trace.requests] == [len(line) for line in LINES]
    assert [r.source for r in trace.requests] == ["prompts"] * 3
    assert sorted(r.split for r in trace.requests) == ["test", "train", "train"]
    assert [r.output_tokens for r in trace.requests] == [5] * 3
    assert trace.hidden.shape[1:] == (4, 32)
    manifest = trace.manifest
    assert manifest.model.name == "tiny-olmoe"
    assert manifest.model.expert_bytes == (3 * 32 * 24 * 4,) * 4
    assert manifest.model.shapes["expert_width"] == 24
    assert manifest.model.scoring == "softmax"
    settings = {"mode": "greedy", "max_new_tokens": 5, "max_prompt_tokens": 512, "chat_template": "off", "batch": 1}
    assert manifest.decoding == settings
    assert str(tmp_path) not in (tmp_path / "t" / "trace.json").read_text()


def test_teacher_forcing_takes_the_text(saved: Path, prompts: Path, tmp_path: Path) -> None:
    options = ("decoding=teacher_forced", "max_prompt_tokens=4", "max_new_tokens=9")
    trace = record(saved, prompts, tmp_path / "t", *options)
    assert [r.output_tokens for r in trace.requests] == [9, 5, 9]
    tokenizer = AutoTokenizer.from_pretrained(saved)
    rows = np.split(np.asarray(trace.token_ids), np.cumsum([12, 8, 12])[:-1])
    assert [tokenizer.decode(row) for row in rows] == [LINES[0][:12], LINES[1][:8], LINES[2][:12]]


def test_a_seed_gives_the_same_bytes(saved: Path, prompts: Path, tmp_path: Path) -> None:
    options = ("decoding=sampled", "temperature=0.8", "max_new_tokens=6")
    hashes = [
        record(saved, prompts, tmp_path / f"t{index}", *options, f"seed={seed}").sha256
        for index, seed in enumerate((3, 3, 4))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_json_lines_carry_their_own_facts(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.jsonl"
    lines: list[dict[str, Any]] = [
        {"prompt": "one", "source": "a", "split": "test", "licence": "CC0-1.0", "max_new_tokens": 2},
        {"prompt": "two", "licence": "MIT"},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    trace = record(saved, file, tmp_path / "t", "max_new_tokens=3", "split=1")
    assert [(r.source, r.split, r.output_tokens) for r in trace.requests] == [("a", "test", 2), ("p", "train", 3)]
    assert trace.manifest.prompts.licence == "CC0-1.0; MIT"
    # The command line's word did not hold for all, and the manifest says for how many it did not.
    settings = trace.manifest.decoding
    assert (settings["max_new_tokens"], settings["prompts_with_own_max_new_tokens"]) == (3, 1)
    assert "max_new_tokens=3: not for 1 prompts, which state their own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("signals=hidden,logits", "'logits' is not known.*hidden"),
        ("device=gpu9", "device='gpu9'.*cuda"),
        ("max_new_tokens=200", "allowed: 128, the model's window"),
        ("decoding=teacher_forced", "leave no continuation to force"),
        ("prompts=nowhere.txt", "given twice"),
        ("top_p=0.5", "top_p=0.5: is for decoding=sampled, not greedy"),
        ("chat_template=on", "the tokenizer has no chat template; allowed: auto, off"),
        ("max_memory=20GiB", "'20GiB' is not DEVICE:SIZE, each device once; allowed: 0:20GiB"),
    ],
)
def test_mistakes_stop_with_one_line(saved: Path, prompts: Path, tmp_path: Path, option: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        record(saved, prompts, tmp_path / "t", option)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_what_is_there_already_is_kept(saved: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        record(saved, prompts, tmp_path)


def test_a_model_that_is_not_here_is_not_fetched(prompts: Path, tmp_path: Path) -> None:
    said = "cannot be loaded from this machine: no such folder, and not in the local Hugging Face cache; allowed: "
    for name, end in (("nobody/no-such-model", "that cache$"), ("referense", "did you mean reference\\?$")):
        with pytest.raises(UserError, match=f"{said}.*{end}"):
            record(Path(name), prompts, tmp_path / "t")
