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
    preset = _preset(overrides)
    with blamed(overrides):
        plain = composed(overrides) if preset is None else _with_preset(preset, overrides)
        listed(plain)
        return RunConfig.from_dict(plain)


def composed(words: Sequence[str]) -> dict[str, Any]:
    """``conf/`` with ``key=value`` words, unchecked. UserError for what Hydra does not take."""
    if (plain := composed_plainly(words)) is not None:
        return plain
    from sim.experiment.by_hydra import compose_words, to_dict  # Hydra's import takes half a second

    return to_dict(compose_words(words))


def _with_preset(preset: str, words: Sequence[str]) -> dict[str, Any]:
    """The same; UserError where the preset sweeps a key that the words leave open."""
    from sim.experiment.by_hydra import compose_words, sweeper_of, to_dict

    found = compose_words(words, hydra=True)
    swept = sweeper_of(found).get("params") or {}
    if unset := [key for key in swept if key not in set(map(key_of, words))]:
        raise UserError(f"{preset}: sweeps {one_of(unset)}; add -m to run each")
    return to_dict(found)


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
