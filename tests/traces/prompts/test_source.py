"""Files of prompts: every kind gives the same requests, splits are exact, and memory does not grow."""

import csv
import hashlib
import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces.prompts.data import FROM, KINDS, RECORDS, ROLES, lines, write
from traces import UserError
from traces.kit.conf import PROMPTS_FILE, SAMPLE_DIR
from traces.prompts.records import Prompt
from traces.prompts.source import PromptFile


def seen(path: Path, **options: Any) -> list[Prompt]:
    """The requests without what depends on the kind: where they stand."""
    return [replace(prompt, where="") for prompt in PromptFile(path, **options)]


@pytest.mark.parametrize("options", [{}, {"turn": "last"}, {"samples": 3}, {"limit": 2}, {"seed": 5, "split": 0.2}])
def test_every_kind_gives_the_same_requests(tmp_path: Path, options: dict[str, Any]) -> None:
    first, *others = (seen(write(tmp_path, kind, RECORDS), **options) for kind in KINDS)
    assert len(first) == (options.get("limit") or 5) * options.get("samples", 1)
    assert all(other == first for other in others)


def test_a_text_file_has_one_prompt_per_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    texts = ["one \u2028\x0c\x1d line ", "", "two\r", "\u3000 ", "  \tlast: é日🙂"]
    path.write_bytes("\n".join(texts).encode())
    prompts = list(PromptFile(path))
    assert [prompt.text for prompt in prompts] == ["one \u2028\x0c\x1d line ", "two", "  \tlast: é日🙂"]
    assert [prompt.where for prompt in prompts] == [f"lines.txt, line {line}" for line in (1, 3, 5)]
    assert {(p.source, p.messages, p.answer, p.licence, p.max_new_tokens) for p in prompts} == {("lines", *[None] * 4)}


def test_what_records_say_is_kept(tmp_path: Path) -> None:
    file = PromptFile(write(tmp_path, "jsonl", RECORDS))
    plain, openai, lmsys, sharegpt, last = file
    assert (plain.text, plain.source, plain.split, plain.licence) == (RECORDS[0]["prompt"], "notes", "test", "MIT")
    assert openai.messages == lmsys.messages == sharegpt.messages == tuple(ROLES[:2])
    assert openai.answer == lmsys.answer == sharegpt.answer == "A1"
    assert (openai.max_new_tokens, openai.source, lmsys.source, sharegpt.split) == (7, "p", "lmsys", "train")
    assert (plain.messages, plain.answer, openai.text, last.answer) == (None, None, None, None)
    assert file.licences == ("CC0-1.0", "MIT")
    assert (file.name, file.skipped) == ("p.jsonl", 0)
    assert file.sha256 == hashlib.sha256((tmp_path / "p.jsonl").read_bytes()).hexdigest()


PARTS = [{"role": "user", "content": [{"type": "text", "text": text} for text in ("Hä", "?\u2028")]}]


@pytest.mark.parametrize(
    ("chat", "turn", "before", "answer"),
    [(ROLES, "first", 2, "A1"), (ROLES, "last", 4, "A2"), (ROLES[:2], "last", 2, None), (PARTS, "first", 1, None)],
    ids=["first", "last", "ends with its user", "in parts"],
)
def test_a_chat_is_cut_before_its_answer(tmp_path: Path, chat: Any, turn: str, before: int, answer: Any) -> None:
    (prompt,) = PromptFile(write(tmp_path, "jsonl", [{"messages": chat}]), turn=turn)
    assert (prompt.messages, prompt.answer) == (tuple((ROLES if chat != PARTS else ROLES[1:])[:before]), answer)


@pytest.mark.parametrize("kind", KINDS)
def test_chats_without_a_question_are_skipped_and_counted(tmp_path: Path, kind: str) -> None:
    mute = [FROM[2:], FROM[:1], [{"from": "human", "value": " \n"}, FROM[2]], []]
    records = [{"conversations": turns} for turns in (FROM, *mute, FROM, FROM[2:], FROM)]
    path = write(tmp_path, kind, records)
    assert (len(PromptFile(path)), PromptFile(path).skipped) == (3, 5)
    unit = "row" if kind == "parquet" else "line" if kind == "jsonl" else "record"
    assert [prompt.where for prompt in PromptFile(path)] == [f"p.{kind}, {unit} {number}" for number in (1, 6, 8)]
    # A limit counts the prompts, and what comes after it is not read.
    assert (len(PromptFile(path, limit=2)), PromptFile(path, limit=2).skipped) == (2, 4)
    # Before its last answer even the chat that the assistant begins has a question.
    assert (len(PromptFile(path, turn="last")), PromptFile(path, turn="last").skipped) == (5, 3)


def test_the_splits_of_the_sample_are_still_drawn() -> None:
    with (SAMPLE_DIR / "requests.csv").open(newline="") as stream:
        recorded = [(row["split"], row["source"]) for row in csv.DictReader(stream)]
    assert [(prompt.split, prompt.source) for prompt in PromptFile(PROMPTS_FILE)] == recorded


@settings(max_examples=40)
@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=60), st.integers(1, 9), st.integers(0, 3), st.data())
def test_the_share_is_exact_per_source(
    tmp_path_factory: pytest.TempPathFactory, sources: list[str], tenths: int, seed: int, data: st.DataObject
) -> None:
    stated = [data.draw(st.sampled_from([None, None, None, "train", "test"])) for _ in sources]
    texts = [
        json.dumps({"prompt": str(index), "source": source, "split": split})
        for index, (source, split) in enumerate(zip(sources, stated, strict=True))
    ]
    path = lines(tmp_path_factory.mktemp("splits"), *texts)
    splits = [prompt.split for prompt in PromptFile(path, split=tenths / 10, seed=seed)]
    assert all(split in (None, drawn) for split, drawn in zip(stated, splits, strict=True))
    open_ones = [[i for i, s in enumerate(sources) if s == name and stated[i] is None] for name in "abc"]
    trains = sum(round(tenths / 10 * len(indices)) for indices in open_ones)
    total = sum(map(len, open_ones))
    if trains < total or "test" in stated:
        for indices in open_ones:
            assert sum(splits[i] == "train" for i in indices) == round(tenths / 10 * len(indices))
    elif total:
        assert splits.count("test") == 1
    assert splits == [prompt.split for prompt in PromptFile(path, split=tenths / 10, seed=seed)]


def test_a_few_prompts_of_different_sources_leave_one_to_test(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", [{"prompt": "x", "source": str(index)} for index in range(4)])
    assert sorted(prompt.split for prompt in PromptFile(path)) == ["test", "train", "train", "train"]
    assert [prompt.split for prompt in PromptFile(path, split=1)] == ["train"] * 4
    assert len({tuple(prompt.split for prompt in PromptFile(path, seed=seed)) for seed in range(20)}) == 4


def test_a_seed_draws_anew(tmp_path: Path) -> None:
    path = lines(tmp_path, *['{"prompt": "x"}'] * 40)
    assert len({tuple(prompt.split for prompt in PromptFile(path, seed=seed)) for seed in range(4)}) == 4


def test_samples_of_a_prompt_share_its_split_and_nothing_else_changes(tmp_path: Path) -> None:
    path = lines(tmp_path, *(json.dumps({"prompt": str(index)}) for index in range(20)))
    once, often = list(PromptFile(path)), list(PromptFile(path, samples=3))
    assert [prompt.number for prompt in often] == list(range(60))
    assert [replace(prompt, number=prompt.number // 3) for prompt in often] == [p for p in once for _ in range(3)]
    assert {prompt.split for prompt in often} == {"train", "test"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_pass_is_the_rest_of_the_whole(tmp_path: Path, kind: str) -> None:
    records = [{"conversations": turns} for turns in (FROM, FROM[2:], FROM, FROM, FROM[2:], FROM)]
    file = PromptFile(write(tmp_path, kind, records), samples=2)
    whole = list(file)
    assert len(whole) == len(file) == 8
    for number in range(9):
        assert list(file.after(number)) == whole[number:]


@pytest.mark.parametrize("change", ["longer", "shorter", "appended to", "gone"])
def test_a_file_that_changes_is_noticed(tmp_path: Path, change: str) -> None:
    path = lines(tmp_path, *(f'{{"prompt": "{index}"}}' for index in range(4)))
    file = PromptFile(path)
    under_way = iter(file)
    next(under_way)
    if change == "gone":
        path.unlink()
    elif change == "appended to":
        with path.open("a") as stream:
            stream.write('\n{"prompt": "one more"}')
    else:
        path.write_text('{"prompt": "other"}\n' * (9 if change == "longer" else 1))
    for requests in (under_way, iter(file), file.after(2)):
        with pytest.raises(UserError, match="has changed while it was in use"):
            list(requests)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    def peak(count: int) -> int:
        records = [{"prompt": f"{index} {'x' * 1000}"} for index in range(count)]
        path = write(tmp_path, kind, records, str(count))
        tracemalloc.start()
        for _ in PromptFile(path):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)  # what is imported and cached once
    few, many = 200, 4000
    assert peak(many) - peak(few) < 8 * (many - few) + 30_000


def test_memory_does_not_grow_with_a_row_group(tmp_path: Path) -> None:
    said = [[{"role": "user", "content": os.urandom(500).hex()}] for _ in range(16_000)]
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"conversation": said, "moderation": [os.urandom(200) for _ in said]}), path)
    assert pq.ParquetFile(path).num_row_groups == 1
    file, before, peak = PromptFile(path), pa.total_allocated_bytes(), 0
    tracemalloc.start()  # Arrow keeps some of its memory in Python's objects
    for _ in file:
        peak = max(peak, pa.total_allocated_bytes() - before)
    peak += tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < peak < path.stat().st_size / 2


def test_columns_that_are_not_needed_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    batches = pq.ParquetFile.iter_batches

    def spy(self: Any, *args: Any, columns: list[str], **more: Any) -> Any:
        asked.append(columns)
        return batches(self, *args, columns=columns, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    records = [{"conversation": ROLES, "moderation": ["x"], "source": "a", "language": "en"}]
    PromptFile(write(tmp_path, "parquet", records))
    assert asked == [["conversation", "source"]]
