"""The cells of a grid: composed from the words by Hydra, or read from a file where Hydra is not installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from real.words import is_checkpoint
from sim.experiment.config import RunConfig, load_configs
from sim.prices import AS_TRACED
from traces.kit.errors import UserError

BESIDE = ("hardware", "trace")
"""What may be given beside a file: it may lie elsewhere on the machine that reads it."""


def read_cells(rest: Sequence[str], file: str, profile: Path | None = None) -> list[RunConfig]:
    """One configuration per cell. ``profile``: the hardware, where the words name none.

    Without ``trace=`` and ``model=`` it is the reference model on its own sample. UserError for what cannot be.
    """
    words = list(rest)
    if profile is not None:
        words.append(f"hardware={profile}")
    if file:
        return [_with(config, words, file) for config in load_configs(Path(file))]
    if not any(word.startswith(("model=", "trace=")) for word in words):
        words.append("model=reference")
    try:
        from sim.experiment.sweep.plan import read_grid
    except ImportError as error:
        raise UserError(f"Hydra is not installed ({error.name}); allowed: --config FILE, resolved elsewhere") from None
    return read_grid([f"model={AS_TRACED}" if is_checkpoint(word) else word for word in words])


def names_hardware(rest: Sequence[str], file: str) -> bool:
    """Whether the user has said which machine is predicted."""
    return bool(file) or any(word.startswith("hardware=") for word in rest)


def read_profile(path: Path) -> dict[str, Any]:
    """The mapping in a hardware profile's file. UserError if there is none."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"hardware={path}: {error.strerror}; allowed: a profile's file") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"hardware={path}: not a profile in YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, Mapping):
        raise UserError(f"hardware={path}: a mapping of hardware keys is wanted")
    return {str(key): value for key, value in found.items()}


def _with(config: RunConfig, words: Sequence[str], file: str) -> RunConfig:
    changes: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in BESIDE or not value:
            allowed = "hardware=FILE.yaml and trace=DIR alone"
            raise UserError(
                f"{word}: not beside --config {file}, which holds the whole configuration; allowed: {allowed}"
            )
        changes[key] = read_profile(Path(value)) if key == "hardware" else value
    return replace(config, **changes)
