"""The reader of long JSON arrays: wherever the file is cut into blocks, the same objects and the same faults."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import UserError
from traces.kit import strict as module
from traces.kit.strict import json_array

ODD = ["é日🙂", '"\\/\n\t\u2028', "\0"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(ODD)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
SPACE = st.text(" \t\r\n", max_size=4)
BLOCKS = st.integers(1, 40)


def outcome(path: Path, block: int) -> tuple[list[Any], str]:
    """The objects up to the first fault, and the fault."""
    found: list[Any] = []
    try:
        for number, record in json_array(path, block):
            assert number == len(found) + 1
            found.append(record)
    except UserError as error:
        return found, str(error)
    return found, ""


@settings(max_examples=150)
@given(
    st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), max_size=4), st.booleans(), st.lists(SPACE, min_size=9), BLOCKS
)
def test_any_block_size_gives_the_objects(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], escaped: bool, space: list[str], block: int
) -> None:
    items = [json.dumps(record, ensure_ascii=escaped, indent=len(space[0]) or None) for record in records]
    inner = f"{space[1]},{space[2]}".join(items)
    path = tmp_path_factory.getbasetemp() / "array.json"
    path.write_bytes(f"{space[3]}[{space[4]}{inner}{space[5]}]{space[6]}".encode())
    assert outcome(path, block) == (records, "")


@settings(max_examples=150)
@given(st.data(), BLOCKS)
def test_any_block_size_finds_the_same_fault(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, block: int
) -> None:
    """Damage a good file anywhere: read in one piece or in blocks, the same objects come before the same fault."""
    records = [{"a": [1.5e3, -2, True, None], "bé": "日\\u00e9 \n🙂"}, {"c": {"d": "x" * 30}}]
    raw = bytearray(json.dumps(records, ensure_ascii=data.draw(st.booleans()), indent=1).encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    damage = data.draw(st.sampled_from([b"", b",", b'"', b"]", b"}", b"\\", b"\xff", b"9", b"\n", b"\xc3"]))
    raw[at : at + 1] = damage
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(raw)
    assert outcome(path, block) == outcome(path, 1 << 20)


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n {"b": 2},\n]', "line 3, column 1: an object is expected here"),
        ('[{"a": 1}\n{"b": 2}]', "line 2, column 1: a comma or the array's end is expected here"),
        ('[{"a": 1}] x', "line 1, column 12: the array has ended before"),
        ('{"a": 1}\n{"a": 2}', "line 1, column 1: no array begins here .JSON lines go by the suffix .jsonl"),
        ('\n [{"a": 1}, 5]', "line 2, column 13: an object is expected here"),
        ('[\n {"a": 1, "b" 2}]', "line 2, column 15: Expecting ':' delimiter"),
        ('[{"a": "never closed}]', "line 1, column 8: Unterminated string"),
        ('[{"a": "x\ny"}]', "line 1, column 10: Invalid control character"),
        ('[{"a": 1}, {"a": 1, "a": 2}]', "line 1, column 12: .*twice"),
        ('[{"a": NaN}]', "line 1, column 2: the number NaN"),
    ],
)
def test_a_fault_has_its_place(tmp_path: Path, text: str, message: str, block: int) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    fault = outcome(path, block)[1]
    assert re.match(f"p.json, {message}", fault)
    assert "\n" not in fault


@pytest.mark.parametrize("block", [1, 2, 1 << 16])
@pytest.mark.parametrize(("tail", "place"), [(b'\xff"}]', 11), (b"\xf0\x9f", 11), (b'\xc3"}]', 11)])
def test_a_byte_that_is_no_text_has_its_place(tmp_path: Path, block: int, tail: bytes, place: int) -> None:
    path = tmp_path / "p.json"
    path.write_bytes('[{"a": "é'.encode() + tail)
    assert outcome(path, block)[1].startswith(f"p.json, byte {place - 1}: ")


def test_a_long_object_costs_no_more_than_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt at a cut object begins anew: so they must become rarer, or long objects take for ever."""
    attempts: list[int] = []

    class Counting:
        def raw_decode(self, text: str, at: int) -> Any:
            attempts.append(len(text) - at)
            return json.JSONDecoder().raw_decode(text, at)

    monkeypatch.setattr(module, "DECODER", Counting())
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"a": "x" * 100_000}, {"b": 1}]))
    assert [record for _, record in json_array(path, 16)] == [{"a": "x" * 100_000}, {"b": 1}]
    assert sum(attempts) < 4 * 100_000


def test_an_object_too_deep_or_beyond_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.json"
    path.write_text('[{"a": ' + "[" * 100_000)
    said = "p.json, line 1, column 2: nested too deeply; allowed: one JSON array of objects"
    assert outcome(path, 1 << 20) == ([], said)
    monkeypatch.setattr(module, "MAX_RECORD", 1000)
    path.write_text(json.dumps([{"a": "x" * 900}, {"a": "x" * 9000}]))
    found, fault = outcome(path, 64)
    assert len(found) == 1
    assert "line 1, column 913: an object of over 1000 characters" in fault
