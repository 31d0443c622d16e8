"""Comparisons made for a test, and what they say."""

from pathlib import Path

import pandas as pd

import sim
from sim.results.compare import Comparison
from sim.results.compare.conclude import conclude, limits


def said(found: Comparison) -> str:
    return " ".join([*conclude(found), *limits(found)])


def copies(out: Path, *names: str, **columns: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of LRU, also under other names and with other columns."""
    runs = sim.load(out).query("policy == 'lru'")
    requests = sim.load_requests(out, runs)
    all_runs = [runs, *(runs.assign(policy=name, policy_label=name, **columns) for name in names)]
    all_requests = [requests, *(requests.assign(policy_label=name) for name in names)]
    return pd.concat(all_runs, ignore_index=True), pd.concat(all_requests, ignore_index=True)
