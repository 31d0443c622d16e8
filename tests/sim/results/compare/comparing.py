"""Comparisons made for a test, and what they say and print."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from rich.console import Console

import sim
from sim.results.compare import Comparison
from sim.results.compare.conclude import conclude, limits
from sim.results.compare.table import show


def said(found: Comparison) -> str:
    return " ".join([*conclude(found), *limits(found)])


def printed(found: Comparison, width: int) -> list[str]:
    file = io.StringIO()
    show(found, Console(file=file, width=width))
    return file.getvalue().splitlines()


def copies(out: Path, *names: str, **columns: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of LRU, also under other names and with other columns."""
    runs = sim.load(out).query("policy == 'lru'")
    requests = sim.load_requests(out, runs)
    all_runs = [runs, *(runs.assign(policy=name, policy_label=name, **columns) for name in names)]
    all_requests = [requests, *(requests.assign(policy_label=name) for name in names)]
    return pd.concat(all_runs, ignore_index=True), pd.concat(all_requests, ignore_index=True)
