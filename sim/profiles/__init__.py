"""What is priced and on what: a model's sizes and a machine's figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from sim.profiles.hardware import HardwareProfile
from sim.profiles.model import ModelProfile
from traces import conf
from traces.errors import UserError, allowing

__all__ = ["AS_TRACED", "HardwareProfile", "ModelProfile", "shipped"]

AS_TRACED = "as_traced"
"""In ``conf/model``, not a model but the choice of what the trace says itself."""


def shipped(group: str, name: str) -> Mapping[str, Any]:
    """The mapping in ``conf/GROUP/NAME.yaml`` (`group`: model, hardware); UserError lists the names there."""
    names = sorted(conf.names(group) - {AS_TRACED})
    if name not in names:
        raise UserError(f"{group}={name!r}: unknown; {allowing(name, names)}")
    loaded: Mapping[str, Any] = yaml.safe_load((conf.FOLDER / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded
