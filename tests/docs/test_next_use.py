"""What is said of our own policy, in three places, is what was measured."""

from types import ModuleType

import pandas as pd
import pytest

from tests.scripts import script_of


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return script_of("docs/next_use.py")


def test_the_pages_have_what_the_numbers_say(script: ModuleType) -> None:
    for page, part in script.pages(pd.read_csv(script.NUMBERS)).items():
        assert f"{script.BEGIN}{part}{script.END}" in page.read_text(encoding="utf-8"), page


def test_other_numbers_make_other_words(script: ModuleType) -> None:
    numbers = pd.read_csv(script.NUMBERS)
    worse = numbers.assign(closed=numbers["closed"] / 2)
    for told in (script.table, script.shares, script.verdict):
        assert told(worse) != told(numbers)


def test_a_share_is_that_of_the_gap(script: ModuleType) -> None:
    """The bound is of all requests together, and so is what is closed."""
    numbers = pd.read_csv(script.NUMBERS)
    share = (numbers["best_ms"] - numbers["own_ms"]) / (numbers["best_ms"] - numbers["bound"])
    assert (numbers["closed"] - share).abs().max() < 0.01
