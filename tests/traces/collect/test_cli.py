"""The command in full: a trace that adds up, chats, disk, progress, cost, models that fit nowhere, memory, slips."""

import json
import re
import shutil
import tracemalloc
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch  # noqa: F401 - the module is left out without it
from transformers import AutoTokenizer, GenerationConfig

from tests.commands import collect as main
from tests.traces.models.tiny import save_with_tokenizer, tiny
from traces import Trace, UserError, open_trace
from traces.collect.record import Progress, measure_overhead
from traces.collect.recorder import Recorder
from traces.models.families import inspect_model
from traces.models.load import load
from traces.prompts.jobs import Job, draw_seed, sampled
from traces.prompts.records import Prompt

LINES = ["one prompt", "A second one.", "Und noch ein dritter Satz!"]
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHATS: list[dict[str, Any]] = [
    {"id": "a", "conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]},
    {"id": "b", "conversations": [{"from": "gpt", "value": "I begin."}]},
    {"id": "c", "conversations": [{"from": "human", "value": "Why"}, {"from": "gpt", "value": "Because it is so."}]},
]


def record(model: Path, prompts: Path, out: Path, *more: str) -> Trace:
    main([f"model={model}", f"prompts={prompts}", f"out={out}", "threads=1", "device=cpu", *more])
    return open_trace(out)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "p.txt"
    file.write_text("\n\n".join(LINES) + "\n")
    return file


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer has a chat template."""
    folder = save_with_tokenizer(tiny("qwen3_moe"), tmp_path_factory.mktemp("models") / "chatty")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def texts(trace: Trace, folder: Path) -> list[str]:
    """What each request was fed, as text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = np.cumsum([r.prompt_tokens + r.output_tokens - 1 for r in trace.requests])[:-1]
    return [tokenizer.decode(rows) for rows in np.split(np.asarray(trace.token_ids), ends)]


def test_a_trace_adds_up(saved: Path, lines: Path, tmp_path: Path) -> None:
    trace = record(saved, lines, tmp_path / "t", "max_new_tokens=5", "signals=all", "split=0.5")
    assert [r.prompt_tokens for r in trace.requests] == [len(line) for line in LINES]
    assert [r.source for r in trace.requests] == ["p"] * 3
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


def test_a_seed_gives_the_same_bytes(saved: Path, lines: Path, tmp_path: Path) -> None:
    options = ("decoding=sampled", "temperature=0.8", "max_new_tokens=6")
    hashes = [
        record(saved, lines, tmp_path / f"t{index}", *options, f"seed={seed}").sha256
        for index, seed in enumerate((3, 3, 4))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_json_lines_carry_their_own_facts(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.jsonl"
    records: list[dict[str, Any]] = [
        {"prompt": "one", "source": "a", "split": "test", "licence": "CC0-1.0", "max_new_tokens": 2},
        {"prompt": "two", "licence": "MIT"},
    ]
    file.write_text("\n".join(map(json.dumps, records)))
    trace = record(saved, file, tmp_path / "t", "max_new_tokens=3", "split=1")
    assert [(r.source, r.split, r.output_tokens) for r in trace.requests] == [("a", "test", 2), ("p", "train", 3)]
    assert trace.manifest.prompts.licence == "CC0-1.0; MIT"
    # The command line's word did not hold for all, and the manifest says for how many it did not.
    settings = trace.manifest.decoding
    assert (settings["max_new_tokens"], settings["prompts_with_own_max_new_tokens"]) == (3, 1)
    assert "max_new_tokens=3: not for 1 prompts, which state their own" in capsys.readouterr().err


def test_a_chat_data_set_is_forced_through_its_own_answers(
    chatty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sharegpt.json"
    file.write_text(json.dumps(CHATS))
    trace = record(chatty, file, tmp_path / "t", "decoding=teacher_forced", "max_new_tokens=100")
    # The last forced token is not fed back.
    assert texts(trace, chatty) == [
        "[user]Hi?[end][assistant]Hello.[end",
        "[user]Why[end][assistant]Because it is so.[end",
    ]
    assert trace.requests[0].prompt_tokens == len("[user]Hi?[end][assistant]")
    assert trace.manifest.decoding["chat_template"] == "chats"
    assert "skipped 1 chats" in capsys.readouterr().err


def test_a_long_chat_is_forced_through_its_rest_and_then_its_answer(chatty: Path, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps(CHATS[0]))
    options = ("decoding=teacher_forced", "max_prompt_tokens=4", "chat_template=off", "max_new_tokens=9")
    trace = record(chatty, file, tmp_path / "t", *options)
    assert texts(trace, chatty) == ["Hi?\nHello"]  # the last token is not fed back
    assert [(r.prompt_tokens, r.output_tokens) for r in trace.requests] == [(4, 6)]
    longer = record(chatty, file, tmp_path / "l", "decoding=teacher_forced", "max_prompt_tokens=9")
    assert texts(longer, chatty) == ["[user]Hi?[end][assistant]Hello.[end"]
    assert longer.requests[0].prompt_tokens == 9


def test_the_template_may_be_on_for_plain_prompts(chatty: Path, lines: Path, tmp_path: Path) -> None:
    trace = record(chatty, lines, tmp_path / "t", "chat_template=on", "max_new_tokens=1")
    assert texts(trace, chatty)[0] == "[user]one prompt[end][assistant]"
    assert trace.manifest.decoding["chat_template"] == "on"


def test_samples_of_a_prompt_differ_and_share_its_split(saved: Path, lines: Path, tmp_path: Path) -> None:
    trace = record(saved, lines, tmp_path / "t", "limit=2", "samples=3", "decoding=sampled", "split=0.5")
    assert [r.split for r in trace.requests] in (["train"] * 3 + ["test"] * 3, ["test"] * 3 + ["train"] * 3)
    written = texts(trace, saved)
    assert len(set(written)) == 6
    assert all(text.startswith("one prompt") for text in written[:3])


def test_disk_is_estimated_and_must_be_there(
    saved: Path, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = record(saved, lines, tmp_path / "t", "signals=all", "max_new_tokens=5")
    said = re.search(r"at most (\d+) tokens: ([\d.]+) KB on disk", capsys.readouterr().err)
    assert said is not None
    assert int(said[1]) == trace.manifest.counts.tokens
    size = sum(file.stat().st_size for file in trace.path.glob("*.npy"))
    header = 128 * len(list(trace.path.glob("*.npy")))
    assert size - header <= float(said[2]) * 1e3 + 500 <= size + 5e3

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"takes at most [\d.]+ KB; allowed: 1 KB"):
        record(saved, lines, tmp_path / "u", "signals=all")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["p.txt", "t"]


def test_the_cost_of_recording_is_measured(
    saved: Path, lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(saved, lines, tmp_path / "t", "batch=2", "overhead=0.01")
    said = re.search(r"recording takes ([\d.]+) x the time of plain generate", capsys.readouterr().err)
    assert said is not None
    assert 0.5 < float(said[1]) < 10
    record(saved, lines, tmp_path / "u", "overhead=0")
    assert "plain generate" not in capsys.readouterr().err


@pytest.mark.parametrize("end", [[], list(range(300))], ids=["no end", "every token ends"])
def test_the_cost_compares_the_same_passes(saved: Path, end: list[int]) -> None:
    """Whatever the model's own generation config asks for."""
    loaded = load(str(saved), "auto", "cpu")
    own = GenerationConfig(eos_token_id=end, repetition_penalty=2.0, do_sample=True, temperature=0.5)
    loaded.model.generation_config = own
    widths: list[tuple[int, ...]] = []
    embedding = loaded.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _module, args, _output: widths.append(tuple(args[0].shape)))
    prompts = [Prompt(index, "", "", None, None, "", "train", None, None) for index in range(2)]
    jobs = [Job(prompt, [7] * (3 + prompt.number), sampled(1.0, 0), 4 + prompt.number) for prompt in prompts]
    cost = measure_overhead(Recorder(inspect_model(loaded.model), frozenset(), 1), jobs, within_s=0.0)
    handle.remove()
    assert widths == [(2, 4), (2, 1), (2, 1), (2, 1)] * 2
    assert "median of 1)" in cost
    assert loaded.model.generation_config is own


def test_recordings_with_different_seeds_share_no_draws() -> None:
    seeds = {draw_seed(seed, number) for seed in range(200) for number in range(1000)}
    assert len(seeds) == 200_000
    assert max(seeds) < 2**32
    assert [draw_seed(0, number) for number in range(3)] == [0, 1, 2]  # as the shipped sample was recorded


def test_a_model_spread_over_memory_and_disk_routes_as_one_in_memory(saved: Path, lines: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="device=spread needs accelerate")
    whole = record(saved, lines, tmp_path / "t", "signals=all", "max_new_tokens=5")
    options = ("signals=all", "max_new_tokens=5", "device=spread", "max_memory=cpu:120KB")
    main([f"model={saved}", f"prompts={lines}", f"out={tmp_path / 'u'}", "threads=1", *options])
    spread = open_trace(tmp_path / "u")
    for name in ("token_ids", "expert_ids", "gate_ahead"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(spread, name))
    np.testing.assert_allclose(whole.router_probs, spread.router_probs, atol=1e-3)
    assert spread.manifest.model.expert_bytes == whole.manifest.model.expert_bytes


def test_progress_tells_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    writer: Any = SimpleNamespace(requests=2, tokens=150)
    progress = Progress(writer, requests=10, most_rows=1000)
    now[0] += 1
    assert progress.state() == (0.15, "recorded 2/10 requests, 150 tokens")
    now[0] += 9
    writer.requests, writer.tokens, progress.most_rows = 4, 350, 950
    # 200 tokens in 10 s; 950 - 350 may be left
    assert progress.state() == (350 / 950, "recorded 4/10 requests, 350 tokens, 20 tokens/s, at most 0:30 left")
    now[0] += 30
    writer.requests, writer.tokens = 10, 650
    assert progress.state()[1] == "recorded 10/10 requests, 650 tokens, 12 tokens/s"


@pytest.mark.ci
def test_memory_does_not_grow_with_the_requests(saved: Path, tmp_path: Path) -> None:
    peaks = []
    for count in (50, 250):  # both write more than the block that is hashed at a time
        file = tmp_path / f"{count}.txt"
        file.write_text(f"{'a prompt of some length ' * 4}\n" * count)
        options = ("max_new_tokens=1", "overhead=0", "signals=all", "threads=1", "device=cpu")
        tracemalloc.start()
        try:
            main([f"model={saved}", f"prompts={file}", f"out={tmp_path / str(count)}", *options])
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    # 200 more requests are 10 MB of signals. The library leaves a few objects per pass to the garbage collector.
    assert peaks[1] - peaks[0] < 400_000, peaks


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("signals=hidden,logits", "'logits' is not known.*hidden"),
        ("max_new_tokens=200", "allowed: 128, the model's window"),
        ("decoding=teacher_forced", "leave no continuation to force"),
        ("top_p=0.5", "top_p=0.5: is for decoding=sampled, not greedy"),
        ("chat_template=on", "the tokenizer has no chat template; allowed: auto, off"),
    ],
)
def test_mistakes_stop_with_one_line(saved: Path, lines: Path, tmp_path: Path, option: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        record(saved, lines, tmp_path / "t", option)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_what_is_there_already_is_kept(saved: Path, lines: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        record(saved, lines, tmp_path)


def test_a_model_that_is_not_here_is_not_fetched(lines: Path, tmp_path: Path) -> None:
    said = "cannot be loaded from this machine: no such folder, and not in the local Hugging Face cache; allowed: "
    for name, end in (("nobody/no-such-model", "that cache$"), ("tiny_moe", "did you mean tiny-moe\\?$")):
        with pytest.raises(UserError, match=f"{said}.*{end}"):
            record(Path(name), lines, tmp_path / "t")
