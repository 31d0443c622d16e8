"""What a sweep is going to run, found and checked before it begins, so that a slip stops it in the first second."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import OverrideParseException

from sim.experiment.by_hydra import compose_words, sweeper_of
from sim.experiment.compose import AXES, blamed, cells, composed
from sim.experiment.config import GROUPS, RunConfig
from sim.experiment.groups import choices, key_of
from sim.experiment.overrides import prepare
from traces.kit.errors import UserError


@dataclass(frozen=True, slots=True)
class Plan:
    """The words for Hydra, and how many cells they will make."""

    words: list[str]
    cells: int
    tunes: bool  # a sweeper chooses each job by what earlier ones returned
    measure: str  # which requests it is measured on


def make_plan(overrides: Sequence[str]) -> Plan:
    """Compose each value of each swept word once, with the first of the others. UserError for the first slip."""
    with blamed(overrides):
        words = [prepare(word, sweep=True) for word in overrides]
        axes, sweeper = _axes(words)
        first = {key: values[0] for key, values in axes.items()}
        if len(presets := axes.get("experiment", [])) > 1:
            raise UserError(f"{', '.join(presets)}: one preset at a time, as each brings a grid of its own")
        if "n_trials" in sweeper:
            _check_tuned(axes)
        whole = _check(first)
        for key, values in axes.items():
            for value in values[1:]:
                _check(first | {key: value})
        lists, measure = {key: _length(whole[key]) for key in AXES}, str(whole["measure"])
        if "n_trials" in sweeper:
            return Plan(words, int(sweeper["n_trials"]) * math.prod(lists.values()), True, measure)
        of_axes = (sum(map(_dense, values)) if key in AXES else len(values) for key, values in axes.items())
        number = math.prod(of_axes) * math.prod(n for key, n in lists.items() if key not in axes)
        return Plan(words, number, False, measure)


def read_grid(overrides: Sequence[str]) -> list[RunConfig]:
    """Every cell of ``sim run -m`` with these words, an experiment's grid included, in its order. UserError."""
    with blamed(overrides):
        axes, sweeper = _axes([prepare(word, sweep=True) for word in overrides])
        if "n_trials" in sweeper:
            raise UserError("hydra/sweeper=optuna: chooses cells by what earlier ones gave; none is known before")
        jobs = map(composed, product(*axes.values()))
        return [RunConfig.from_dict(cell) for job in jobs for cell in cells(job)]


def _axes(words: Sequence[str]) -> tuple[dict[str, list[str]], Mapping[str, Any]]:
    """By key, the words that its values make, in Hydra's order (the last is the fastest); the sweeper's settings."""
    own = {key_of(str(override.input_line)): _spread(override) for override in _parse(words)}
    sweeper = sweeper_of(compose_words([values[0] for values in own.values()], hydra=True))
    params = [prepare(f"{key}={value}", sweep=True) for key, value in (sweeper.get("params") or {}).items()]
    theirs = {key_of(str(override.input_line)): _spread(override) for override in _parse(params)}
    return theirs | own, sweeper


def _check_tuned(axes: Mapping[str, Sequence[str]]) -> None:
    """UserError for what a sweeper would choose by its latency, and nobody means to tune: a seed, a larger budget."""
    for key, values in axes.items():
        if len(values) > 1 and not key.startswith("policy.") and key != "chunks":
            several = ",".join(value.partition("=")[2] for value in values)
            way = f"a list, {key}=[{several}], to average over" if key in AXES else "one value"
            raise UserError(f"{key}={several}: Optuna would choose the fastest of them; allowed: {way}")


def _parse(words: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(words))
    except OverrideParseException as error:
        raise UserError(f"{error.override}: not understood; write key=value") from None


def _spread(override: Override) -> list[str]:
    """The words that a swept word stands for; of an interval, its ends."""
    line = str(override.input_line)
    if not override.is_sweep_override():
        return [line]
    key, value = line.partition("=")[0], override.value()
    if isinstance(value, Glob):
        names = value.filter(choices(key)) if key in GROUPS else []
        if not names:
            raise UserError(f"{line}: names no {key}")
        return [f"{key}={name}" for name in names]
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    return [f"{key}={text}" for text in override.sweep_string_iterator()]


def _dense(word: str) -> int:
    return _length(_parse([word])[0].value())


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else 1


def _check(axes: Mapping[str, str]) -> dict[str, Any]:
    """Compose one job, and check every cell of it."""
    found = composed([*axes.values()])
    for cell in cells(found):
        RunConfig.from_dict(cell)
    return found
