"""Which runs a comparison is of: chosen by ``key=value`` words, and alike in all that is not compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.units import counted, parse_bytes
from traces.errors import UserError, one_of

if TYPE_CHECKING:
    import pandas as pd

ALIKE = (
    "source",
    "trace",
    "model",
    "model_sha",
    "dtype",
    "hardware",
    "hardware_sha",
    "device",
    "workload",
    "batch",
    "chunks",
    "warmup",
    "measure",
    "limit",
)
"""Columns in which the runs of one comparison have one value, in the order in which a difference is named."""

OF_A_POLICY = ("code", "predictors")
"""Columns in which the runs of one policy have one value."""

KEYS = (*ALIKE, *OF_A_POLICY, "policy", "budget", "seed")
HASHES = ("trace", "model_sha", "hardware_sha", "code")
SHOWN = 12


def select(runs: pd.DataFrame, words: Sequence[str]) -> pd.DataFrame:
    """The rows that every word allows: ``policy=lru,fmoe``, ``trace=`` the beginning of its hash, ``budget=8GB``."""
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not value or (key not in KEYS and key not in runs.columns):
            raise UserError(f"{word}: not understood; write KEY=VALUE with one of {one_of(KEYS)}")
        chosen = _matches(runs, key, value)
        if not chosen.any():
            raise UserError(f"{word}: no run has it; there are: {_values(runs, key)}")
        runs = runs[chosen]
    return runs.reset_index(drop=True)


def check_alike(runs: pd.DataFrame) -> None:
    """UserError for the first column of ALIKE with several values, or of OF_A_POLICY within one policy."""
    for key in ALIKE:
        if len(runs[key].unique()) > 1:
            most = _show(key, runs[key].value_counts(dropna=False).sort_index().idxmax())
            raise UserError(f"{key}: {_values(runs, key)} in one comparison; choose one of them, such as {key}={most}")
    for key in OF_A_POLICY:
        for label, own in runs.groupby("policy_label"):
            if len(own[key].unique()) > 1:
                raise UserError(
                    f"{key}: {_values(own, key)} among the runs of {label}; choose with {key}=, or run the grid again"
                    " into another folder"
                )


def _matches(runs: pd.DataFrame, key: str, value: str) -> pd.Series[bool]:
    if key == "policy":
        wanted = {value, *value.split(",")}
        return runs["policy"].isin(wanted) | runs["policy_label"].isin(wanted)
    if key == "budget":
        return runs["budget_bytes"].isin([parse_bytes(part) for part in value.split(",")])
    texts = runs[key].astype("string").fillna("null")
    if key in HASHES:
        return texts.str.startswith(tuple(value.split(",")))
    return texts.isin([value, *value.split(",")])


def _values(runs: pd.DataFrame, key: str) -> str:
    counts = runs["budget_bytes" if key == "budget" else key].value_counts(dropna=False).sort_index()
    return one_of(f"{_show(key, value)} ({counted(count, 'run')})" for value, count in counts.items())


def _show(key: str, value: object) -> str:
    import pandas as pd

    if pd.isna(value):  # type: ignore[call-overload]
        return "null"
    return str(value)[:SHOWN] if key in HASHES else str(value)
