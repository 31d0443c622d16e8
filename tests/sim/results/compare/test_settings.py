"""How often a policy was tried on the requests that it is judged by."""

from typing import Any

import pandas as pd

from sim.results.compare.settings import settings_of, tried


def frame(*rows: tuple[str, str, str, str, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["policy", "policy_params", "trace", "measure", "budget_bytes"])


EVERY = frame(
    ("fmoe", '{"d": 1}', "a", "test", 1),
    ("fmoe", '{"d": 1}', "a", "test", 2),  # another budget is no other setting
    ("fmoe", '{"d": 2}', "a", "test", 1),
    ("fmoe", '{"d": 3}', "b", "test", 1),  # other requests
    ("fmoe", '{"d": 4}', "a", "validation", 1),  # what they are there for
    ("lru", "{}", "a", "test", 1),
    ("lfu", "{}", "a", "test", 1),
)


def chosen(**where: Any) -> pd.DataFrame:
    keep = pd.Series(data=True, index=EVERY.index)
    for key, value in where.items():
        keep &= EVERY[key] == value
    return EVERY[keep]


def test_settings_on_the_same_requests_are_counted_whatever_is_compared() -> None:
    assert settings_of(EVERY, chosen(trace="a", measure="test", policy="fmoe", policy_params='{"d": 2}')) == {"fmoe": 2}
    assert settings_of(EVERY, chosen(trace="a", measure="test", budget_bytes=1)) == {"fmoe": 2, "lfu": 1, "lru": 1}
    assert settings_of(EVERY, chosen(trace="b")) == {"fmoe": 1}


def test_it_is_said_where_requests_were_looked_at_more_than_once() -> None:
    (line,) = tried({"lru": 2, "fmoe": 9, "lfu": 1}, "test", 48)
    assert line.startswith("fmoe was run in 9 settings and lru in 2 on these 48 requests (all runs of the folder). A p")
    assert tried({"lru": 1, "fmoe": 1}, "test", 48) == []
    assert tried({"fmoe": 9}, "validation", 48) == []
