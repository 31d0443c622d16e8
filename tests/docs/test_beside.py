"""README's table of other engines is that of what was measured, and what was measured is whole."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from real.beside import BUDGETS, POLICIES
from real.beside.plan import OTHERS, SCHEMA
from sim.prices import shipped
from tests.scripts import script_of

ROOT = Path(__file__).resolve().parents[2]
EXPERTS = 16 * 64


@pytest.fixture(scope="module")
def beside() -> ModuleType:
    return script_of("docs/beside.py")


def test_readme_shows_what_was_measured(beside: ModuleType) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{beside.BEGIN}{beside.shown(beside.read())}{beside.END}" in page


def test_every_engine_is_in_it(beside: ModuleType) -> None:
    found: dict[str, Any] = beside.read()
    assert (found["schema"], found["model"], found["dtype"], found["left_out"]) == (SCHEMA, "tiny-moe", "float32", {})
    ours = [(name, budget) for name in POLICIES.split(",") for budget in BUDGETS.split(",")]
    assert [row["name"] for row in found["rows"]] == [*OTHERS.values(), *(f"ours, {a} at {b}" for a, b in ours)]
    assert all(row["same_tokens"] == 1 and row["steady"] for row in found["rows"])
    for row in found["rows"]:
        assert 0 < row["whole_per_s"]["least"] <= row["whole_per_s"]["median"] <= row["whole_per_s"]["most"]
        assert row["memory"]["answering"] > 0
        if row["engine"] == "ours":
            held = shipped("model", "tiny-moe")["expert_bytes"]["float32"] * EXPERTS
            assert row["memory"]["slots"] == held * int(row["budget"].removesuffix("%")) // 100
