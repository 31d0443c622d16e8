"""Whatever is wrong with a file of prompts is said in one line that names the file and the place."""

import sys
from pathlib import Path

import pytest

from tests.traces.prompts.data import RECORDS, lines, write
from traces import UserError
from traces.prompts.source import PromptFile

BAD_RECORDS: list[tuple[str, str]] = [
    ("{", "line 2: not JSON"),
    ('{"prompt": "x", "prompt": "y"}', "line 2: not JSON .*twice"),
    ('["prompt"]', 'line 2: not an object with a "prompt"'),
    ("{}", 'line 2: not an object with a "prompt".*messages, conversation, conversations'),
    ('{"prompt": 5}', "line 2: prompt is 5; allowed: text"),
    ('{"prompt": " \\n"}', "line 2: prompt is .*; allowed: text that is not blank"),
    ('{"prompt": "x", "text": "y"}', "line 2: unknown key 'text'; allowed: prompt, source"),
    ('{"prompt": "x", "split": "dev"}', "line 2: split is 'dev'; allowed: train, test"),
    ('{"prompt": "x", "split": ["dev"]}', "line 2: split is .*dev.*; allowed: train, test"),
    ('{"prompt": "x", "max_new_tokens": 0}', "line 2: max_new_tokens is 0; allowed: a whole number"),
    ('{"prompt": "x", "max_new_tokens": true}', "line 2: max_new_tokens is True"),
    ('{"prompt": "x", "source": 5}', "line 2: source is 5; allowed: printable text"),
    ('{"prompt": "x", "source": "a\\nb"}', "line 2: source is .*; allowed: printable text"),
    ('{"prompt": "\\ud83d!"}', "line 2: prompt has half a surrogate pair at character 0"),
    ('{"messages": [], "conversation": []}', "line 2: messages, conversation in one record"),
    ('{"messages": "hello"}', "line 2, messages: 'hello' is no list"),
    ('{"messages": ["hello"]}', "line 2, messages, turn 1: 'hello'; allowed: an object with role and content"),
    ('{"messages": [{"role": "user", "value": "x"}]}', "turn 1: .*; allowed: an object with role and content"),
    ('{"messages": [{"role": "user", "content": null}]}', "turn 1: .*; allowed: an object with role and content"),
    ('{"messages": [{"role": "robot", "content": "x"}]}', "turn 1: role is 'robot'; allowed: system, user, human"),
    ('{"conversations": [{"from": ["gpt"], "value": "x"}]}', "turn 1: from is .*; allowed: system, user, human"),
    ('{"messages": [{"role": "user", "content": 5}]}', "turn 1: content is 5; allowed: text"),
    ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "a part of type 'image'; allowed: text"),
    ('{"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}', "tool_calls cannot be recorded"),
    ('{"messages": [], "split": "train_sft"}', "line 2: split is 'train_sft'"),
]


@pytest.mark.parametrize(("line", "message"), BAD_RECORDS)
def test_a_bad_record_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = lines(tmp_path, '{"prompt": "fine"}', line)
    with pytest.raises(UserError, match=message) as caught:
        PromptFile(path)
    assert str(caught.value).startswith("p.jsonl, line 2")
    assert "\n" not in str(caught.value)
    assert len(PromptFile(path, limit=1)) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"fine\n\xff\xfe\n", "p.txt, line 2: .*allowed: UTF-8"),
        ("p.txt", b"\xef\xbb\xbffine\n", "p.txt, line 1: begins with a byte order mark"),
        ("p.jsonl", b'{"prompt": "\xff"}', "p.jsonl, line 1: not JSON .*utf-8"),
        ("p.txt", b" \n\n", "holds no prompt$"),
        ("p.json", b"[]", "holds no prompt$"),
        ("p.jsonl", b'{"messages": []}', r"holds no prompt \(1 chats in which no user speaks"),
        ("p.parquet", b"PAR1, it says", "p.parquet: .*; allowed: a readable Parquet file"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        PromptFile(path)
    assert "\n" not in str(caught.value)


def test_a_bad_row_and_a_bad_column_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "parquet", [{"prompt": "x"}, {"prompt": " "}])
    with pytest.raises(UserError, match=r"p\.parquet, row 2: prompt is ' '"):
        PromptFile(path)
    path = write(tmp_path, "parquet", [{"prompt": "x", "max_tokens": None}, {"prompt": "y", "max_tokens": 5}])
    with pytest.raises(UserError, match=r"p\.parquet: unknown column 'max_tokens'; allowed: prompt"):
        PromptFile(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        PromptFile(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="not a regular file"):
        PromptFile(tmp_path)


def test_parquet_names_the_package_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "parquet", RECORDS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        PromptFile(path)
    assert len(PromptFile(write(tmp_path, "jsonl", RECORDS))) == 5
