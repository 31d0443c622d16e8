"""A checked configuration of one run. Every mistake is a UserError of one line: the key, the value, what is allowed.

Hydra composes one in :mod:`sim.experiment.compose`; where it is not installed, :func:`load_config` reads one
that was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from traces.kit.errors import UserError, allowing, one_of
from traces.kit.fields import MAX_INT

GROUPS = ("policy", "model", "hardware", "workload")
"""Keys that are mappings with a name, each of a file in ``conf/``."""

MEASURES = ("test", "validation")
"""What ``measure`` may be: see :func:`sim.workload.passes.select`."""

LEAST = {"chunks": 1, "warmup": 0, "seed": 0, "limit": 1}
"""The least that whole numbers may be."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One run, as composed. The groups are checked by those who read them."""

    policy: Mapping[str, Any]
    model: Mapping[str, Any]
    hardware: Mapping[str, Any]
    workload: Mapping[str, Any]
    trace: str
    budget: str | int
    chunks: int
    warmup: int
    limit: int | None
    seed: int
    bounds: bool
    log: bool
    timeline: bool
    measure: str = "test"

    @classmethod
    def from_dict(cls, composed: Mapping[str, Any]) -> RunConfig:
        """Check names, types and ranges of the top-level keys. UserError names the first that is wrong."""
        hints = get_type_hints(cls)
        names = [f.name for f in fields(cls)]
        needed = [f.name for f in fields(cls) if f.default is MISSING]
        for key in composed:
            if key not in names:
                raise UserError(f"{key}: no such key; {allowing(key, names)}")
        for name in names:
            if name in composed:
                _check(name, composed[name], hints[name])
            elif name in needed:
                raise UserError(f"{name}: missing; give {name}=...")
        config = cls(**composed)
        for name, least in LEAST.items():
            _check_range(name, getattr(config, name), least)
        if config.measure not in MEASURES:
            raise UserError(f"measure={config.measure}: allowed: {one_of(MEASURES)}")
        for key, value in config.workload.items():
            if key not in ("name", "batch"):
                raise UserError(f"workload.{key}={shown_value(value)}: no such key; allowed: name, batch")
        if (kind := config.workload.get("name")) != "closed_loop":
            raise UserError(f"workload.name={shown_value(kind)}: allowed: closed_loop")
        batch = config.workload.get("batch")
        if not isinstance(batch, int) or isinstance(batch, bool):
            raise UserError(f"workload.batch={shown_value(batch)}: a whole number, at least 1")
        _check_range("workload.batch", batch, 1)
        return config


def shown_value(value: object) -> str:
    """A value of a configuration as one writes it on the command line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _check_range(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UserError(f"{name}={value}: at least {least}")
    if value is not None and value > MAX_INT:
        raise UserError(f"{name}={value}: at most {MAX_INT}, which a result can hold")


def _check(name: str, value: object, hint: Any) -> None:
    kinds: dict[Any, tuple[Any, str]] = {
        Mapping[str, Any]: (Mapping, "a group"),
        str: (str, "a text"),
        bool: (bool, "true or false"),
        int: (int, "a whole number"),
        int | None: (int | None, "a whole number or null"),
        str | int: (str | int, "a size, such as 8GB, 8GiB or 50%, or auto"),
    }
    kind, meaning = kinds[hint]
    if not isinstance(value, kind) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{name}={shown_value(value)}: {meaning}")


def load_config(path: Path) -> RunConfig:
    """A configuration as a run leaves it in ``config.yaml``. UserError if the file is none."""
    found = load_configs(path)
    if len(found) > 1:
        raise UserError(f"config={path}: holds {len(found)} configurations; allowed here: one")
    return found[0]


def load_configs(path: Path) -> list[RunConfig]:
    """The configurations of a grid, a YAML document each, as :func:`dump_configs` writes them. UserError for others."""
    try:
        documents = [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found is not None]
    except OSError as error:
        raise UserError(f"config={path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"config={path}: not YAML: {' '.join(str(error).split())}") from None
    if not documents or not all(isinstance(found, dict) for found in documents):
        raise UserError(f"config={path}: a mapping of keys is wanted, as in the config.yaml of a run")
    try:
        return [RunConfig.from_dict({str(key): value for key, value in found.items()}) for found in documents]
    except UserError as error:
        raise UserError(f"config={path}: {error}") from None


def dump_configs(configs: Sequence[RunConfig]) -> str:
    """Configurations as YAML, which :func:`load_configs` reads where Hydra is not installed."""
    return yaml.safe_dump_all([asdict(config) for config in configs], sort_keys=False)
