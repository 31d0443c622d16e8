"""docs/plan.md: its tables are those that ``python docs/plan.py`` made from its numbers."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/plan.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plan_page", ROOT / "docs/plan.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_table_of_its_numbers(script: ModuleType) -> None:
    numbers = script.read()
    assert script.put(PAGE, "anchors", script.table(numbers)) == PAGE
    assert [row["who"] for row in numbers] == [case.who for case in script.CASES]
    for row, case in zip(numbers, script.CASES, strict=True):
        assert float(row["published"]) == case.published
        assert float(row["ratio"]) == pytest.approx(float(row["ours"]) / case.published, rel=1e-4)
        assert float(row["low"]) <= float(row["ours"]) <= float(row["high"])


def test_every_question_is_answered_there(script: ModuleType) -> None:
    for asked in script.ASKED:
        assert f"| {asked} | Yes: " in PAGE or f"| {asked} | No: " in PAGE
    assert PAGE.count("simulated on modelled routing. |") == len(script.ASKED)


def test_each_case_is_one_that_can_be_asked(script: ModuleType) -> None:
    for case in script.CASES:
        it = script.question(case)
        share = int(case.budget.rstrip("%")) if case.budget.endswith("%") else 0
        assert it.total * share // 100 <= it.room.bytes, case.who
