"""Who remembers requests, and was asked one again, is not compared."""

import pandas as pd
import pytest

from sim.results.compare.comparison import ranked
from sim.results.serving.lines import setting_of, unranked
from traces.kit.errors import UserError


def frame(*memorised: bool | None) -> pd.DataFrame:
    labels = [f"policy {i}" for i in range(len(memorised))]
    return pd.DataFrame({"memorised": pd.array(memorised, dtype="boolean"), "policy_label": labels})


def test_it_is_left_out_by_name() -> None:
    runs, lines = ranked(frame(False, True, None))
    assert list(runs["policy_label"]) == ["policy 0", "policy 2"], "an older result does not say, and is compared"
    assert len(lines) == 1
    assert "policy 1" in lines[0]
    assert ranked(frame(False, False))[1] == []


def test_nothing_is_left_in_one_line() -> None:
    with pytest.raises(UserError, match="no other run is left"):
        ranked(frame(True))


def test_a_result_says_why() -> None:
    assert unranked({"provenance": {}}) == ""
    assert "up to 3 times" in unranked({"provenance": {"memorised": {"replays": 3}}})


def test_a_row_says_how_requests_come() -> None:
    served = '{"arrivals": "poisson", "discipline": "fcfs"}'
    online = {"workload": "online", "batch": pd.NA, "rate_per_s": 2.5, "served": served}
    assert setting_of(online) == "poisson arrivals, 2.5/s, fcfs"
    closed = {"workload": "closed_loop", "batch": 4, "rate_per_s": float("nan"), "served": pd.NA}
    assert setting_of(closed) == "batch 4"
    chunks = {**closed, "served": '{"prefill_chunk": 64, "prefill_order": "layer_major"}'}
    assert setting_of(chunks) == "batch 4, prompts in chunks of 64, prompts layer by layer"
