"""A recording goes on from the recipe that began it, and from no other."""

from pathlib import Path
from typing import Any

import pytest

from tests.traces.writing.recording import RECIPE, begin, contents, finish, writer
from traces import TraceError


@pytest.mark.parametrize("recipe", [{"a": float("nan")}, {"a": {1}}, {"a": 1, 1: {"b": b""}}])
def test_a_recipe_is_json(tmp_path: Path, recipe: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        writer(tmp_path / "trace", recipe=recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_of_tuples_equals_one_of_lists(tmp_path: Path) -> None:
    begin(tmp_path / "trace")
    finish(tmp_path / "trace", {**RECIPE, "prompts": ("a", "b")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {**RECIPE, "seed": 2}}, "seed is 2, but 1 in"),
        ({"recipe": {**RECIPE, "seed": 1.0}}, "seed is 1.0, but 1 in"),
        ({"recipe": {**RECIPE, "seed": True}}, "seed is True, but 1 in"),
        ({"recipe": {**RECIPE, "seed": None, "model": "x"}}, "model is 'x', but 'tiny' in"),
        ({"recipe": {**RECIPE, "decoding": {"mode": "greedy", "top_p": 0.5}}}, r"decoding\.top_p is 0\.5, but 1\.0 in"),
        ({"recipe": {**RECIPE, "decoding": {"mode": "greedy"}}}, r"decoding\.top_p is absent, but 1\.0 in"),
        ({"recipe": {**RECIPE, "decoding": None}}, r"decoding is None, but \{'mode'"),
        ({"recipe": {**RECIPE, "prompts": ["a", "c"]}}, r"prompts\[1\] is 'c', but 'b' in"),
        ({"recipe": {**RECIPE, "prompts": ["a"]}}, "length of prompts is 1, but 2 in"),
        ({"recipe": {**RECIPE, "new\nline": "\ud800"}}, r"new\\nline is '\\ud800', but absent in"),
        ({"recipe": {}}, "model is absent, but 'tiny' in"),
        ({"n_experts": 9}, "n_experts is 9, but 8 in"),
        ({"signals": {"token_ids": ()}}, r"signals\.token_ids is \[\], but absent in"),
    ],
)
def test_another_recipe_or_size_is_refused_by_its_first_difference(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    begin(tmp_path / "trace")
    refuse(tmp_path, message, **{"recipe": RECIPE, **change})
    finish(tmp_path / "trace")


def test_another_version_of_the_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path / "trace")
    monkeypatch.setattr("traces.writing.writer.SCHEMA", 2)
    refuse(tmp_path, "format is 2, but 1 in", recipe=RECIPE)


def refuse(folder: Path, message: str, **changes: Any) -> None:
    """Expect one line that names the folder and a way out, and not a byte changed."""
    before = contents(folder)
    with pytest.raises(TraceError, match=message) as caught:
        writer(folder / "trace", **changes)
    text = str(caught.value)
    assert text.startswith(str(folder / ".trace.partial"))
    assert "removed" in text
    assert "\n" not in text
    assert len(text) < 1000 + len(str(folder))
    assert contents(folder) == before
