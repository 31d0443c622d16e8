"""Which runs a comparison is of: chosen by ``key=value`` words, and alike in all that is not compared."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from traces.kit.errors import UserError, allowing, meant, one_of, shown
from traces.kit.units import counted, parse_bytes

if TYPE_CHECKING:
    import pandas as pd

ALIKE = (
    *("source", "trace", "model", "model_sha", "dtype", "hardware", "hardware_sha", "placement", "device"),
    *("host_memory_bytes", "host_policy", "host_tier"),
    *("workload", "batch", "served", "rate_per_s", "kv_bytes", "chunks", "warmup", "measure", "limit"),
)
"""Columns in which the runs of one comparison have one value, in the order in which differences are named."""
OF_A_POLICY = ("code", "predictors")
"""Columns in which the runs of one policy have one value."""
OF_A_SEED = "arrivals_sha256"
"""The column in which the runs of one seed have one value: each policy has served the same arrivals."""
KEYS = (*ALIKE, *OF_A_POLICY, OF_A_SEED, "policy", "budget", "seed")
OPTIONS = ("metric", "baseline", "target", "level", "format")
"""Words that choose no runs, for whoever mistypes one."""
HASHES = (OF_A_SEED, "trace", "model_sha", "hardware_sha", "code")
SHOWN = 12


class MixedRunsError(UserError):
    """Runs that are not alike. ``words``: what chooses the most of them that are; ``count``: how many these are."""

    def __init__(self, differences: Sequence[str], words: Sequence[str], count: int) -> None:
        self.differences, self.words, self.count = tuple(differences), tuple(words), count
        super().__init__(self.with_choice(" ".join(words)))

    def with_choice(self, choice: str) -> str:
        """The error in one line; ``choice``: how the user makes it."""
        return (
            f"these runs are not alike: {'; '.join(self.differences)}. The largest group that is alike,"
            f" {counted(self.count, 'run')}: {choice}"
        )


def select(runs: pd.DataFrame, words: Sequence[str]) -> pd.DataFrame:
    """The rows that every word allows: ``policy=lru,fmoe``, ``trace=`` the beginning of its hash, ``budget=8GB``."""
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not value or (key not in KEYS and key not in runs.columns):
            close = "" if key in KEYS else meant(key, (*KEYS, *OPTIONS))
            raise UserError(f"{word}: not understood; write KEY=VALUE with one of {one_of(KEYS)}{close}")
        chosen = _matches(runs, key, value)
        for part in _parts(runs, key, value):
            if not _matches(runs, key, part).any():
                raise UserError(f"{key}={part}: no run has it; there are: {_values(runs, key)}")
        runs = runs[chosen]
    return runs.reset_index(drop=True)


def among(runs: pd.DataFrame, folders: Collection[str]) -> pd.DataFrame:
    """The rows of runs that lie in ``folders``, or are there as well. UserError for one in which there is none."""
    wanted = {folders} if isinstance(folders, str) else set(folders)
    places = [{folder, *json.loads(also)} for folder, also in zip(runs["folder"], runs["also_in"], strict=True)]
    if not wanted:
        raise UserError("only=[]: at least one folder of a run is wanted")
    if lost := sorted(wanted.difference(*places)):
        raise UserError(f"only={shown(lost)}: no run lies there; {allowing(lost[0], sorted(set().union(*places)))}")
    return runs[[not wanted.isdisjoint(own) for own in places]].reset_index(drop=True)


def check_alike(runs: pd.DataFrame) -> None:
    """MixedRunsError that names every column with several values, of ALIKE, and within a policy of OF_A_POLICY."""
    differences = [f"{key} is {_values(runs, key)}" for key in ALIKE if _several(runs[key])]
    each = [(key, label, own) for key in OF_A_POLICY for label, own in runs.groupby("policy_label")]
    differences += [f"{key} of {label} is {_values(own, key)}" for key, label, own in each if _several(own[key])]
    for seed, own in runs.groupby("seed"):
        if _several(own[OF_A_SEED]):
            differences.append(f"{OF_A_SEED} of seed {seed} is {_values(own, OF_A_SEED)}")
    if differences:
        words, chosen = _largest(runs)
        raise MixedRunsError(differences, words, len(chosen))


def _largest(runs: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """The words that choose the largest group of runs that are alike, no more than it takes; and that group."""
    alike = [group for _, group in runs.groupby([_texts(runs[key]) for key in ALIKE], sort=True)]
    largest = max(alike, key=lambda group: len(_of_one_code(group)[1]))  # of equally many the first, by its values
    words, left = list[str](), runs
    for key in ALIKE:
        if _several(left[key]):
            words.append(f"{key}={_show(key, largest[key].iloc[0])}")
            left = select(left, words[-1:])
    if any(_several(own[OF_A_SEED]) for _, own in left.groupby("seed")):
        common = (own[OF_A_SEED].value_counts().sort_index().idxmax() for _, own in left.groupby("seed"))
        words.append(f"{OF_A_SEED}={','.join(sorted({_show(OF_A_SEED, value) for value in common}))}")
        left = select(left, words[-1:])
    more, left = _of_one_code(left)
    return [*words, *more], left


def _of_one_code(runs: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """The words that leave of each policy one state of the code, the commonest, and of what it reads; and the rest."""
    words = list[str]()
    for key in OF_A_POLICY:
        if any(_several(own[key]) for _, own in runs.groupby("policy_label")):
            # Of equally many the first.
            common = (own[key].value_counts().sort_index().idxmax() for _, own in runs.groupby("policy"))
            most = {_show(key, value) for value in common} - {""}
            words.append(f"{key}={','.join(sorted(most))}")
            runs = select(runs, words[-1:])
    return words, runs


def _matches(runs: pd.DataFrame, key: str, value: str) -> pd.Series[bool]:
    if key == "policy":
        wanted = {value, *value.split(",")}
        return runs["policy"].isin(wanted) | runs["policy_label"].isin(wanted)
    if key == "budget":
        return runs["budget_bytes"].isin([parse_bytes(part) for part in value.split(",")])
    texts, beginnings = _texts(runs[key]), tuple(value.split(","))
    if key == "predictors":  # of what reads none, there is nothing to choose
        return texts.map(lambda text: not (own := _shas(text)) or any(sha.startswith(beginnings) for sha in own))
    if key in HASHES:
        return texts.str.startswith(beginnings)
    found = texts.isin([value, *value.split(",")])
    if runs[key].dtype.kind == "f":  # a rate of 1 is the 1.0 of the table
        for part in value.split(","):
            with suppress(ValueError):
                found |= (runs[key] == float(part)).fillna(value=False).astype(bool)
    return found


def _parts(runs: pd.DataFrame, key: str, value: str) -> list[str]:
    """What is asked for, each of which some run is to have: the value, or its parts at the commas; a label has some."""
    names = [*_texts(runs[key])] if key in runs else []
    names += [*runs["policy_label"]] if key == "policy" else []
    return [value] if value in names else value.split(",")


def _several(values: pd.Series[Any]) -> bool:
    return len(values.unique()) > 1


def _texts(values: pd.Series[Any]) -> pd.Series[str]:
    return values.astype("string").fillna("null")


def _shas(predictors: object) -> list[str]:
    """The hashes in a cell of the column ``predictors``."""
    return sorted(json.loads(str(predictors)).values())


def _values(runs: pd.DataFrame, key: str) -> str:
    counts = runs["budget_bytes" if key == "budget" else key].value_counts(dropna=False).sort_index()
    return one_of(f"{_show(key, value) or 'none'} ({counted(count, 'run')})" for value, count in counts.items())


def _show(key: str, value: object) -> str:
    """A value as it is typed in a word, and shown."""
    import pandas as pd

    if pd.isna(value):  # type: ignore[call-overload]
        return "null"
    if key == "predictors":
        return ",".join(sha[:SHOWN] for sha in _shas(value))
    return str(value)[:SHOWN] if key in HASHES else str(value)
