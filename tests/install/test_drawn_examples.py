"""All tests that draw examples do so by the one profile of ``tests/conftest.py``."""

from pathlib import Path

from hypothesis import settings

TESTS = Path(__file__).parents[1]


# A default of 200 ms an example failed tests on a busy machine.
def test_no_example_has_a_deadline() -> None:
    assert settings().deadline is None
    own = [path.name for path in TESTS.rglob("*.py") if "deadline=" in path.read_text() and path != Path(__file__)]
    assert own == ["conftest.py"]


def test_every_run_draws_the_same_unless_it_is_to_search() -> None:
    same, search = settings.get_profile("same"), settings.get_profile("search")
    assert same.derandomize
    assert same.database is None
    assert not search.derandomize
    assert search.max_examples > same.max_examples
