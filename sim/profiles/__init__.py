"""What is priced and on what: a model's sizes and a machine's figures."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from sim.profiles.hardware import HardwareProfile
from sim.profiles.model import ModelProfile
from traces.errors import UserError, one_of

__all__ = ["AS_TRACED", "HardwareProfile", "ModelProfile", "shipped"]

AS_TRACED = "as_traced"
"""In ``conf/model``, not a model but the choice of what the trace says itself."""


def shipped(group: str, name: str) -> Mapping[str, Any]:
    """The mapping in ``conf/GROUP/NAME.yaml`` (`group`: model, hardware); UserError lists the names there."""
    folder = files("conf") / group
    found = (file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))
    names = sorted(name for name in found if name != AS_TRACED)
    if name not in names:
        raise UserError(f"{group}={name!r}: unknown; allowed: {one_of(names)}")
    loaded: Mapping[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded
