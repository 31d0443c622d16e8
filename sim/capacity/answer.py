"""The answer: for each policy and split of memory the highest rate that does, with all rates that were tried."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from sim.capacity.cells import Figures, Point, at, measure
from sim.capacity.search import HIGHEST, knee, rate
from sim.experiment.config import RunConfig
from sim.plan.cells import Note, Runner
from sim.plan.search import together
from traces.kit.errors import UserError


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for."""

    share: float
    rule: str
    seeds: tuple[int, ...]
    per_octave: int
    configs: Mapping[tuple[str, str], RunConfig]
    """By policy and split of memory, at any rate and seed."""
    words: Mapping[tuple[str, str], tuple[str, ...]]
    """Of ``python -m sim run``, without rate and seed."""


@dataclass(slots=True)
class _Searched:
    """One policy and split."""

    points: dict[int, Point] = field(default_factory=dict)
    why: str = ""


def answer(it: Question, out: Path, note: Note | None = None, workers: int = 0) -> list[dict[str, Any]]:
    """A row per policy and split, as plain data. UserError where none of them can be run, with the reason."""
    done = {key: _Searched() for key in it.configs}
    asked = 0
    with Runner(out, workers) as runner:

        def ask(waiting: Mapping[tuple[str, str], int]) -> Mapping[tuple[str, str], bool]:
            nonlocal asked
            new = {key: step for key, step in waiting.items() if step not in done[key].points}
            cells = [
                (key, at(it.configs[key], step, it.per_octave, seed))
                for (key, step), seed in product(new.items(), it.seeds)
            ]
            runs = runner.each(measure, [(config, out) for _, config in cells])
            asked += len(cells)
            if note is not None:
                note(asked, asked)
            for i, (key, step) in enumerate(new.items()):
                _told(done[key], step, runs[i * len(it.seeds) : (i + 1) * len(it.seeds)], it)
            return {key: done[key].points[step].meets for key, step in waiting.items() if not done[key].why}

        found = together({key: knee(it.per_octave) for key in it.configs}, ask)
    whys = [one.why for one in done.values()]
    if all(whys):
        raise UserError(whys[0])
    return [_row(key, done[key], found.get(key), it) for key in it.configs]


def _told(one: _Searched, step: int, runs: Sequence[Figures | str], it: Question) -> None:
    known = [run for run in runs if isinstance(run, Figures)]
    if len(known) < len(runs):
        one.why = next(run for run in runs if isinstance(run, str))
        return
    one.points[step] = Point.of(rate(step, it.per_octave), known, it.rule, it.share)


def _row(key: tuple[str, str], one: _Searched, step: int | None, it: Question) -> dict[str, Any]:
    points = dict(sorted(one.points.items()))
    at_it = points.get(step) if step is not None else None
    first = next(iter(points.values())).seeds[0] if points else None
    return {
        "policy": key[0],
        "memory": key[1],
        "budget_bytes": first and first.budget_bytes,
        "kv_bytes": first and first.kv_bytes,
        "output": first and first.output,
        "memorised": any(run.memorised for point in points.values() for run in point.seeds),
        "requests_per_s": at_it and at_it.rate,
        "at": at_it and asdict(at_it),
        "above": asdict(points[step + 1]) if step is not None and step + 1 in points else None,
        "at_least": step == HIGHEST * it.per_octave,
        "missed_below": [point.rate for other, point in points.items() if step and other < step and not point.meets],
        "why": one.why or None,
        "points": [asdict(point) for point in points.values()],
        "run": at_it and [*it.words[key], f"workload.rate={at_it.rate}", f"seed={it.seeds[0]}"],
    }


def command(row: Mapping[str, Any]) -> str:
    """What runs a row's highest rate, of the first seed."""
    return shlex.join(["python", "-m", "sim", "run", *row["run"]])
