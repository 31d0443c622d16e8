"""From the words of a command line to a checked configuration: composed as Hydra does, and refused here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

from sim.experiment.config import RunConfig
from sim.experiment.groups import key_of as key_of
from sim.experiment.plain import composed_plainly
from traces.kit.errors import UserError, one_of

AXES = ("budget", "chunks", "warmup", "limit", "seed")
"""Keys that may be a list in a sweep: what is left of a cell when trace, model, machine and policy stand."""


def read_config(overrides: Sequence[str]) -> RunConfig:
    """Compose ``conf/`` with ``key=value`` words and check the outcome: no grid is left open."""
    with blamed(overrides):
        plain = composed_plainly(overrides)
        if plain is None:
            plain = _by_hydra(overrides)
        listed(plain)
        return RunConfig.from_dict(plain)


def _by_hydra(overrides: Sequence[str]) -> dict[str, Any]:
    from sim.experiment.by_hydra import compose_words, sweeper_of, to_dict  # half of a run's start, where it is needed

    preset = _preset(overrides)
    composed = compose_words(overrides, hydra=preset is not None)
    swept = (sweeper_of(composed).get("params") or {}) if preset else {}
    if unset := [key for key in swept if key not in set(map(key_of, overrides))]:
        raise UserError(f"{preset}: sweeps {one_of(unset)}; add -m to run each")
    return to_dict(composed)


@contextmanager
def blamed(overrides: Sequence[str]) -> Iterator[None]:
    """Name the preset before a mistake that is in none of the user's own words."""
    try:
        yield
    except UserError as error:
        preset = _preset(overrides)
        key = str(error).partition("=")[0].partition(":")[0]
        if preset is None or key in {"experiment", *map(key_of, overrides)}:
            raise
        raise UserError(f"{preset.lstrip('+')}: {error}") from None


def _preset(words: Iterable[str]) -> str | None:
    """The word that chooses an experiment."""
    return next((word for word in words if key_of(word) == "experiment"), None)


def cells(composed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One configuration per combination of the lists, the last axis the fastest. UserError for a list elsewhere."""
    lists = {key: value for key, value in composed.items() if isinstance(value, list)}
    for key, values in lists.items():
        if key not in AXES:
            raise UserError(f"{key}={_shown(values)}: a list; allowed for: {one_of(AXES)}")
        if not values:
            raise UserError(f"{key}=[]: at least one value is wanted")
    for chosen in product(*lists.values()):
        yield {**composed, **dict(zip(lists, chosen, strict=True))}


def listed(composed: Mapping[str, Any]) -> None:
    """UserError if a key of a single run is a list."""
    for key, value in composed.items():
        if isinstance(value, list) and key in AXES:
            raise UserError(f"{key}={_shown(value)}: several values; add -m to run each")


def _shown(values: list[Any]) -> str:
    return f"[{','.join('null' if value is None else str(value) for value in values)}]"
